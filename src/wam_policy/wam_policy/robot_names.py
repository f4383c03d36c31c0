"""Names of a robot that has a namespace of its own, so that several share one ROS domain.

In the namespace robot_1 the topic /joint_states of a robot is /robot_1/joint_states, and so with
every absolute name of its description: cameras, controllers, its driver's topics. Frames keep
their names; /robot_1/tf is another topic than /tf. /diagnostics and /rosout are shared by all.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wam_policy.core.robot.embodiment import Embodiment

JOINT_STATES_TOPIC = '/joint_states'
NAMESPACE = '([A-Za-z][A-Za-z0-9_]*)?'
TOPIC_KEYS = ('topic', 'topics')  # endings of keys of `vendor` whose values are names


def add_namespace(namespace: str, name: str) -> str:
    """Return an absolute name of the robot inside `namespace`; others, and without one, as is."""
    return f'/{namespace}{name}' if namespace and name.startswith('/') else name


def put_in_namespace(robot: Embodiment, namespace: str) -> Embodiment:
    """Return the robot with each of its names inside `namespace`; empty: the robot as it is."""
    if not namespace:
        return robot
    return replace(
        robot,
        cameras=tuple(
            replace(
                camera,
                topic=add_namespace(namespace, camera.topic),
                info_topic=add_namespace(namespace, camera.info_topic),
            )
            for camera in robot.cameras
        ),
        controllers=tuple(
            replace(
                controller,
                topic=add_namespace(namespace, controller.topic),
                state_topic=add_namespace(namespace, controller.state_topic),
            )
            for controller in robot.controllers
        ),
        vendor={
            key: _move_topics(namespace, value) if key.endswith(TOPIC_KEYS) else value
            for key, value in robot.vendor.items()
        },
    )


def list_robot_topics(robot: Embodiment) -> tuple[str, ...]:
    """Return the topics by which a robot is seen and driven, compressed images included."""
    cameras = [camera.topic for camera in robot.cameras]
    return (
        JOINT_STATES_TOPIC,
        *cameras,
        *(f'{topic}/compressed' for topic in cameras),
        *(controller.topic for controller in robot.controllers),
    )


def _move_topics(namespace: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _move_topics(namespace, each) for key, each in value.items()}
    return add_namespace(namespace, value)

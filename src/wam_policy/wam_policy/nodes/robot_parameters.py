"""Parameters of every node that knows a robot: which one, and under which names.

The namespace of a robot's names is fixed at the start of a node: whatever a node has opened under
one name must not meet what it opens later under another.
"""

from typing import Any, Protocol

from rclpy.node import Node

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes.parameter_fields import TOPIC_NAME, parameter
from wam_policy.robot_names import (
    JOINT_STATES_TOPIC,
    NAMESPACE,
    add_namespace,
    put_in_namespace,
)


class RobotParams(Protocol):
    """Match the parameters of a node that knows a robot."""

    @property
    def embodiment(self) -> str: ...
    @property
    def robot_namespace(self) -> str: ...
    @property
    def joint_states_topic(self) -> str: ...


def robot_namespace_parameter() -> Any:
    """Describe the parameter `robot_namespace`."""
    return parameter(
        '',
        'namespace of the names of the robot, as robot_1; empty: none. The node itself must run '
        'below it',
        pattern=NAMESPACE,
        read_only=True,
    )


def joint_states_parameter(description: str = 'sensor_msgs/JointState of the robot') -> Any:
    """Describe the parameter `joint_states_topic`."""
    return parameter(
        JOINT_STATES_TOPIC,
        f'{description}; the default is put in robot_namespace, any other is taken as it is',
        pattern=TOPIC_NAME,
    )


def load_robot(node: Node, params: RobotParams) -> Embodiment:
    """Return the robot of a node under the names that it has.

    Raises ValueError for an unknown robot, and where the node does not run below the namespace of
    the robot: two nodes of one robot must find each other by their names.
    """
    robot, namespace = embodiment.load_embodiment(params.embodiment), params.robot_namespace
    own = node.get_namespace()
    if namespace and not f'{own}/'.startswith(f'/{namespace}/'):
        raise ValueError(
            f'robot_namespace is {namespace}, but the node runs in {own}: start it below '
            f'/{namespace}, as the launch argument robot_namespace does'
        )
    return put_in_namespace(robot, namespace)


def find_joint_states_topic(params: RobotParams) -> str:
    """Return the topic of the joint states: that of the robot, or another one that is given."""
    given = params.joint_states_topic
    if given != JOINT_STATES_TOPIC:
        return given
    return add_namespace(params.robot_namespace, given)

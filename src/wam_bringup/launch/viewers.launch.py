"""Start robot_state_publisher and RViz for stack.launch.py, as far as they are installed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch.logging import get_logger
from launch.substitutions import FileContent, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PUBLISHER, OURS, AUTOMATIC = 'robot_state_publisher', 'description_node', 'auto'
FRAME_RATE_HZ = 20.0
ROBOT = LaunchConfiguration('robot')


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            OpaqueFunction(function=choose_description),
            OpaqueFunction(function=make_robot_state_publisher),
            OpaqueFunction(function=make_rviz),
        ]
    )


def choose_description(context: LaunchContext) -> None:
    """Replace auto by the program that publishes robot_description and frames."""
    if context.launch_configurations['robot_description'] == AUTOMATIC:
        found = is_installed('robot_state_publisher', PUBLISHER)
        context.launch_configurations['robot_description'] = PUBLISHER if found else OURS


def make_robot_state_publisher(context: LaunchContext) -> list[Node]:
    if context.launch_configurations['robot_description'] != PUBLISHER:
        return []
    urdf = PathJoinSubstitution([FindPackageShare('wam_policy'), 'robots', ROBOT, 'robot.urdf'])
    given = {
        'robot_description': ParameterValue(FileContent(urdf), value_type=str),
        'publish_frequency': FRAME_RATE_HZ,
        'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool),
    }
    return [
        Node(
            package=PUBLISHER,
            executable=PUBLISHER,
            namespace=LaunchConfiguration('robot_namespace'),
            output='screen',
            parameters=[given],
            remappings=map_to_robot(context, ('/tf', '/tf_static')),
        )
    ]


def make_rviz(context: LaunchContext) -> list[Node]:
    if context.launch_configurations['rviz'] != 'true':
        return []
    if not is_installed('rviz2', 'rviz2'):
        get_logger('launch').error(
            'rviz:=true, but RViz is not installed: sudo apt install ros-jazzy-rviz2; the stack '
            'goes on without it'
        )
        return []
    layout = PathJoinSubstitution([FindPackageShare('wam_bringup'), 'rviz', [ROBOT, '.rviz']])
    topics = list_topics(yaml.safe_load(Path(layout.perform(context)).read_text()))
    return [
        Node(
            package='rviz2',
            executable='rviz2',
            arguments=['-d', layout],
            remappings=map_to_robot(context, ('/tf', '/tf_static', *topics)),
        )
    ]


def map_to_robot(context: LaunchContext, topics: Iterable[str]) -> list[tuple[str, str]]:
    """Return remapping rules from absolute names to the same ones in the robot's namespace."""
    namespace = context.launch_configurations['robot_namespace']
    return [(topic, f'/{namespace}{topic}') for topic in topics] if namespace else []


def list_topics(layout: Any) -> list[str]:
    """Return the absolute names of the topics in a layout of RViz, each once."""
    found: list[str] = []
    for key, value in layout.items() if isinstance(layout, dict) else enumerate(layout):
        if isinstance(value, (dict, list)):
            found += list_topics(value)
        elif key == 'Value' and str(value).startswith('/'):
            found.append(value)
    return list(dict.fromkeys(found))


def is_installed(package: str, executable: str) -> bool:
    """Return whether a package is there with its program: some installations leave it out."""
    try:
        prefix = get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return Path(prefix, 'lib', package, executable).is_file()

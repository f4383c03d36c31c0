"""Bring up the stack on the DROID platform, simulated or real."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, SetLaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            SetLaunchConfiguration('robot', 'droid'),
            # a plain path: --show-args does not look behind substitutions
            IncludeLaunchDescription(str(Path(__file__).with_name('stack.launch.py'))),
        ]
    )

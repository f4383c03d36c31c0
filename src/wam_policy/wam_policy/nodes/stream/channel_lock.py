"""Lock the CAN channels of a robot's arms against another robot of the same computer.

Two robots in namespaces of their own are told apart by their names alone, while both descriptions
may name the same channels: each stack would then command the same arms. A robot in a namespace
therefore has its channels to itself. Robots without one share the lock: the name of the node
already refuses a second stack.
"""

import fcntl
import os
from pathlib import Path

from wam_policy.core.robot.embodiment import ROBOTS_DIR


def open_lock_dir() -> Path:
    """Return the folder of lock files and of what stream_node writes down; make it if needed."""
    folder = Path(os.environ.get('ROS_HOME') or '~/.ros').expanduser() / 'wam'
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class ChannelLock:
    """Hold one channel until closed, or until the process ends."""

    def __init__(self, channel: str, robot_namespace: str) -> None:
        """Raise ValueError where another robot uses the channel."""
        kind = fcntl.LOCK_EX if robot_namespace else fcntl.LOCK_SH
        self._file = (open_lock_dir() / f'channel.{channel.replace("/", ".")}.lock').open('a')
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f'channel {channel} is used by the arms of another robot on this computer: end '
                f'its stream_node, or describe this robot with channels of its own in a folder of '
                f'{ROBOTS_DIR}'
            ) from None

    def close(self) -> None:
        self._file.close()

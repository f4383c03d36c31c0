"""Find the ROS 2 to use: one that is sourced, one that is installed, or our own prefix."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cli.failure import CommandError
from cli.paths import CheckoutLayout

SYSTEM_PREFIX = Path('/opt/ros/jazzy')


class RosSource(Enum):
    """Where a ROS 2 comes from."""

    SOURCED = 'sourced in this shell'
    INSTALLED = 'installed'
    ASSEMBLED = 'assembled by ./wam setup'


@dataclass(frozen=True, slots=True)
class RosInstallation:
    """A ROS 2 Jazzy prefix, and whether its setup.bash is still to be sourced."""

    source: RosSource
    prefix: Path

    @property
    def setup_script(self) -> Path:
        """The script that puts it into an environment."""
        return self.prefix / 'setup.bash'


def select_ros(
    layout: CheckoutLayout, environ: Mapping[str, str], installed: Path = SYSTEM_PREFIX
) -> RosInstallation:
    """Choose the ROS 2 for this checkout; the answer may be a prefix that is yet to be made.

    Raises Failure when another distribution is sourced.
    """
    distro = environ.get('ROS_DISTRO', '')
    if distro and distro != 'jazzy':
        raise CommandError(
            f'ROS 2 {distro} is sourced in this shell and this project needs Jazzy: '
            'open a shell that does not source it'
        )
    sourced = _find_sourced_prefix(environ) if distro else None
    if sourced is not None and sourced != layout.ros_prefix:
        return RosInstallation(RosSource.SOURCED, sourced)
    if sourced is None and (installed / 'setup.bash').is_file():
        return RosInstallation(RosSource.INSTALLED, installed)
    return RosInstallation(RosSource.ASSEMBLED, layout.ros_prefix)


def _find_sourced_prefix(environ: Mapping[str, str]) -> Path | None:
    """Name the prefix on AMENT_PREFIX_PATH that holds rclpy."""
    for entry in environ.get('AMENT_PREFIX_PATH', '').split(':'):
        if entry and (Path(entry) / 'share' / 'rclpy').is_dir():
            return Path(entry)
    return None

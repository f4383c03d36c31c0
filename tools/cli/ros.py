"""Select the ROS 2 to use: a sourced one, an installed one, or the assembled prefix."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cli.failure import CommandError
from cli.paths import CheckoutLayout

SYSTEM_PREFIX = Path('/opt/ros/jazzy')
# The tests run on these. Jazzy's own default is the second.
SUPPORTED_RMWS = ('rmw_cyclonedds_cpp', 'rmw_fastrtps_cpp')
JAZZY_DEFAULT_RMW = 'rmw_fastrtps_cpp'
_RMW_INDEX = Path('share/ament_index/resource_index/rmw_typesupport')


class RosSource(Enum):
    """Origin of a ROS 2 installation."""

    SOURCED = 'sourced in this shell'
    INSTALLED = 'installed'
    ASSEMBLED = 'assembled by ./wam setup'


@dataclass(frozen=True, slots=True)
class RosInstallation:
    """A ROS 2 Jazzy prefix and its origin; setup.bash of a SOURCED one is already sourced."""

    source: RosSource
    prefix: Path

    @property
    def setup_script(self) -> Path:
        """Return the script that sets its environment variables."""
        return self.prefix / 'setup.bash'


def select_ros(
    layout: CheckoutLayout, environ: Mapping[str, str], installed: Path = SYSTEM_PREFIX
) -> RosInstallation:
    """Return the ROS 2 for this checkout; an assembled prefix may not exist yet.

    Raises CommandError if another distribution is sourced.
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
    """Return the prefix on AMENT_PREFIX_PATH that contains rclpy."""
    for entry in environ.get('AMENT_PREFIX_PATH', '').split(':'):
        if entry and (Path(entry) / 'share' / 'rclpy').is_dir():
            return Path(entry)
    return None


def find_installed_rmws(prefixes: Iterable[Path]) -> list[str]:
    """Return the supported RMWs below the ament `prefixes`, in the order of SUPPORTED_RMWS."""
    found = list(prefixes)
    return [
        name for name in SUPPORTED_RMWS if any((p / _RMW_INDEX / name).is_file() for p in found)
    ]


def rmw_debian_package(name: str) -> str:
    """Return the Debian package with which an installed Jazzy gets an RMW."""
    return f'ros-jazzy-{name.replace("_", "-")}'

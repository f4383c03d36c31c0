"""Which ROS 2 is used: sourced, installed, assembled, or refused."""

import pytest

from cli import ros
from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.ros import RosSource


@pytest.fixture
def layout(tmp_path):
    return CheckoutLayout(tmp_path / 'checkout')


def make_ros_prefix(path):
    """Make a folder that looks like a ROS 2 prefix."""
    (path / 'share/rclpy').mkdir(parents=True)
    (path / 'setup.bash').write_text('')
    return path


def test_without_any_it_is_assembled(layout, tmp_path):
    found = ros.select_ros(layout, {}, tmp_path / 'opt')
    assert (found.source, found.prefix) == (RosSource.ASSEMBLED, layout.ros_prefix)


def test_an_installed_one_is_used(layout, tmp_path):
    installed = make_ros_prefix(tmp_path / 'opt')
    assert ros.select_ros(layout, {}, installed) == ros.RosInstallation(
        RosSource.INSTALLED, installed
    )


def test_a_sourced_one_comes_before_the_installed(layout, tmp_path):
    installed, mine = make_ros_prefix(tmp_path / 'opt'), make_ros_prefix(tmp_path / 'mine')
    environ = {'ROS_DISTRO': 'jazzy', 'AMENT_PREFIX_PATH': f'/overlay:{mine}'}
    assert ros.select_ros(layout, environ, installed) == ros.RosInstallation(
        RosSource.SOURCED, mine
    )


def test_our_own_prefix_is_not_taken_for_an_installed_one(layout, tmp_path):
    make_ros_prefix(layout.ros_prefix)
    environ = {'ROS_DISTRO': 'jazzy', 'AMENT_PREFIX_PATH': str(layout.ros_prefix)}
    assert ros.select_ros(layout, environ, tmp_path / 'opt').source is RosSource.ASSEMBLED


def test_another_distribution_is_refused(layout, tmp_path):
    with pytest.raises(CommandError, match='humble.*needs Jazzy'):
        ros.select_ros(layout, {'ROS_DISTRO': 'humble'}, tmp_path)

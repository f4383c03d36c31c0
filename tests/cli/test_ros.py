"""Which ROS 2 is used: sourced, installed, assembled, or refused."""

import pytest

from cli import ros
from cli.failure import Failure
from cli.paths import Layout
from cli.ros import Origin


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / 'checkout')


def ros_folder(path):
    """Make a folder that looks like a ROS 2 prefix."""
    (path / 'share/rclpy').mkdir(parents=True)
    (path / 'setup.bash').write_text('')
    return path


def test_without_any_it_is_assembled(layout, tmp_path):
    found = ros.located(layout, {}, tmp_path / 'opt')
    assert (found.origin, found.prefix) == (Origin.ASSEMBLED, layout.prefix)


def test_an_installed_one_is_used(layout, tmp_path):
    installed = ros_folder(tmp_path / 'opt')
    assert ros.located(layout, {}, installed) == ros.Ros(Origin.INSTALLED, installed)


def test_a_sourced_one_comes_before_the_installed(layout, tmp_path):
    installed, mine = ros_folder(tmp_path / 'opt'), ros_folder(tmp_path / 'mine')
    environ = {'ROS_DISTRO': 'jazzy', 'AMENT_PREFIX_PATH': f'/overlay:{mine}'}
    assert ros.located(layout, environ, installed) == ros.Ros(Origin.SOURCED, mine)


def test_our_own_prefix_is_not_taken_for_an_installed_one(layout, tmp_path):
    ros_folder(layout.prefix)
    environ = {'ROS_DISTRO': 'jazzy', 'AMENT_PREFIX_PATH': str(layout.prefix)}
    assert ros.located(layout, environ, tmp_path / 'opt').origin is Origin.ASSEMBLED


def test_another_distribution_is_refused(layout, tmp_path):
    with pytest.raises(Failure, match='humble.*needs Jazzy'):
        ros.located(layout, {'ROS_DISTRO': 'humble'}, tmp_path)

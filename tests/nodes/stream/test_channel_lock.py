"""Two robots of one computer do not command the same arms."""

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.nodes.stream.channel_lock import ChannelLock


@pytest.fixture(autouse=True)
def ros_home(monkeypatch, tmp_path):
    monkeypatch.setenv('ROS_HOME', str(tmp_path))


@pytest.mark.parametrize('others', [('robot_1', 'robot_2'), ('', 'robot_1'), ('robot_1', '')])
def test_a_channel_of_another_robot_is_refused_until_it_is_free(others):
    first, second = others
    lock = ChannelLock('can_follower_l', first)
    with pytest.raises(ValueError, match='channel can_follower_l is used by the arms of another'):
        ChannelLock('can_follower_l', second)
    ChannelLock('can_follower_r', second).close()
    lock.close()
    ChannelLock('can_follower_l', second).close()


def test_without_namespaces_nothing_is_refused():
    locks = [ChannelLock('can_follower_l', '') for _ in range(2)]
    for lock in locks:
        lock.close()

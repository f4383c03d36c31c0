"""Which endpoints meet, by the middleware's own rules."""

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
    qos_profile_system_default,
)

from wam_policy.nodes import qos

pytestmark = pytest.mark.ros
PROFILES = {name: value for name, value in vars(qos).items() if isinstance(value, QoSProfile)}
ROS2CLI_PROFILE = QoSProfile(depth=1)  # what `ros2 topic pub` and `echo` offer: reliable


def is_compatible(publisher, subscriber):
    return qos_check_compatible(publisher, subscriber)[0] != QoSCompatibility.ERROR


@pytest.mark.parametrize('name', PROFILES)
def test_every_profile_meets_itself_and_is_short(name):
    assert is_compatible(PROFILES[name], PROFILES[name])
    assert 1 <= PROFILES[name].depth <= 5


def test_any_sensor_driver_meets_our_subscriptions():
    for publisher in (ROS2CLI_PROFILE, qos_profile_sensor_data):
        assert is_compatible(publisher, qos.IMAGE) and is_compatible(publisher, qos.JOINTS)


def test_tools_reach_requests_but_not_as_latched():
    assert is_compatible(ROS2CLI_PROFILE, qos.REQUEST)
    assert not is_compatible(ROS2CLI_PROFILE, qos.LATCHED)  # why requests are not latched


def test_controllers_take_our_trajectories():
    assert is_compatible(qos.TRAJECTORY, qos_profile_system_default) and is_compatible(
        qos.TRAJECTORY, ROS2CLI_PROFILE
    )
    assert qos.TRAJECTORY.reliability == ReliabilityPolicy.RELIABLE


def test_what_must_not_be_late_expires():
    assert qos.CHUNK.lifespan.nanoseconds == 1_000_000_000
    assert qos.TRAJECTORY.lifespan.nanoseconds == qos.STREAM.lifespan.nanoseconds == 100_000_000
    assert qos.STREAM.deadline.nanoseconds == 20_000_000

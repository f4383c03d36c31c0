"""Serialized trajectories are read as rclpy reads them."""

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.nodes import message_conversion
from wam_policy.nodes.cdr_reader import read_header_stamp_ns, read_trajectory

pytestmark = pytest.mark.ros
NAMES = st.lists(st.text('abcdefgh_', min_size=1, max_size=9), min_size=1, max_size=8, unique=True)


def make_raw(names, points=5, frame_id='', effort=()):
    random = np.random.default_rng(len(names))
    values = random.normal(size=(3, points, len(names)))
    values[1:, -1] = 0.0  # ends at rest
    times_ns = 1_030_000_001 * np.arange(points)
    plan = Trajectory(tuple(names), 12_000_000_345, times_ns, *values)
    msg = message_conversion.trajectory_to_msg(plan, plan.names)
    msg.header.frame_id = frame_id
    for point in msg.points:
        point.effort = array('d', effort)
    return serialize_message(msg)


@settings(deadline=None)
@given(NAMES, st.integers(1, 9), st.text('xyz', max_size=9), st.sampled_from([(), (1.0,)]))
def test_a_trajectory_is_read_as_rclpy_reads_it(names, points, frame_id, effort):
    raw = make_raw(names, points, frame_id, effort)
    ours = read_trajectory(raw)
    theirs = message_conversion.trajectory_from_msg(deserialize_message(raw, JointTrajectory))
    assert (ours.names, ours.start_ns) == (theirs.names, theirs.start_ns)
    for field in ('time_ns', 'position', 'velocity', 'acceleration'):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field))


@pytest.mark.parametrize('missing', ['positions', 'velocities', 'accelerations'])
@pytest.mark.parametrize('point', [0, 2, 4])
def test_a_point_that_lacks_values_is_refused(missing, point):
    msg = deserialize_message(make_raw(['a', 'b', 'c']), JointTrajectory)
    setattr(msg.points[point], missing, array('d', [0.0]))
    with pytest.raises(ValueError, match='of 3 joints in every point'):
        read_trajectory(serialize_message(msg))


def test_no_points_are_no_trajectory():
    with pytest.raises(ValueError, match='trajectory'):
        read_trajectory(serialize_message(JointTrajectory(joint_names=['a'])))


def test_the_stamp_of_a_header_is_read():
    msg = JointState()
    msg.header.stamp = message_conversion.time_to_msg(12_000_000_345)
    assert read_header_stamp_ns(serialize_message(msg)) == 12_000_000_345

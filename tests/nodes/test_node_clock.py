"""A node's time is ROS time, also while simulated time begins and ends."""

import time

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.time import Time

from wam_policy.nodes.node_clock import NodeClock

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]


def test_the_time_follows_use_sim_time():
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('clocked', context=context)
    try:
        now_ns = NodeClock(node.get_clock())
        assert abs(now_ns() - time.time_ns()) < 1e9
        for _ in range(2):
            node.set_parameters([Parameter('use_sim_time', value=True)])
            node.get_clock().set_ros_time_override(Time(nanoseconds=42))
            assert now_ns() == 42
            node.set_parameters([Parameter('use_sim_time', value=False)])
            assert abs(now_ns() - time.time_ns()) < 1e9
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_a_clock_that_does_not_follow_ros_time_is_refused():
    with pytest.raises(TypeError, match='want a clock of type ROS_TIME, got STEADY_TIME'):
        NodeClock(Clock(clock_type=ClockType.STEADY_TIME))

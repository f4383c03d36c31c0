"""What the watch concludes: rest, movement, limits, and who said what since when."""

import threading
import time
from collections import deque

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_msgs.msg import SimStatus
from wam_policy.core.robot import embodiment
from wam_policy.nodes import message_conversion
from wam_tools.fault_injection.stack_observer import (
    STATUS_TIMEOUT_S,
    ExecutionMetrics,
    StackClient,
    poll_until,
)

pytestmark = pytest.mark.ros
ROBOT = embodiment.load_embodiment('yam')
N = len(ROBOT.commanded)


@pytest.fixture
def watch():
    """Give a watch without a node: only what it concludes."""
    made = StackClient.__new__(StackClient)
    made._lock, made.log_entries, made._position_history = threading.Lock(), [], deque()
    made._last_status_s, made._silent_nodes = dict.fromkeys(STATUS_TIMEOUT_S, float('inf')), set()
    return made


def add_joint_positions(watch, speed, from_s, to_s):
    """Let every joint move at `speed` from so many seconds ago to so many."""
    now_s = time.monotonic()
    start = watch._position_history[-1][1] if watch._position_history else np.zeros(N)
    for at_s in np.arange(from_s, to_s, -0.01):
        watch._position_history.append((now_s - at_s, start + speed * (from_s - at_s)))


def test_joints_that_move_do_not_rest(watch):
    add_joint_positions(watch, 0.3, 1.0, 0.0)
    assert watch.is_moving() and watch.find_rest_start_s(0.0) is None


def test_rest_is_dated_back_to_where_it_began(watch):
    add_joint_positions(watch, 0.3, 1.5, 0.5)
    add_joint_positions(watch, 0.0, 0.5, 0.0)
    assert not watch.is_moving()
    assert time.monotonic() - watch.find_rest_start_s(0.0) == pytest.approx(0.5, abs=0.1)


def test_a_short_pause_is_no_rest(watch):
    add_joint_positions(watch, 0.3, 1.0, 0.1)
    add_joint_positions(watch, 0.0, 0.1, 0.0)
    assert watch.is_moving()


def test_a_simulator_that_is_gone_moves_nothing(watch):
    add_joint_positions(watch, 0.3, 2.0, 1.0)
    assert not watch.is_moving()


def test_statements_are_found_by_time_and_once_per_change(watch):
    watch.add_log_entry('motion', 'TRACKING: fine')
    since_s = time.monotonic()
    watch.add_log_entry('motion', 'TRACKING: fine')
    assert watch.find_log_entry('motion: TRACKING', since_s) is None
    watch.add_log_entry('motion', 'HOLDING: why')
    assert watch.find_log_entry('^motion: (?!TRACKING)', since_s).text == 'HOLDING: why'


def test_silence_is_a_statement_until_the_node_is_heard_again(watch):
    watch._record_status_time('policy')
    watch._last_status_s['policy'] -= STATUS_TIMEOUT_S['policy'] + 0.1
    assert watch.find_log_entry('watch: policy is silent', 0.0)
    watch._record_status_time('policy')
    assert 'policy' not in watch._silent_nodes
    since_s = time.monotonic()
    assert watch.find_log_entry('watch: policy is silent', since_s) is None
    watch._last_status_s['policy'] -= STATUS_TIMEOUT_S['policy'] + 0.1
    assert watch.find_log_entry('watch: policy is silent', since_s)  # and told again


def make_status(stamp_ns, **ratios):
    zero = np.zeros(N)
    msg = SimStatus(
        joint_names=list(ROBOT.commanded),
        max_setpoint_step=zero + 0.001,
        **{
            f'max_{name}_ratio': zero + ratios.get(name, 0.5)
            for name in ('velocity', 'acceleration', 'jerk', 'measured_velocity')
        },
    )
    msg.header.stamp = message_conversion.time_to_msg(stamp_ns)
    return msg


def test_figures_count_from_where_they_began_and_name_what_is_over():
    figures = ExecutionMetrics(ROBOT)
    figures.reset(100)
    figures.on_status(make_status(50, jerk=3.0))  # on its way when the count began
    assert figures.limit_violations == set() and figures.status_count == 0
    figures.on_status(make_status(150, jerk=1.0000005))  # what a 32-bit float makes of 1
    assert figures.limit_violations == set() and figures.max_step_rad == pytest.approx(0.001)
    figures.on_status(make_status(200, velocity=1.01))
    assert figures.limit_violations == {(joint, 'velocity') for joint in ROBOT.commanded}


def test_until_gives_what_was_found_or_nothing():
    assert poll_until(lambda: 'x', 0.0) == 'x'
    assert poll_until(lambda: None, 0.0) is None

"""motion_node refuses controllers that are not what it plans for, and stops when one changes."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from action_msgs.msg import GoalStatus, GoalStatusArray
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from tests.nodes.motion.test_motion_node import (
    ROBOT,
    MotionTestBench,
    realtime_process,
    start_motion_node,
)
from wam_policy.nodes import qos
from wam_policy.nodes.motion.controller_monitor import MANAGER_SERVICE
from wam_policy.nodes.motion.motion_node import MotionNode

__all__ = ['realtime_process']
pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
ARM = ROBOT.controllers[0]


@pytest.fixture
def stage():
    """Give a node that may not move yet, beside a robot that reports what it follows."""
    with start_motion_node('enable_motion:=true') as (node, bench):
        bench.reports_enabled = True
        yield node, bench


@pytest.fixture
def tracking(stage):
    _, bench = stage
    bench.chunks_enabled = True
    bench.wait_state('TRACKING')
    return stage


def disable(bench: MotionTestBench) -> None:
    bench.wait_state('HOLDING')  # enabled by itself: every setting was read and fits
    bench.call_service(SetBool, 'enable', data=False)


def refuse(node: MotionNode, bench: MotionTestBench) -> str:
    """Return why enabling is refused once the change has been read."""
    bench.wait(lambda: node._controller_monitor.faults, 10.0)
    answer = bench.call_service(SetBool, 'enable', data=True)
    assert not answer.success
    return answer.message


def refuse_after_reset(node: MotionNode, bench: MotionTestBench) -> str:
    bench.wait(lambda: bench.call_service(Trigger, 'reset').success, 5.0)
    return refuse(node, bench)


def enable(bench: MotionTestBench) -> None:
    """Enable as soon as it is no longer refused."""
    bench.wait(lambda: bench.call_service(SetBool, 'enable', data=True).success, 10.0)


def test_a_wrong_setting_is_refused_with_the_parameter_and_what_to_set(stage):
    node, bench = stage
    disable(bench)
    bench.parameter_server.parameters[ARM.name]['cmd_timeout'] = 0.5
    message = refuse(node, bench)
    assert 'cmd_timeout is 0.5, want 0.0' in message and '/left_arm_controller' in message
    sent = bench.received_count
    time.sleep(0.3)
    assert bench.received_count == sent
    bench.parameter_server.parameters[ARM.name]['cmd_timeout'] = 0.0
    enable(bench)


def test_what_keeps_the_node_from_enabling_at_start_is_its_reason():
    with start_motion_node('enable_motion:=true') as (_, bench):
        bench.parameter_server.parameters[ARM.name]['interpolation_method'] = 'none'
        bench.wait(lambda: 'interpolation_method is none' in bench.status.reason)
        assert bench.status.state_name == 'DISABLED' and bench.received_count == 0
        bench.parameter_server.parameters[ARM.name]['interpolation_method'] = 'splines'
        bench.wait_state('HOLDING')


def test_a_setting_that_changes_in_motion_stops_the_robot(tracking):
    _, bench = tracking
    bench.parameter_server.parameters[ARM.name]['constraints.goal_time'] = 1.0
    bench.wait_state('PROTECTIVE_STOP')
    assert 'constraints.goal_time is 1.0' in bench.status.reason
    bench.wait_rest()
    bench.check_motion()


@pytest.mark.parametrize('factor', [0.9, 0.3])
def test_another_speed_in_motion_stops_it_without_a_jump(tracking, factor):
    node, bench = tracking
    bench.wait(lambda: np.abs(bench.setpoint_history[-1][1][1]).max() > 0.2)
    with bench.lock:
        for follower in bench.followers.values():
            follower.speed_scaling = factor
    bench.wait_state('PROTECTIVE_STOP')
    sent = bench.received_count
    assert f'speed scaling is {factor}, want 1' in bench.status.reason
    time.sleep(1.5 / factor)
    assert bench.received_count == sent and not bench.setpoint_history[-1][1][1:].any()
    bench.check_motion()
    assert 'speed scaling' in refuse_after_reset(node, bench)


def set_factor(bench: MotionTestBench, factor: float, count: int | None = None) -> None:
    with bench.lock:
        for follower in list(bench.followers.values())[:count]:
            follower.speed_scaling = factor


def test_at_a_speed_that_is_allowed_motion_goes_on_in_steps_that_rest():
    with start_motion_node('enable_motion:=true', 'min_speed_scaling:=0.4') as (node, bench):
        bench.reports_enabled = True
        set_factor(bench, 0.5)  # before anything moves
        bench.wait_state('HOLDING')
        bench.chunks_enabled = True
        bench.wait(lambda: 'speed scaling is 0.5: moving in steps' in bench.status.reason, 20.0)
        accepted = bench.status.chunks_accepted
        bench.wait(lambda: bench.status.chunks_accepted > accepted + 1, 20.0)
        bench.check_motion()
        # one controller alone at another speed: refused, and nothing more is sent
        set_factor(bench, 1.0, count=1)
        bench.wait_state('PROTECTIVE_STOP')
        assert 'speed scaling differs between controllers' in bench.status.reason
        set_factor(bench, 1.0)
        bench.chunks_enabled = False
        enable_after_reset(bench)
        bench.session = 'of a new instruction'
        bench.chunks_enabled = True
        bench.wait_state('TRACKING')
        bench.wait(lambda: node._motion.trajectory_clock.is_on_time)


def enable_after_reset(bench: MotionTestBench) -> None:
    bench.wait(lambda: bench.call_service(Trigger, 'reset').success, 15.0)
    enable(bench)


def test_a_second_publisher_is_refused_and_stops_the_robot(tracking):
    node, bench = tracking
    other = rclpy.create_node('teleop', context=bench.node.context)
    publisher = other.create_publisher(JointTrajectory, ARM.topic, qos.TRAJECTORY)
    bench.wait_state('PROTECTIVE_STOP')
    assert f'/teleop also publishes on {ARM.topic}' in bench.status.reason
    bench.wait_rest()
    assert '/teleop' in refuse_after_reset(node, bench)
    other.destroy_publisher(publisher)
    enable(bench)
    bench.check_motion()
    other.destroy_node()


def test_a_topic_that_only_observers_listen_to_has_no_controller(stage):
    _, bench = stage
    bench.wait_state('HOLDING')
    names = ('recorder', 'console', 'rviz2', '_ros2cli_4711', 'plotjuggler')
    observers = [rclpy.create_node(name, context=bench.node.context) for name in names]
    for observer in observers:
        observer.create_subscription(JointTrajectory, ARM.topic, lambda _: None, qos.TRAJECTORY)
    subscription = next(s for s in bench.node.subscriptions if s.topic_name == ARM.topic)
    bench.node.destroy_subscription(subscription)
    bench.wait_state('PROTECTIVE_STOP')
    assert f'no controller subscribes to {ARM.topic}' in bench.status.reason
    for observer in observers:
        observer.destroy_node()


def test_a_goal_of_another_client_is_refused(stage):
    node, bench = stage
    bench.wait_state('HOLDING')
    status = bench.node.create_publisher(
        GoalStatusArray, '/left_arm_controller/follow_joint_trajectory/_action/status', qos.LATCHED
    )
    executing = GoalStatus(status=GoalStatus.STATUS_EXECUTING)
    status.publish(GoalStatusArray(status_list=[executing]))
    bench.wait_state('PROTECTIVE_STOP')
    assert 'another client has a goal' in refuse_after_reset(node, bench)
    status.publish(GoalStatusArray(status_list=[GoalStatus(status=GoalStatus.STATUS_SUCCEEDED)]))
    enable(bench)


def test_an_inactive_controller_is_refused_where_a_manager_lists_it(stage):
    node, bench = stage
    disable(bench)
    bench.reports_enabled = False

    def list_controllers(_, response):
        response.controller = [
            ControllerState(name=c.name, state='inactive' if c is ARM else 'active')
            for c in ROBOT.controllers
        ]
        return response

    bench.node.create_service(ListControllers, MANAGER_SERVICE, list_controllers)
    assert f'set_controller_state {ARM.name} active' in refuse(node, bench)


def test_controllers_that_answer_nothing_are_checks_that_are_not_active():
    with start_motion_node('enable_motion:=true') as (_, bench):
        bench.parameter_server.close()
        bench.wait_state('HOLDING')  # after the time that an answer may take
        names, reasons = bench.status.inactive_checks, bench.status.inactive_reasons
        missing = dict(zip(names, reasons, strict=True))['controller_settings']
        assert all(f'{c.name}: settings are not checked' in missing for c in ROBOT.controllers)

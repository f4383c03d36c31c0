"""motion_node on real rclpy, driving controllers that follow Jazzy's rules."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State as Lifecycle
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk, DriverStatus, MotionStatus, PolicyStatus
from wam_policy.core.motion.jtc_emulator import TrajectoryFollower
from wam_policy.core.robot import embodiment, limits
from wam_policy.core.types import Chunk, JointState, Setpoint
from wam_policy.mujoco_collision import MujocoCollisionChecker
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.controller_parameters import ControllerParameterServer
from wam_policy.nodes.motion.control_loop import set_realtime_priority
from wam_policy.nodes.motion.motion_node import MotionNode
from wam_policy.nodes.run_node import ExecutorThread

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
ROBOT = embodiment.load_embodiment('yam')
N = len(ROBOT.commanded)
GRIPPER_MASK = limits.gripper_mask(ROBOT)
START = ROBOT.home_positions(ROBOT.commanded)
LIMITS = ROBOT.limits()


class MotionTestBench:
    """Be the robot and the policy: controllers by the rules, chunks of a slow wave at 7 Hz."""

    def __init__(self, context):
        self.node = rclpy.create_node('bench', context=context)
        self.followers = {
            c.name: TrajectoryFollower(
                c.joints, START[[ROBOT.commanded.index(j) for j in c.joints]]
            )
            for c in ROBOT.controllers
        }
        self.parameter_server = ControllerParameterServer(self.node, ROBOT, 100)
        self.lock = threading.Lock()
        self.setpoint_history, self.rejections, self.received_count, self.dry_run_trajectories = (
            [],
            [],
            0,
            [],
        )
        self.joints_enabled, self.chunks_enabled, self.session, self.sequence = (
            True,
            False,
            'one',
            0,
        )
        self.joint_state_parts = [ROBOT.commanded]  # names of each message
        self.position_scale = 1.0  # of what the robot publishes
        self.tracking_offset = 0.0  # the robot is this far from its set-points
        self.effort = None
        self.reports_enabled, self.unresponsive_controllers, self.jumps = False, set(), [0.0]
        self.statuses, self.diagnostics, self.estops = [], {}, []
        new, out = self.node.create_subscription, self.node.create_publisher
        for c in ROBOT.controllers:
            new(
                JointTrajectory,
                c.topic,
                lambda msg, n=c.name: self.on_trajectory(n, msg),
                qos.TRAJECTORY,
            )
        new(MotionStatus, 'motion_status', self.statuses.append, qos.LATCHED)
        new(Bool, 'estop', lambda msg: self.estops.append(msg.data), qos.LATCHED)
        new(
            JointTrajectory,
            'motion/dry_run_trajectory',
            self.dry_run_trajectories.append,
            qos.TRAJECTORY,
        )
        new(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)
        self.joint_state_publisher = out(
            message_conversion.JointStateMsg, '/joint_states', qos.JOINTS
        )
        self.chunk_publisher = out(ActionChunk, 'action_chunk', qos.CHUNK)
        self.controller_state_publishers = {
            c.name: (out(JointTrajectoryControllerState, c.state_topic, qos.JOINTS), c)
            for c in ROBOT.controllers
        }
        self.driver_status = DriverStatus(
            simulated=True, inactive_checks=['temperature'], inactive_reasons=['there are none']
        )
        self.driver_status_publisher = out(DriverStatus, 'driver_status', qos.LATCHED)
        self.node.create_timer(
            0.2, lambda: self.driver_status_publisher.publish(self.driver_status)
        )
        self.policy_status_publisher = out(PolicyStatus, 'status', qos.LATCHED)
        self.node.create_timer(0.01, self.on_robot_timer)
        self.node.create_timer(0.14, self.on_chunk_timer)

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds

    def on_diagnostics(self, msg):
        self.diagnostics |= {status.name: status for status in msg.status}

    def on_trajectory(self, controller_name, msg):
        self.received_count += 1
        if controller_name in self.unresponsive_controllers:
            return
        with self.lock:
            follower, now_ns = self.followers[controller_name], self.now_ns()
            before = follower.sample(now_ns)
            reason = follower.accept(msg, now_ns)
            self.jumps.append(np.abs(follower.sample(now_ns).position - before.position).max())
        if reason:
            self.rejections.append(reason)

    def sample(self, now_ns):
        with self.lock:
            at = [f.sample(now_ns) for f in self.followers.values()]
        order = [ROBOT.commanded.index(n) for f in self.followers.values() for n in f.names]
        motion = np.empty((3, N))
        motion[:, order] = [
            np.concatenate([getattr(a, field) for a in at])
            for field in ('position', 'velocity', 'acceleration')
        ]
        return motion

    def on_robot_timer(self):
        now_ns = self.now_ns()
        motion = self.sample(now_ns)
        self.setpoint_history.append((now_ns, motion))
        state = JointState(
            now_ns,
            ROBOT.commanded,
            self.position_scale * motion[0] + self.tracking_offset,
            effort=self.effort,
        )
        for names in self.joint_state_parts if self.joints_enabled else ():
            part = JointState(now_ns, names, state.positions(names), effort=state.efforts(names))
            self.joint_state_publisher.publish(message_conversion.joint_state_to_msg(part))

        if self.reports_enabled and len(self.setpoint_history) % 2:
            for name, (publisher, controller) in self.controller_state_publishers.items():
                with self.lock:
                    follower = self.followers[name]
                    at, scaling = follower.setpoint, follower.speed_scaling
                    said = Setpoint(
                        name, follower.setpoint_ns, at.position, at.velocity, at.acceleration
                    )
                publisher.publish(message_conversion.setpoint_to_msg(said, controller, scaling))

    def make_chunk(self, **changes):
        self.sequence += 1
        stamp_ns = self.now_ns() - 80_000_000
        t = (stamp_ns / 1e9 + np.arange(24)[:, None] / 30) % 1000
        rows = START + np.where(GRIPPER_MASK, 0.0, 0.08) * (1 - np.cos(2 * np.pi * 0.5 * t))
        return Chunk(
            **{
                'stamp_ns': stamp_ns,
                'session': self.session,
                'names': ROBOT.commanded,
                'sequence': self.sequence,
                'step_dt_s': ROBOT.step_dt_s,
                'targets': rows,
                'reference': rows[0],
                'embodiment_hash': ROBOT.config_hash,
                'timings_ms': {},
                **changes,
            }
        )

    def publish_chunk(self, **changes):
        self.chunk_publisher.publish(
            message_conversion.chunk_to_msg(
                self.make_chunk(**changes), ROBOT.name, self.now_ns(), False
            )
        )

    def on_chunk_timer(self):
        if self.chunks_enabled:
            self.publish_chunk()

    def call_service(self, service_type, name, **fields):
        client = self.node.create_client(service_type, name)
        assert client.wait_for_service(5.0)
        answer = client.call(service_type.Request(**fields), timeout_sec=5.0)
        self.node.destroy_client(client)
        return answer

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else MotionStatus()

    def wait(self, condition, timeout_s=45.0):
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, (
                f'still {self.status.state_name}: {self.status.reason}'
            )
            time.sleep(0.01)

    def wait_state(self, name, timeout_s=45.0):
        self.wait(lambda: self.status.state_name == name, timeout_s)

    def wait_rest(self):
        self.wait(lambda: not self.setpoint_history[-1][1][1:].any(), 2.5)

    def check_motion(self):
        """Check what the controllers executed: inside limits, no jumps."""
        assert not self.rejections
        track = list(self.setpoint_history)
        moved = np.stack([motion for _, motion in track])
        assert (np.abs(moved[:, 1]) <= LIMITS.velocity * (1 + 1e-6)).all()
        assert (np.abs(moved[:, 2]) <= LIMITS.acceleration * (1 + 1e-6)).all()
        seconds = np.diff([ns for ns, _ in track])[:, None] / 1e9
        assert (np.abs(np.diff(moved[:, 0], axis=0)) <= LIMITS.velocity * seconds + 1e-6).all()


@pytest.fixture(autouse=True)
def realtime_process():
    """Judge the node, not how busy the machine is: run as the program does, where allowed."""
    set_realtime_priority()
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def start_motion_node(*parameters):
    context = rclpy.Context()
    rclpy.init(
        context=context,
        args=['--ros-args', '-p', 'embodiment:=yam', *(x for p in parameters for x in ('-p', p))],
    )
    node, bench = MotionNode(context=context), MotionTestBench(context)
    spinning = (
        ExecutorThread([node], on_error=node.guard.record),
        ExecutorThread([bench.node]),
    )
    try:
        assert node.trigger_configure() == node.trigger_activate()
        yield node, bench
    finally:
        for each in spinning:
            each.stop()
        node.close()
        for made in (node, bench.node):
            made.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture
def stage():
    with start_motion_node('enable_motion:=true') as made:
        yield made


@pytest.fixture
def tracking(stage):
    """Give a node that follows chunks at full speed."""
    stage[1].chunks_enabled = True
    stage[1].wait_state('TRACKING')
    return stage


def test_chunks_become_motion_inside_every_limit(tracking):
    _, bench = tracking
    began = len(bench.setpoint_history)
    time.sleep(3.0)
    status = bench.status
    bench.check_motion()
    assert status.enabled and not status.dry_run and status.chunks_rejected == 0
    assert status.underruns == 0 and status.chunks_late == 0
    assert 0 < status.max_jerk_ratio <= 1.0 and 0 < status.max_step < 0.02
    assert 0 < status.chunk_age_ms < 400 and status.rows_left > 5
    travelled = np.ptp([motion[0] for _, motion in bench.setpoint_history[began:]], axis=0)
    assert (travelled[~GRIPPER_MASK] > 0.1).all()
    bench.wait(lambda: 'motion: loop jitter' in bench.diagnostics)
    assert {'motion: state', 'motion: clamp rate', 'motion: chunk age'} <= set(bench.diagnostics)


def test_without_chunks_the_robot_rests_and_goes_on_later(tracking):
    _, bench = tracking
    # a last chunk that ends where the wave turns has led to rest: end in mid-swing
    bench.wait(lambda: 0.45 < (bench.now_ns() / 1e9 + 0.69) % 1 < 0.65)
    bench.chunks_enabled = False
    bench.wait_state('HOLDING')
    bench.wait_rest()
    assert bench.status.underruns == 1
    bench.chunks_enabled = True
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_estop_latches_until_reset_and_enable(tracking):
    _, bench = tracking
    assert bench.call_service(Trigger, 'estop').success
    bench.wait_state('ESTOPPED')
    bench.wait_rest()
    bench.wait(lambda: bench.estops[-1])
    refused = bench.call_service(SetBool, 'enable', data=True)
    assert not refused.success and 'reset' in refused.message
    bench.wait(lambda: bench.call_service(Trigger, 'reset').success, 3.0)
    bench.wait_state('DISABLED')
    before = bench.received_count
    time.sleep(0.4)
    assert bench.received_count == before  # chunks keep coming, nothing moves
    assert bench.call_service(SetBool, 'enable', data=True).success
    bench.wait(lambda: 'give a new instruction' in bench.status.reason)
    assert bench.status.state_name == 'HOLDING' and bench.status.stops == 1
    bench.wait_rest()
    bench.session = 'of a new instruction'
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_a_reset_where_nothing_is_latched_says_so(tracking):
    _, bench = tracking
    answer = bench.call_service(Trigger, 'reset')
    assert not answer.success and 'nothing to reset' in answer.message
    assert 'TRACKING' in answer.message and bench.status.state_name == 'TRACKING'


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        ({'targets': np.full((24, N), np.nan)}, 'not finite'),
        ({'names': tuple(f'x{i}' for i in range(N))}, 'other joints'),
        ({'embodiment_hash': 'another'}, 'contract'),
        ({'sequence': 0}, 'came after'),
    ],
)
def test_a_flawed_chunk_is_rejected_whole_with_its_reason(tracking, changes, word):
    _, bench = tracking
    bench.chunks_enabled = False  # the topic keeps one chunk: none may push it out
    time.sleep(0.1)
    bench.publish_chunk(**changes)
    bench.wait(lambda: any(word in s.reason for s in bench.statuses))
    assert bench.status.chunks_rejected >= 1
    bench.check_motion()


def test_a_policy_that_pauses_stops_the_robot_before_its_chunk_ends(tracking):
    _, bench = tracking
    bench.chunks_enabled = False
    bench.policy_status_publisher.publish(
        PolicyStatus(state=PolicyStatus.RUNNING, state_name='RUNNING')
    )
    bench.policy_status_publisher.publish(
        PolicyStatus(state=PolicyStatus.IDLE, reason='no instruction')
    )
    bench.wait(lambda: bench.status.state_name == 'HOLDING')
    assert 'no instruction' in bench.status.reason and bench.status.underruns == 0
    bench.check_motion()


def test_joint_states_that_stop_stop_the_robot_which_recovers(tracking):
    _, bench = tracking
    bench.joints_enabled = False
    bench.wait(lambda: 'no joint state' in bench.status.reason)
    bench.wait_rest()
    bench.joints_enabled = True
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_a_robot_that_does_not_follow_trips_a_latched_stop(tracking):
    _, bench = tracking
    bench.tracking_offset = np.where(GRIPPER_MASK, 0.0, 0.4)
    bench.wait_state('PROTECTIVE_STOP')
    assert 'from its command' in bench.status.reason
    bench.wait_rest()
    bench.check_motion()


def test_a_chunk_into_the_table_stops_above_it(tracking):
    _, bench = tracking
    bench.chunks_enabled, joint = False, ROBOT.commanded.index('left_joint2')
    bench.wait_state('HOLDING')
    for _ in range(30):
        here = bench.setpoint_history[-1][1][0]
        rows = np.tile(START, (24, 1))
        rows[:, joint] = here[joint] + np.linspace(0.0, 0.25, 24)
        bench.publish_chunk(targets=rows)
        time.sleep(0.14)
    assert bench.status.predicted_collisions > 3
    assert any(
        status.reason.startswith('contact ahead: left_') and 'table' in status.reason
        for status in bench.statuses
    )
    path = np.stack([motion[0] for _, motion in bench.setpoint_history])
    assert path[:, joint].max() > START[joint] + 0.2
    assert MujocoCollisionChecker(ROBOT).find_first_contact(path, np.empty(0)) is None
    bench.check_motion()


def test_a_fault_that_the_driver_reports_trips_a_latched_stop(tracking):
    _, bench = tracking
    report = bench.node.create_publisher(String, 'robot_fault', qos.LATCHED)
    report.publish(String(data='left arm: a motor has 91 degrees'))
    bench.wait_state('PROTECTIVE_STOP')
    assert bench.status.reason == 'robot reports: left arm: a motor has 91 degrees'
    bench.wait_rest()
    bench.wait(lambda: bench.diagnostics['motion: state'].level == b'\x02')
    bench.check_motion()


@pytest.mark.parametrize('place', ['tick', 'next_plan_request', 'on_policy_pause'])
def test_a_fault_of_the_node_itself_stops_the_robot_and_latches(tracking, place):
    """Loop, planner and callbacks: none of them ends, all of them make it stop."""
    node, bench = tracking

    def fail_once(*arguments):
        delattr(node._motion, place)
        raise ZeroDivisionError('of a test')

    setattr(node._motion, place, fail_once)
    bench.policy_status_publisher.publish(PolicyStatus(state=PolicyStatus.HOLDING))
    bench.wait_state('PROTECTIVE_STOP')
    assert bench.status.reason == 'fault in motion_node: ZeroDivisionError: of a test'
    bench.wait_rest()
    bench.wait(lambda: '1 faults' in str(bench.diagnostics.get('motion: callbacks')))
    bench.wait(lambda: bench.call_service(Trigger, 'reset').success, 3.0)
    assert bench.call_service(SetBool, 'enable', data=True).success
    bench.session = 'of a new instruction'
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_an_arm_that_pushes_too_hard_trips_a_latched_stop(tracking):
    _, bench = tracking
    bench.effort = np.where(np.arange(N) == 1, 27.0, 0.0)
    bench.wait_state('PROTECTIVE_STOP')
    assert 'left_joint2 pushes with 27.0' in bench.status.reason
    bench.wait_rest()
    bench.check_motion()


@pytest.fixture
def reporting(stage):
    """Give a node that follows chunks and hears what its controllers follow."""
    stage[1].reports_enabled = stage[1].chunks_enabled = True
    stage[1].wait_state('TRACKING')
    return stage


def test_a_lost_command_and_a_lost_stop_are_noticed_and_sent_anew(reporting):
    _, bench = reporting
    arm = ROBOT.controllers[0].name
    bench.unresponsive_controllers.add(arm)
    bench.wait(lambda: bench.status.commands_lost >= 1)
    assert any(
        status.reason == f'command lost on the way to {arm}; planned again from there'
        for status in bench.statuses
    )
    bench.unresponsive_controllers.clear()
    time.sleep(0.5)
    lost = bench.status.commands_lost
    bench.unresponsive_controllers.add(arm)
    assert bench.call_service(Trigger, 'estop').success
    bench.wait(lambda: bench.status.commands_lost > lost)
    bench.unresponsive_controllers.clear()
    bench.wait_rest()
    assert bench.status.state_name == 'ESTOPPED' and max(bench.jumps) < 1e-5
    bench.check_motion()


def test_reports_that_cease_are_missed_once_and_hold_nothing_up(reporting):
    _, bench = reporting
    bench.reports_enabled, accepted = False, bench.status.chunks_accepted
    bench.wait(lambda: 'reports no more' in bench.diagnostics['motion: state'].message)
    bench.wait(lambda: bench.status.chunks_accepted > accepted + 5, 3.0)
    assert bench.status.state_name == 'TRACKING' and bench.status.commands_lost == 0
    bench.check_motion()


def test_checks_without_inputs_are_listed_and_asked_for_by_name_on_a_real_robot():
    with start_motion_node('enable_motion:=true', 'collision_check:=none') as (node, bench):
        bench.wait_state('HOLDING')  # simulated: nothing is asked for
        missing = dict(
            zip(bench.status.inactive_checks, bench.status.inactive_reasons, strict=True)
        )
        assert missing == {
            'effort': 'joint states carry no efforts',
            'temperature': 'there are none',
            'controller_reports': missing['controller_reports'],
            'collision': 'collision_check is none',
        }
        assert 'left_arm_controller' in missing['controller_reports']
        bench.wait(lambda: bench.diagnostics['motion: safety checks'].level == b'\x01')
        bench.call_service(SetBool, 'enable', data=False)
        bench.wait_state('DISABLED')
        bench.driver_status.simulated = False
        bench.wait(lambda: not node._motion.safety_checks.simulated)
        refused = bench.call_service(SetBool, 'enable', data=True).message
        for word in ('effort (joint states carry no efforts)', 'temperature (there are none)'):
            assert word in refused
        assert (
            'accept_missing of motion_node to [collision, controller_reports, effort,' in refused
        )
        assert bench.status.state_name == 'DISABLED'


def test_a_real_robot_whose_missing_checks_are_accepted_is_enabled():
    names = '[effort,temperature,driver_faults,controller_reports]'
    with start_motion_node('enable_motion:=true', f'accept_missing:={names}') as (node, bench):
        bench.driver_status.simulated = False
        bench.wait_state('HOLDING')
        assert 'effort' in bench.status.inactive_checks  # accepted, and said all the same


def test_joint_states_in_parts_are_merged_and_a_missing_part_is_named_in_the_status(tracking):
    _, bench = tracking
    arms, grippers = ROBOT.commanded[:-2], ROBOT.commanded[-2:]
    underruns = bench.status.underruns
    bench.joint_state_parts = [grippers, arms]
    accepted = bench.status.chunks_accepted
    bench.wait(lambda: bench.status.chunks_accepted > accepted + 5)
    assert bench.status.state_name == 'TRACKING' and bench.status.underruns == underruns
    bench.joint_state_parts = [arms]
    bench.wait(lambda: 'left_gripper, right_gripper missing' in bench.status.reason)
    assert 'last reported 0.1' in bench.status.reason
    bench.wait_state('HOLDING')
    bench.joint_state_parts = [arms, grippers]
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_a_posture_in_degrees_stops_the_robot_which_says_so_and_recovers(tracking):
    _, bench = tracking
    bench.position_scale = np.where(GRIPPER_MASK, 1.0, 180.0 / np.pi)
    bench.wait(lambda: 'looks like degrees' in bench.status.reason)
    bench.wait_state('HOLDING')
    bench.wait_rest()
    bench.position_scale = 1.0
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_states_of_other_joints_are_refused_with_a_reason_and_change_nothing(tracking):
    node, bench = tracking
    said, warned = JointTrajectoryControllerState(joint_names=['wheel']), []
    node.get_logger().warning = lambda text, **_: warned.append(text)
    for publisher, _ in bench.controller_state_publishers.values():
        publisher.publish(said)
    bench.wait(lambda: len(warned) >= len(ROBOT.controllers))
    assert all('state of wheel; want each of' in text for text in warned)
    accepted = bench.status.chunks_accepted
    bench.wait(lambda: bench.status.chunks_accepted > accepted + 3, 3.0)
    bench.check_motion()


def test_deactivation_ramps_to_rest_and_cleans_up(tracking):
    node, bench = tracking
    (refused,) = node.set_parameters([rclpy.parameter.Parameter('speed_scale', value=0.5)])
    assert not refused.successful and 'deactivate it first' in refused.reason
    node.trigger_deactivate()
    bench.wait_rest()
    assert bench.status.state_name in ('STOPPING', 'DISABLED')
    bench.session = 'of a new instruction'
    assert node.trigger_activate() and bench.wait_state('TRACKING') is None
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node._state_machine.current_state[0] == Lifecycle.PRIMARY_STATE_UNCONFIGURED
    bench.check_motion()


def test_a_node_that_is_gone_leaves_a_robot_that_comes_to_rest(tracking):
    node, bench = tracking
    node._planner_thread._make_publish_fn = lambda trajectory: lambda: None  # as if killed
    bench.wait_rest()
    bench.check_motion()


def test_a_dry_run_sends_the_controllers_nothing():
    with start_motion_node('enable_motion:=false') as (_, bench):
        bench.chunks_enabled = True
        bench.wait_state('TRACKING')
        bench.wait(lambda: len(bench.dry_run_trajectories) > 5)
        assert bench.status.dry_run and bench.received_count == 0
        assert bench.dry_run_trajectories[-1].joint_names == list(ROBOT.commanded)


def test_the_dead_man_switch_must_be_held():
    with start_motion_node('enable_motion:=true', 'use_deadman:=true') as (_, bench):
        press = bench.node.create_publisher(Bool, 'deadman', qos.JOINTS)
        bench.chunks_enabled = True
        time.sleep(0.5)
        assert bench.status.state_name == 'DISABLED' and not bench.status.deadman_ok
        timer = bench.node.create_timer(0.05, lambda: press.publish(Bool(data=True)))
        bench.wait_state('TRACKING')
        timer.cancel()
        bench.wait(lambda: 'dead-man' in bench.status.reason)
        bench.wait_rest()
        bench.check_motion()


@pytest.mark.parametrize('parameter', ['embodiment:=nobody', 'rate_hz:=1.0'])
def test_a_wrong_parameter_refuses_the_start(parameter):
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '-p', parameter])
    try:
        node = MotionNode(context=context)
        node.trigger_configure()
        assert node._state_machine.current_state[0] == Lifecycle.PRIMARY_STATE_UNCONFIGURED
        node.destroy_node()
    except ValueError as error:
        assert 'rate_hz' in str(error)
    rclpy.shutdown(context=context)

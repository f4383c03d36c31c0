"""stream_node on real rclpy, between trajectories and two vendors' interfaces."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import sys
import time
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from lifecycle_msgs.msg import State as Lifecycle
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from tests.nodes.stream.stream_test_bench import G1, StreamTestBench
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.motion.controller_monitor import ControllerMonitor
from wam_policy.nodes.run_node import ExecutorThread
from wam_policy.nodes.stream.stream_node import StreamNode

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
YAM = load_embodiment('yam')


class FakeI2rtArm:
    """Have the methods of i2rt's robot object and its habits: it clips in place, close sags."""

    instances: list['FakeI2rtArm'] = []

    def __init__(self, channel, arm_type, gripper_type, zero_gravity_mode):
        self.channel, self.model_types = channel, (arm_type, gripper_type)
        self.temp_record_flag, self.frozen = False, False
        self.position = np.array([0.1, 0.5, 0.6, 0.0, 0.0, 0.0, 0.8])
        self.zero_gravity, self.closed, self.commands = zero_gravity_mode, False, []
        self.rotor_temperature_c = 40.0
        self.motor_chain = SimpleNamespace(running=True, state=object())
        self._server_thread = SimpleNamespace(is_alive=lambda: True)
        FakeI2rtArm.instances.append(self)

    def command_joint_pos(self, joint_pos):
        np.clip(joint_pos, -2.8, 3.8, out=joint_pos)
        self.position, self.zero_gravity = joint_pos, False
        self.commands.append(joint_pos.copy())

    def get_observations(self):
        if not self.frozen:
            self.motor_chain.state = object()  # a new one with every exchange
        temperatures = {'temp_rotor': np.full(7, self.rotor_temperature_c)}
        return {
            'joint_pos': self.position[:6],
            'joint_vel': np.zeros(6),
            'gripper_pos': self.position[6:],
            'gripper_vel': np.zeros(1),
            'joint_eff': np.arange(6.0),
        } | (temperatures if self.temp_record_flag else {})

    def close(self):
        self.closed = True


@pytest.fixture
def i2rt(monkeypatch):
    """Install a fake i2rt; return the arms it made."""
    FakeI2rtArm.instances = []
    robots, utils = ModuleType('i2rt.robots.get_robot'), ModuleType('i2rt.robots.utils')
    robots.get_yam_robot = FakeI2rtArm
    utils.ArmType, utils.GripperType = {'YAM': 'yam'}, {'LINEAR_4310': 'linear_4310'}
    for name, module in (
        ('i2rt', ModuleType('i2rt')),
        ('i2rt.robots', ModuleType('i2rt.robots')),
        (robots.__name__, robots),
        (utils.__name__, utils),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return FakeI2rtArm.instances


@contextmanager
def start_stream_node(robot, *parameters, active=True, reports_enabled=True):
    context = rclpy.Context()
    rclpy.init(
        context=context,
        args=[
            '--ros-args',
            '-p',
            f'embodiment:={robot.name}',
            *(x for p in parameters for x in ('-p', p)),
        ],
    )
    node, bench = StreamNode(context=context), StreamTestBench(context, robot, reports_enabled)
    spinning = [ExecutorThread([bench.node])]
    try:
        # as in its process, where transitions and callbacks run in one thread
        node.trigger_configure()
        if active:
            node.trigger_activate()
        spinning.append(ExecutorThread([node]))
        yield node, bench
    finally:
        for each in spinning:
            each.stop()
        node.close()
        for made in (node, bench.node):
            made.destroy_node()
        rclpy.shutdown(context=context)


def read_lifecycle_state(node):
    return node._state_machine.current_state[0]


ASSUMED_GRIPPER_ARGUMENTS = ('use_vendor_messages:=false', 'assumed_gripper_opening:=0.5')


def test_g1_arms_and_grippers_are_streamed_in_the_vendors_terms():
    with start_stream_node(G1, 'enable_motion:=true', *ASSUMED_GRIPPER_ARGUMENTS) as (_, bench):
        bench.wait(lambda: len(bench.arm_commands) > 10)
        assert bench.arm_commands[-1].position == pytest.approx(
            bench.arm_positions
        )  # holds what it measured
        assert bench.gripper_commands[-1].name == ['left_gripper_joint1']
        assert bench.gripper_commands[-1].position[0] == pytest.approx(35 + 0.5 * 85)  # half open
        goal = bench.move_to(
            np.where(limits.gripper_mask(G1), 0.3, 0.05),
            lambda goal: np.allclose(bench.arm_commands[-1].position, goal[:14], atol=1e-6),
        )
        assert bench.gripper_commands[-1].position[0] == pytest.approx(
            120 - 85 * goal[14], abs=1e-2
        )
        steps = np.abs(np.diff([msg.position for msg in bench.arm_commands], axis=0))
        assert steps.max() < 0.05 and bench.positions[14] == pytest.approx(goal[14], abs=1e-3)
        assert bench.joint_states[-1].name == list(G1.observed)


def test_the_controllers_say_what_they_follow_and_when():
    with start_stream_node(G1, 'enable_motion:=true', *ASSUMED_GRIPPER_ARGUMENTS) as (_, bench):
        bench.wait(lambda: len(bench.arm_commands) > 10)
        bench.move_to(
            np.where(limits.gripper_mask(G1), 0.3, 0.05),
            lambda goal: np.allclose(bench.arm_commands[-1].position, goal[:14], atol=1e-6),
        )
        said = [
            message_conversion.setpoint_from_msg(msg, G1.controllers[0])
            for msg in bench.controller_states
        ]
        moving = [report for report in said if report.velocity.any()]
        assert len(moving) > 10
        columns = [G1.commanded.index(name) for name in G1.controllers[0].joints]
        for report in moving:  # on the curve that was sent, at its stamp
            due = bench.sent_trajectory.at(report.stamp_ns)
            if report.stamp_ns >= bench.sent_trajectory.start_ns:
                assert report.position == pytest.approx(due.position[columns], abs=1e-7)
                assert report.velocity == pytest.approx(due.velocity[columns], abs=1e-7)
                assert report.acceleration == pytest.approx(due.acceleration[columns], abs=1e-6)


def test_its_controllers_pass_the_checks_of_motion_node():
    with start_stream_node(G1, 'enable_motion:=true', *ASSUMED_GRIPPER_ARGUMENTS) as (_, bench):
        other = rclpy.create_node('motion', context=bench.node.context)
        outputs = [
            (other.create_publisher(JointTrajectory, c.topic, qos.TRAJECTORY), c)
            for c in G1.controllers
        ]
        for publisher, _ in bench.trajectory_publishers:
            bench.node.destroy_publisher(publisher)
        monitor, spinning = ControllerMonitor(other, outputs, 1.0, ''), ExecutorThread([other])
        try:
            bench.wait(lambda: monitor.check_enable() is None and not monitor.inactive_checks)
        finally:
            spinning.stop()
            monitor.close()
            other.destroy_node()


def test_g1_arms_are_found_in_a_long_message_and_names_must_not_change():
    with start_stream_node(
        G1, 'enable_motion:=true', *ASSUMED_GRIPPER_ARGUMENTS, reports_enabled=False
    ) as (_, bench):
        bench.arm_positions = np.concatenate([np.full(28, 9.0), bench.arm_positions])
        bench.arm_joint_names = [f'motor{i}' for i in range(42)]
        bench.reports_enabled = True
        bench.wait(
            lambda: (
                bench.arm_commands
                and bench.arm_commands[-1].name
                and bench.arm_commands[-1].name[0] == 'motor28'
            )
        )
        assert bench.arm_commands[-1].position == pytest.approx(np.linspace(-0.3, 0.3, 14))
        bench.arm_joint_names = [f'other{i}' for i in range(42)]
        bench.wait(
            lambda: (
                'stream: stream' in bench.diagnostics
                and 'another source' in bench.diagnostics['stream: stream'].message
            )
        )


def test_a_dry_run_reads_the_robot_and_sends_nothing():
    with start_stream_node(G1, *ASSUMED_GRIPPER_ARGUMENTS) as (_, bench):
        bench.wait(lambda: len(bench.joint_states) > 10)
        bench.move(np.full(16, 0.01))
        time.sleep(0.5)
        assert not bench.arm_commands and not bench.gripper_commands


def test_deactivating_stops_sending():
    with start_stream_node(G1, 'enable_motion:=true', *ASSUMED_GRIPPER_ARGUMENTS) as (node, bench):
        bench.wait(lambda: len(bench.arm_commands) > 5)
        node.trigger_deactivate()
        time.sleep(0.1)
        count = len(bench.arm_commands)
        time.sleep(0.3)
        assert len(bench.arm_commands) == count
        node.trigger_activate()
        bench.wait(lambda: len(bench.arm_commands) > count + 5)


def test_without_the_vendors_messages_configuration_says_what_to_do(capfd):
    with start_stream_node(G1, active=False) as (node, _):
        assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_UNCONFIGURED
    assert 'set use_vendor_messages to false' in capfd.readouterr().err


def install_vendor_messages(monkeypatch):
    vendor = ModuleType('genie_msgs.msg')
    for kind in ('EndState', 'HeadState', 'WaistState', 'ArmState', 'MotionControlStatus'):
        setattr(vendor, kind, Empty)
    monkeypatch.setitem(sys.modules, 'genie_msgs', ModuleType('genie_msgs'))
    monkeypatch.setitem(sys.modules, 'genie_msgs.msg', vendor)


def make_arm_msg(system_error=0, arm_state=0x1001, **motor):
    """Return an ArmState of seven motors; `motor` changes the one with id 3, efforts all."""
    healthy = {'status': 0, 'err_code': 0, 'enable': True, 'temperature': 40.0, 'effort': 0.5}
    common = {k: motor[k] for k in ('effort', 'temperature') if motor.get(k) in (0.0, 5.0, 6.0)}
    motors = [
        SimpleNamespace(id=k, **(healthy | common | (motor if k == 3 else {})))
        for k in range(1, 8)
    ]
    return SimpleNamespace(system_error=system_error, arm_state=arm_state, motor_states=motors)


def make_hand_msg(raw, status=0):
    hand = SimpleNamespace(position=raw, status=status, err_code=0)
    return SimpleNamespace(end_state=[hand], controlled=True)


def make_body_msg(names, values):
    return SimpleNamespace(name=names, motor_states=[SimpleNamespace(position=v) for v in values])


def test_a_gripper_in_another_unit_refuses_activation(monkeypatch, capfd):
    install_vendor_messages(monkeypatch)
    with start_stream_node(G1, 'enable_motion:=true', active=False) as (node, bench):
        adapter = node._configured.holder.adapter

        def hand(name, raw):
            adapter._on_gripper_state(name, make_hand_msg(raw))

        for raw in (150.0, 0.98):
            hand('left_gripper', raw)
            node.trigger_activate()
            assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_INACTIVE
            log = capfd.readouterr().err
            assert 'measure raw_open' in log
        assert 'looks like a scale of 0 to 1' in log
        hand('left_gripper', 35.0)
        hand('right_gripper', 120.0)
        adapter._on_body_state('head', make_body_msg([], [0.1, 0.2]))
        adapter._on_body_state('waist', make_body_msg(['spine', 'lift'], [0.5, 0.3]))
        assert "add the robot's names to vendor.joint_names" in adapter.fault
        adapter._on_body_state(
            'waist', make_body_msg(['joint_lift_body', 'joint_body_pitch'], [0.3, 0.5])
        )
        bench.wait(lambda: bench.joint_states)
        seen = message_conversion.joint_state_from_msg(bench.joint_states[-1], G1.observed)
        assert seen.positions(['left_gripper', 'right_gripper']).tolist() == [1.0, 0.0]
        assert seen.positions(
            ['idx11_head_joint1', 'idx01_body_joint1', 'idx02_body_joint2']
        ).tolist() == [0.1, 0.3, 0.5]
        node.trigger_activate()
        assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_ACTIVE


def test_yam_arms_are_held_and_moved(i2rt):
    with start_stream_node(YAM, 'enable_motion:=true') as (node, bench):
        left, right = i2rt
        assert (left.channel, right.channel) == ('can_follower_l', 'can_follower_r')
        assert left.model_types == ('yam', 'linear_4310')
        bench.wait(lambda: len(left.commands) > 10 and bench.joint_states)
        assert left.commands[0] == pytest.approx([0.1, 0.5, 0.6, 0, 0, 0, 0.8])
        goal = bench.move_to(
            np.where(limits.gripper_mask(YAM), -0.3, 0.05),
            lambda goal: np.allclose(right.commands[-1][:6], goal[6:12], atol=1e-6),
        )
        assert left.commands[-1] == pytest.approx([*goal[:6], goal[12]], abs=1e-4)
        assert np.abs(np.diff(left.commands, axis=0)[:, :6]).max() < 0.06


def call_release(bench):
    client = bench.node.create_client(Trigger, '/stream/release')
    bench.wait(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    bench.wait(future.done)
    return future.result()


def test_yam_arms_are_released_at_rest_on_request_only(i2rt, capfd):
    with start_stream_node(YAM, 'enable_motion:=true') as (node, bench):
        left, right = i2rt
        bench.wait(lambda: len(left.commands) > 10 and bench.joint_states)
        answer = call_release(bench)
        assert not answer.success and 'the stack is running' in answer.message
        bench.move(np.where(limits.gripper_mask(YAM), -0.3, 0.05))
        bench.wait(lambda: node._configured.stream.is_following)
        node.trigger_deactivate()
        answer = call_release(bench)
        assert not answer.success and 'still follow a trajectory' in answer.message
        bench.wait(lambda: not node._configured.stream.is_following)
        node.trigger_cleanup()
        assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_INACTIVE
        assert 'cannot be cleaned up: left arm and right arm: held up' in capfd.readouterr().err
        node.trigger_shutdown()
        assert not left.closed and not right.closed
        bench.wait(lambda: call_release(bench).success)  # once the joint states show the rest
        assert left.closed and right.closed
        assert call_release(bench).message == 'no arm is held by this process'


def test_a_process_that_is_asked_to_end_stays_until_its_arms_are_released(i2rt):
    with start_stream_node(YAM, 'enable_motion:=true') as (node, bench):
        bench.wait(lambda: len(i2rt[0].commands) > 10 and bench.joint_states)
        bench.move(np.where(limits.gripper_mask(YAM), -0.3, 0.05))
        bench.wait(lambda: node._configured.stream.is_following)
        assert not node.may_exit()
        bench.wait(lambda: not node._configured.stream.is_following)
        count = len(i2rt[1].commands)
        assert np.abs(np.diff(i2rt[1].commands, axis=0)[:, :6]).max() < 0.06
        bench.move(np.where(limits.gripper_mask(YAM), -0.3, 0.05))  # nothing is accepted any more
        time.sleep(1.5)
        assert len(i2rt[1].commands) <= count + 1
        assert not node.may_exit() and not i2rt[0].closed
        bench.wait(lambda: call_release(bench).success)
        assert node.may_exit() and i2rt[0].closed


def test_released_arms_are_opened_again_by_cleanup_and_configure(i2rt, capfd):
    with start_stream_node(YAM, active=False) as (node, bench):
        bench.wait(lambda: bench.joint_states)
        bench.wait(lambda: call_release(bench).success)
        node.trigger_activate()
        assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_INACTIVE
        assert 'the arms were released: clean up' in capfd.readouterr().err
        node.trigger_cleanup()
        node.trigger_configure()
        assert len(i2rt) == 4 and not i2rt[2].closed


def test_a_g1_is_left_at_rest_and_needs_no_release():
    with start_stream_node(G1, 'enable_motion:=true', *ASSUMED_GRIPPER_ARGUMENTS) as (node, bench):
        bench.wait(lambda: len(bench.arm_commands) > 10)
        bench.move(np.where(limits.gripper_mask(G1), 0.3, 0.05))
        bench.wait(lambda: node._configured.stream.is_following)
        assert not node.may_exit()
        bench.wait(node.may_exit)
        setpoint = node._configured.stream.setpoint
        bench.wait(lambda: np.allclose(bench.arm_commands[-1].position, setpoint[:14], atol=1e-6))
        assert call_release(bench).message == 'no arm is held by this process'


def test_arms_that_are_too_hot_to_be_held_are_released_after_a_warning(i2rt, capfd):
    with start_stream_node(YAM, 'enable_motion:=true') as (node, bench):
        bench.wait(lambda: len(i2rt[0].commands) > 10)
        node._configured.holder.adapter.release_warning_s = 1.0
        i2rt[1].rotor_temperature_c = 96.0
        bench.wait(lambda: i2rt[0].closed and i2rt[1].closed)
    log = capfd.readouterr().err
    assert 'a motor has 96 degrees, more than 95: SUPPORT THE ARMS, they lose torque in 1 s' in log


def test_a_yam_driver_that_stopped_does_not_look_alive(i2rt):
    with start_stream_node(YAM, 'enable_motion:=true') as (_, bench):
        bench.wait(lambda: bench.joint_states)
        i2rt[1].motor_chain.running = False
        time.sleep(0.1)
        count = len(bench.joint_states)
        time.sleep(0.2)
        assert len(bench.joint_states) == count  # no state is published: motion notices and stops
        bench.wait(
            lambda: (
                'right arm: the driver has stopped'
                in bench.diagnostics.get('stream: stream', SimpleNamespace(message='')).message
            )
        )


def test_values_that_the_motors_do_not_renew_are_not_published_again(i2rt):
    with start_stream_node(YAM, 'enable_motion:=true') as (_, bench):
        bench.wait(lambda: len(bench.joint_states) > 5)
        stamps = [message_conversion.to_ns(msg.header.stamp) for msg in bench.joint_states]
        assert (np.diff(stamps) > 0).all()
        i2rt[0].frozen = True  # its bus is silent; the right arm's is not
        frozen_ns = bench.node.get_clock().now().nanoseconds
        bench.wait(
            lambda: (
                'left arm: its motors have not answered'
                in bench.diagnostics.get('stream: stream', SimpleNamespace(message='')).message
            )
        )
        assert message_conversion.to_ns(bench.joint_states[-1].header.stamp) <= frozen_ns + 20e6


def test_a_hot_motor_is_reported(i2rt):
    with start_stream_node(YAM) as (_, bench):
        bench.wait(lambda: bench.joint_states)
        assert not i2rt[0].commands and i2rt[0].zero_gravity  # a dry run leaves the arms alone
        i2rt[0].rotor_temperature_c = 95.0
        bench.wait(
            lambda: (
                'left arm: a motor has 95 degrees'
                in bench.diagnostics.get('stream: stream', SimpleNamespace(message='')).message
            )
        )


def test_what_the_driver_finds_wrong_reaches_motion(i2rt):
    with start_stream_node(YAM) as (_, bench):
        faults = []
        bench.node.create_subscription(
            String, 'robot_fault', lambda msg: faults.append(msg.data), qos.LATCHED
        )
        bench.wait(lambda: faults and bench.joint_states)
        assert faults == ['']
        assert message_conversion.joint_state_from_msg(
            bench.joint_states[-1], YAM.commanded[:6]
        ).effort.tolist() == [
            0.0,
            1.0,
            2.0,
            3.0,
            4.0,
            5.0,
        ]
        i2rt[1].rotor_temperature_c = 95.0
        bench.wait(lambda: faults[-1] == 'right arm: a motor has 95 degrees')
        i2rt[1].rotor_temperature_c = 40.0
        bench.wait(lambda: faults[-1] == '')


def test_flags_and_heat_of_the_g1s_motors_are_faults(monkeypatch):
    install_vendor_messages(monkeypatch)
    with start_stream_node(G1, active=False) as (node, _):
        adapter = node._configured.holder.adapter

        def told(**changes):
            hand = changes.pop('hand', 0)
            adapter._on_arm_data('left arm', make_arm_msg(**changes))
            adapter._on_gripper_state('left_gripper', make_hand_msg(35.0, hand))
            return adapter.fault

        assert told() == '' and told(hand=5) == ''  # a hand that grips stalls
        assert told(status=0x12) == 'left arm: motor 3 has fault flags 0x12'
        assert told(temperature=91.0) == 'left arm: motor 3 has 91 degrees'
        assert told(system_error=7) == 'left arm: error 7'
        assert told(arm_state=0x100D) == 'left arm: collision (arm_state 0x100d)'
        assert told(arm_state=0x1012) == 'left arm: self-collision (arm_state 0x1012)'
        assert told(arm_state=0) == 'left arm: control link not established (arm_state 0x0000)'
        assert told(err_code=9) == 'left arm: motor 3 has error code 0x9'
        assert told(enable=False) == 'left arm: motor 3 is not enabled'
        assert told() == '' and 'left' not in ' '.join(adapter.warnings).replace('left_g', '')
        assert told(status=0x4000) == ''  # a warning stops nothing
        assert 'left arm: motor 3 has warning flags 0x4000' in adapter.warnings
        assert told(status=0x4012) == 'left arm: motor 3 has fault flags 0x12'
        assert told(hand=3) == ''  # a firm grip limits the hand's current
        assert 'left_gripper: its current is limited' in adapter.warnings


def test_g1_efforts_reach_the_joint_states_and_what_falls_silent_is_missed(monkeypatch):
    install_vendor_messages(monkeypatch)
    with start_stream_node(G1, active=False) as (node, bench):
        adapter = node._configured.holder.adapter
        assert set(adapter.inactive_checks) == {'temperature', 'driver_faults'}

        def tell(hands=True, motion_control=True, **changes):
            for k, arm in enumerate(G1.vendor['arm_data_topics']):
                adapter._on_arm_data(arm, make_arm_msg(effort=5.0 + k, **changes))
            for name in G1.vendor['gripper_state_topics'] if hands else ():
                adapter._on_gripper_state(name, make_hand_msg(35.0))
            if motion_control:
                adapter._on_motion_control(SimpleNamespace(mode=1, error_code=0))
            for part in ('head', 'waist'):
                adapter._on_body_state(part, make_body_msg((), [0.1, 0.2]))

        tell(motion_control=False)
        assert '/wbc/motion_control_status' in adapter.inactive_checks['driver_faults']
        tell()
        bench.wait(lambda: bench.joint_states)
        seen = message_conversion.joint_state_from_msg(bench.joint_states[-1], G1.observed)
        assert seen.efforts(G1.vendor['arm_joints']).tolist() == [5.0] * 7 + [6.0] * 7
        assert np.isnan(seen.efforts(['left_gripper', 'idx11_head_joint1'])).all()
        assert adapter.inactive_checks == {} and adapter.warnings == []
        tell(temperature=0.0)
        assert 'exactly 0' in adapter.inactive_checks['temperature']
        started_s = time.monotonic()
        bench.wait(
            lambda: tell(hands=False) or any('/hal/left_ee_data' in w for w in adapter.warnings)
        )
        assert time.monotonic() - started_s > 0.5
        assert adapter.inactive_checks == {}
        count = len(bench.joint_states)
        time.sleep(0.2)
        assert len(bench.joint_states) <= count + 1  # motion stops: no joint states without it
        bench.wait(lambda: 'nothing comes on /hal/left_arm_data' in str(adapter.inactive_checks))


def test_without_i2rt_configuration_says_what_to_do(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, 'i2rt', None)
    with start_stream_node(YAM, active=False) as (node, _):
        assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_UNCONFIGURED
    assert 'i2rt is not installed' in capfd.readouterr().err


def test_an_arm_that_does_not_open_is_named(i2rt, monkeypatch, capfd):
    def open_left_only(channel, **types):
        if channel == 'can_follower_r':
            raise AssertionError('fail to communicate with the motor 1')
        return FakeI2rtArm(channel, **types)

    monkeypatch.setattr(sys.modules['i2rt.robots.get_robot'], 'get_yam_robot', open_left_only)
    with start_stream_node(YAM, active=False) as (node, _):
        assert read_lifecycle_state(node) == Lifecycle.PRIMARY_STATE_UNCONFIGURED
        assert [(arm.channel, arm.closed) for arm in i2rt] == [('can_follower_l', True)]
    log = capfd.readouterr().err
    assert 'right arm on can_follower_r does not open: fail to communicate with the mo' in log
    assert 'Traceback' not in log

"""Messages in, core types out; every broken message is refused with its reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from builtin_interfaces.msg import Time
from control_msgs.msg import JointTrajectoryControllerState
from sensor_msgs.msg import JointState

from wam_policy.core import types
from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.trajectory import JointMotion, integrate_jerk, make_hold
from wam_policy.core.robot import embodiment
from wam_policy.nodes import message_conversion

pytestmark = pytest.mark.ros
RNG = np.random.default_rng(0)
STAMP = Time(sec=12, nanosec=345)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive_the_round_trip(stamp_ns):
    assert message_conversion.to_ns(message_conversion.time_to_msg(stamp_ns)) == stamp_ns
    assert message_conversion.to_ns(message_conversion.duration_to_msg(stamp_ns)) == stamp_ns


# --- joints ---


def make_joint_state_msg(name=('b', 'x', 'a'), position=(2.0, 9.0, 1.0), velocity=(), effort=()):
    msg = JointState(
        name=list(name), position=list(position), velocity=list(velocity), effort=list(effort)
    )
    msg.header.stamp = STAMP
    return msg


def test_joints_are_reordered_by_name_and_strangers_ignored():
    state = message_conversion.joint_state_from_msg(
        make_joint_state_msg(velocity=(0.2, 0.9, 0.1)), ['a', 'b']
    )
    assert state.names == ('a', 'b') and state.stamp_ns == 12_000_000_345
    assert state.position.tolist() == [1.0, 2.0] and state.velocity.tolist() == [0.1, 0.2]


@pytest.mark.parametrize('velocity', [(), (np.nan, 0.0, 0.0)])
def test_velocity_that_is_not_measured_is_none(velocity):
    assert (
        message_conversion.joint_state_from_msg(
            make_joint_state_msg(velocity=velocity), ['a', 'b']
        ).velocity
        is None
    )


def test_a_part_has_what_it_knows_of_ours():
    msg = make_joint_state_msg(effort=(5.0, 6.0, 7.0))
    part = message_conversion.joint_state_part_from_msg(msg, ['a', 'b', 'c'])
    assert part.names == ('b', 'a') and part.position.tolist() == [2.0, 1.0]
    assert part.effort.tolist() == [5.0, 7.0] and part.stamp_ns == 12_000_000_345
    assert message_conversion.joint_state_part_from_msg(msg, ['c']).names == ()


@pytest.mark.parametrize('missing', [np.nan, np.inf, -np.inf])
def test_an_effort_that_is_not_measured_hides_no_other(missing):
    state = message_conversion.joint_state_from_msg(
        make_joint_state_msg(effort=(missing, 7.0, 5.0)), ['a', 'b']
    )
    assert state.effort[0] == 5.0 and np.isnan(state.effort[1])


def test_a_stranger_may_be_nan():
    state = message_conversion.joint_state_from_msg(
        make_joint_state_msg(position=(2.0, np.nan, 1.0)), ['a', 'b']
    )
    assert state.position.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ('msg', 'complaint'),
    [
        (make_joint_state_msg(name=('b', 'x', 'A')), 'a missing; got b, x, A'),
        (make_joint_state_msg(name=(), position=()), 'a, b missing; got no names'),
        (make_joint_state_msg(name=('b', 'a', 'a')), 'a named twice'),
        (make_joint_state_msg(position=(2.0, 1.0)), '2 positions for 3 names'),
        (make_joint_state_msg(velocity=(1.0,)), '1 velocity values for 3 names'),
        (make_joint_state_msg(effort=(1.0, 2.0)), '2 effort values for 3 names'),
        (make_joint_state_msg(position=(np.nan, 9.0, 1.0)), 'position of b is not finite'),
        (make_joint_state_msg(position=(2.0, 9.0, np.inf)), 'position of a is not finite'),
    ],
)
def test_broken_joint_states_are_refused_by_name(msg, complaint):
    with pytest.raises(ValueError, match=complaint):
        message_conversion.joint_state_from_msg(msg, ['a', 'b'])


def test_joint_state_message_and_back():
    state = types.JointState(77, ('a', 'b'), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    back = message_conversion.joint_state_from_msg(
        message_conversion.joint_state_to_msg(state), ['b', 'a']
    )
    assert back.stamp_ns == 77 and back.position.tolist() == [2.0, 1.0]
    assert back.velocity.tolist() == [4.0, 3.0]


G1 = embodiment.load_embodiment('agibot_g1')


def make_unnamed_joint_msg(count):
    return JointState(
        name=[f'joint{i}' for i in range(count)], position=[float(i) for i in range(count)]
    )


@pytest.mark.parametrize(('count', 'first'), [(14, 0), (20, 0), (41, 0), (42, 28), (60, 28)])
def test_g1_arm_list_of_either_length(count, first):
    values = message_conversion.positions_from_unnamed_msg(
        make_unnamed_joint_msg(count), G1.vendor['arm_joints'], G1.vendor['arm_state_layouts']
    )
    assert values.tolist() == [float(i) for i in range(first, first + 14)]


def test_broken_vendor_lists_are_refused():
    names, layouts = G1.vendor['arm_joints'], G1.vendor['arm_state_layouts']
    with pytest.raises(ValueError, match='13 values, too few for 14'):
        message_conversion.positions_from_unnamed_msg(make_unnamed_joint_msg(13), names, layouts)
    msg = make_unnamed_joint_msg(14)
    msg.position[3] = float('nan')
    with pytest.raises(ValueError, match='idx24_arm_l_joint4 not finite'):
        message_conversion.positions_from_unnamed_msg(msg, names, layouts)
    with pytest.raises(ValueError, match='end before joint idx67'):
        message_conversion.positions_from_unnamed_msg(
            make_unnamed_joint_msg(14), names, [{'at_least': 14, 'first': 1}]
        )


def test_gripper_reading_in_another_unit_is_refused_not_scaled():
    gripper = G1.grippers[0]
    assert message_conversion.gripper_opening_from_raw(120.0, gripper) == 0.0
    assert message_conversion.gripper_opening_from_raw(77.5, gripper) == pytest.approx(0.5)
    for raw in (-1.0, 200.0, float('nan')):
        with pytest.raises(ValueError, match='left_gripper: reading .* is outside'):
            message_conversion.gripper_opening_from_raw(raw, gripper)


# --- chunks and trajectories ---


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 16), st.integers(0, 2**60))
def test_chunk_message_and_back(horizon, count, stamp_ns):
    sent = types.Chunk(
        stamp_ns=stamp_ns,
        session='s1',
        sequence=2**40,
        step_dt_s=1 / 30,
        names=tuple(f'j{i}' for i in range(count)),
        targets=RNG.normal(size=(horizon, count)),
        reference=RNG.normal(size=count),
        embodiment_hash='abc',
        timings_ms={'encode': 1.5, 'total': 2.5},
    )
    msg = message_conversion.chunk_to_msg(sent, 'yam', stamp_ns + 1, trained=False)
    back = message_conversion.chunk_from_msg(msg)
    for field in ('stamp_ns', 'session', 'sequence', 'step_dt_s', 'names', 'embodiment_hash'):
        assert getattr(back, field) == getattr(sent, field)
    assert np.array_equal(back.targets, sent.targets)
    assert np.array_equal(back.reference, sent.reference)
    assert back.timings_ms == sent.timings_ms
    assert message_conversion.to_ns(msg.inference_end_stamp) == stamp_ns + 1 and not msg.trained
    assert msg.header.frame_id == 'yam'


CHUNK = types.Chunk(1, 's', 1, 0.1, ('a', 'b'), np.zeros((3, 2)), np.zeros(2), 'c', {'total': 1.0})


@pytest.mark.parametrize(
    ('field', 'value', 'complaint'),
    [
        ('positions', [0.0] * 5, '5 positions, want 3 rows of 2'),
        ('horizon', 0, 'want 0 rows'),
        ('joint_names', ['a'], 'want 3 rows of 1'),
        ('reference_positions', [0.0], 'reference has shape'),
        ('step_dt', 0.0, 'step_dt is 0.0'),
        ('step_dt', float('nan'), 'step_dt is nan'),
        ('stage_names', [], '1 timings for 0 names'),
    ],
)
def test_broken_chunks_are_refused(field, value, complaint):
    msg = message_conversion.chunk_to_msg(CHUNK, 'yam', 2, True)
    setattr(msg, field, value)
    with pytest.raises(ValueError, match=f'chunk: .*{complaint}'):
        message_conversion.chunk_from_msg(msg)


def test_nan_targets_reach_the_executor_to_be_rejected_there():
    broken = replace(CHUNK, targets=np.full((3, 2), np.nan))
    assert np.isnan(
        message_conversion.chunk_from_msg(
            message_conversion.chunk_to_msg(broken, 'yam', 2, True)
        ).targets
    ).all()


def test_each_controller_gets_its_joints_with_all_of_position_velocity_acceleration():
    jerk = np.array([[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5], [-1.0, 2.0, -0.5], [1.0, -2.0, 0.5]])
    planned = integrate_jerk(
        ('a', 'b', 'c'),
        JointMotion.at_rest(np.array([0.1, 0.2, 0.3])),
        5_000_000_007,
        10_000_000,
        jerk,
    )
    points = TrajectoryPoints.from_message(
        message_conversion.trajectory_to_msg(planned, ['c', 'a'])
    )
    assert points.stamp_ns == 5_000_000_007 and points.names == ('c', 'a')
    assert np.array_equal(points.time_ns, planned.time_ns)
    for field in ('position', 'velocity', 'acceleration'):
        assert np.array_equal(getattr(points, field), getattr(planned, field)[:, [2, 0]])


def test_a_hold_is_one_point_at_rest():
    msg = message_conversion.trajectory_to_msg(
        make_hold(('a', 'b'), np.array([1.0, 2.0]), 9), ['b']
    )
    assert [list(p.positions) for p in msg.points] == [[2.0]]
    assert [list(p.velocities) for p in msg.points] == [[0.0]]


CONTROLLER = embodiment.load_embodiment('yam').controllers[0]
SETPOINT = types.Setpoint(CONTROLLER.name, 12_345_678_901, *np.arange(18.0).reshape(3, 6))


def test_set_point_message_and_back_in_any_order_of_joints():
    msg = message_conversion.setpoint_to_msg(SETPOINT, CONTROLLER)
    order = [3, 1, 0, 2, 5, 4]
    msg.joint_names = [msg.joint_names[i] for i in order]
    for field in ('positions', 'velocities', 'accelerations'):
        setattr(msg.reference, field, [getattr(msg.reference, field)[i] for i in order])
    back = message_conversion.setpoint_from_msg(msg, CONTROLLER)
    assert (back.controller, back.stamp_ns) == (SETPOINT.controller, SETPOINT.stamp_ns)
    for field in ('position', 'velocity', 'acceleration'):
        assert getattr(back, field).tolist() == getattr(SETPOINT, field).tolist()


def make_controller_state_msg(**changes):
    msg = message_conversion.setpoint_to_msg(SETPOINT, CONTROLLER)
    for field, value in changes.items():
        setattr(msg if field == 'joint_names' else msg.reference, field, value)
    return msg


@pytest.mark.parametrize(
    ('msg', 'complaint'),
    [
        (
            make_controller_state_msg(joint_names=['wheel']),
            'state of wheel; want each of left_joint1',
        ),
        (
            make_controller_state_msg(joint_names=[*CONTROLLER.joints[:-1], CONTROLLER.joints[0]]),
            'want each of',
        ),
        (
            make_controller_state_msg(velocities=[]),
            '6/0/6 positions/velocities/accelerations, want 6 each',
        ),
        (make_controller_state_msg(positions=[0.0] * 7), '7/6/6'),
        (
            make_controller_state_msg(accelerations=[float('nan')] * 6),
            'acceleration of the setpoint is not',
        ),
        (JointTrajectoryControllerState(), 'state of no joints'),
    ],
)
def test_broken_controller_states_are_refused(msg, complaint):
    with pytest.raises(ValueError, match=complaint):
        message_conversion.setpoint_from_msg(msg, CONTROLLER)

"""The streamer follows what controllers would follow, and holds when anything is wrong."""

from types import SimpleNamespace

import numpy as np
import pytest

from wam_policy.core.motion import qp_planner
from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.setpoint_stream import SetpointStream
from wam_policy.core.motion.trajectory import JointMotion, make_hold
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.core.types import JointState

ROBOT = load_embodiment('yam')
START = ROBOT.home_positions(ROBOT.commanded)
MS, S = 1_000_000, 1_000_000_000


def send_joint_state(stream, now, offset=0.0):
    where = START if stream.setpoint is None else stream.setpoint
    stream.on_joints(JointState(now, ROBOT.commanded, where + offset), now)


def start_stream(now=S):
    stream = SetpointStream(ROBOT)
    send_joint_state(stream, now)
    stream.tick(now)
    return stream


def split_by_controller(trajectory):
    """Return what each controller gets of a trajectory of all joints."""
    whole = TrajectoryPoints.from_trajectory(trajectory)
    for controller in ROBOT.controllers:
        columns = [ROBOT.commanded.index(name) for name in controller.joints]
        yield (
            controller.name,
            TrajectoryPoints(
                whole.stamp_ns,
                controller.joints,
                whole.time_ns,
                *(
                    values[:, columns]
                    for values in (whole.position, whole.velocity, whole.acceleration)
                ),
            ),
        )


def plan_move(now):
    """Return a move of every joint by 0.05."""
    start = qp_planner.compute_switch_ns(now, 30 * MS)
    return qp_planner.plan_tracking(
        make_hold(ROBOT.commanded, START, 0),
        start,
        START + np.linspace(0, 0.05, 20)[:, None],
        limits.limits_with_margin(ROBOT),
    )


def test_nothing_is_sent_before_the_robot_was_seen_and_then_it_is_held():
    stream = SetpointStream(ROBOT)
    assert stream.tick(S) is None and 'no joint state' in stream.reason
    send_joint_state(stream, S)
    assert stream.tick(S) == pytest.approx(START)  # the measured posture, never zeros
    name, points = next(split_by_controller(plan_move(S)))
    assert SetpointStream(ROBOT).accept(name, points, S) == 'no joint state yet'


def test_trajectories_are_followed_to_their_end():
    stream, plan = start_stream(), plan_move(S)
    for name, points in split_by_controller(plan):
        assert stream.accept(name, points, S) is None
    for now in range(S + 10 * MS, S + 2 * S, 10 * MS):
        assert stream.tick(now) == pytest.approx(plan.at(now).position, abs=1e-9)
        send_joint_state(stream, now)
        assert stream.is_following == (now < plan.end_ns)
    assert stream.tick(3 * S - 10 * MS) == pytest.approx(plan.goal)


def test_a_sender_that_dies_or_joint_states_that_stop_end_in_rest():
    stream, plan = start_stream(), plan_move(S)
    for name, points in split_by_controller(plan):
        stream.accept(name, points, S)
    for now in range(S + 10 * MS, 3 * S, 10 * MS):
        last = stream.tick(now)
    assert last == pytest.approx(plan.goal)
    name, points = next(split_by_controller(plan_move(3 * S)))
    assert 'no joint state' in stream.accept(name, points, 3 * S)


def test_after_a_gap_the_measured_posture_is_held_not_the_trajectory_that_went_on():
    stream = start_stream()
    for name, points in split_by_controller(plan_move(S)):
        stream.accept(name, points, S)
    late = S + 600 * MS
    send_joint_state(stream, late, 0.01)
    assert stream.tick(late) == pytest.approx(START + 0.01)
    assert 'gap' in stream.reason and not stream.is_following


def test_a_trajectory_that_begins_elsewhere_is_refused_and_the_old_one_goes_on():
    stream, plan = start_stream(), plan_move(S)
    for name, points in split_by_controller(plan):
        stream.accept(name, points, S)
    away = make_hold(ROBOT.commanded, START + 0.2, S + 10 * MS)
    for name, points in split_by_controller(away):
        assert 'would jump' in stream.accept(name, points, S + 10 * MS)
    assert stream.tick(S + 20 * MS) == pytest.approx(plan.at(S + 20 * MS).position)
    assert stream.rejected == len(ROBOT.controllers)


def replace_trajectory(ahead_ms, rows, late_ms):
    """Follow a move, send another that parts from it; return the stream, plans and refusals."""
    stream, first = start_stream(), plan_move(S)
    for name, points in split_by_controller(first):
        assert stream.accept(name, points, S) is None
    now = S + ahead_ms * MS
    switch = qp_planner.compute_switch_ns(now, 30 * MS)
    second = qp_planner.plan_tracking(
        first, switch, START + rows[:, None], limits.limits_with_margin(ROBOT)
    )
    arrival = switch + late_ms * MS
    for tick in range(S + 10 * MS, arrival, 10 * MS):
        send_joint_state(stream, tick)
        stream.tick(tick)
    refusals = [
        stream.accept(name, points, arrival) for name, points in split_by_controller(second)
    ]
    return stream, first, second, arrival, refusals


BACK = np.linspace(0.02, -0.2, 60)


@pytest.mark.parametrize('late_ms', [-20, 0])
def test_a_trajectory_that_comes_in_time_replaces_the_one_before(late_ms):
    stream, _, second, arrival, refusals = replace_trajectory(150, BACK, late_ms)
    assert refusals == [None] * len(ROBOT.controllers)
    assert stream.tick(arrival + 30 * MS) == pytest.approx(second.at(arrival + 30 * MS).position)


@pytest.mark.parametrize('late_ms', [3, 30])
def test_one_that_comes_too_late_to_join_smoothly_is_refused(late_ms):
    """The acceleration of the arms would jump; the grippers move on as before in both."""
    stream, first, _, arrival, refusals = replace_trajectory(150, BACK, late_ms)
    assert ['came too late' in (reason or '') for reason in refusals] == [
        'arm' in controller.name for controller in ROBOT.controllers
    ]
    arms = [i for i, name in enumerate(ROBOT.commanded) if 'gripper' not in name]
    assert stream.tick(arrival + 10 * MS)[arms] == pytest.approx(
        first.at(arrival + 10 * MS).position[arms]
    )
    assert stream.rejected == 2


def test_a_late_stop_is_never_refused():
    stream, first, _, _, _ = replace_trajectory(150, BACK, 30)
    now = S + 150 * MS
    switch = qp_planner.compute_switch_ns(now, 30 * MS)
    stop = qp_planner.plan_stop(first, switch, limits.limits_with_margin(ROBOT))
    assert stop.end_ns < first.end_ns
    for name, points in split_by_controller(stop):
        assert stream.accept(name, points, switch + 40 * MS) is None


def test_a_trajectory_that_is_too_fast_ends_in_a_hold():
    stream = start_stream()
    fast = SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)),
        joint_names=list(ROBOT.controllers[0].joints),
        points=[
            SimpleNamespace(
                positions=(START[:6] + 0.2).tolist(),
                velocities=[],
                accelerations=[],
                time_from_start=SimpleNamespace(sec=0, nanosec=30 * MS),
            )
        ],
    )
    assert stream.accept(ROBOT.controllers[0].name, fast, S) is None
    sent = stream.tick(S + 10 * MS)
    assert 'jumps' in stream.reason and sent == pytest.approx(START)
    assert stream.tick(S + 20 * MS) == pytest.approx(START)


def test_a_set_point_far_from_the_measured_posture_is_not_sent():
    stream, plan = start_stream(), plan_move(S)
    for name, points in split_by_controller(plan):
        stream.accept(name, points, S)
    stream.tick(S + 80 * MS)
    send_joint_state(stream, S + 80 * MS, -0.5)
    before = stream.setpoint
    assert stream.tick(S + 90 * MS) == pytest.approx(before)
    assert 'too far' in stream.reason


def test_what_is_sent_can_be_told_with_its_velocity_and_acceleration():
    stream, plan = start_stream(), plan_move(S)
    for name, points in split_by_controller(plan):
        stream.accept(name, points, S)
    for now in range(S + 10 * MS, plan.start_ns + 210 * MS, 10 * MS):
        send_joint_state(stream, now)
        stream.tick(now)
    due = plan.at(stream.sent_ns)
    assert np.abs(due.velocity).max() > 0.01
    assert stream.setpoint_rates[0] == pytest.approx(due.velocity, abs=1e-9)
    assert stream.setpoint_rates[1] == pytest.approx(due.acceleration, abs=1e-7)
    for k in range(1, 9):  # the arm drops, as fast as it can
        send_joint_state(stream, now + 10 * k * MS, -0.06 * k)
        stream.tick(now + 10 * k * MS)
    assert 'holding' in stream.reason and not stream.setpoint_rates.any()


def test_forgetting_takes_the_posture_over_anew():
    stream = start_stream()
    stream.reset()
    assert stream.tick(2 * S) is None
    stream.on_joints(JointState(2 * S, ROBOT.commanded, START + 0.1), 2 * S)
    assert stream.tick(2 * S) == pytest.approx(START + 0.1)
    assert JointMotion.at_rest(stream.setpoint).is_at_rest

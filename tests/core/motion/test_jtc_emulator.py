"""The simulated controllers and the streamer follow messages as Jazzy's controller does."""

from types import SimpleNamespace

import numpy as np
import pytest

from wam_policy.core.motion.jtc_emulator import (
    REST_VELOCITY_TOLERANCE,
    TrajectoryFollower,
    TrajectoryPoints,
)
from wam_policy.core.motion.trajectory import JointMotion, integrate_jerk, make_hold

NAMES = ('a', 'b')
S = 1_000_000_000


def time(seconds: float) -> SimpleNamespace:
    return SimpleNamespace(sec=int(seconds // 1), nanosec=round(seconds % 1 * S))


def message(points: list, stamp_s: float = 0.0, names: tuple = NAMES) -> SimpleNamespace:
    """Return a JointTrajectory look-alike; points are (time, positions[, velocities[, ...]])."""
    return SimpleNamespace(
        header=SimpleNamespace(stamp=time(stamp_s)),
        joint_names=list(names),
        points=[
            SimpleNamespace(
                time_from_start=time(p[0]),
                positions=p[1],
                velocities=p[2] if len(p) > 2 else [],
                accelerations=p[3] if len(p) > 3 else [],
            )
            for p in points
        ],
    )


def test_stays_where_it_was_put_before_the_first_message():
    follower = TrajectoryFollower(NAMES, np.array([0.3, -0.2]))
    motion = follower.sample(5 * S)
    assert motion.position.tolist() == [0.3, -0.2] and motion.is_at_rest


def test_stamp_zero_starts_now_and_positions_alone_are_joined_by_straight_lines():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.sample(10 * S)
    assert follower.accept(message([(1.0, [1.0, 2.0]), (2.0, [1.0, 0.0])]), 10 * S) is None
    half = follower.sample(10 * S + S // 2)
    assert half.position == pytest.approx([0.5, 1.0]) and half.velocity == pytest.approx([1, 2])
    assert follower.sample(11 * S + S // 2).position == pytest.approx([1.0, 1.0])
    end = follower.sample(60 * S)
    assert end.position.tolist() == [1.0, 0.0] and end.is_at_rest


def test_future_stamp_bridges_from_the_set_point_of_the_moment():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.sample(10 * S)
    still = [0.0, 0.0]
    assert follower.accept(message([(0.0, [1.0, 1.0], still, still)], 12.0), 10 * S) is None
    assert follower.sample(10 * S).position == pytest.approx([0, 0])
    # a quintic from rest to rest passes the middle at 15/8 of the mean velocity
    middle = follower.sample(11 * S)
    assert middle.position == pytest.approx([0.5, 0.5])
    assert middle.velocity == pytest.approx([15 / 16, 15 / 16])
    assert follower.sample(12 * S).position == pytest.approx([1, 1])


def test_past_stamp_enters_where_it_is_due_without_a_bridge():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.sample(10 * S)
    points = [(0.0, [5.0, 5.0]), (2.0, [7.0, 7.0])]
    assert follower.accept(message(points, 9.0), 10 * S) is None
    assert follower.sample(10 * S).position == pytest.approx([6.0, 6.0])


def test_replacement_drops_the_running_trajectory_and_its_future():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.sample(1 * S)
    follower.accept(message([(4.0, [4.0, 4.0])]), 1 * S)
    assert follower.sample(2 * S).position == pytest.approx([1, 1])
    follower.accept(message([(1.0, [0.0, 0.0])]), 2 * S)
    assert follower.sample(2 * S + S // 2).position == pytest.approx([0.5, 0.5])
    assert follower.sample(9 * S).position == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ('flawed', 'word'),
    [
        (message([]), 'empty'),
        (message([(1.0, [1.0])], names=('a',)), 'joint names'),
        (message([(1.0, [1.0, 1.0])], names=('a', 'c')), 'joint names'),
        (message([(1.0, [1.0, 1.0])], names=()), 'want 0 values'),
        (message([(1.0, [1.0])]), 'want 2 values'),
        (message([(1.0, [])]), 'want 2 values'),
        (message([(1.0, [1.0, 1.0], [0.0, 0.0]), (2.0, [1.0, 1.0])]), 'velocities'),
        (message([(1.0, [1.0, np.nan])]), 'not finite'),
        (message([(1.0, [1.0, 1.0]), (1.0, [2.0, 1.0])]), 'increase'),
        (message([(1.0, [1.0, 1.0], [0.0, 0.1])]), 'not zero'),
        (message([(1.0, [1.0, 1.0])], 3.0), 'past'),
    ],
)
def test_a_flawed_message_is_rejected_whole_and_changes_nothing(flawed, word):
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.accept(message([(4.0, [4.0, 4.0])], 9.0), 10 * S)
    before = follower.sample(11 * S).position
    assert word in follower.accept(flawed, 11 * S)
    assert follower.sample(11 * S).position.tolist() == before.tolist()


def test_joints_may_come_in_any_order():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.accept(message([(1.0, [2.0, 1.0])], names=('b', 'a')), S)
    assert follower.sample(3 * S).position.tolist() == [1.0, 2.0]


def test_cubic_keeps_given_velocities():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.sample(0)
    follower.accept(
        message(
            [(0.0, [0, 0], [1.0, 0.0]), (1.0, [1, 1], [1.0, 2.0]), (2.0, [1, 1], [0.0, 0.0])], 1.0
        ),
        S,
    )
    assert follower.sample(S + S // 2).velocity == pytest.approx([1.0, 1.0])
    assert follower.sample(2 * S).velocity == pytest.approx([1.0, 2.0])


def test_quintics_draw_a_planned_trajectory_exactly():
    jerk = np.array([[8.0, -3.0], [-8.0, 3.0], [-8.0, 3.0], [8.0, -3.0]])
    plan = integrate_jerk(
        NAMES, JointMotion.at_rest(np.array([0.1, 0.2])), 7 * S, 25_000_000, jerk
    )
    follower = TrajectoryFollower(NAMES, np.array([0.1, 0.2]))
    follower.sample(7 * S)
    assert follower.accept(TrajectoryPoints.from_trajectory(plan), 7 * S) is None
    for now in range(7 * S, 7 * S + 120_000_000, 1_700_000):
        ours, drawn = plan.at(now), follower.sample(now)
        assert drawn.position == pytest.approx(ours.position, abs=1e-12)
        assert drawn.velocity == pytest.approx(ours.velocity, abs=1e-10)
        assert drawn.acceleration == pytest.approx(ours.acceleration, abs=1e-8)


def test_hold_forgets_the_trajectory():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    follower.accept(TrajectoryPoints.from_trajectory(make_hold(NAMES, np.ones(2), S)), S)
    assert follower.end_ns == S
    follower.hold(np.array([0.4, 0.5]))
    assert follower.sample(2 * S).position.tolist() == [0.4, 0.5] and follower.end_ns is None


def test_speed_scaling_lets_a_trajectory_fall_behind_and_a_new_one_begin_on_time():
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    assert follower.accept(message([(0.0, [0.0, 0.0]), (1.0, [1.0, 2.0])]), 0) is None
    follower.sample(0)
    follower.speed_scaling = 0.5
    assert follower.sample(400_000_000).position == pytest.approx([0.2, 0.4])
    assert not follower.is_on_time
    follower.speed_scaling = 1.0
    assert follower.sample(500_000_000).position == pytest.approx([0.3, 0.6])
    assert not follower.is_on_time  # as fast as the clock, but still behind
    # sent as the rest of the same motion: it is entered where the clock says, a jump of 0.2
    rest = message([(0.0, [0.0, 0.0]), (1.0, [1.0, 2.0])], stamp_s=1e-9)
    assert follower.accept(rest, 500_000_000) is None
    assert follower.sample(500_000_000).position == pytest.approx([0.5, 1.0])
    assert follower.is_on_time


def test_a_last_velocity_counts_as_rest_up_to_the_epsilon_of_the_controller():
    assert pytest.approx(1.1920929e-7, rel=1e-9) == REST_VELOCITY_TOLERANCE

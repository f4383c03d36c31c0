"""Trajectories are cubics that end at rest, and joining two changes nothing before the switch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.motion.trajectory import (
    JointMotion,
    Trajectory,
    integrate_jerk,
    make_hold,
    splice,
)

NAMES = ('a', 'b')
STEP = 25_000_000
S = 1_000_000_000


def bump(start_ns: int, size: float = 8.0) -> Trajectory:
    """Return a move whose jerk +,-,-,+ ends at rest."""
    jerk = size * np.array([[1.0, -0.5], [-1.0, 0.5], [-1.0, 0.5], [1.0, -0.5]])
    return integrate_jerk(NAMES, JointMotion.at_rest(np.array([0.1, 0.2])), start_ns, STEP, jerk)


def test_integration_matches_a_fine_sum():
    plan = bump(S)
    p, v, a, dt = plan.position[0].copy(), np.zeros(2), np.zeros(2), 1e-6
    for row in plan.jerk:
        for _ in range(25_000):
            p, v, a = p + dt * v + dt**2 / 2 * a, v + dt * a + dt**2 / 2 * row, a + dt * row
    assert p == pytest.approx(plan.goal, abs=1e-9)
    assert v == pytest.approx([0, 0], abs=1e-9) and plan.at(plan.end_ns).is_at_rest


def test_at_is_continuous_over_knots_and_constant_outside():
    plan = bump(S)
    for knot_ns in plan.start_ns + plan.time_ns:
        before, after = plan.at(int(knot_ns) - 1), plan.at(int(knot_ns) + 1)
        assert before.position == pytest.approx(after.position, abs=1e-8)
        assert before.acceleration == pytest.approx(after.acceleration, abs=1e-6)
    assert plan.at(0).position.tolist() == [0.1, 0.2]
    assert plan.at(99 * S).position.tolist() == plan.goal.tolist()


def test_many_instants_at_once_are_the_same_as_one_after_another():
    start_ns = 1_795_000_000 * S  # stamps of a wall clock
    for plan in (bump(start_ns), make_hold(NAMES, np.array([0.1, 0.2]), start_ns)):
        times_ns = np.array([0, start_ns - 1, *range(start_ns, start_ns + 6 * STEP, 7_000_001)])
        found = plan.at_times(times_ns)
        for row, now_ns in enumerate(times_ns.tolist()):
            one = plan.at(now_ns)
            for field in ('position', 'velocity', 'acceleration'):
                np.testing.assert_allclose(
                    getattr(found, field)[row], getattr(one, field), rtol=0, atol=1e-15
                )


@given(now=st.integers(0, 6 * STEP), shift=st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_a_spliced_trajectory_repeats_the_old_one_up_to_the_switch(now, shift):
    old = bump(S)
    switch = S + shift * STEP
    start = old.at(switch)
    # any motion that leaves `old` there will do: here the rest of old, slowed by nothing
    tail = old.jerk[min(shift, 4) :]
    new = (
        integrate_jerk(NAMES, start, switch, STEP, tail)
        if len(tail)
        else make_hold(NAMES, start.position, switch)
    )
    joined = splice(old, new, S + now)
    for t in range(S + now, S + 8 * STEP, STEP // 3):
        want = (old if t < switch else new).at(t)
        assert joined.at(t).position == pytest.approx(want.position, abs=1e-12)
        assert joined.at(t).velocity == pytest.approx(want.velocity, abs=1e-12)
    assert joined.start_ns <= max(S + now, switch) and joined.end_ns == new.end_ns


def test_a_long_rest_is_not_repeated():
    old = make_hold(NAMES, np.zeros(2), S)
    joined = splice(old, make_hold(NAMES, np.zeros(2), 100 * S), 99 * S)
    assert joined.start_ns == 99 * S and len(joined.time_ns) == 2


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'velocity': np.ones((2, 2))}, 'rest'),
        ({'acceleration': np.ones((2, 2))}, 'rest'),
        ({'position': np.full((2, 2), np.nan)}, 'finite'),
        ({'position': np.zeros((3, 2))}, 'shape'),
        ({'time_ns': np.array([0, 0])}, 'increase'),
        ({'time_ns': np.array([5, 9])}, 'increase'),
    ],
)
def test_what_must_not_exist_cannot_be_made(change, word):
    zero = np.zeros((2, 2))
    fields = {
        'time_ns': np.array([0, 5]),
        'position': zero,
        'velocity': zero,
        'acceleration': zero,
    } | change
    with pytest.raises(ValueError, match=word):
        Trajectory(NAMES, 0, **fields)


def test_arrays_are_copies_nobody_can_write_to():
    positions = np.zeros((1, 2))
    trajectory = Trajectory(NAMES, 0, np.zeros(1), positions, np.zeros((1, 2)), np.zeros((1, 2)))
    positions[0, 0] = 9.0
    assert trajectory.goal[0] == 0.0
    with pytest.raises(ValueError, match='read-only'):
        trajectory.position[0, 0] = 1.0

"""Extrema between knots are found exactly: dense samples reach them and never exceed them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wam_policy.core.motion.trajectory import JointMotion, Trajectory, integrate_jerk, make_hold
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import JointLimits, list_robots, load_embodiment

STEP_NS, H = 25_000_000, 0.025
NAMES = ('a', 'b')


def unit(joints: int = 2) -> JointLimits:
    one = np.ones(joints)
    return JointLimits(NAMES, -one, one, one, one, one, one)


def closed(jerk: np.ndarray, start: JointMotion) -> Trajectory:
    """Return the motion under `jerk` and two more steps that bring it exactly to rest."""
    v, a = start.velocity, start.acceleration
    for row in jerk:
        v, a = v + H * a + H**2 / 2 * row, a + H * row
    # rest after two more steps: two equations, two unknowns per joint
    ends = np.array([[1.5 * H**2, 0.5 * H**2], [H, H]])
    last = np.linalg.solve(ends, -np.stack([v + 2 * H * a, a]))
    return integrate_jerk(NAMES, start, 0, STEP_NS, np.concatenate([jerk, last]))


@given(
    arrays(np.float64, (6, 2), elements=st.floats(-60, 60)),
    arrays(np.float64, (3, 2), elements=st.floats(-2, 2)),
)
@settings(max_examples=25, deadline=None)
def test_dense_samples_reach_the_extrema_and_stay_inside(jerk, state):
    plan = closed(jerk, JointMotion(*state))
    motions = [plan.at(t) for t in range(0, plan.end_ns + 1, 200_000)]
    position = np.stack([motion.position for motion in motions])
    speed = np.abs(np.stack([motion.velocity for motion in motions])).max(axis=0)
    push = np.abs(np.stack([motion.acceleration for motion in motions])).max(axis=0)
    (low, high), used = (
        limits.compute_position_range(plan),
        limits.compute_limit_usage(plan, unit()),
    )
    scale = 1.0 + push  # what 0.2 ms of sampling can miss grows with it
    assert (np.abs(position.min(axis=0) - low) < 1e-6 * scale).all()
    assert (np.abs(position.max(axis=0) - high) < 1e-6 * scale).all()
    assert (np.abs(speed - used.velocity) < 1e-4 * scale).all()
    assert (position >= low - 1e-9 * scale).all() and (position <= high + 1e-9 * scale).all()
    assert (speed <= used.velocity + 1e-9 * scale).all()
    assert np.allclose(push, used.acceleration, rtol=1e-6)
    assert np.allclose(np.abs(plan.jerk).max(axis=0), used.jerk)


def test_an_overshoot_between_two_knots_counts():
    # both knots of the first segment are at 0 and -0.01: the turn between them reaches further
    start = JointMotion(np.zeros(2), np.array([0.1, -0.1]), np.array([-8.0, 8.0]))
    plan = closed(np.zeros((1, 2)), start)
    low, high = limits.compute_position_range(plan)
    assert high[0] >= 0.1**2 / (2 * 8.0) - 1e-12 and low[1] <= -(0.1**2) / (2 * 8.0) + 1e-12


def test_a_held_posture_uses_its_position_alone():
    used = limits.compute_limit_usage(make_hold(NAMES, np.array([0.5, -1.0]), 0), unit())
    assert used.position.tolist() == [0.5, 1.0] and used.max_rate == 0.0


@pytest.mark.parametrize(
    'robot', [load_embodiment(name) for name in list_robots()], ids=lambda r: r.name
)
def test_margins_spare_the_grippers(robot):
    drawn_in, full = limits.limits_with_margin(robot), robot.limits()
    grips = limits.gripper_mask(robot)
    assert (drawn_in.lower[grips] == 0.0).all() and (drawn_in.upper[grips] == 1.0).all()
    margin = robot.safety.position_margin
    assert drawn_in.lower[~grips] == pytest.approx(full.lower[~grips] + margin)
    assert grips.sum() == len(robot.grippers)

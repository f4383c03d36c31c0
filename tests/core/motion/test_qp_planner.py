"""Every plan keeps every limit, leaves the old motion without a jump and ends at rest."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import ruckig
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.motion import qp_planner
from wam_policy.core.motion.qp_planner import STEP_NS, STEP_S, compute_switch_ns
from wam_policy.core.motion.trajectory import make_hold, splice
from wam_policy.core.robot import limits as limiting
from wam_policy.core.robot.embodiment import load_embodiment

G1 = load_embodiment('agibot_g1')
YAM = load_embodiment('yam')
LEAD = 30_000_000


def make_waves(
    start_ns: int, steps: int, center: np.ndarray, hz: float, size: float
) -> np.ndarray:
    t = start_ns / 1e9 + STEP_S * np.arange(1, steps + 1)[:, None]
    return center + size * np.sin(2 * np.pi * hz * t + np.arange(len(center)))


def mid_positions(robot) -> np.ndarray:
    limits = robot.limits()
    return (limits.lower + limits.upper) / 2


def test_slow_motion_is_followed_closely_plan_after_plan():
    limits = limiting.limits_with_margin(G1)
    old = make_hold(G1.commanded, mid_positions(G1), 0)
    now, worst_rad = 1_000_000_000, []
    for _ in range(20):
        start = compute_switch_ns(now, LEAD)
        rows = make_waves(start, 28, mid_positions(G1), 0.3, 0.2)
        old = splice(old, qp_planner.plan_tracking(old, start, rows, limits), now)
        reached = np.stack([old.at(start + k * STEP_NS).position for k in range(1, 29)])
        worst_rad.append(np.abs(reached - rows).max(axis=1))
        now += 140_000_000
    misses = np.stack(worst_rad[8:])
    assert misses[:, :20].max() < 1e-3 and misses.max() < 6e-3  # the last rows begin to brake


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_reference_keeps_every_limit_plan_after_plan(seed):
    rng = np.random.default_rng(seed)
    robot = (G1, YAM)[rng.integers(2)]
    full, limits = robot.limits(), limiting.limits_with_margin(robot)
    joints, cap = len(robot.commanded), 0.3
    share = np.where(
        rng.uniform(size=joints) < 0.3, rng.integers(0, 2, joints), rng.uniform(size=joints)
    )  # some joints stand on their very limit
    first = full.lower + share * (full.upper - full.lower)
    now, old = int(rng.integers(10**9)), make_hold(robot.commanded, first, 0)
    for _ in range(5):
        allowed = replace(limits, velocity=np.minimum(limits.velocity, cap))
        cap *= rng.uniform(1, 3)
        start, steps = compute_switch_ns(now, LEAD), int(rng.integers(1, 32))
        here = old.at(start)
        rows = np.clip(
            here.position
            + rng.normal(size=joints)
            * rng.choice([0.02, 0.5, 3.0])
            * rng.normal(size=(steps, joints)).cumsum(axis=0)
            / np.sqrt(steps),
            np.minimum(limits.lower, here.position),
            np.maximum(limits.upper, here.position),
        )
        plan = (
            qp_planner.plan_stop(old, start, allowed)
            if rng.uniform() < 0.2
            else qp_planner.plan_tracking(old, start, rows, allowed)
        )
        assert limiting.compute_limit_usage(plan, full).max_rate <= 1.0
        low, high = limiting.compute_position_range(plan)
        assert (low >= np.minimum(full.lower, first) - 1e-6).all()
        assert (high <= np.maximum(full.upper, first) + 1e-6).all()
        for field in ('position', 'velocity', 'acceleration'):
            assert getattr(plan.at(start), field) == pytest.approx(getattr(here, field), abs=1e-9)
        assert plan.at(plan.end_ns).is_at_rest
        old = splice(old, plan, now)
        now += int(rng.integers(4 * 10**8))


@pytest.mark.parametrize('hz', [0.2, 0.5, 0.9])
def test_a_stop_takes_little_longer_than_the_shortest_possible(hz):
    limits = limiting.limits_with_margin(G1)
    old, now = make_hold(G1.commanded, mid_positions(G1), 0), 1_000_000_000
    for _ in range(6):
        start = compute_switch_ns(now, LEAD)
        old = splice(
            old,
            qp_planner.plan_tracking(
                old, start, make_waves(start, 28, mid_positions(G1), hz, 0.25), limits
            ),
            now,
        )
        now += 140_000_000
    start = compute_switch_ns(now, LEAD)
    here, plan = old.at(start), qp_planner.plan_stop(old, start, limits)
    joints = len(G1.commanded)
    request = ruckig.InputParameter(joints)
    request.control_interface = ruckig.ControlInterface.Velocity
    request.current_position, request.current_velocity, request.current_acceleration = (
        here.position.tolist(),
        here.velocity.tolist(),
        here.acceleration.tolist(),
    )
    request.target_velocity = request.target_acceleration = [0.0] * joints
    request.max_acceleration, request.max_jerk = (
        limits.acceleration.tolist(),
        limits.jerk.tolist(),
    )
    shortest = ruckig.Trajectory(joints)
    assert ruckig.Ruckig(joints).calculate(request, shortest) == ruckig.Result.Working
    slow_ns = start + round(shortest.duration * 1e9) + 3 * STEP_NS
    assert np.abs(plan.at(slow_ns).velocity).max() < 0.02
    travelled = np.abs(plan.goal - here.position)
    least = np.abs(np.array(shortest.at_time(shortest.duration)[0]) - here.position)
    assert (travelled <= least + 0.02).all()


def test_a_joint_at_its_limit_is_not_pushed_and_may_come_back():
    limits = limiting.limits_with_margin(YAM)
    zeros = np.zeros(len(YAM.commanded))  # joints 2 and 3 rest exactly on their lower limit
    old, start = make_hold(YAM.commanded, zeros, 0), compute_switch_ns(10**9, LEAD)
    still = qp_planner.plan_tracking(old, start, np.zeros((20, len(zeros))), limits)
    assert np.abs(still.position).max() < 1e-9
    inward = qp_planner.plan_tracking(old, start, np.full((20, len(zeros)), 0.05), limits)
    assert (inward.position.min(axis=0) >= -1e-7).all() and inward.goal.min() > 0.02


def test_limits_too_tight_for_what_is_executed_are_reported_not_broken():
    limits = limiting.limits_with_margin(G1)
    old, start = make_hold(G1.commanded, mid_positions(G1), 0), compute_switch_ns(10**9, LEAD)
    fast = qp_planner.plan_tracking(
        old, start, make_waves(start, 28, mid_positions(G1), 0.5, 0.4), limits
    )
    weak = replace(limits, jerk=limits.jerk / 50, acceleration=limits.acceleration / 50)
    with pytest.raises(qp_planner.PlanningError):
        qp_planner.plan_tracking(
            fast, start + 8 * STEP_NS, make_waves(start, 20, mid_positions(G1), 0.5, 0.4), weak
        )


def test_the_switch_lies_on_the_grid_after_the_lead():
    assert (
        compute_switch_ns(0, LEAD) == 2 * STEP_NS
        and compute_switch_ns(2 * STEP_NS, 0) == 2 * STEP_NS
    )
    assert compute_switch_ns(20_000_001, LEAD) == 3 * STEP_NS


def test_ever_new_horizons_and_speeds_leave_a_few_megabytes_behind():
    limits, here = limiting.limits_with_margin(G1), mid_positions(G1)
    tracemalloc.start()
    try:
        for share in (1.0, 0.8, 0.6, 0.4):  # a cap on speed changes how long braking takes
            allowed = replace(limits, velocity=share * limits.velocity)
            for steps in range(1, 33):
                qp_planner.plan_tracking(
                    make_hold(G1.commanded, here, 0), 0, np.tile(here, (steps, 1)), allowed
                )
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 5e6

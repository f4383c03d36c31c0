"""What gets too near ends a motion before it gets there; nothing else changes."""

import numpy as np
import pytest

from wam_policy.core.motion import qp_planner
from wam_policy.core.motion.collision_check import (
    Contact,
    predict_collision,
    sample_path,
    truncate_before_collision,
)
from wam_policy.core.motion.qp_planner import STEP_NS
from wam_policy.core.motion.trajectory import make_hold
from wam_policy.core.robot import limits as limiting
from wam_policy.core.robot.embodiment import load_embodiment

G1 = load_embodiment('agibot_g1')
LIMITS = limiting.limits_with_margin(G1)
N = len(G1.commanded)
CENTER = np.where(limiting.gripper_mask(G1), 0.5, -0.1)
BODY = np.zeros(4)


class WallChecker:
    """Stand where the first joint exceeds `at_rad`."""

    def __init__(self, at_rad: float, pair: str = 'arm and wall') -> None:
        self.at_rad, self.pair, self.query_count = at_rad, pair, 0

    def find_first_contact(
        self, path: np.ndarray, state_only_positions: np.ndarray
    ) -> Contact | None:
        self.query_count += 1
        rows = np.flatnonzero(path[:, 0] > max(self.at_rad, path[0, 0]) + 1e-9)
        return Contact(int(rows[0]), self.pair) if len(rows) else None


def make_targets(by_rad: float, steps: int = 32) -> np.ndarray:
    rows = np.tile(CENTER, (steps, 1))
    rows[:, 0] += np.linspace(0, by_rad, steps + 1)[1:]
    return rows


def plan_truncated(wall: WallChecker, by_rad: float = 0.8):
    old = make_hold(G1.commanded, CENTER, 0)
    return truncate_before_collision(old, STEP_NS, make_targets(by_rad), LIMITS, wall, BODY)


def test_a_trajectory_is_looked_at_from_end_to_end():
    plan = qp_planner.plan_tracking(
        make_hold(G1.commanded, CENTER, 0), STEP_NS, make_targets(0.5), LIMITS
    )
    times_ns, path = sample_path(plan)
    assert times_ns[0] == plan.start_ns and times_ns[-1] == plan.end_ns
    assert np.diff(times_ns).max() <= 12_500_000
    for row in (0, 7, 40, len(path) - 1):
        assert path[row] == pytest.approx(plan.at(int(times_ns[row])).position, abs=1e-9)
    still = make_hold(G1.commanded, CENTER, 5)
    assert sample_path(still)[0].tolist() == [5]


def test_what_touches_nothing_is_planned_as_ever():
    plan, ahead = plan_truncated(WallChecker(10.0))
    assert ahead is None
    free = qp_planner.plan_tracking(
        make_hold(G1.commanded, CENTER, 0), STEP_NS, make_targets(0.8), LIMITS
    )
    assert np.array_equal(plan.position, free.position)


@pytest.mark.parametrize('beyond_rad', [0.02, 0.1, 0.3])
def test_a_motion_into_contact_stops_before_it_inside_every_limit(beyond_rad):
    wall = WallChecker(CENTER[0] + beyond_rad)
    plan, ahead = plan_truncated(wall)
    assert ahead.pair == 'arm and wall' and 0 < ahead.at_ns - STEP_NS < 800_000_000
    assert (
        limiting.compute_limit_usage(plan, G1.limits()).max_rate <= 1.0
        and plan.at(plan.end_ns).is_at_rest
    )
    assert limiting.compute_position_range(plan)[1][0] <= wall.at_rad + 1e-6
    assert predict_collision(plan, wall, BODY) is None and wall.query_count <= 6


def test_plan_after_plan_the_arm_comes_close_and_never_closer():
    wall = WallChecker(CENTER[0] + 0.3)
    old, now = make_hold(G1.commanded, CENTER, 0), 0
    for _ in range(25):
        start = qp_planner.compute_switch_ns(now, 90_000_000)
        rows = make_targets(1.0)
        rows += old.at(start).position - CENTER
        plan, _ = truncate_before_collision(old, start, rows, LIMITS, wall, BODY)
        old = plan or old
        assert limiting.compute_position_range(old)[1][0] <= wall.at_rad + 1e-6
        now += 140_000_000
    assert wall.at_rad - old.goal[0] < 0.05


def test_from_where_only_the_old_motion_is_free_there_is_no_plan():
    class AlwaysInContact(WallChecker):
        def find_first_contact(self, path, state_only_positions):
            return Contact(1, self.pair)

    plan, ahead = plan_truncated(AlwaysInContact(0.0, 'a and b'))
    assert plan is None and ahead.pair == 'a and b'

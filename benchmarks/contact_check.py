"""Measure the time to predict collisions along a plan.

Run from the repository root: python benchmarks/contact_check.py [--json FILE]. Plans are chunks of
random motions from home, planned one after another as in motion_node. Times are CPU times of the
calling thread, so that other load on the machine has little effect.
"""

import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from wam_policy.command_line import add_value
from wam_policy.core.motion import chunk_blending, collision_check, qp_planner
from wam_policy.core.motion.trajectory import make_hold
from wam_policy.core.robot import embodiment, limits
from wam_policy.mujoco_collision import MujocoCollisionChecker

CHUNK_STEPS = 32  # 0.8 s
REPLAN_PERIOD_NS = 200_000_000
REACH_SCALES_RAD = (0.1, 0.3, 0.8)


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = record.make_parser(__doc__)
    add_value(parser, '--plans', 1000, 'per robot')
    options = parser.parse_args()
    rows = [measure_robot(name, options.plans) for name in embodiment.list_robots()]
    record.show(options.json, rows, question='time to predict collisions along a plan')
    return 0


def measure_robot(robot_name: str, plan_count: int) -> dict[str, object]:
    robot = embodiment.load_embodiment(robot_name)
    guard, bounds = MujocoCollisionChecker(robot), limits.limits_with_margin(robot)
    grips = limits.gripper_mask(robot)
    body = robot.home_positions(robot.observed[len(robot.commanded) :])
    rest = robot.home_positions(robot.commanded)
    base, rng = make_hold(robot.commanded, rest, 0), np.random.default_rng(1)
    took_ms, looks, contacts = [], [], 0
    for _ in range(plan_count):
        start_ns = qp_planner.compute_switch_ns(base.start_ns + REPLAN_PERIOD_NS, 0)
        start = base.at(start_ns)
        here = start.position
        away = rng.normal(size=len(rest)) * rng.choice(REACH_SCALES_RAD)
        goal = rest + np.where(grips, 0.0, away)
        rows = here + np.linspace(0, 1, CHUNK_STEPS + 1)[1:, None] * (goal - here)
        plan = qp_planner.plan_tracking(
            base, start_ns, chunk_blending.limit_speed(rows, start, bounds, grips), bounds
        )
        guard.query_count, began = 0, time.thread_time()
        ahead = collision_check.predict_collision(plan, guard, body)
        took_ms.append((time.thread_time() - began) * 1e3)
        looks.append(guard.query_count)
        contacts += ahead is not None
        base = plan if ahead is None else make_hold(robot.commanded, rest, plan.start_ns)
    p50, p99, most = np.percentile(took_ms, [50, 99, 100])
    return {
        'robot': robot_name,
        'plans': plan_count,
        'with contact': contacts,
        'ms p50': round(p50, 2),
        'ms p99': round(p99, 2),
        'ms max': round(most, 2),
        'postures p50': float(np.median(looks)),
        'postures max': int(max(looks)),
    }


if __name__ == '__main__':
    sys.exit(main())

"""How long does it take to look for contact along a plan?

Run from the repository root: python benchmarks/contact_check.py [--json FILE]. Plans are chunks of
random reaches from rest, followed one after another as motion_node does; times are those of the
calling thread, so that other work on the machine counts little.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from wam_policy.core.motion import chunk_validator, collision_check, qp_planner
from wam_policy.core.motion.trajectory import held
from wam_policy.core.robot import embodiment, limits
from wam_policy.mujoco_collision import Guard

STEPS = 32  # 0.8 s
NEXT_NS = 200_000_000
SIZES_RAD = (0.1, 0.3, 0.8)


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')
    parser.add_argument('--plans', type=int, default=1000, help='a robot (default: %(default)s)')
    chosen = parser.parse_args()
    rows = [row(name, chosen.plans) for name in embodiment.names()]
    print(record.table(rows, list(rows[0])))
    if chosen.json:
        record.write(chosen.json, {'question': 'looking for contact along a plan', 'rows': rows})
    return 0


def row(name: str, plans: int) -> dict[str, object]:
    robot = embodiment.load(name)
    guard, bounds, grips = Guard(robot), limits.margined(robot), limits.gripping(robot)
    body = robot.rest_of(robot.observed[len(robot.commanded) :])
    rest = robot.rest_of(robot.commanded)
    base, rng = held(robot.commanded, rest, 0), np.random.default_rng(1)
    took_ms, looks, contacts = [], [], 0
    for _ in range(plans):
        start_ns = qp_planner.switch_ns(base.start_ns + NEXT_NS, 0)
        start = base.at(start_ns)
        here = start.position
        away = rng.normal(size=len(rest)) * rng.choice(SIZES_RAD)
        goal = rest + np.where(grips, 0.0, away)
        rows = here + np.linspace(0, 1, STEPS + 1)[1:, None] * (goal - here)
        plan = qp_planner.tracked(
            base, start_ns, chunk_validator.paced(rows, start, bounds, grips), bounds
        )
        guard.looked, began = 0, time.thread_time()
        ahead = collision_check.foreseen(plan, guard, body)
        took_ms.append((time.thread_time() - began) * 1e3)
        looks.append(guard.looked)
        contacts += ahead is not None
        base = plan if ahead is None else held(robot.commanded, rest, plan.start_ns)
    p50, p99, most = np.percentile(took_ms, [50, 99, 100])
    return {
        'robot': name,
        'plans': plans,
        'with contact': contacts,
        'ms p50': round(p50, 2),
        'ms p99': round(p99, 2),
        'ms max': round(most, 2),
        'postures p50': float(np.median(looks)),
        'postures max': int(max(looks)),
    }


if __name__ == '__main__':
    sys.exit(main())

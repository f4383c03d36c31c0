"""Evaluate a policy on MT10: success per task, in scenes that no training has seen.

Runs in the benchmark's own environment (docs/how-to/metaworld.md). The policy is a server
(ws://HOST:PORT, as `./wam serve` starts it), `expert` or `random`. Scenes are those of MT10's
seed --seed; demonstrations come from seeds 0, 1, ..., so take one far from these. The world waits
for every answer. An episode succeeds if Meta-World reports success at any of --max-steps steps.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('wam_policy', 'wam_learning', 'wam_sim')
sys.path[:0] = [str(ROOT), *(str(ROOT / 'src' / name) for name in PACKAGES)]

from benchmarks import record
from benchmarks.metaworld.chunk_policies import MEMORIES, ChunkPolicy, make_policy, run_episode
from benchmarks.metaworld.mt10_scene import MT10Scene
from benchmarks.metaworld.mt10_tasks import INSTRUCTIONS, MAX_STEPS, SCENES_PER_SEED
from wam_learning.evaluation.eval_metrics import wilson_interval

SEED = 1000  # demonstrations use 0 and the next few


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    policy, close = make_policy(options.policy, options.memory)
    rows = []
    try:
        for task in options.tasks.split(','):
            rows.append(evaluate_task(task, policy, options))
            print(record.format_table(rows[-1:], tuple(rows[-1])[:6]), flush=True)
            if options.json:
                write_json(options, rows)
    finally:
        close()
    print(f'mean of {len(rows)} tasks: {compute_mean(rows):.1%}')
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--policy', required=True, help='ws://HOST:PORT, expert or random')
    parser.add_argument('--label', default='', help='name of the policy in the JSON')
    parser.add_argument('--tasks', default=','.join(INSTRUCTIONS), help='comma-separated')
    parser.add_argument('--episodes', type=int, default=20, help='per task (default: 20)')
    parser.add_argument('--seed', type=int, default=SEED, help=f"MT10's (default: {SEED})")
    parser.add_argument('--rows', type=int, default=12, help='executed per query (default: 12)')
    parser.add_argument('--memory', choices=MEMORIES, default='none')
    parser.add_argument('--max-steps', type=int, default=MAX_STEPS, help=f'(default: {MAX_STEPS})')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results to FILE')
    options = parser.parse_args(argv)
    if not 1 <= options.episodes <= SCENES_PER_SEED:
        parser.error(f'--episodes: want 1 to {SCENES_PER_SEED}, the scenes of a seed')
    if not 1 <= options.max_steps <= MAX_STEPS:
        parser.error(f'--max-steps: want 1 to {MAX_STEPS}')
    return options


def evaluate_task(task: str, policy: ChunkPolicy, options: argparse.Namespace) -> dict[str, Any]:
    """Return success and its interval, steps to success and seconds of one task."""
    scene, steps, began_s = MT10Scene(task), [], time.monotonic()
    try:
        for index in range(options.episodes):
            scene.reset(options.seed, index)
            run_episode(scene, policy, index, options.rows, options.max_steps)
            if scene.success:
                steps.append(scene.step_count)
    finally:
        scene.close()
    low, high = wilson_interval(len(steps), options.episodes)
    return {
        'task': task,
        'success': len(steps),
        'episodes': options.episodes,
        'rate': round(len(steps) / options.episodes, 3),
        'low': round(low, 3),
        'high': round(high, 3),
        'steps_to_success': sorted(steps),
        'seconds': round(time.monotonic() - began_s, 1),
    }


def compute_mean(rows: list[dict[str, Any]]) -> float:
    """Return the mean of the tasks' rates."""
    return sum(row['success'] / row['episodes'] for row in rows) / len(rows)


def write_json(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    given = {key: value for key, value in vars(options).items() if key != 'json'}
    successes, trials = (sum(row[key] for row in rows) for key in ('success', 'episodes'))
    low, high = wilson_interval(successes, trials)
    record.write_report(
        options.json,
        {
            'benchmark': 'Meta-World MT10, metaworld 3.1.1',
            'options': given,
            'mean_of_tasks': compute_mean(rows),
            'all': {'success': successes, 'episodes': trials, 'low': low, 'high': high},
            'tasks': rows,
        },
    )


if __name__ == '__main__':
    sys.exit(main())

"""Write demonstrations of MT10's scripted experts as data sets that `./wam train` reads.

Runs in the benchmark's own environment (docs/how-to/metaworld.md). OUT/<task> is one data set per
task. Episode n has scene n of MT10's seed S, S + 1, ... (50 scenes each). In a share of the
episodes something else moves the hand once or twice, as in `./wam generate-demos`: the expert
shows how to recover, the other rows are marked as not supervised. Failures are discarded.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy'), str(ROOT / 'src' / 'wam_learning')]

from benchmarks.metaworld import sawyer_actions
from benchmarks.metaworld.dataset_rows import RowWriter
from benchmarks.metaworld.mt10_scene import MT10Scene
from benchmarks.metaworld.mt10_tasks import IMAGE_PERIOD_ROWS, INSTRUCTIONS, SCENES_PER_SEED

MAX_ROWS, HOLD_ROWS = 250, 18  # of an episode; after success, so that holding still is learned
PERTURBATION_ROWS = (6, 26)
AT_START_PROB, LATEST_START_ROW = 0.4, 80


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='folder of data sets')
    parser.add_argument('--tasks', default=','.join(INSTRUCTIONS), help='comma-separated')
    parser.add_argument('--episodes', type=int, default=40, help='per task (default: 40)')
    parser.add_argument('--seed', type=int, default=0, help='first seed of MT10 (default: 0)')
    parser.add_argument('--perturb-prob', type=float, default=0.6)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for task in options.tasks.split(','):
        began_s = time.monotonic()
        kept, rows = write_task(task, options)
        print(
            f'{task}: {kept} of {options.episodes} episodes, {rows} rows, '
            f'{time.monotonic() - began_s:.0f} s',
            flush=True,
        )
    return 0


def write_task(task: str, options: argparse.Namespace) -> tuple[int, int]:
    """Write the data set of one task; return its episodes and rows."""
    scene, rows = MT10Scene(task), RowWriter(options.out / task)
    row_count = 0
    try:
        for number in range(options.episodes):
            later, index = divmod(number, SCENES_PER_SEED)
            scene.reset(options.seed + later, index)
            rng = np.random.default_rng([options.seed, number, 7])
            spans = list(sample_perturbations(options.perturb_prob, rng))
            length = write_episode(scene, rows, spans)
            if scene.success:
                rows.end_episode(task)
                row_count += length
            else:
                rows.discard_episode()
        kept = rows.writer.episode_count
        rows.writer.finalize(
            {
                'source': 'metaworld 3.1.1, scripted experts',
                'task': task,
                'seed': options.seed,
                'episodes': {'tried': options.episodes, 'succeeded': kept},
                'perturb_prob': options.perturb_prob,
            }
        )
    except BaseException:
        rows.writer.abort()
        raise
    finally:
        scene.close()
    return kept, row_count


def sample_perturbations(
    probability: float, rng: np.random.Generator
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield first row, end row and the action [4] that replaces the expert's."""
    if rng.random() >= probability:
        return
    first = 0 if rng.random() < AT_START_PROB else int(rng.integers(0, LATEST_START_ROW))
    for _ in range(int(rng.integers(1, 3))):
        end = first + int(rng.integers(*PERTURBATION_ROWS))
        grip = rng.choice([-1.0, 1.0]) if rng.random() < 0.3 else np.nan  # NaN: the expert's
        yield first, end, np.array([*rng.uniform(-1.0, 1.0, 3), grip])
        first = end + int(rng.integers(10, 50))


def write_episode(
    scene: MT10Scene, rows: RowWriter, spans: list[tuple[int, int, np.ndarray]]
) -> int:
    """Run the expert until it has succeeded and held, append every row; return their number."""
    held, images = 0, scene.render()
    for number in range(MAX_ROWS):
        if number and number % IMAGE_PERIOD_ROWS == 0:
            images = scene.render()
        state = sawyer_actions.to_state(scene.observation)
        action = scene.compute_expert_action()
        other = next((a for first, end, a in spans if first <= number < end), None)
        if other is not None and not scene.success:
            action = np.where(np.isnan(other), action, other)
        scene.step(action)
        rows.add_row(
            state,
            sawyer_actions.to_row(scene.setpoint, action[3]),
            images,
            scene.instruction,
            by_expert=other is None or scene.success,
        )
        held = held + 1 if scene.success else 0
        if held > HOLD_ROWS:
            break
    return number + 1


if __name__ == '__main__':
    sys.exit(main())

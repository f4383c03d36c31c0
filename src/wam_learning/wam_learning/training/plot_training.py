"""`./wam plot-training`: plot losses, validation errors and success of a training over its steps.

Losses and validation errors come from the CSV files in the checkpoint's `training` folder. With
--eval-episodes every snapshot of `./wam train --num-snapshots` is evaluated in closed loop first,
on the same scenes.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

from wam_learning.training import checkpoint_writer  # noqa: E402
from wam_policy.command_line import CommandParser  # noqa: E402

TRAIN_CSV, HELD_OUT_CSV, SUCCESS_CSV = 'train.csv', 'heldout.csv', 'success.csv'
METRICS = ('success_rate', 'success_low', 'success_high')


def read_csv(path: Path) -> dict[str, list[float]]:
    """Return the columns of a CSV file; raise ValueError if it is missing or invalid."""
    try:
        with path.open(newline='') as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name] or 'nan') for row in rows] for name in rows[0]}
    except (OSError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a table of numbers with a header line: {error}') from error


def evaluate_snapshots(checkpoint: Path, options: argparse.Namespace) -> None:
    """Evaluate every snapshot and the final checkpoint; write the success rates to success.csv."""
    last = int(read_csv(checkpoint / 'training' / TRAIN_CSV)['step'][-1])
    snapshots = sorted((checkpoint / checkpoint_writer.SNAPSHOTS_DIR).glob('[0-9]*'))
    paths = {int(path.name): path for path in snapshots} | {last: checkpoint}
    rows = []
    for step, path in paths.items():
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / 'report.json'
            subprocess.run(
                [
                    sys.executable,
                    '-m',
                    'wam_learning.evaluation.evaluate',
                    '--no-ros',
                    '--robot',
                    options.robot,
                    '--checkpoint',
                    str(path),
                    '--episodes',
                    str(options.eval_episodes),
                    '--seed',
                    str(options.seed),
                    '--query-latency',
                    '0.05',
                    '--workers',
                    str(options.workers),
                    '--report',
                    str(report),
                ],
                check=True,
            )
            found = json.loads(report.read_text())
        rows.append([step, options.eval_episodes, *(f'{found[name]:.4g}' for name in METRICS)])
        print(f'step {step}: {found["success_rate"]:.0%} of {options.eval_episodes}', flush=True)
    with (checkpoint / 'training' / SUCCESS_CSV).open('w', newline='') as file:
        csv.writer(file).writerows([['step', 'trials', *METRICS], *rows])


def plot_curves(folder: Path, path: Path) -> None:
    """Plot the CSV files of `folder` into a PNG; raise ValueError if one is missing."""
    train, heldout = read_csv(folder / TRAIN_CSV), read_csv(folder / HELD_OUT_CSV)
    success = read_csv(folder / SUCCESS_CSV) if (folder / SUCCESS_CSV).is_file() else None
    figure, axes = plt.subplots(
        2 + (success is not None), 1, figsize=(8, 9), sharex=True, layout='constrained'
    )
    _plot_columns(axes[0], train, [name for name in train if name not in ('step', 'elapsed_s')])
    axes[0].set_ylabel('training losses')
    _plot_columns(
        axes[1],
        heldout,
        [name for name in heldout if name.endswith('/action') or name.startswith('action')],
    )
    axes[1].set_ylabel('validation: error of the\nfirst chunk (1: its variance)')
    for axis in axes[:2]:
        axis.set_yscale('log')
    if success is not None:
        rate = [100 * value for value in success['success_rate']]
        spread = [
            [abs(value - 100 * end) for value, end in zip(rate, success[name], strict=True)]
            for name in ('success_low', 'success_high')
        ]
        axes[2].errorbar(success['step'], rate, yerr=spread, fmt='o-', capsize=3)
        axes[2].set_ylim(0, 101)
        axes[2].set_ylabel(f'success in {success["trials"][0]:.0f} trials, %')
    axes[-1].set_xlabel('training steps')
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _plot_columns(axis: Any, table: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    for name in names:
        axis.plot(table['step'], table[name], label=name)
    axis.legend(fontsize=7, ncols=3)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        './wam plot-training', (__doc__ or '').splitlines()[0], {'--trials': '--eval-episodes'}
    )
    parser.add_argument('checkpoint', type=Path, help='folder that ./wam train wrote')
    parser.add_argument(
        '--out', type=Path, metavar='PNG', help='(default: training/curves.png in the checkpoint)'
    )
    parser.add_argument(
        '--eval-episodes',
        type=int,
        default=0,
        metavar='N',
        help='evaluate every snapshot in N episodes first',
    )
    parser.add_argument('--robot', default='agibot_g1')
    parser.add_argument('--seed', type=int, default=9_700_000, help='of the first scene')
    parser.add_argument('--workers', type=int, default=2, metavar='N')
    options = parser.parse(arguments)
    folder = options.checkpoint / 'training'
    try:
        if options.eval_episodes > 0:
            evaluate_snapshots(options.checkpoint, options)
        plot_curves(folder, options.out or folder / 'curves.png')
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f'plot-training: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

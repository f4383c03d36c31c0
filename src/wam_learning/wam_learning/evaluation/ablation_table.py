"""`./wam eval-ablations`: one table of what each component of a World Action Model is worth.

Each row runs two policies that differ in one thing on the same scenes, without ROS. Rows whose
checkpoint is not given are listed with the training that they need. With --report, rows that the
file already has are not run again, unless --only names them. All options of `./wam eval --no-ros`
apply, such as --checkpoint, --episodes, --seed and --no-planning.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from wam_learning.evaluation import eval_metrics, evaluate, parallel_eval, report_table
from wam_learning.evaluation.eval_conditions import (
    CONDITIONS,
    NAMED_OBJECT_FAMILIES,
    EvalCondition,
    make_condition,
)
from wam_learning.evaluation.trials import TrialResult
from wam_policy.provenance import collect_provenance
from wam_sim.physics import sim_robot as robots

TRANSFER = 'transfer'
Z_95 = 1.959963985  # two-sided 95 %


@dataclass(frozen=True, slots=True)
class Ablation:
    """Describe one row: the policy with a component, and one without it."""

    name: str
    component: str
    full: EvalCondition
    ablated: EvalCondition
    training: str = ''  # that makes the checkpoint of the row, if the shipped weights do not do

    @property
    def checkpoint_options(self) -> tuple[str, ...]:
        """Return the options that name checkpoints of the row."""
        return tuple(one.checkpoint for one in (self.full, self.ablated) if one.checkpoint)


def _ablate(condition: EvalCondition) -> tuple[EvalCondition, EvalCondition]:
    """Return the unchanged policy and an ablated one, on the same scenes."""
    return make_condition('full', families=condition.families), replace(condition, name='ablated')


JOINT_ON_DIVERSE_DATA = make_condition(
    'full', '', NAMED_OBJECT_FAMILIES, checkpoint='diverse_checkpoint'
)
ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        'real_frames',
        'real frames replace imagined ones in the memory',
        *_ablate(CONDITIONS['imagined_context']),
    ),
    Ablation(
        'memory',
        'memory of the blocks before the newest frame',
        *_ablate(CONDITIONS['memory_reset']),
    ),
    Ablation('one_step', 'one denoising step against sixteen', *_ablate(CONDITIONS['steps_full'])),
    Ablation('no_guidance', 'no guidance against guidance of 2', *_ablate(CONDITIONS['guided'])),
    Ablation(
        'flash',
        'joint noise levels against those of Flash, one step each',
        make_condition('full', inference_options={'steps': 1}),
        replace(CONDITIONS['flash'], name='ablated'),
        './wam train DATA --init mini --stage flash --steps 800 --out DIR',
    ),
    Ablation(
        'video',
        'video and actions against behavior cloning: same size, data and processor time',
        JOINT_ON_DIVERSE_DATA,
        make_condition('ablated', '', NAMED_OBJECT_FAMILIES, checkpoint='bc_checkpoint'),
        './wam train DIVERSE --init START --stage joint --steps 2500 --out DIR, and --stage bc '
        'for the same time (START: ./wam train DIVERSE --autoencoder mini '
        '--stage bc --steps 1500)',
    ),
    Ablation(
        'diversity',
        'diverse against repetitive data of the same size',
        JOINT_ON_DIVERSE_DATA,
        make_condition('ablated', '', NAMED_OBJECT_FAMILIES, checkpoint='repetitive_checkpoint'),
        './wam train as for the row video, on a scene per episode and on few scenes '
        '(generate-demos --episodes-per-scene 20) with as many episodes',
    ),
)
TRANSFER_TRAINING = (
    './wam generate-demos --robot yam for MINUTES of motion, then ./wam train DATA --init mini '
    '--stage joint --steps 750 --out DIR'
)


def compute_paired_difference(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float, float]:
    """Return the difference of two success rates on the same scenes, and its 95 % interval.

    The interval is that of Agresti and Min (2005): half a scene is added to each outcome.
    """
    count = len(pairs)
    only_first = sum(first and not second for first, second in pairs)
    only_second = sum(second and not first for first, second in pairs)
    b, c, n = only_first + 0.5, only_second + 0.5, count + 2
    center = (b - c) / n
    half = Z_95 * sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
    difference = (only_first - only_second) / count if count else 0.0
    return difference, max(-1.0, center - half), min(1.0, center + half)


def compare(full: Sequence[TrialResult], ablated: Sequence[TrialResult]) -> dict[str, Any]:
    """Return the success rates of both, and their difference on the scenes that both ran."""
    seen = {(result.trial.family, result.trial.seed): result.success for result in full}
    pairs = [
        (seen[key], result.success)
        for result in ablated
        if (key := (result.trial.family, result.trial.seed)) in seen
    ]
    difference, low, high = compute_paired_difference(pairs)
    return {
        **eval_metrics.compute_rate((first for first, _ in pairs), 'full'),
        **eval_metrics.compute_rate((second for _, second in pairs), 'ablated'),
        'difference': difference,
        'difference_low': low,
        'difference_high': high,
    }


def run_row(row: Ablation, options: argparse.Namespace) -> dict[str, Any]:
    """Run both policies of a row; return its part of the report."""
    robot = robots.load(options.robot)
    jobs = [evaluate.make_job(one, robot, options) for one in (row.full, row.ablated)]
    results = parallel_eval.run_trials(
        evaluate.DIRECT_WORKER_MODULE,
        options.robot,
        jobs,
        options.workers,
        evaluate.print_flushed,
    )
    parts = [
        [result for result in results if result.trial.series == one.name]
        for one in (row.full, row.ablated)
    ]
    families = [name for name in options.families if name in row.ablated.families]
    return {
        'component': row.component,
        'families': families,
        **compare(*parts),
        'command': './wam eval-ablations ' + ' '.join(options.given),
        **collect_provenance(),
    }


def list_rows(
    options: argparse.Namespace,
) -> Iterator[tuple[Ablation, argparse.Namespace | None]]:
    """Yield each row with the options to run it; None: a checkpoint is missing."""
    for row in ABLATIONS:
        known = all(getattr(options, name) for name in row.checkpoint_options)
        yield row, options if known else None
    if not options.transfer_checkpoint:
        yield _make_transfer_row('MINUTES'), None
    for text in options.transfer_checkpoint:
        minutes, _, folder = text.partition('=')
        own = copy(options)
        own.robot, own.checkpoint, own.base, own.transfer_folder = 'yam', 'mini', '', folder
        yield _make_transfer_row(minutes), own


def _make_transfer_row(minutes: str) -> Ablation:
    return Ablation(
        f'{TRANSFER}_{minutes}',
        f'all demonstrations of the YAM against {minutes} minutes of them',
        make_condition('full'),
        make_condition('ablated', checkpoint='transfer_folder'),
        TRANSFER_TRAINING,
    )


def run_ablations(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rows for which there is a checkpoint; return the report."""
    settings = report_table.get_settings(options, 'query_latency', 'execution')
    earlier = report_table.read_earlier(options.report, settings)
    report: dict[str, Any] = {
        **settings,
        'rows': earlier.get('rows', {}),
        'missing': {},
        **collect_provenance(),
    }
    for row, own in list_rows(options):
        name = TRANSFER if row.name.startswith(TRANSFER) else row.name
        known = row.name in report['rows']
        if (options.only and name not in options.only) or (known and not options.only):
            continue
        if own is None:
            if not known:
                report['missing'][row.name] = _describe_missing(row)
            continue
        evaluate.resolve_checkpoints(own)
        report['rows'][row.name] = run_row(row, own)
        if options.report:  # what is known so far outlives an interruption
            options.report.write_text(json.dumps(report, indent=1) + '\n')
    return report


def _describe_missing(row: Ablation) -> str:
    names = (
        ['--transfer-checkpoint MINUTES=DIR']
        if row.name.startswith(TRANSFER)
        else [f'--{name.replace("_", "-")} DIR' for name in row.checkpoint_options]
    )
    return f'{" and ".join(names)}, from {row.training}'


def format_table(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: the table, then what was not run."""
    lines = [
        '| component | with | without | difference | scenes |',
        '|---|---|---|---|---|',
    ]
    for row in report['rows'].values():
        rates = [
            f'{row[f"{name}_rate"]:.0%} ({100 * row[f"{name}_low"]:.0f}–'
            f'{100 * row[f"{name}_high"]:.0f})'
            for name in ('full', 'ablated')
        ]
        difference = (
            f'{100 * row["difference"]:+.0f} ({100 * row["difference_low"]:+.0f} to '
            f'{100 * row["difference_high"]:+.0f}) points'
        )
        scenes = f'{row["full_trials"]} of {", ".join(row["families"])}'
        lines.append(f'| {row["component"]} | {" | ".join([*rates, difference, scenes])} |')
    missing = [f'- {name}: needs {text}' for name, text in report['missing'].items()]
    return '\n'.join([*lines, *(['', 'Not run:', '', *missing] if missing else [])])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = argparse.ArgumentParser(prog='./wam eval-ablations', description=__doc__)
    parser.add_argument('--diverse-checkpoint', metavar='DIR')
    parser.add_argument('--repetitive-checkpoint', metavar='DIR')
    parser.add_argument(
        '--transfer-checkpoint',
        action='append',
        default=[],
        metavar='MINUTES=DIR',
        help='of the YAM, trained on so many minutes of demonstrations; once for each',
    )
    names = [row.name for row in ABLATIONS] + [TRANSFER]
    parser.add_argument(
        '--only', default='', metavar='LIST', help=f'rows to run, of {", ".join(names)}'
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = parser.parse_known_args(given)
    options = evaluate.parse_arguments(['--no-ros', *rest])
    if options.policies or options.baselines or options.checkpoint == evaluate.EXPERT:
        parser.error('--policy, --baselines and the expert have no ablations: use ./wam eval')
    selected = frozenset(filter(None, own.only.split(',')))
    if unknown := selected - frozenset(names):
        parser.error(f'--only: no {", ".join(sorted(unknown))}; known: {", ".join(names)}')
    for text in own.transfer_checkpoint:
        minutes, equals, folder = text.partition('=')
        if not equals or not minutes or not Path(folder).is_dir():
            parser.error(f'--transfer-checkpoint {text!r}: want MINUTES=DIR with a folder DIR')
    for name, value in vars(own).items():
        setattr(options, name, value)
    options.only, options.given = selected, given
    options.baseline_episodes = options.episodes
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; return 0, or 1 after printing an error."""
    options = parse_arguments(arguments)
    return report_table.print_table('eval-ablations', options, run_ablations, format_table)


if __name__ == '__main__':
    sys.exit(main())

"""`./wam eval-delays`: success, time and jerk by the delay from request to answer.

Every cell runs one execution at one delay on the same scenes, without ROS: once with an
instruction that stays (arms at rest when it is given) and once with one that changes while the
arms move. `naive` runs without motion planning, because motion planning always blends. Jerk is
that of the measured arm joints, as a fraction of the limit: the median over trials of the
largest. With --report, cells that the file already has are not run again. All options of `./wam
eval --no-ros` apply, such as --checkpoint, --episodes, --seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from wam_learning.evaluation import eval_metrics, evaluate, parallel_eval, report_table
from wam_learning.evaluation.eval_conditions import CONDITIONS, MAIN
from wam_learning.evaluation.rollout import EXECUTIONS
from wam_policy.provenance import collect_provenance
from wam_sim.physics import sim_robot as robots

DELAYS_MS = (0, 100, 200, 400, 600, 1100)  # a 14B model on one GPU needs 150 to 1100
MAX_DELAY_MS = 1999  # of rollout.RolloutConfig
SCENES = {'at_rest': MAIN, 'in_motion': CONDITIONS['instruction_change']}
TITLES = {
    'at_rest': 'The instruction stays',
    'in_motion': 'The instruction changes in mid-motion; the new one has to be reached',
}


def run_cell(options: argparse.Namespace, delay_ms: int, execution: str) -> dict[str, Any]:
    """Return the metrics of one execution at one delay, by kind of scene."""
    own = copy(options)
    own.query_latency, own.execution = delay_ms / 1e3, execution
    own.no_planning = options.no_planning or execution == 'naive'
    robot = robots.load(own.robot)
    jobs = [
        replace(evaluate.make_job(condition, robot, own), foresight=False)
        for condition in SCENES.values()
    ]
    results = parallel_eval.run_trials(
        evaluate.DIRECT_WORKER_MODULE, own.robot, jobs, own.workers, evaluate.print_flushed
    )
    return {
        'delay_ms': delay_ms,
        'execution': execution,
        'planned': int(not own.no_planning),
        **{
            kind: eval_metrics.compute_metrics(
                [result for result in results if result.trial.series == condition.name]
            )
            for kind, condition in SCENES.items()
        },
        **collect_provenance(),
    }


def run_sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Run all cells that the report does not have yet; return the report."""
    spec = evaluate.resolve_checkpoints(options)
    settings = report_table.get_settings(options)
    report = {
        **settings,
        'command': './wam eval-delays ' + ' '.join(options.given),
        'cells': report_table.read_earlier(options.report, settings).get('cells', []),
        'missing': {},
        **collect_provenance(),
    }
    complete = {(cell['delay_ms'], cell['execution']) for cell in report['cells']}
    for execution in options.executions:
        if execution == 'trained_prefix' and not (spec and spec.max_committed_rows):
            report['missing'][execution] = (
                f'{options.checkpoint} was not trained to continue rows (--committed-rows)'
            )
            continue
        for delay_ms in options.delays:
            if (delay_ms, execution) in complete:
                continue
            evaluate.print_flushed(f'{execution}, {delay_ms} ms')
            report['cells'].append(run_cell(options, delay_ms, execution))
            if options.report:  # what is known so far outlives an interruption
                options.report.write_text(json.dumps(report, indent=1) + '\n')
    return report


def format_tables(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: one table by kind of scene, then what was not run."""
    executions = [
        name for name in EXECUTIONS if any(c['execution'] == name for c in report['cells'])
    ]
    cells = {(cell['delay_ms'], cell['execution']): cell for cell in report['cells']}
    lines = []
    for kind, title in TITLES.items():
        heads = [name.replace('_', ' ') for name in executions]
        lines += [f'{title}:', '', f'| delay | {" | ".join(heads)} |']
        lines += ['|---' * (len(executions) + 1) + '|']
        for delay_ms in sorted({delay_ms for delay_ms, _ in cells}):
            row = [
                _format_cell(cells[delay_ms, name][kind]) if (delay_ms, name) in cells else ''
                for name in executions
            ]
            lines.append(f'| {delay_ms} ms | {" | ".join(row)} |')
        lines.append('')
    lines += [f'Not run: {name}, {why}.' for name, why in report['missing'].items()]
    return '\n'.join(lines).rstrip()


def _format_cell(found: Mapping[str, Any]) -> str:
    rate = (
        f'{found["success_rate"]:.0%} ({100 * found["success_low"]:.0f}–'
        f'{100 * found["success_high"]:.0f})'
    )
    time_s = found.get('time_to_success_p50_s')
    jerk = found.get('measured_jerk_ratio_p50')
    parts = [rate]
    parts += [] if time_s is None else [f'{time_s:.1f} s']
    parts += [] if jerk is None else [f'jerk {jerk:.2g}']
    return ', '.join(parts)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = argparse.ArgumentParser(prog='./wam eval-delays', description=__doc__)
    parser.add_argument(
        '--delays',
        default=','.join(map(str, DELAYS_MS)),
        metavar='LIST',
        help='from request to answer, ms (default: %(default)s)',
    )
    parser.add_argument(
        '--executions',
        default=','.join(EXECUTIONS),
        metavar='LIST',
        help='see --execution of ./wam eval (default: %(default)s)',
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = parser.parse_known_args(given)
    options = evaluate.parse_arguments(['--no-ros', *rest])
    if options.policies or options.baselines or options.checkpoint == evaluate.EXPERT:
        parser.error('--policy, --baselines and the expert are not for delays: use ./wam eval')
    try:
        options.delays = tuple(int(text) for text in own.delays.split(','))
    except ValueError:
        parser.error(f'--delays {own.delays!r}: want whole milliseconds, separated by commas')
    if not all(0 <= delay_ms <= MAX_DELAY_MS for delay_ms in options.delays):
        parser.error(f'--delays {own.delays}: want 0 to {MAX_DELAY_MS} ms')
    options.executions = tuple(own.executions.split(','))
    if unknown := set(options.executions) - set(EXECUTIONS):
        known = ', '.join(EXECUTIONS)
        parser.error(f'--executions: no {", ".join(sorted(unknown))}; known: {known}')
    options.given, options.baseline_episodes = given, options.episodes
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; return 0, or 1 after printing an error."""
    options = parse_arguments(arguments)
    return report_table.print_table('eval-delays', options, run_sweep, format_tables)


if __name__ == '__main__':
    sys.exit(main())

"""`./wam eval`: try a policy on scenes it never saw, compare, and report with intervals.

By default the stack itself is started and tried through ROS; `--direct` lives the same core on
simulated time, faster than a clock. Comparisons that change the policy inside are always direct.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wam_learning.evaluation import eval_metrics, parallel_eval, report_table
from wam_learning.evaluation.eval_conditions import (
    ALL_FAMILIES,
    CONDITIONS,
    MAIN,
    EvalCondition,
    make_trials,
)
from wam_learning.evaluation.eval_worker import EXPERT, EvalJob
from wam_learning.evaluation.trials import TrialResult
from wam_policy.core.robot import checkpoints
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.provenance import collect_provenance
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import SimRobot

SEED = 9_000_000  # far from every seed that data is made from
BASELINE_DIVISOR = 4  # baselines get a quarter of the episodes
ROS_WORKER_MODULE, DIRECT_WORKER_MODULE = (
    'wam_tools.evaluate_ros',
    'wam_learning.evaluation.eval_worker',
)
ROS_CONDITIONS = ('main', 'swapped', 'changed', 'held_out')  # what needs nothing but words


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(prog='wam eval', description=__doc__.split('\n\n')[0])
    parser.add_argument('--robot', choices=robots.list_robots(), default='agibot_g1')
    parser.add_argument(
        '--checkpoint',
        metavar='DIR',
        default='mini',
        help='weights: a folder, mini (shipped), preset:NAME for random ones, or '
        f"{EXPERT} for the simulator's own (default: %(default)s)",
    )
    parser.add_argument('--episodes', type=int, default=200, metavar='N')
    parser.add_argument(
        '--seed',
        type=int,
        default=SEED,
        metavar='S',
        help='of the first scene (default: %(default)s)',
    )
    parser.add_argument(
        '--families',
        default=','.join(ALL_FAMILIES),
        metavar='LIST',
        help='of tasks (default: %(default)s)',
    )
    parser.add_argument(
        '--baselines',
        default='',
        metavar='LIST',
        help='all, or some of ' + ', '.join(name for name in CONDITIONS if name != 'main'),
    )
    parser.add_argument(
        '--baseline-episodes',
        type=int,
        metavar='N',
        help=f'of each (default: a {BASELINE_DIVISOR}th)',
    )
    parser.add_argument('--cloned', metavar='DIR', help='checkpoint of the baseline cloned')
    parser.add_argument('--flash', metavar='DIR', help='checkpoint of the baseline flash')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write all figures as JSON')
    parser.add_argument(
        '--results', type=Path, metavar='FILE', help='keep every result, a JSON line each'
    )
    parser.add_argument(
        '--gallery', type=Path, metavar='DIR', help='write strips of real above predicted pictures'
    )
    parser.add_argument('--direct', action='store_true', help='without ROS, on simulated time')
    parser.add_argument(
        '--fast', action='store_true', help='with --direct: no motion planning, for quick checks'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='programs that try at the same time, direct only',
    )
    parser.add_argument(
        '--steps',
        type=int,
        metavar='N',
        help='denoising steps per query (default: what the checkpoint asks for)',
    )
    parser.add_argument(
        '--latency',
        type=float,
        default=0.1,
        metavar='S',
        help='direct: from a question to its answer (default: %(default)s)',
    )
    parser.add_argument(
        '--query-hz',
        type=float,
        default=8.0,
        metavar='HZ',
        help='direct: questions per second at most (default: %(default)s)',
    )
    parser.add_argument(
        '--table',
        type=Path,
        nargs='+',
        metavar='FILE',
        help='print reports as a Markdown table and do nothing else',
    )
    parser.add_argument(
        '--into',
        type=Path,
        metavar='FILE',
        help='with --table: put it between the marks in this file instead',
    )
    chosen = parser.parse_args(argv)
    if chosen.into and not chosen.table:
        parser.error('--into belongs to --table')
    if chosen.table:
        return chosen
    chosen.families = tuple(filter(None, chosen.families.split(',')))
    chosen.baselines = _parse_baselines(parser, chosen)
    _check_options(parser, chosen)
    return chosen


def _parse_baselines(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[str, ...]:
    """Return the baselines asked for; all means those for which there is a checkpoint."""
    names = [name for name in CONDITIONS if name != 'main']
    if options.baselines == 'all':
        return tuple(
            name
            for name in names
            if not CONDITIONS[name].checkpoint or getattr(options, CONDITIONS[name].checkpoint)
        )
    asked = tuple(filter(None, options.baselines.split(',')))
    for name in asked:
        if name not in names:
            parser.error(f'--baselines: no {name!r}; there are {", ".join(names)}')
        wanted = CONDITIONS[name].checkpoint
        if wanted and not getattr(options, wanted):
            parser.error(f'--baselines {name} needs --{wanted} DIR')
    return asked


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for family in options.families:
        if family not in ALL_FAMILIES:
            parser.error(f'--families: no {family!r}; there are {", ".join(ALL_FAMILIES)}')
    if not options.families:
        parser.error('--families: none named')
    for name in ('episodes', 'workers', 'baseline_episodes'):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f'--{name.replace("_", "-")}: want 1 or more')
    for name in ('report', 'results'):
        path = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f'--{name}: there is no folder {path.absolute().parent}')
    if options.fast and not options.direct:
        parser.error('--fast belongs to --direct: the nodes always plan')
    if options.checkpoint == EXPERT and not options.direct:
        parser.error(f'--checkpoint {EXPERT} belongs to --direct: it needs the simulation itself')


def print_flushed(text: str) -> None:
    print(text, flush=True)


def run_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """Try everything that was asked for; return the report."""
    robot, began_s = robots.load(options.robot), time.monotonic()
    design = resolve_checkpoints(options)
    series = [CONDITIONS[name] for name in ('main', *options.baselines)]
    jobs = {one.name: make_job(one, robot, options) for one in series}
    live = (
        {}
        if options.direct
        else {name: one for name, one in jobs.items() if name in ROS_CONDITIONS}
    )
    inner = {name: one for name, one in jobs.items() if name not in live}
    if options.gallery:
        options.gallery.mkdir(parents=True, exist_ok=True)
    results: list[TrialResult] = []
    if live:
        results += parallel_eval.run_trials(
            ROS_WORKER_MODULE, options.robot, list(live.values()), 1, print_flushed
        )
    if inner:
        results += parallel_eval.run_trials(
            DIRECT_WORKER_MODULE,
            options.robot,
            list(inner.values()),
            options.workers,
            print_flushed,
        )
    if options.results:
        options.results.write_text(''.join(result.to_json() + '\n' for result in results))
    report = {
        'robot': options.robot,
        'checkpoint': Path(options.checkpoint).name,
        'model': design.name if design else EXPERT,
        'trained': int(design.trained) if design else 1,
        'path': 'direct' if options.direct else 'ros',
        'fast': int(options.fast),
        'seed': options.seed,
        'families': list(options.families),
        'episodes': options.episodes,
        'duration_s': time.monotonic() - began_s,
        **collect_provenance(),
    }
    for one in series:
        mine = [result for result in results if result.trial.series == one.name]
        report |= eval_metrics.compute_metrics(mine, '' if one is MAIN else f'{one.name}_')
    report['series'] = {
        one.name: {'question': one.description, 'path': ('ros' if one.name in live else 'direct')}
        for one in series
    }
    return report


def resolve_checkpoints(options: argparse.Namespace) -> ModelSpec | None:
    """Locate all checkpoints; return what the one under test is, None for the expert."""
    tag = robots.load(options.robot).embodiment.model_tag
    options.checkpoint = checkpoints.select_for_robot(options.checkpoint, tag)
    for name in ('cloned', 'flash', 'checkpoint'):
        given = getattr(options, name)
        if given is not None and given != EXPERT:
            setattr(options, name, checkpoints.resolve_checkpoint(given))
    if options.checkpoint == EXPERT:
        return None
    if options.checkpoint.startswith(checkpoints.PRESET_PREFIX):
        return designs.make_preset_spec(options.checkpoint.removeprefix(checkpoints.PRESET_PREFIX))
    return designs.read_spec(Path(options.checkpoint))


def make_job(condition: EvalCondition, robot: SimRobot, options: argparse.Namespace) -> EvalJob:
    """Return what is to be run for one series."""
    wanted = (
        options.episodes
        if condition is MAIN
        else (options.baseline_episodes or max(1, options.episodes // BASELINE_DIVISOR))
    )
    families = [family for family in options.families if family in condition.families]
    if not families:
        raise ValueError(
            f'--baselines {condition.name} needs one of the families '
            f'{", ".join(condition.families)}'
        )
    choice = {**({'steps': options.steps} if options.steps else {}), **condition.inference_options}
    shown = condition is MAIN and options.checkpoint != EXPERT
    return EvalJob(
        checkpoint=getattr(options, condition.checkpoint)
        if condition.checkpoint
        else options.checkpoint,
        trials=tuple(make_trials(condition, robot, families, wanted, options.seed)),
        ablation=condition.ablation,
        choice=choice,
        pace={'fast': options.fast, 'query_s': options.latency, 'query_hz': options.query_hz},
        foresight=shown and not options.fast,
        gallery=str(options.gallery) if shown and options.gallery else '',
    )


def main(argv: Sequence[str] | None = None) -> int:
    chosen = parse_arguments(argv)
    try:
        if chosen.table:
            text = report_table.format_markdown(
                [json.loads(path.read_text()) for path in chosen.table]
            )
            if chosen.into is None:
                print(text)
            else:
                chosen.into.write_text(report_table.insert_table(text, chosen.into.read_text()))
            return 0
        report = run_evaluation(chosen)
    except (ValueError, OSError, RuntimeError) as error:
        print(f'eval: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if chosen.report:
        chosen.report.write_text(json.dumps(report, indent=1) + '\n')
        print_flushed(f'report: {chosen.report}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

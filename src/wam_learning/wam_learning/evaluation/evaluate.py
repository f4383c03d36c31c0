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
from wam_learning.evaluation.eval_conditions import EVERY, MAIN, SERIES, Series, drawn
from wam_learning.evaluation.eval_worker import EXPERT, Job
from wam_learning.evaluation.trials import Result
from wam_policy.core.robot import checkpoints
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.model_spec import Design
from wam_policy.provenance import circumstances
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import Robot

SEED = 9_000_000  # far from every seed that data is made from
BASELINE_SHARE = 4  # baselines get a quarter of the episodes
THROUGH_ROS, WITHOUT_ROS = 'wam_tools.evaluate_ros', 'wam_learning.evaluation.eval_worker'
LIVE = ('main', 'swapped', 'changed', 'held_out')  # what needs nothing but words


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(prog='wam eval', description=__doc__.split('\n\n')[0])
    parser.add_argument('--robot', choices=robots.names(), default='agibot_g1')
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
        default=','.join(EVERY),
        metavar='LIST',
        help='of tasks (default: %(default)s)',
    )
    parser.add_argument(
        '--baselines',
        default='',
        metavar='LIST',
        help='all, or some of ' + ', '.join(name for name in SERIES if name != 'main'),
    )
    parser.add_argument(
        '--baseline-episodes',
        type=int,
        metavar='N',
        help=f'of each (default: a {BASELINE_SHARE}th)',
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
    chosen = parser.parse_args(given)
    if chosen.into and not chosen.table:
        parser.error('--into belongs to --table')
    if chosen.table:
        return chosen
    chosen.families = tuple(filter(None, chosen.families.split(',')))
    chosen.baselines = _baselines(parser, chosen)
    _check(parser, chosen)
    return chosen


def _baselines(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> tuple[str, ...]:
    """Return the baselines asked for; all means those for which there is a checkpoint."""
    names = [name for name in SERIES if name != 'main']
    if chosen.baselines == 'all':
        return tuple(
            name
            for name in names
            if not SERIES[name].checkpoint or getattr(chosen, SERIES[name].checkpoint)
        )
    asked = tuple(filter(None, chosen.baselines.split(',')))
    for name in asked:
        if name not in names:
            parser.error(f'--baselines: no {name!r}; there are {", ".join(names)}')
        wanted = SERIES[name].checkpoint
        if wanted and not getattr(chosen, wanted):
            parser.error(f'--baselines {name} needs --{wanted} DIR')
    return asked


def _check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    for family in chosen.families:
        if family not in EVERY:
            parser.error(f'--families: no {family!r}; there are {", ".join(EVERY)}')
    if not chosen.families:
        parser.error('--families: none named')
    for name in ('episodes', 'workers', 'baseline_episodes'):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            parser.error(f'--{name.replace("_", "-")}: want 1 or more')
    for name in ('report', 'results'):
        path = getattr(chosen, name)
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f'--{name}: there is no folder {path.absolute().parent}')
    if chosen.fast and not chosen.direct:
        parser.error('--fast belongs to --direct: the nodes always plan')
    if chosen.checkpoint == EXPERT and not chosen.direct:
        parser.error(f'--checkpoint {EXPERT} belongs to --direct: it needs the simulation itself')


def say(text: str) -> None:
    print(text, flush=True)


def evaluated(chosen: argparse.Namespace) -> dict[str, Any]:
    """Try everything that was asked for; return the report."""
    robot, began_s = robots.load(chosen.robot), time.monotonic()
    design = described(chosen)
    series = [SERIES[name] for name in ('main', *chosen.baselines)]
    jobs = {one.name: job(one, robot, chosen) for one in series}
    live = {} if chosen.direct else {name: one for name, one in jobs.items() if name in LIVE}
    inner = {name: one for name, one in jobs.items() if name not in live}
    if chosen.gallery:
        chosen.gallery.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    if live:
        results += parallel_eval.tried(THROUGH_ROS, chosen.robot, list(live.values()), 1, say)
    if inner:
        results += parallel_eval.tried(
            WITHOUT_ROS, chosen.robot, list(inner.values()), chosen.workers, say
        )
    if chosen.results:
        chosen.results.write_text(''.join(result.to_json() + '\n' for result in results))
    report = {
        'robot': chosen.robot,
        'checkpoint': Path(chosen.checkpoint).name,
        'model': design.name if design else EXPERT,
        'trained': int(design.trained) if design else 1,
        'path': 'direct' if chosen.direct else 'ros',
        'fast': int(chosen.fast),
        'seed': chosen.seed,
        'families': list(chosen.families),
        'episodes': chosen.episodes,
        'duration_s': time.monotonic() - began_s,
        **circumstances(),
    }
    for one in series:
        mine = [result for result in results if result.trial.series == one.name]
        report |= eval_metrics.figures(mine, '' if one is MAIN else f'{one.name}_')
    report['series'] = {
        one.name: {'question': one.question, 'path': ('ros' if one.name in live else 'direct')}
        for one in series
    }
    return report


def described(chosen: argparse.Namespace) -> Design | None:
    """Locate all checkpoints; return what the one under test is, None for the expert."""
    tag = robots.load(chosen.robot).embodiment.model_tag
    chosen.checkpoint = checkpoints.fitting(chosen.checkpoint, tag)
    for name in ('cloned', 'flash', 'checkpoint'):
        given = getattr(chosen, name)
        if given is not None and given != EXPERT:
            setattr(chosen, name, checkpoints.located(given))
    if chosen.checkpoint == EXPERT:
        return None
    if chosen.checkpoint.startswith(checkpoints.PRESET):
        return designs.released(chosen.checkpoint.removeprefix(checkpoints.PRESET))
    return designs.read(Path(chosen.checkpoint))


def job(series: Series, robot: Robot, chosen: argparse.Namespace) -> Job:
    """Return what is to be run for one series."""
    wanted = (
        chosen.episodes
        if series is MAIN
        else (chosen.baseline_episodes or max(1, chosen.episodes // BASELINE_SHARE))
    )
    families = [family for family in chosen.families if family in series.families]
    if not families:
        raise ValueError(
            f'--baselines {series.name} needs one of the families {", ".join(series.families)}'
        )
    choice = {**({'steps': chosen.steps} if chosen.steps else {}), **series.choice}
    shown = series is MAIN and chosen.checkpoint != EXPERT
    return Job(
        checkpoint=getattr(chosen, series.checkpoint) if series.checkpoint else chosen.checkpoint,
        trials=tuple(drawn(series, robot, families, wanted, chosen.seed)),
        ablation=series.ablation,
        choice=choice,
        pace={'fast': chosen.fast, 'query_s': chosen.latency, 'query_hz': chosen.query_hz},
        foresight=shown and not chosen.fast,
        gallery=str(chosen.gallery) if shown and chosen.gallery else '',
    )


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    try:
        if chosen.table:
            text = report_table.markdown([json.loads(path.read_text()) for path in chosen.table])
            if chosen.into is None:
                print(text)
            else:
                chosen.into.write_text(report_table.placed(text, chosen.into.read_text()))
            return 0
        report = evaluated(chosen)
    except (ValueError, OSError, RuntimeError) as error:
        print(f'eval: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if chosen.report:
        chosen.report.write_text(json.dumps(report, indent=1) + '\n')
        say(f'report: {chosen.report}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

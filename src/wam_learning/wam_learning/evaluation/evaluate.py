"""`./wam eval`: evaluate a policy on held-out scenes, with baselines and confidence intervals.

By default the complete stack runs through ROS; `--no-ros` runs the same core in simulated time,
faster than real time. Baselines that change the policy internally always run without ROS.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wam_learning.evaluation import (
    eval_metrics,
    parallel_eval,
    policy_comparison,
    report_table,
)
from wam_learning.evaluation.eval_conditions import (
    ALL_FAMILIES,
    CONDITIONS,
    DEPRECATED_NAMES,
    MAIN,
    EvalCondition,
    make_trials,
)
from wam_learning.evaluation.eval_worker import EXPERT, EvalJob
from wam_learning.evaluation.rollout import EXECUTIONS
from wam_learning.evaluation.trials import TrialResult
from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot import checkpoints
from wam_policy.core.session.model_requests import NEW_NOISE
from wam_policy.model.checkpoint import adapter_folder
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.provenance import collect_provenance
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import SimRobot

SEED = 9_000_000  # far from the seeds of all training data
BASELINE_DIVISOR = 4  # baselines run a quarter of the episodes
ROS_WORKER_MODULE = 'wam_tools.evaluate_ros'
DIRECT_WORKER_MODULE = 'wam_learning.evaluation.eval_worker'
# only instructions differ
ROS_CONDITIONS = ('main', 'instruction_swap', 'instruction_change', 'held_out')

DEPRECATED_FLAGS = {
    '--cloned': '--bc-checkpoint',
    '--flash': '--flash-checkpoint',
    '--results': '--trial-log',
    '--gallery': '--image-dir',
    '--direct': '--no-ros',
    '--fast': '--no-planning',
    '--latency': '--query-latency',
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = CommandParser('./wam eval', (__doc__ or '').split('\n\n')[0], DEPRECATED_FLAGS)
    parser.add_argument('--robot', choices=robots.list_robots(), default='agibot_g1')
    parser.add_argument(
        '--checkpoint',
        metavar='DIR',
        default='mini',
        help='weights: a folder, mini (shipped), preset:NAME for random ones, or '
        f'{EXPERT} for the scripted expert (default: %(default)s)',
    )
    parser.add_argument(
        '--base',
        metavar='DIR',
        default='',
        help='complete checkpoint under --checkpoint, if that has only adapters (LoRA)',
    )
    _add_comparison_argument(parser)
    parser.add_argument('--episodes', type=int, default=200, metavar='N')
    add_value(parser, '--seed', SEED, 'of the first scene', 'S')
    add_value(parser, '--families', ','.join(ALL_FAMILIES), 'of tasks', 'LIST')
    parser.add_argument(
        '--baselines',
        default='',
        metavar='LIST',
        help='all, or a comma-separated list of '
        + ', '.join(name for name in CONDITIONS if name != 'main'),
    )
    parser.add_argument(
        '--baseline-episodes',
        type=int,
        metavar='N',
        help=f'of each baseline (default: --episodes / {BASELINE_DIVISOR})',
    )
    parser.add_argument(
        '--bc-checkpoint', metavar='DIR', help='checkpoint of the baseline behavior_cloning'
    )
    parser.add_argument(
        '--flash-checkpoint', metavar='DIR', help='checkpoint of the baseline flash'
    )
    parser.add_argument(
        '--report',
        type=Path,
        metavar='FILE',
        help='write all metrics as JSON; with --policy also a Markdown table next to it',
    )
    parser.add_argument(
        '--trial-log', type=Path, metavar='FILE', help='write every trial result as a JSON line'
    )
    parser.add_argument(
        '--image-dir', type=Path, metavar='DIR', help='write strips of real above predicted images'
    )
    _add_simulated_time_arguments(parser)
    _add_sampling_arguments(parser)
    options = parser.parse(argv)
    options.families = tuple(filter(None, options.families.split(',')))
    options.baselines = _parse_baselines(parser, options)
    _check_options(parser, options)
    return options


def _add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--steps',
        type=int,
        metavar='N',
        help='denoising steps per query (default: those of the checkpoint)',
    )
    parser.add_argument(
        '--noise-scale',
        type=float,
        metavar='X',
        help="scale of the initial noise, 0 to 1, only without ROS (default: the checkpoint's)",
    )


def _add_comparison_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--policy',
        action='append',
        default=[],
        metavar='[LABEL=]POLICY',
        help='compare policies on the same scenes, given once for each: '
        f'{policy_comparison.LOCAL} (that of --checkpoint), {EXPERT}, a checkpoint, or the '
        'address of a policy server, ADDRESS[#PROFILE]',
    )


def _add_simulated_time_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--no-ros', action='store_true', help='run without ROS, in simulated time')
    parser.add_argument(
        '--no-planning', action='store_true', help='with --no-ros: skip motion planning'
    )
    add_value(parser, '--workers', 2, 'parallel processes, only without ROS', 'N')
    add_value(parser, '--query-latency', 0.1, 'without ROS: from request to reply', 'S')
    add_value(
        parser,
        '--execution',
        'blended',
        'how chunks are used under latency: each replaces the one before (naive, with '
        '--no-ros --no-planning), is blended into it, is queried from the setpoint at '
        'the time it is due (rolled_forward), or continues the rows that are executed '
        'until then (trained_prefix, for checkpoints trained with --committed-rows)',
        choices=EXECUTIONS,
    )
    parser.add_argument(
        '--held-rows',
        type=int,
        metavar='N',
        help='without ROS, with trained_prefix: continue at most N rows and roll forward over the '
        "rest of the delay (default: the checkpoint's number)",
    )
    add_value(
        parser,
        '--new-noise',
        'session',
        'without ROS: when the sampler starts from other noise; each trial has its own seed',
        choices=NEW_NOISE,
    )
    add_value(parser, '--query-hz', 8.0, 'without ROS: maximum query rate', 'HZ')


def _parse_baselines(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[str, ...]:
    """Return the requested baselines; `all` are those whose checkpoint is given."""
    names = [name for name in CONDITIONS if name != 'main']
    if options.baselines == 'all':
        return tuple(
            name
            for name in names
            if not CONDITIONS[name].checkpoint or getattr(options, CONDITIONS[name].checkpoint)
        )
    given: list[str] = options.baselines.split(',')
    selected = tuple(DEPRECATED_NAMES.get(name, name) for name in given if name)
    for name in selected:
        if name not in names:
            parser.error(f'--baselines: no {name!r}; known: {", ".join(names)}')
        wanted = CONDITIONS[name].checkpoint
        if wanted and not getattr(options, wanted):
            parser.error(f'--baselines {name} needs --{wanted.replace("_", "-")} DIR')
    return selected


def _check_options(parser: CommandParser, options: argparse.Namespace) -> None:
    for family in options.families:
        if family not in ALL_FAMILIES:
            parser.error(f'--families: no {family!r}; known: {", ".join(ALL_FAMILIES)}')
    if not options.families:
        parser.error('--families: want at least one')
    parser.require_positive(options, 'episodes', 'workers', 'baseline_episodes')
    parser.require_folders(options, 'report', 'trial_log')
    if options.noise_scale is not None and not 0 <= options.noise_scale <= 1:
        parser.error(f'--noise-scale: want 0 to 1, got {options.noise_scale:g}')
    if options.noise_scale is not None and not options.no_ros:
        parser.error('--noise-scale needs --no-ros: the nodes take that of the checkpoint')
    _check_policies(parser, options)
    if options.execution == 'naive' and not options.no_ros:
        parser.error('--execution naive needs --no-ros: the nodes always blend')
    if options.no_planning and not options.no_ros:
        parser.error('--no-planning needs --no-ros: the nodes always plan')
    if options.checkpoint == EXPERT and not options.no_ros:
        parser.error(f'--checkpoint {EXPERT} needs --no-ros: it reads the simulation state')


def _check_policies(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Parse the policies of a comparison in place."""
    try:
        options.policies = policy_comparison.parse_policies(options.policy, options.checkpoint)
    except ValueError as error:
        parser.error(f'--policy: {error}')
    if options.policies and options.baselines:
        parser.error('--policy and --baselines: give one of them')
    if any(policy.is_expert for policy in options.policies) and not options.no_ros:
        parser.error(f'--policy {EXPERT} needs --no-ros: it reads the simulation state')


def run_comparison(options: argparse.Namespace) -> dict[str, Any]:
    """Run all policies on the same scenes; return the report."""
    robot, began_s = robots.load(options.robot), time.monotonic()
    families = list(options.families)
    trials = make_trials(MAIN, robot, families, options.episodes, options.seed)
    tag, log = robot.embodiment.model_tag, options.trial_log
    if log:
        log.write_text('')

    def run_job(job: EvalJob) -> list[TrialResult]:
        checkpoint = job.checkpoint
        if checkpoint and checkpoint != EXPERT:
            checkpoint = checkpoints.resolve_checkpoint(
                checkpoints.select_for_robot(checkpoint, tag)
            )
        module = DIRECT_WORKER_MODULE if options.no_ros else ROS_WORKER_MODULE
        # one session at a time: some servers have a single one, whoever asks
        workers = 1 if job.server or not options.no_ros else options.workers
        results = parallel_eval.run_trials(
            module, options.robot, [replace(job, checkpoint=checkpoint)], workers, print_flushed
        )
        if log:
            with log.open('a') as file:
                file.writelines(result.to_json() + '\n' for result in results)
        return results

    report = {
        'robot': options.robot,
        'path': 'direct' if options.no_ros else 'ros',
        'fast': int(options.no_planning),
        'seed': options.seed,
        'families': families,
        'episodes': options.episodes,
        **collect_provenance(),
    }
    for found in policy_comparison.compare_policies(
        options.policies, trials, run_job, _make_pace(options), _make_choice(options)
    ):
        report |= {'policies': found, 'duration_s': time.monotonic() - began_s}
        if options.report:  # what is known so far outlives an interruption
            options.report.write_text(json.dumps(report, indent=1) + '\n')
            table = policy_comparison.format_markdown(report)
            options.report.with_suffix('.md').write_text(table + '\n')
    return report


def _make_pace(options: argparse.Namespace) -> dict[str, Any]:
    return {
        'fast': options.no_planning,
        'query_s': options.query_latency,
        'query_hz': options.query_hz,
        'new_noise': options.new_noise,
        'execution': options.execution,
        'held_rows': options.held_rows,
    }


def _make_choice(options: argparse.Namespace) -> dict[str, Any]:
    given = {'steps': options.steps or None, 'noise_scale': options.noise_scale}
    return {name: value for name, value in given.items() if value is not None}


def print_flushed(text: str) -> None:
    print(text, flush=True)


def run_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """Run the main condition and all baselines; return the report."""
    robot, began_s = robots.load(options.robot), time.monotonic()
    design = resolve_checkpoints(options)
    conditions = [CONDITIONS[name] for name in ('main', *options.baselines)]
    jobs = {one.name: make_job(one, robot, options) for one in conditions}
    live = (
        {}
        if options.no_ros
        else {name: one for name, one in jobs.items() if name in ROS_CONDITIONS}
    )
    inner = {name: one for name, one in jobs.items() if name not in live}
    if options.image_dir:
        options.image_dir.mkdir(parents=True, exist_ok=True)
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
    if options.trial_log:
        options.trial_log.write_text(''.join(result.to_json() + '\n' for result in results))
    report = {
        'robot': options.robot,
        'checkpoint': Path(options.checkpoint).name,
        'model': design.name if design else EXPERT,
        'trained': int(design.trained) if design else 1,
        'path': 'direct' if options.no_ros else 'ros',
        'fast': int(options.no_planning),
        'seed': options.seed,
        'steps': options.steps,
        'noise_scale': options.noise_scale,
        'new_noise': options.new_noise,
        'execution': options.execution,
        'held_rows': options.held_rows,
        'query_latency_s': options.query_latency,
        'families': list(options.families),
        'episodes': options.episodes,
        'duration_s': time.monotonic() - began_s,
        **collect_provenance(),
    }
    for one in conditions:
        mine = [result for result in results if result.trial.series == one.name]
        report |= eval_metrics.compute_metrics(mine, '' if one is MAIN else f'{one.name}_')
    report['series'] = {
        one.name: {'question': one.description, 'path': ('ros' if one.name in live else 'direct')}
        for one in conditions
    }
    return report


def resolve_checkpoints(options: argparse.Namespace) -> ModelSpec | None:
    """Resolve all checkpoint options in place; return the model specification, None: expert."""
    tag = robots.load(options.robot).embodiment.model_tag
    options.checkpoint = checkpoints.select_for_robot(options.checkpoint, tag)
    for name in ('bc_checkpoint', 'flash_checkpoint', 'checkpoint'):
        given = getattr(options, name)
        if given is not None and given != EXPERT:
            setattr(options, name, checkpoints.resolve_checkpoint(given, tag))
    options.base = checkpoints.resolve_base(options.base)
    if options.checkpoint == EXPERT:
        return None
    if options.checkpoint.startswith(checkpoints.PRESET_PREFIX):
        return designs.make_preset_spec(options.checkpoint.removeprefix(checkpoints.PRESET_PREFIX))
    return adapter_folder.read_spec(
        Path(options.checkpoint), Path(options.base) if options.base else None
    )


def make_job(condition: EvalCondition, robot: SimRobot, options: argparse.Namespace) -> EvalJob:
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
    choice = {**_make_choice(options), **condition.inference_options}
    shown = condition is MAIN and options.checkpoint != EXPERT
    return EvalJob(
        checkpoint=getattr(options, condition.checkpoint)
        if condition.checkpoint
        else options.checkpoint,
        trials=tuple(make_trials(condition, robot, families, wanted, options.seed)),
        base='' if condition.checkpoint else options.base,
        ablation=condition.ablation,
        choice=choice,
        pace=_make_pace(options),
        foresight=shown and not options.no_planning,
        gallery=str(options.image_dir) if shown and options.image_dir else '',
    )


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if any(word.startswith('--table') for word in given):  # deprecated: an own command
        return report_table.main(report_table.replace_eval_options(given))
    options = parse_arguments(given)
    try:
        report = run_comparison(options) if options.policies else run_evaluation(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f'eval: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + '\n')
        print_flushed(f'report: {options.report}')
    if not options.policies:
        return 0
    print_flushed(policy_comparison.format_markdown(report))
    return int(any('error' in entry for entry in report['policies'].values()))


if __name__ == '__main__':
    sys.exit(main())

"""`./wam generate-demos`: write a data set of demonstrations by a scripted expert in simulation.

The data set has the layout of an exported one, plus what only a simulator can label: which rows
the expert commanded, and where the named object is. It is written in shards. Each shard is a
complete data set that can be used for training while the next one is generated.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == '__main__' and any(word.startswith(('--policy', '--driver')) for word in sys.argv):
    from wam_learning import import_triton_first  # noqa: F401

from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.demonstrations.demo_generator import FIRST_POLICY_S, DemoGenerator, Perturbations
from wam_policy.command_line import CommandParser, to_flag, to_options
from wam_sim.physics import scene as scenes
from wam_sim.physics import sim_robot as robots
from wam_sim.tasks import task_families

if TYPE_CHECKING:  # torch takes seconds to import; generation without a policy does not need it
    from wam_learning.demonstrations.dagger_policy import RollInPolicy

REPORT_EVERY_S = 20.0
POLL_S = 0.5
DEFAULTS = Perturbations()
# flag, its field of Perturbations, its meaning
PROBABILITY_FLAGS = (
    ('--perturb-prob', DEFAULTS.perturb_prob, 'that something else moves the arms in an episode'),
    ('--random-start-prob', DEFAULTS.random_start_prob, 'that the arms start at random positions'),
    (
        '--instruction-change-prob',
        DEFAULTS.instruction_change_prob,
        'that the instruction changes during an episode',
    ),
    (
        '--near-miss-prob',
        DEFAULTS.near_miss_prob,
        'that a random start has one hand low next to an object',
    ),
)
SHARD_OPTIONS = (  # what decides, with the seed, what a shard contains
    *('robot', 'families', 'episodes_per_scene'),
    *('policy', 'policy_seconds', 'only_interventions'),
    *('perturb_prob', 'random_start_prob', 'instruction_change_prob', 'near_miss_prob'),
)
DEPRECATED_FLAGS = {
    '--driver': '--policy',
    '--disturbed': '--perturb-prob',
    '--displaced': '--random-start-prob',
    '--changed': '--instruction-change-prob',
    '--missed': '--near-miss-prob',
    '--shard': '--episodes-per-shard',
}


def generate_shard(
    options: argparse.Namespace, folder: Path, first_seed: int, episodes: int
) -> dict[str, Any]:
    """Write one shard of `episodes` episodes and return its report.

    Episode i uses scene `first_seed` + i // --episodes-per-scene. Failed episodes are left out,
    and with --only-interventions those in which the policy needed no expert: they would only
    teach to hold still.
    """
    robot = robots.load(options.robot)
    perturbations = Perturbations(
        options.perturb_prob,
        options.random_start_prob,
        options.instruction_change_prob,
        options.near_miss_prob,
        options.policy_seconds,
    )
    generator = DemoGenerator(robot, perturbations, load_roll_in_policy(robot, options.policy))
    writer = LeRobotWriter(folder, robot.embodiment)
    attempted, succeeded, progress = Counter(), Counter(), _Progress(folder.name, episodes)
    try:
        for index in range(episodes):
            scene, repetition = divmod(index, options.episodes_per_scene)
            seed = first_seed + scene
            family = choose_family(robot, options.families, seed)
            if family is None:
                print(
                    f'{folder.name}: skipped seed {seed}: its scene offers none of '
                    f'{", ".join(options.families)}',
                    flush=True,
                )
                continue
            try:
                for sample, labels in generator.generate_episode(seed, family, repetition):
                    writer.add_sample(sample, labels)
            except RuntimeError as error:
                generator.success = False
                print(f'{folder.name}: seed {seed}: {error}', file=sys.stderr, flush=True)
            attempted[family] += 1
            succeeded[family] += generator.success
            if generator.success and (generator.expert_needed or not options.only_interventions):
                writer.end_episode({'seed': seed, 'family': family, 'success': True})
            else:
                writer.discard_episode()
            progress.report(index + 1)
        report = {
            'robot': robot.name,
            'contract': robot.embodiment.config_hash,
            'seed': first_seed,
            'tried': dict(attempted),
            'succeeded': dict(succeeded),
            **vars(options),
            'out': None,
        }
        writer.finalize({'actions': 'setpoints of the simulated controllers', **report})
    except BaseException:
        writer.abort()
        raise
    finally:
        generator.close()
    return report


class _Progress:
    """Print the progress of a shard every REPORT_EVERY_S."""

    def __init__(self, name: str, episodes: int) -> None:
        self._name, self._episodes = name, episodes
        self._began_s = self._reported_s = time.monotonic()

    def report(self, done: int) -> None:
        now_s = time.monotonic()
        if now_s - self._reported_s > REPORT_EVERY_S:
            self._reported_s = now_s
            left_s = (now_s - self._began_s) / done * (self._episodes - done)
            print(
                f'{self._name}: {done} of {self._episodes} episodes, {left_s:.0f} s left',
                flush=True,
            )


def load_roll_in_policy(robot: robots.SimRobot, checkpoint: str | None) -> 'RollInPolicy | None':
    """Load the policy that replaces the random perturbations; None without a checkpoint."""
    if checkpoint is None:
        return None
    import torch

    from wam_learning.demonstrations.dagger_policy import RollInPolicy
    from wam_policy.core.robot import checkpoints
    from wam_policy.model.checkpoint import checkpoint_folder
    from wam_policy.model.robot_policy import InferenceOptions, Policy

    torch.set_num_threads(1)
    loaded = checkpoint_folder.load(
        checkpoints.resolve_checkpoint(checkpoint, robot.embodiment.model_tag),
        torch.device('cpu'),
        torch.float32,
    )
    return RollInPolicy(
        robot,
        Policy(loaded, robot.embodiment, InferenceOptions.from_defaults(loaded.spec.inference)),
    )


def choose_family(robot: robots.SimRobot, families: Sequence[str], seed: int) -> str | None:
    """Return the family of an episode: round robin, skipping what its scene lacks; None: none."""
    scene = scenes.sample_scene(robot, seed)
    for turn in range(len(families)):
        family = families[(seed + turn) % len(families)]
        if task_families.is_available(family, scene, task_families.TRAIN_SPLIT):
            return family
    return None


def plan_shards(options: argparse.Namespace) -> Iterator[tuple[Path, int, int]]:
    """Yield folder, first seed and number of episodes of every shard."""
    for number, start in enumerate(range(0, options.episodes, options.episodes_per_shard)):
        yield (
            options.out / f'{number:03d}',
            options.seed + start // options.episodes_per_scene,
            min(options.episodes_per_shard, options.episodes - start),
        )


def is_complete(options: argparse.Namespace, folder: Path, first_seed: int, episodes: int) -> bool:
    """Return whether a shard was written before; raise ValueError if with other options."""
    path = folder / 'meta' / 'provenance.json'
    if not path.exists():
        return False
    written = {'episodes_per_scene': 1, **json.loads(path.read_text(encoding='utf-8'))}
    wanted: dict[str, Any] = {'seed': first_seed, 'episodes': episodes}
    wanted |= {name: getattr(options, name) for name in SHARD_OPTIONS}
    wanted = json.loads(json.dumps(wanted))  # tuples become lists
    for name, value in wanted.items():
        if written.get(name) != value:
            raise ValueError(
                f'{folder}: was written with {name} {written.get(name)}, wanted is {value}; '
                'name another folder or remove it'
            )
    return True


def run_shard_workers(options: argparse.Namespace) -> int:
    """Generate all shards, each in a process of its own; return the exit status."""
    waiting, running, failed = list(plan_shards(options)), [], False
    if options.resume:
        waiting = [shard for shard in waiting if not is_complete(options, *shard)]
    began_s, whole = time.monotonic(), len(waiting)
    try:
        while (waiting or running) and not failed:
            while waiting and len(running) < options.workers:
                running.append(subprocess.Popen(_worker_command(options, *waiting.pop(0))))
            time.sleep(POLL_S)
            ended = [program for program in running if program.poll() is not None]
            running = [program for program in running if program not in ended]
            failed = any(program.returncode for program in ended)
            if ended:
                shards_done = whole - len(waiting) - len(running)
                spent_s = time.monotonic() - began_s
                left_s = spent_s / shards_done * (whole - shards_done)
                print(
                    f'{shards_done} of {whole} shards, {spent_s:.0f} s, {left_s:.0f} s left',
                    flush=True,
                )
    finally:
        for program in running:
            program.terminate()
        for program in running:
            program.wait()
    return int(failed)


def _worker_command(
    options: argparse.Namespace, folder: Path, first_seed: int, episodes: int
) -> list[str]:
    given = {name: getattr(options, name) for name in SHARD_OPTIONS}
    given |= {'families': ','.join(options.families), 'out': folder, 'seed': first_seed}
    given |= {'episodes': episodes, 'episodes_per_shard': 0}
    module = 'wam_learning.demonstrations.generate_demos'
    return [sys.executable, '-m', module, *to_options(given)]


def format_summary(report: dict[str, Any]) -> str:
    """Return successes and attempts per family as text."""
    return ', '.join(
        f'{family} {report["succeeded"].get(family, 0)} of {count}'
        for family, count in sorted(report['tried'].items())
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the data set and print a summary; return the exit status."""
    options = _parse_arguments(arguments)
    try:
        if options.episodes_per_shard:
            if options.out.exists() and not options.resume:
                raise FileExistsError(
                    f'{options.out} exists already; name another folder, remove it, or continue '
                    'an interrupted run with --resume'
                )
            return run_shard_workers(options)
        report = generate_shard(options, options.out, options.seed, options.episodes)
    except (ValueError, OSError) as error:
        print(f'generate-demos: {error}', file=sys.stderr)
        return 1
    info = json.loads((options.out / 'meta' / 'info.json').read_text())
    print(
        f'{options.out}: {info["total_frames"]} rows in {info["total_episodes"]} episodes; '
        f'{format_summary(report)}',
        flush=True,
    )
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser('./wam generate-demos', __doc__, DEPRECATED_FLAGS)
    add = parser.add_argument
    add('--robot', required=True, choices=robots.list_robots())
    add(
        '--out',
        required=True,
        type=Path,
        metavar='DIR',
        help='new folder; shards become DIR/000, DIR/001, ...',
    )
    add('--episodes', type=_parse_count, default=300, metavar='N')
    add('--seed', type=int, default=0, metavar='S', help='of the first scene; the next has S + 1')
    add(
        '--policy',
        metavar='CHECKPOINT',
        help='a policy controls the arms for a while instead of the perturbations; then the '
        'expert takes over (DAgger)',
    )
    add(
        '--policy-seconds',
        type=_parse_policy_time,
        nargs=2,
        metavar=('MIN', 'MAX'),
        help='seconds the policy controls the arms before the expert intervenes, also after an '
        'instruction change (default: random, never across a change)',
    )
    add(
        '--only-interventions',
        action='store_true',
        help='keep only episodes in which the expert had to intervene',
    )
    add(
        '--families',
        type=_parse_families,
        default=task_families.LEARNED_FAMILIES,
        metavar='LIST',
        help=f'of tasks, in turn (default: {",".join(task_families.LEARNED_FAMILIES)})',
    )
    add(
        '--episodes-per-scene',
        type=_parse_count,
        default=1,
        metavar='N',
        help='of the same task, with other starts and perturbations (default: %(default)s)',
    )
    _add_shard_options(parser)
    for flag, default, meaning in PROBABILITY_FLAGS:
        add(
            flag,
            type=_parse_probability,
            default=default,
            metavar='P',
            help=f'probability {meaning} (default: %(default)s)',
        )
    given = _replace_patience(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse(given)
    for flag in ('policy_seconds', 'only_interventions'):
        if getattr(options, flag) and options.policy is None:
            parser.error(f'{to_flag(flag)} needs --policy CHECKPOINT')
    if options.policy_seconds and options.policy_seconds[0] > options.policy_seconds[1]:
        parser.error('--policy-seconds: want MIN no larger than MAX')
    if options.episodes_per_shard % options.episodes_per_scene:
        parser.error(
            f'--episodes-per-shard {options.episodes_per_shard}: want a multiple of '
            f'--episodes-per-scene {options.episodes_per_scene}'
        )
    return options


def _add_shard_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        '--workers',
        type=_parse_count,
        default=2,
        metavar='N',
        help='parallel processes (default: %(default)s)',
    )
    add(
        '--episodes-per-shard',
        type=int,
        default=250,
        metavar='N',
        help='0: one data set, written by this process (default: %(default)s)',
    )
    add(
        '--resume',
        action='store_true',
        help='keep the complete shards of an interrupted run with the same options',
    )


def _replace_patience(arguments: Sequence[str]) -> list[str]:
    """Replace the deprecated `--patience MIN,MAX`, which combined two of today's options."""
    result, rest = [], iter(arguments)
    for argument in rest:
        name, _, value = argument.partition('=')
        if name != '--patience':
            result.append(argument)
            continue
        sys.stderr.write(
            'warning: --patience is deprecated and will be removed in the next release: '
            'use --policy-seconds MIN MAX and --only-interventions\n'
        )
        value = value or next(rest, '')
        result += ['--policy-seconds', *value.split(','), '--only-interventions']
    return result


def _parse_families(text: str) -> tuple[str, ...]:
    families = tuple(text.split(','))
    unknown = [name for name in families if name not in task_families.LEARNED_FAMILIES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f'no family {", ".join(unknown)}; '
            f'choose from {", ".join(task_families.LEARNED_FAMILIES)}'
        )
    return families


def _parse_count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'want a whole number of at least 1, got {text!r}')
    return int(text)


def _parse_probability(text: str) -> float:
    return _parse_float(text, 1.0, 'a probability')


def _parse_policy_time(text: str) -> float:
    return _parse_float(text, FIRST_POLICY_S[1], 'seconds')


def _parse_float(text: str, maximum: float, quantity: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= maximum:
        raise argparse.ArgumentTypeError(f'want {quantity} from 0 to {maximum:g}, got {text!r}')
    return value


if __name__ == '__main__':
    # unwind: an incomplete shard is removed, and the processes of the other shards must exit
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())

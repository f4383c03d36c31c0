"""`./wam play`: let the expert play in the simulator and write what it saw and did.

The data set has the layout of an exported one, plus what only a simulator knows: which rows are
the expert's own, and where the named object is. It is written in shards, each a whole data set of
its own that can be trained on while the next is played.
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

if __name__ == '__main__' and any(word.startswith('--driver') for word in sys.argv):
    from wam_learning import import_triton_first  # noqa: F401

from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.demonstrations.demo_generator import FIRST_POLICY_S, DemoGenerator, Perturbations
from wam_sim.physics import scene as scenes
from wam_sim.physics import sim_robot as robots
from wam_sim.tasks import task_families

if TYPE_CHECKING:  # torch takes seconds, and players do without
    from wam_learning.demonstrations.dagger_policy import RollInPolicy

REPORT_EVERY_S = 20.0
POLL_S = 0.5
DEFAULT_PERTURBATIONS = Perturbations()


def generate_shard(
    options: argparse.Namespace, folder: Path, first_seed: int, episodes: int
) -> dict[str, Any]:
    """Write one shard, seeds from `first` on; return its account."""
    robot = robots.load(options.robot)
    mischief = Perturbations(
        options.disturbed, options.displaced, options.changed, options.missed, options.patience
    )
    player = DemoGenerator(robot, mischief, load_roll_in_policy(robot, options.driver))
    into = LeRobotWriter(folder, robot.embodiment)
    tried, done, began_s, said_s = Counter(), Counter(), time.monotonic(), time.monotonic()
    try:
        for index in range(episodes):
            seed = first_seed + index
            family = choose_family(robot, options.families, seed)
            if family is None:
                print(
                    f'{folder.name}: the scene of seed {seed} offers none of '
                    f'{", ".join(options.families)}: passed over',
                    flush=True,
                )
                continue
            try:
                for row, labels in player.generate_episode(seed, family):
                    into.add_sample(row, labels)
            except RuntimeError as error:
                player.success = False
                print(f'{folder.name}: seed {seed}: {error}', file=sys.stderr, flush=True)
            tried[family] += 1
            done[family] += player.success
            # what a policy did by itself would only teach to hold still
            if player.success and (player.expert_needed or mischief.policy_seconds is None):
                into.end_episode({'seed': seed, 'family': family, 'success': True})
            else:
                into.discard_episode()
            now_s = time.monotonic()
            if now_s - said_s > REPORT_EVERY_S:
                said_s = now_s
                left_s = (now_s - began_s) / (index + 1) * (episodes - index - 1)
                print(
                    f'{folder.name}: {index + 1} of {episodes} episodes, {left_s:.0f} s to go',
                    flush=True,
                )
        account = {
            'robot': robot.name,
            'contract': robot.embodiment.config_hash,
            'seed': first_seed,
            'tried': dict(tried),
            'succeeded': dict(done),
            **vars(options),
            'out': None,
        }
        into.finalize(account)
    except BaseException:
        into.abort()
        raise
    finally:
        player.close()
    return account


def load_roll_in_policy(robot: robots.SimRobot, checkpoint: str | None) -> 'RollInPolicy | None':
    """Load the policy that is to drive in the disturbances' place; None without one."""
    if checkpoint is None:
        return None
    import torch

    from wam_learning.demonstrations.dagger_policy import RollInPolicy
    from wam_policy.core.robot import checkpoints
    from wam_policy.model.checkpoint import checkpoint_folder
    from wam_policy.model.robot_policy import InferenceOptions, Policy

    torch.set_num_threads(1)
    loaded = checkpoint_folder.load(
        checkpoints.resolve_checkpoint(checkpoint), torch.device('cpu'), torch.float32
    )
    return RollInPolicy(
        robot,
        Policy(loaded, robot.embodiment, InferenceOptions.from_defaults(loaded.spec.inference)),
    )


def choose_family(robot: robots.SimRobot, families: Sequence[str], seed: int) -> str | None:
    """Return the family of an episode: in turn, or the next that its scene offers, or None."""
    scene = scenes.sample_scene(robot, seed)
    for turn in range(len(families)):
        family = families[(seed + turn) % len(families)]
        if task_families.is_available(family, scene, task_families.TRAIN_SPLIT):
            return family
    return None


def plan_shards(options: argparse.Namespace) -> Iterator[tuple[Path, int, int]]:
    """Yield folder, first seed and number of episodes of every shard."""
    for number, start in enumerate(range(0, options.episodes, options.shard)):
        yield (
            options.out / f'{number:03d}',
            options.seed + start,
            min(options.shard, options.episodes - start),
        )


def run_shard_workers(options: argparse.Namespace) -> int:
    """Play all shards, each in a program of its own; return the exit status."""
    waiting, running, failed = list(plan_shards(options)), [], False
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
                    f'{shards_done} of {whole} shards, {spent_s:.0f} s, {left_s:.0f} s to go',
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
    return [
        sys.executable,
        '-m',
        'wam_learning.demonstrations.generate_demos',
        '--robot',
        options.robot,
        '--out',
        str(folder),
        '--seed',
        str(first_seed),
        '--episodes',
        str(episodes),
        '--families',
        ','.join(options.families),
        '--disturbed',
        str(options.disturbed),
        '--displaced',
        str(options.displaced),
        '--changed',
        str(options.changed),
        '--missed',
        str(options.missed),
        '--shard',
        '0',
        *(['--driver', options.driver] if options.driver else []),
        *(['--patience', ','.join(map(str, options.patience))] if options.patience else []),
    ]


def format_summary(report: dict[str, Any]) -> str:
    """Say how often the expert did what was asked, per family."""
    return ', '.join(
        f'{family} {report["succeeded"].get(family, 0)} of {count}'
        for family, count in sorted(report['tried'].items())
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print the account, return the exit status."""
    options = _parse_arguments(arguments)
    try:
        if options.shard:
            if options.out.exists():
                raise FileExistsError(
                    f'{options.out} is there already; name another folder or remove it'
                )
            return run_shard_workers(options)
        account = generate_shard(options, options.out, options.seed, options.episodes)
    except (ValueError, OSError) as error:
        print(f'play: {error}', file=sys.stderr)
        return 1
    info = json.loads((options.out / 'meta' / 'info.json').read_text())
    print(
        f'{options.out}: {info["total_frames"]} rows in {info["total_episodes"]} episodes; '
        f'{format_summary(account)}',
        flush=True,
    )
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='./wam play',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--robot', required=True, choices=robots.list_robots())
    parser.add_argument(
        '--out',
        required=True,
        type=Path,
        metavar='DIR',
        help='new folder; shards become DIR/000, DIR/001, ...',
    )
    parser.add_argument('--episodes', type=_parse_count, default=300, metavar='N')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='S', help='of the first scene; the next has S + 1'
    )
    parser.add_argument(
        '--driver',
        metavar='CHECKPOINT',
        help="a policy drives in the disturbances' place, the expert puts right "
        'what it did (DAgger)',
    )
    parser.add_argument(
        '--patience',
        type=_parse_seconds_range,
        metavar='S,MOST',
        help='it drives for S to MOST s before it is put right, through a change '
        'too, and only episodes in which it must be are kept (default: as '
        'it comes, never through a change, and all of them)',
    )
    parser.add_argument(
        '--families',
        type=_parse_families,
        default=task_families.LEARNED_FAMILIES,
        metavar='A,B',
        help=f'default: {",".join(task_families.LEARNED_FAMILIES)}',
    )
    parser.add_argument(
        '--workers',
        type=_parse_count,
        default=2,
        metavar='N',
        help='programs at a time (default: %(default)s)',
    )
    parser.add_argument(
        '--shard',
        type=int,
        default=250,
        metavar='N',
        help='episodes per shard; 0: one data set, in this program (default: %(default)s)',
    )
    for name, share, text in (
        (
            'disturbed',
            DEFAULT_PERTURBATIONS.perturb_prob,
            'in which something else moves the arms',
        ),
        (
            'displaced',
            DEFAULT_PERTURBATIONS.random_start_prob,
            'that begin with the arms anywhere',
        ),
        (
            'changed',
            DEFAULT_PERTURBATIONS.instruction_change_prob,
            'in which the instruction changes',
        ),
        (
            'missed',
            DEFAULT_PERTURBATIONS.near_miss_prob,
            'of arms anywhere: with one hand low beside an object',
        ),
    ):
        parser.add_argument(
            f'--{name}',
            type=_parse_probability,
            default=share,
            metavar='SHARE',
            help=f'share of episodes {text} (default: %(default)s)',
        )
    chosen = parser.parse_args(arguments)
    if chosen.patience and chosen.driver is None:
        parser.error('--patience: nobody drives: add --driver CHECKPOINT')
    return chosen


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
    return _parse_float(text, 1.0, 'a share')


def _parse_seconds_range(text: str) -> tuple[float, float]:
    least, comma, most = text.partition(',')
    if not comma:
        raise argparse.ArgumentTypeError(f'want two numbers, as in 2.5,6, got {text!r}')
    longest_s = _parse_float(most, FIRST_POLICY_S[1], 'seconds')
    return _parse_float(least, longest_s, 'seconds'), longest_s


def _parse_float(text: str, maximum: float, quantity: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= maximum:
        raise argparse.ArgumentTypeError(f'want {quantity} from 0 to {maximum:g}, got {text!r}')
    return value


if __name__ == '__main__':
    # unwind: half a shard is nothing, and the players of the others must end too
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())

"""`./wam recipe`: the models that ship, from nothing, by the commands that users type.

Every step is a command of its own and writes a folder of its own. Steps whose folder is complete
are passed over, an interrupted training goes on, interrupted play begins again: give the same
command again.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

GENERATE_MODULE, TRAIN_MODULE = (
    'wam_learning.demonstrations.generate_demos',
    'wam_learning.training.train',
)
DONE_SUFFIX = '.done'  # beside a step's folder: it came to its end


@dataclass(frozen=True, slots=True)
class ReproductionStep:
    """State one command; what it writes is named like the step."""

    name: str
    module: str
    arguments: tuple[str, ...]

    def done_marker(self, out: Path) -> Path:
        return out / (self.name + DONE_SUFFIX)


def list_steps(out: Path, scale: float, workers: int) -> Iterator[ReproductionStep]:
    """Yield the recipe; `share` of the episodes and minutes, 1 for all of them."""

    def play(name: str, robot: str, episodes: int, seed: int, *more: str) -> ReproductionStep:
        count = max(8, round(episodes * scale))
        return ReproductionStep(
            name,
            GENERATE_MODULE,
            (
                '--robot',
                robot,
                '--episodes',
                str(count),
                '--seed',
                str(seed),
                '--shard',
                str(min(200, -(-count // 2))),
                '--workers',
                str(workers),
                *more,
                '--out',
                str(out / name),
            ),
        )

    def train(
        name: str,
        data: Sequence[str],
        stage: str,
        minutes: float,
        seed: int,
        init: str = '',
        *more: str,
    ) -> ReproductionStep:
        flag = '--autoencoder-minutes' if stage == 'autoencoder' else '--minutes'
        begun = ('--init', str(out / init)) if init else ()
        return ReproductionStep(
            name,
            TRAIN_MODULE,
            (
                *(str(out / each) for each in data),
                '--out',
                str(out / name),
                *begun,
                '--stage',
                stage,
                flag,
                f'{minutes * scale:g}',
                '--seed',
                str(seed),
                *more,
            ),
        )

    yield play('play', 'agibot_g1', 3200, 2_000_000, '--changed', '0.3')
    yield train('ae', ['play'], 'autoencoder', 6, 1)
    yield train('clone', ['play'], 'clone', 6, 1, 'ae')
    yield train('joint', ['play'], 'joint', 55, 2, 'clone')
    # the model drives, the expert puts right what it did; pushes are the hardest
    often = '--families', 'push,touch,lift,push,recall'
    yield play('more', 'agibot_g1', 3200, 3_000_000, '--changed', '0.5', '--missed', '0.5', *often)
    yield play(
        'driven',
        'agibot_g1',
        1600,
        4_000_000,
        '--changed',
        '0.7',
        '--disturbed',
        '1',
        '--missed',
        '0.5',
        *often,
        '--driver',
        str(out / 'joint'),
    )
    # many marks: a few hundred scenes are learned by heart instead of remembered
    yield play(
        'marks',
        'agibot_g1',
        1200,
        4_500_000,
        '--families',
        'recall',
        '--disturbed',
        '0.7',
        '--missed',
        '0.4',
    )
    yield train(
        'able', ['more', 'driven', 'marks'], 'joint', 46, 3, 'joint', '--text-dropout', '0.05'
    )
    # by then it does most by itself: from changes of words on, only what it cannot
    yield play(
        'late',
        'agibot_g1',
        1200,
        4_800_000,
        '--changed',
        '0.75',
        '--disturbed',
        '1',
        '--missed',
        '0.5',
        '--displaced',
        '0.35',
        '--patience',
        '0.4,3.5',
        '--families',
        'push,lift,push,lift,touch',
        '--driver',
        str(out / 'able'),
    )
    yield train(
        'mini',
        ['more', 'driven', 'marks', 'late'],
        'joint',
        46,
        6,
        'able',
        '--text-dropout',
        '0.05',
        '--keep',
        '4',
    )
    yield play('play_yam', 'yam', 440, 5_000_000, '--changed', '0.2', '--disturbed', '0.5')
    yield train('mini_yam', ['play_yam'], 'joint', 18, 4, 'mini')
    # not shipped: one step learned with noisy video beside it, to compare with
    yield train('flash', ['more', 'driven', 'marks', 'late'], 'flash', 12, 5, 'mini')


def run_steps(options: argparse.Namespace) -> int:
    """Run what is not done yet; return the exit status of the first step that fails, else 0."""
    options.out.mkdir(parents=True, exist_ok=True)
    whole = list(list_steps(options.out, options.share, options.workers))
    for number, step in enumerate(whole, 1):
        if step.done_marker(options.out).exists():
            print(f'{number}/{len(whole)} {step.name}: done before', flush=True)
            continue
        command = [sys.executable, '-m', step.module, *step.arguments]
        print(f'{number}/{len(whole)} {step.name}: {shlex.join(command[2:])}', flush=True)
        if options.show:
            continue
        if step.module == GENERATE_MODULE:  # half of it: play has nothing to go on from
            shutil.rmtree(options.out / step.name, ignore_errors=True)
        began_s = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        if status:
            print(
                f'recipe: {step.name} ended with {status}; the same command goes on from here',
                file=sys.stderr,
            )
            return status
        step.done_marker(options.out).touch()
        print(f'{step.name}: {time.monotonic() - began_s:.0f} s', flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='./wam recipe', description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out',
        required=True,
        type=Path,
        metavar='DIR',
        help='folder for data sets and models; DIR/mini is the model',
    )
    parser.add_argument(
        '--share',
        type=float,
        default=1.0,
        metavar='SHARE',
        help='of the episodes and minutes, to see it work (default: all)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='programs that play at the same time (default: %(default)s)',
    )
    parser.add_argument('--show', action='store_true', help='print the commands, run nothing')
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f'--share: want (0, 1], got {options.share:g}')
    if options.workers < 1:
        parser.error(f'--workers: want 1 or more, got {options.workers}')
    try:
        return run_steps(options)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f'recipe: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())

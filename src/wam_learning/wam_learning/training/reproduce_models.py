"""`./wam reproduce`: train the shipped models again from scratch, with the public commands.

Every step runs one command and writes one folder. Complete folders are skipped, an interrupted
training is resumed, an interrupted generation starts again: repeat the same command to continue.
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

from wam_policy.deprecated_options import replace_deprecated

GENERATE_MODULE = 'wam_learning.demonstrations.generate_demos'
TRAIN_MODULE = 'wam_learning.training.train'
DONE_SUFFIX = '.done'  # of a marker next to a step's folder: the step is complete


@dataclass(frozen=True, slots=True)
class ReproductionStep:
    """Hold one command; its output folder has the name of the step."""

    name: str
    module: str
    arguments: tuple[str, ...]

    def done_marker(self, out: Path) -> Path:
        return out / (self.name + DONE_SUFFIX)


@dataclass(frozen=True, slots=True)
class Demos:
    """Describe a data set to generate."""

    name: str
    robot: str
    episodes: int
    seed: int
    options: str
    policy: str = ''  # name of the step whose model controls the arms for a while

    def make_step(self, out: Path, scale: float, workers: int) -> ReproductionStep:
        count = max(8, round(self.episodes * scale))
        arguments = [f'--robot={self.robot}', f'--episodes={count}', f'--seed={self.seed}']
        arguments += [f'--episodes-per-shard={min(200, -(-count // 2))}', f'--workers={workers}']
        arguments += self.options.split()
        if self.policy:
            arguments += ['--policy', str(out / self.policy)]
        arguments += ['--out', str(out / self.name)]
        return ReproductionStep(self.name, GENERATE_MODULE, tuple(arguments))


@dataclass(frozen=True, slots=True)
class Training:
    """Describe a model to train."""

    name: str
    data: str  # names of steps, separated by spaces
    stage: str
    minutes: float
    seed: int
    init: str = ''  # name of the step to start from
    options: str = ''

    def make_step(self, out: Path, scale: float, workers: int) -> ReproductionStep:
        minutes = '--autoencoder-minutes' if self.stage == 'autoencoder' else '--minutes'
        arguments = [*(str(out / name) for name in self.data.split())]
        arguments += ['--out', str(out / self.name)]
        if self.init:
            arguments += ['--init', str(out / self.init)]
        arguments += [f'--stage={self.stage}', f'{minutes}={self.minutes * scale:g}']
        arguments += [f'--seed={self.seed}', *self.options.split()]
        return ReproductionStep(self.name, TRAIN_MODULE, tuple(arguments))


HARD_FIRST = '--families push,touch,lift,push,recall'  # pushes are the hardest
STEPS: tuple[Demos | Training, ...] = (
    Demos('play', 'agibot_g1', 3200, 2_000_000, '--instruction-change-prob 0.3'),
    Training('ae', 'play', 'autoencoder', 6, 1),
    Training('clone', 'play', 'bc', 6, 1, 'ae'),
    Training('joint', 'play', 'joint', 55, 2, 'clone'),
    Demos(
        'more',
        'agibot_g1',
        3200,
        3_000_000,
        f'--instruction-change-prob 0.5 --near-miss-prob 0.5 {HARD_FIRST}',
    ),
    # DAgger: the policy acts, the expert corrects
    Demos(
        'driven',
        'agibot_g1',
        1600,
        4_000_000,
        f'--instruction-change-prob 0.7 --perturb-prob 1 --near-miss-prob 0.5 {HARD_FIRST}',
        'joint',
    ),
    # with a few hundred scenes the marks are memorized per scene instead of remembered
    Demos(
        'marks',
        'agibot_g1',
        1200,
        4_500_000,
        '--families recall --perturb-prob 0.7 --near-miss-prob 0.4',
    ),
    Training('able', 'more driven marks', 'joint', 46, 3, 'joint', '--text-dropout 0.05'),
    # this policy succeeds mostly: from instruction changes on, keep only its failures
    Demos(
        'late',
        'agibot_g1',
        1200,
        4_800_000,
        '--instruction-change-prob 0.75 --perturb-prob 1 --near-miss-prob 0.5 '
        '--random-start-prob 0.35 --policy-seconds 0.4 3.5 --only-interventions '
        '--families push,lift,push,lift,touch',
        'able',
    ),
    Training(
        'mini',
        'more driven marks late',
        'joint',
        46,
        6,
        'able',
        '--text-dropout 0.05 --num-snapshots 4',
    ),
    Demos('play_yam', 'yam', 440, 5_000_000, '--instruction-change-prob 0.2 --perturb-prob 0.5'),
    Training('mini_yam', 'play_yam', 'joint', 18, 4, 'mini'),
    # not shipped: one-step inference trained with decoupled noise, for comparison
    Training('flash', 'more driven marks late', 'flash', 12, 5, 'mini'),
)


def list_steps(out: Path, scale: float, workers: int) -> Iterator[ReproductionStep]:
    """Yield all steps; `scale` multiplies episodes and minutes, 1 reproduces the models."""
    return (step.make_step(out, scale, workers) for step in STEPS)


def run_steps(options: argparse.Namespace) -> int:
    """Run the incomplete steps; return the exit status of the first one that fails, else 0."""
    options.out.mkdir(parents=True, exist_ok=True)
    steps = list(list_steps(options.out, options.scale, options.workers))
    for number, step in enumerate(steps, 1):
        if step.done_marker(options.out).exists():
            print(f'{number}/{len(steps)} {step.name}: already complete', flush=True)
            continue
        command = [sys.executable, '-m', step.module, *step.arguments]
        print(f'{number}/{len(steps)} {step.name}: {shlex.join(command[2:])}', flush=True)
        if options.dry_run:
            continue
        if step.module == GENERATE_MODULE:  # a partial data set cannot be continued
            shutil.rmtree(options.out / step.name, ignore_errors=True)
        began_s = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        if status:
            print(
                f'reproduce: {step.name} exited with {status}; repeat the command to continue',
                file=sys.stderr,
            )
            return status
        step.done_marker(options.out).touch()
        print(f'{step.name}: {time.monotonic() - began_s:.0f} s', flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='./wam reproduce', description=(__doc__ or '').splitlines()[0]
    )
    parser.add_argument(
        '--out',
        required=True,
        type=Path,
        metavar='DIR',
        help='folder for data sets and models; DIR/mini is the model',
    )
    parser.add_argument(
        '--scale',
        type=float,
        default=1.0,
        metavar='FRACTION',
        help='of the episodes and minutes, for a quick trial run (default: all)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='processes that generate demonstrations in parallel (default: %(default)s)',
    )
    parser.add_argument('--dry-run', action='store_true', help='print the commands, run nothing')
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(
        replace_deprecated(given, {'--share': '--scale', '--show': '--dry-run'})
    )
    if not 0 < options.scale <= 1:
        parser.error(f'--scale: want (0, 1], got {options.scale:g}')
    if options.workers < 1:
        parser.error(f'--workers: want 1 or more, got {options.workers}')
    try:
        return run_steps(options)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f'reproduce: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())

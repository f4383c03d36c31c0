"""`./wam recipe`: train the shipped models again from scratch, with eight public commands.

Every step runs one command and writes one folder; its output is in FOLDER.log. A step starts when
the steps it reads are complete and enough cores are free. Repeat the command to continue: complete
steps are skipped, an interrupted training or generation continues where it was.
"""

import argparse
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wam_policy.command_line import CommandParser

GENERATE_MODULE = 'wam_learning.demonstrations.generate_demos'
TRAIN_MODULE = 'wam_learning.training.train'
DONE_SUFFIX, LOG_SUFFIX = '.done', '.log'  # of files next to a step's folder
POLL_S, REPORT_EVERY_S = 0.5, 300.0
FOLLOW_VIDEO = '--clean-video 0.25 --text-dropout 0.15'
DELAYS = '--committed-rows 4 --late-rows 18'  # for answers that are late by up to 0.6 s
SHARD_EPISODES = 100  # an interruption loses at most as many per process


@dataclass(frozen=True, slots=True)
class Step:
    """Hold one command; its output folder has the name of the step.

    `inputs` are the names of the steps it reads, `cores` what it keeps busy, of two.
    """

    name: str
    inputs: tuple[str, ...]
    cores: int
    module: str
    arguments: tuple[str, ...]

    def make_command(self, out: Path) -> list[str]:
        """Return the arguments of the Python interpreter; folders are relative to `out`."""
        given = (value.replace('{out}', str(out)) for value in self.arguments)
        return ['-m', self.module, *given, '--out', str(out / self.name)]

    def is_done(self, out: Path) -> bool:
        return (out / (self.name + DONE_SUFFIX)).exists()


def _generate(
    name: str, robot: str, episodes: int, seed: int, options: str, *, cores: int, policy: str = ''
) -> Step:
    """Return the step of a data set; the model of step `policy` controls the arms for a while."""
    shard = min(SHARD_EPISODES, -(-episodes // cores))
    arguments = [f'--robot={robot}', f'--episodes={episodes}', f'--seed={seed}', '--resume']
    arguments += [f'--episodes-per-shard={shard}', f'--workers={cores}', *options.split()]
    if policy:
        arguments += ['--policy', f'{{out}}/{policy}']
    return Step(name, (policy,) if policy else (), cores, GENERATE_MODULE, tuple(arguments))


def _train(
    name: str, data: str, stage: str, steps: int, seed: int, options: str = '', *, init: str = ''
) -> Step:
    """Return the step of a model, trained on the data of steps `data` from the model `init`."""
    names = tuple(data.split())
    budget = '--autoencoder-steps' if stage == 'autoencoder' else '--steps'
    arguments = [*(f'{{out}}/{folder}' for folder in names)]
    if init:
        arguments += ['--init', f'{{out}}/{init}']
    arguments += [f'--stage={stage}', f'{budget}={steps}', f'--seed={seed}', *options.split()]
    inputs = (*names, init) if init else names
    return Step(name, inputs, 1, TRAIN_MODULE, tuple(arguments))


def list_steps(scale: float) -> tuple[Step, ...]:
    """Return all steps; `scale` multiplies episodes and steps, 1 makes the shipped models."""

    def count(full: int, least: int = 8) -> int:
        return max(least, round(full * scale))

    hard_first = '--families push,touch,lift,push,recall'  # pushes are the hardest
    return (
        _generate(
            'demos',
            'agibot_g1',
            count(4800),
            2_000_000,
            f'--instruction-change-prob 0.4 --near-miss-prob 0.4 {hard_first}',
            cores=2,
        ),
        _train('autoencoder', 'demos', 'autoencoder', count(3000), 1),
        _train('start', 'demos', 'bc', count(1800), 1, init='autoencoder'),
        _train('joint', 'demos', 'joint', count(5000), 2, FOLLOW_VIDEO, init='start'),
        # on the core that the training of `joint` leaves free
        _generate(
            'demos_yam',
            'yam',
            count(1600),
            5_000_000,
            '--instruction-change-prob 0.3 --perturb-prob 0.5 --near-miss-prob 0.3',
            cores=1,
        ),
        # DAgger: the policy acts, the expert corrects
        _generate(
            'driven',
            'agibot_g1',
            count(1500),
            4_000_000,
            f'--instruction-change-prob 0.7 --perturb-prob 1 --near-miss-prob 0.5 {hard_first}',
            cores=2,
            policy='joint',
        ),
        _train(
            'mini',
            'demos driven',
            'joint',
            count(5000),
            3,
            f'{FOLLOW_VIDEO} {DELAYS}',
            init='joint',
        ),
        _train(
            'mini_yam',
            'demos_yam',
            'joint',
            count(4000),
            4,
            f'{FOLLOW_VIDEO} {DELAYS}',
            init='joint',
        ),
    )


class RecipeFailed(RuntimeError):
    """A step's command failed; `status` is its exit status."""

    def __init__(self, step: Step, status: int, log: Path) -> None:
        super().__init__(
            f'{step.name} exited with {status}, see {log}; repeat the command to continue'
        )
        self.status = status


def run_steps(steps: Sequence[Step], out: Path, cores: int) -> None:
    """Run the incomplete steps, side by side where `cores` allow; raise RecipeFailed.

    A step that keeps more cores busy than there are runs alone. When a step fails, or on Ctrl-C,
    the others are terminated: each continues at the next call.
    """
    running: dict[str, tuple[Step, subprocess.Popen[bytes], float]] = {}
    complete = {step.name for step in steps if step.is_done(out)}
    for name in sorted(complete):
        print(f'{name}: already complete', flush=True)
    reported_s = time.monotonic()
    try:
        while len(complete) < len(steps):
            for step in steps:
                free = cores - sum(other.cores for other, _, _ in running.values())
                can_run = step.cores <= free or not running
                is_waiting = step.name not in complete and step.name not in running
                if is_waiting and can_run and complete.issuperset(step.inputs):
                    running[step.name] = step, _start(step, out), time.monotonic()
            time.sleep(POLL_S)
            for step, process, began_s in list(running.values()):
                before_s = _get_children_cpu_s()
                if (status := process.poll()) is None:
                    continue
                used_s = _get_children_cpu_s() - before_s  # of this child only
                del running[step.name]
                if status:
                    raise RecipeFailed(step, status, out / (step.name + LOG_SUFFIX))
                (out / (step.name + DONE_SUFFIX)).touch()
                complete.add(step.name)
                print(
                    f'{step.name}: complete, {time.monotonic() - began_s:.0f} s, '
                    f'{used_s:.0f} s of processor time',
                    flush=True,
                )
            if time.monotonic() - reported_s > REPORT_EVERY_S:
                reported_s = time.monotonic()
                for name in running:
                    print(f'{name}: {_read_last_line(out / (name + LOG_SUFFIX))}', flush=True)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def _get_children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _start(step: Step, out: Path) -> subprocess.Popen[bytes]:
    command = step.make_command(out)
    print(f'{step.name}: {shlex.join(command[1:])}', flush=True)
    with open(out / (step.name + LOG_SUFFIX), 'ab') as log:
        return subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)


def _read_last_line(path: Path) -> str:
    return path.read_text(errors='replace').rstrip().rpartition('\n')[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, the status of the step that failed, or 130 after Ctrl-C."""
    parser = CommandParser(
        './wam recipe',
        __doc__,
        {'--share': '--scale', '--show': '--dry-run'},
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        '--out',
        required=True,
        type=Path,
        metavar='DIR',
        help='folder of data sets and models; DIR/mini and DIR/mini_yam are the models',
    )
    parser.add_argument(
        '--scale',
        type=float,
        default=1.0,
        metavar='FRACTION',
        help='of episodes and steps, for a quick trial run (default: all)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='cores to keep busy (default: %(default)s)',
    )
    parser.add_argument('--dry-run', action='store_true', help='print the commands, run nothing')
    options = parser.parse(arguments)
    if not 0 < options.scale <= 1:
        parser.error(f'--scale: want (0, 1], got {options.scale:g}')
    parser.require_positive(options, 'workers')
    steps = list_steps(options.scale)
    if options.dry_run:
        for step in steps:
            print(f'{step.name}: {shlex.join(step.make_command(options.out)[1:])}')
        return 0
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        run_steps(steps, options.out, options.workers)
    except KeyboardInterrupt:
        return 130
    except RecipeFailed as error:
        print(f'recipe: {error}', file=sys.stderr)
        return error.status
    except OSError as error:
        print(f'recipe: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

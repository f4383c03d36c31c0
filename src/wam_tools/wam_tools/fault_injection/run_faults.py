"""Inject faults into a running stack and say what the robot does about each.

Exit status: 0 if every row is in order, 1 if not, 2 for wrong arguments, 130 if interrupted.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_tools import demo_report
from wam_tools.fault_injection import (
    chunk_faults,
    clock_faults,
    fault_runner,
    instruction_faults,
    network_faults,
    process_faults,
    sensor_faults,
    storage_faults,
)
from wam_tools.fault_injection.fault import Bench, Fault
from wam_tools.fault_injection.fault_runner import Row
from wam_tools.fault_injection.stack_client import TOY, Needs, Stack
from wam_tools.fault_injection.stack_observer import NoStack, Watch, until

DISCOVERY_S = 1.0
LEASE_S = 12.0  # for ten a process that was killed is believed to live


def table(robot: Embodiment) -> tuple[Fault, ...]:
    """Return every single fault of a robot's stack, family by family."""
    return (
        *process_faults.FAULTS,
        *sensor_faults.cameras(robot),
        *sensor_faults.FAULTS,
        *chunk_faults.FAULTS,
        *instruction_faults.FAULTS,
        *network_faults.faults(robot),
        *storage_faults.FAULTS,
        *clock_faults.FAULTS,
    )


def pairs(faults: Sequence[Fault], count: int, seed: int) -> list[Fault]:
    """Return random pairs of faults that have no part of the stack in common."""
    fitting = [
        (a, b)
        for a, b in itertools.combinations(faults, 2)
        if not set(a.touches) & set(b.touches) and a.needs is b.needs
    ]
    dice = random.Random(seed)  # noqa: S311 - no secret
    return [both(a, b) for a, b in dice.sample(fitting, min(count, len(fitting)))]


def both(a: Fault, b: Fault) -> Fault:
    """Return two faults as one: both are injected, either may be what is said."""

    def inject(bench: Bench) -> None:
        a.inject(bench)
        b.inject(bench)

    def remove(bench: Bench) -> None:
        try:
            b.remove(bench)
        finally:
            a.remove(bench)

    def prepare(bench: Bench) -> None:
        a.prepare(bench)
        b.prepare(bench)

    said = [fault.detect for fault in (a, b) if fault.detect]
    rests = {a.rests, b.rests}
    return Fault(
        f'{a.name} + {b.name}',
        (*a.touches, *b.touches),
        inject,
        remove,
        '|'.join(f'({pattern})' for pattern in said) or None,
        True if True in rests else None if None in rests else False,
        max(a.within_s, b.within_s),
        max(a.lasts_s, b.lasts_s),
        check=lambda bench: a.check(bench) or b.check(bench),
        prepare=prepare,
        latches=a.latches or b.latches,
        needs=a.needs,
        note='; '.join(filter(None, (a.note, b.note))),
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog='wam faults', description='Inject faults into a running stack.'
    )
    parser.add_argument('--robot', choices=('agibot_g1', 'yam'), default='agibot_g1')
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        default=[],
        help='faults to inject, * for any text (--list names all)',
    )
    parser.add_argument(
        '--pairs',
        type=int,
        default=0,
        metavar='N',
        help='random pairs of faults after the single ones',
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the pairs')
    parser.add_argument(
        '--checkpoint',
        default=TOY,
        metavar='DIR',
        help='weights: a folder, or preset:NAME (default: a toy without torch)',
    )
    parser.add_argument('--report', type=Path, metavar='FILE', help='write all rows')
    parser.add_argument('--keep', action='store_true', help='keep logs and episodes')
    parser.add_argument('--list', action='store_true', help='name the faults and end')
    chosen = parser.parse_args(given)
    if chosen.report is not None and not chosen.report.absolute().parent.is_dir():
        parser.error(f'--report: there is no folder {chosen.report.absolute().parent}')
    every = table(embodiment.load(chosen.robot))
    for pattern in chosen.only:
        if not any(fnmatch(fault.name, pattern) for fault in every):
            parser.error(f'--only: no fault is called {pattern!r}; --list names all')
    return chosen


def wanted(chosen: argparse.Namespace, robot: Embodiment) -> list[Fault]:
    """Return the faults to inject, those of one kind of stack together."""
    every = table(robot)
    single = [
        fault
        for fault in every
        if not chosen.only or any(fnmatch(fault.name, name) for name in chosen.only)
    ]
    return in_turn((*single, *pairs(every, chosen.pairs, chosen.seed)))


def in_turn(faults: Sequence[Fault]) -> list[Fault]:
    """Return faults that need the same kind of stack one after another."""
    return sorted(faults, key=lambda fault: list(Needs).index(fault.needs))


def injected(
    faults: Sequence[Fault],
    robot: Embodiment,
    folder: Path,
    domain: int,
    checkpoint: str = TOY,
    tell: Callable[[Row], None] = lambda _: None,
) -> list[Row]:
    """Inject fault by fault and return their rows; a stack lasts until a fault has broken it.

    `tell` gets every row as it is there, and again where the ending of the stack turns it red.
    """
    rows: list[Row] = []
    while left := list(faults[len(rows) :]):
        group = list(itertools.takewhile(lambda fault: fault.needs is left[0].needs, left))
        before = len(rows)
        inside = folder / f'stack-{before}'
        inside.mkdir()
        with Standing(robot, inside, domain, checkpoint, group[0].needs) as bench:
            try:
                for fault in group:
                    rows.append(fault_runner.run(fault, bench))
                    tell(rows[-1])
            except NoStack as error:
                if len(rows) == before:  # not even the first: a fresh one is no better
                    raise
                print(f'a fresh stack: {error}', flush=True)
        if len(rows) > before and bench.leavings:
            rows[-1] = replace(
                rows[-1], ok=False, note='; '.join(filter(None, (rows[-1].note, *bench.leavings)))
            )
            tell(rows[-1])
    return rows


class Standing:
    """Bring a stack up for a while: `with Standing(...) as bench`."""

    def __init__(
        self, robot: Embodiment, folder: Path, domain: int, checkpoint: str, needs: Needs
    ) -> None:
        self._given = robot, folder, domain, checkpoint, needs

    def __enter__(self) -> Bench:
        robot, folder, domain, checkpoint, needs = self._given
        self._watch = Watch(robot, domain)
        try:
            time.sleep(DISCOVERY_S)
            if not until(lambda: not self._watch.others(), LEASE_S):
                raise NoStack(f'another stack runs in ROS domain {domain}')
            self._bench = Bench(
                robot,
                Stack(
                    robot, self._watch, folder, domain=domain, checkpoint=checkpoint, needs=needs
                ),
                self._watch,
            )
        except BaseException:
            self._watch.close()
            raise
        return self._bench

    def __exit__(self, *exception: object) -> None:
        try:
            self._bench.leavings = self._bench.stack.close()
        finally:
            self._watch.close()


def told(row: Row, rows: list[Row], chosen: argparse.Namespace, begun_s: float) -> None:
    """Take a row, or one that takes the place of the last; a kill loses none of them."""
    rows[:] = [*(each for each in rows if each.fault != row.fault), row]
    print(line(row), flush=True)
    if chosen.report is None:
        return
    part = chosen.report.with_name(chosen.report.name + '.part')
    part.write_text(
        json.dumps(
            {
                'robot': chosen.robot,
                'checkpoint': chosen.checkpoint,
                'seed': chosen.seed,
                'duration_s': round(time.monotonic() - begun_s, 1),
                **demo_report.taken(),
                'rows': len(rows),
                'red': [each.fault for each in rows if not each.ok],
                'faults': [asdict(each) for each in rows],
            },
            indent=2,
        )
        + '\n'
    )
    part.replace(chosen.report)


def line(row: Row) -> str:
    """Return a row for a terminal."""

    def ms(value: float | None) -> str:
        return '      -' if value is None else f'{value:7.0f}'

    return (
        f'{"ok  " if row.ok else "FAIL"} {row.fault:<52} detected {ms(row.detected_ms)} ms  '
        f'rest {ms(row.rest_ms)} ms  back {ms(row.recovery_ms)} ms  '
        f'step {row.max_step_rad:.4f} rad{"" if row.ok else "  " + row.note}'
    )


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    robot = embodiment.load(chosen.robot)
    if chosen.list:
        print('\n'.join(fault.name for fault in table(robot)))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix='wam-faults-'))
    domain, begun_s = int(os.environ.get('ROS_DOMAIN_ID', '0')), time.monotonic()
    rows: list[Row] = []
    try:
        injected(
            wanted(chosen, robot),
            robot,
            folder,
            domain,
            chosen.checkpoint,
            lambda row: told(row, rows, chosen, begun_s),
        )
    except NoStack as error:
        print(f'faults: {error}\nlogs: {folder}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    red = [row.fault for row in rows if not row.ok]
    print(
        f'{len(rows) - len(red)} of {len(rows)} in order, '
        f'{time.monotonic() - begun_s:.0f} s' + (f'; logs: {folder}' if red else '')
    )
    if not red and not chosen.keep:
        shutil.rmtree(folder)
    return 1 if red else 0


if __name__ == '__main__':
    sys.exit(main())

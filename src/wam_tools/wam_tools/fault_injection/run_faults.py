"""Inject faults into a running stack and evaluate the reaction to each.

Exit status: 0 if every row passes, 1 if not, 2 for invalid arguments, 130 if interrupted.
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

from wam_policy.command_line import replace_deprecated
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_tools import demo_report
from wam_tools.fault_injection import fault_runner
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.fault_runner import FaultResult
from wam_tools.fault_injection.faults import (
    arm_faults,
    check_faults,
    chunk_faults,
    command_faults,
    instruction_faults,
    network_faults,
    process_faults,
    relay_faults,
    request_faults,
    storage_faults,
)
from wam_tools.fault_injection.stack_client import STUB_CHECKPOINT, StackFeature, StackProcesses
from wam_tools.fault_injection.stack_observer import StackClient, poll_until
from wam_tools.stack_launch import StackLaunchError

DEPRECATED_OPTIONS = {'--only': '--filter', '--keep': '--keep-logs'}
DISCOVERY_S = 1.0
STALE_NODE_TIMEOUT_S = 12.0  # DDS lists a killed process for 10 s


def make_all_faults(robot: Embodiment) -> tuple[Fault, ...]:
    """Return all faults of a robot's stack, by family."""
    return (
        *process_faults.FAULTS,
        *request_faults.FAULTS,
        *relay_faults.make_camera_faults(robot),
        *relay_faults.make_relay_faults('joints'),
        *chunk_faults.FAULTS,
        *instruction_faults.FAULTS,
        *command_faults.FAULTS,
        *network_faults.make_network_faults(robot),
        *storage_faults.FAULTS,
        *relay_faults.make_relay_faults('clock'),
        *check_faults.FAULTS,
        *(arm_faults.FAULTS if robot.name == arm_faults.ROBOT else ()),
    )


def sample_fault_pairs(faults: Sequence[Fault], count: int, seed: int) -> list[Fault]:
    """Return random pairs of faults that affect different parts of the stack."""
    fitting = [
        (a, b)
        for a, b in itertools.combinations(faults, 2)
        if not set(a.components) & set(b.components)
        and a.required_feature is b.required_feature
        and a.run_alone is b.run_alone is None
    ]
    rng = random.Random(seed)  # noqa: S311 - no secret
    return [combine_faults(a, b) for a, b in rng.sample(fitting, min(count, len(fitting)))]


def combine_faults(a: Fault, b: Fault) -> Fault:
    """Return two faults as one: both are injected, a report of either counts."""

    def inject(bench: FaultTestBench) -> None:
        a.inject(bench)
        b.inject(bench)

    def prepare(bench: FaultTestBench) -> None:
        a.prepare(bench)
        b.prepare(bench)

    patterns = [fault.detect for fault in (a, b) if fault.detect]
    rests = {a.rests, b.rests}
    return Fault(
        f'{a.name} + {b.name}',
        (*a.components, *b.components),
        inject,
        '|'.join(f'({pattern})' for pattern in patterns) or None,
        True if True in rests else None if None in rests else False,
        max(a.within_s, b.within_s),
        max(a.duration_s, b.duration_s),
        check=lambda bench: a.check(bench) or b.check(bench),
        prepare=prepare,
        latches=a.latches or b.latches,
        required_feature=a.required_feature,
        note='; '.join(filter(None, (a.note, b.note))),
    )


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = argparse.ArgumentParser(
        prog='wam faults', description='Inject faults into a running stack.'
    )
    parser.add_argument('--robot', choices=embodiment.list_robots(), default='agibot_g1')
    parser.add_argument(
        '--filter',
        nargs='+',
        metavar='NAME',
        default=[],
        help='faults to inject, with * for any text (--list prints all names)',
    )
    parser.add_argument(
        '--pairs',
        type=int,
        default=0,
        metavar='N',
        help='number of random pairs of faults after the single ones',
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the pairs')
    parser.add_argument(
        '--checkpoint',
        default=STUB_CHECKPOINT,
        metavar='DIR',
        help='weights: a folder, or preset:NAME (default: a stub without torch)',
    )
    parser.add_argument('--report', type=Path, metavar='FILE', help='write all rows as JSON')
    parser.add_argument('--keep-logs', action='store_true', help='keep logs and episodes')
    parser.add_argument('--list', action='store_true', help='print the names of the faults')
    options = parser.parse_args(
        replace_deprecated(sys.argv[1:] if argv is None else argv, DEPRECATED_OPTIONS)
    )
    if options.report is not None and not options.report.absolute().parent.is_dir():
        parser.error(f'--report: no folder {options.report.absolute().parent}')
    every = make_all_faults(embodiment.load_embodiment(options.robot))
    for pattern in options.filter:
        if not any(fnmatch(fault.name, pattern) for fault in every):
            parser.error(f'--filter: no fault matches {pattern!r}; --list prints all names')
    return options


def select_faults(options: argparse.Namespace, robot: Embodiment) -> list[Fault]:
    """Return the faults to inject, grouped by the required feature of the stack."""
    every = make_all_faults(robot)
    single = [
        fault
        for fault in every
        if not options.filter or any(fnmatch(fault.name, name) for name in options.filter)
    ]
    return sort_by_feature((*single, *sample_fault_pairs(every, options.pairs, options.seed)))


def sort_by_feature(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults sorted by the required feature of the stack."""
    return sorted(faults, key=lambda fault: list(StackFeature).index(fault.required_feature))


def run_faults(
    faults: Sequence[Fault],
    robot: Embodiment,
    folder: Path,
    domain_id: int,
    checkpoint: str = STUB_CHECKPOINT,
    on_result: Callable[[FaultResult], None] = lambda _: None,
) -> list[FaultResult]:
    """Inject all faults and return their rows; start a new stack only after an error.

    A fault that cannot be judged on a new stack either is a row that fails and says so; the second
    one in succession raises StackLaunchError. `on_result` receives every row, and again a row that
    fails because of unclean exits.
    """
    rows: list[FaultResult] = []
    while left := list(faults[len(rows) :]):
        group = list(
            itertools.takewhile(
                lambda fault: fault.required_feature is left[0].required_feature, left
            )
        )
        before = len(rows)
        inside = folder / f'stack-{before}'
        inside.mkdir()
        if group[0].run_alone is not None:
            rows.append(group[0].run_alone(group[0], inside, domain_id))
            on_result(rows[-1])
            continue
        with RunningTestBench(
            robot, inside, domain_id, checkpoint, group[0].required_feature
        ) as bench:
            try:
                for fault in group:
                    rows.append(fault_runner.run_fault(fault, bench))
                    on_result(rows[-1])
            except StackLaunchError as error:
                if len(rows) == before:  # on a new stack: another one does not help this fault
                    if rows and rows[-1].note.startswith(fault_runner.NOT_JUDGED):
                        raise
                    rows.append(fault_runner.make_unjudged_result(group[0], str(error)))
                    on_result(rows[-1])
                print(f'starting a new stack: {error}', flush=True)
        if len(rows) > before and bench.unclean_exits:
            rows[-1] = replace(
                rows[-1],
                ok=False,
                note='; '.join(filter(None, (rows[-1].note, *bench.unclean_exits))),
            )
            on_result(rows[-1])
    return rows


class RunningTestBench:
    """Context manager that runs a stack: `with RunningTestBench(...) as bench`."""

    def __init__(
        self,
        robot: Embodiment,
        folder: Path,
        domain_id: int,
        checkpoint: str,
        feature: StackFeature,
    ) -> None:
        self._stack_arguments = robot, folder, domain_id, checkpoint, feature

    def __enter__(self) -> FaultTestBench:
        robot, folder, domain, checkpoint, needs = self._stack_arguments
        self._client = StackClient(robot, domain)
        try:
            time.sleep(DISCOVERY_S)
            if not poll_until(lambda: not self._client.is_stack_running(), STALE_NODE_TIMEOUT_S):
                raise StackLaunchError(f'another stack runs in ROS domain {domain}')
            self._bench = FaultTestBench(
                robot,
                StackProcesses(
                    robot,
                    self._client,
                    folder,
                    domain_id=domain,
                    checkpoint=checkpoint,
                    feature=needs,
                ),
                self._client,
            )
            if needs is StackFeature.JOYSTICK:
                command_faults.plug_in_joystick(self._bench)
        except BaseException:
            self._client.close()
            raise
        return self._bench

    def __exit__(self, *exception: object) -> None:
        try:
            self._bench.unclean_exits = self._bench.stack.close()
        finally:
            self._client.close()


def record_result(
    result: FaultResult, results: list[FaultResult], options: argparse.Namespace, start_s: float
) -> None:
    """Add or replace a row, print it and rewrite the report atomically."""
    results[:] = [*(each for each in results if each.fault != result.fault), result]
    print(format_result(result), flush=True)
    if options.report is None:
        return
    part = options.report.with_name(options.report.name + '.part')
    part.write_text(
        json.dumps(
            {
                'robot': options.robot,
                'checkpoint': options.checkpoint,
                'seed': options.seed,
                'duration_s': round(time.monotonic() - start_s, 1),
                **demo_report.describe_environment(),
                'rows': len(results),
                'red': [each.fault for each in results if not each.ok],
                'faults': [asdict(each) for each in results],
            },
            indent=2,
        )
        + '\n'
    )
    part.replace(options.report)


def format_result(result: FaultResult) -> str:
    """Return a row as text."""

    def ms(value: float | None) -> str:
        return '      -' if value is None else f'{value:7.0f}'

    return (
        f'{"ok  " if result.ok else "FAIL"} {result.fault:<52} detected '
        f'{ms(result.detected_ms)} ms  '
        f'rest {ms(result.rest_ms)} ms  back {ms(result.recovery_ms)} ms  '
        f'step {result.max_step_rad:.4f} rad{"" if result.ok else "  " + result.note}'
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    robot = embodiment.load_embodiment(options.robot)
    if options.list:
        print('\n'.join(fault.name for fault in make_all_faults(robot)))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix='wam-faults-'))
    domain, start_s = int(os.environ.get('ROS_DOMAIN_ID', '0')), time.monotonic()
    rows: list[FaultResult] = []
    try:
        run_faults(
            select_faults(options, robot),
            robot,
            folder,
            domain,
            options.checkpoint,
            lambda row: record_result(row, rows, options, start_s),
        )
    except StackLaunchError as error:
        print(f'faults: {error}\nlogs: {folder}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    red = [row.fault for row in rows if not row.ok]
    print(
        f'{len(rows) - len(red)} of {len(rows)} faults passed, '
        f'{time.monotonic() - start_s:.0f} s' + (f'; logs: {folder}' if red else '')
    )
    if not red and not options.keep_logs:
        shutil.rmtree(folder)
    return 1 if red else 0


if __name__ == '__main__':
    sys.exit(main())

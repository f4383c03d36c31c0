"""Run one fault: inject it, observe the stack, remove it, and evaluate the reaction as a row."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CalledProcessError

import psutil

from wam_policy.recording import bag_folder
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.stack_observer import poll_until
from wam_tools.stack_launch import StackLaunchError

READY_S, RECOVERY_S = 60.0, 60.0
STATUS_S = 3.0  # the simulator publishes its status every 0.5 s
NOT_JUDGED, MAX_ERROR_CHARACTERS = 'not judged', 300
DISTURBED = r'^motion: (?!FIRST_MOVE|TRACKING)'


@dataclass(frozen=True, slots=True)
class FaultResult:
    """Reaction to one fault; times are from its injection or its removal."""

    fault: str
    ok: bool
    detected_ms: float | None
    max_step_rad: float  # largest setpoint change over 2 ms
    limit_violations: int  # joints beyond velocity, acceleration or jerk limits
    rest_ms: float | None
    recovered: bool
    recovery_ms: float | None
    note: str


def make_unjudged_result(fault: Fault, reason: str) -> FaultResult:
    """Return the row of a fault whose reaction could not be observed; it fails."""
    note = f'{NOT_JUDGED}: {reason}'
    return FaultResult(fault.name, False, None, 0.0, 0, None, False, None, note)


def run_fault(fault: Fault, bench: FaultTestBench) -> FaultResult:
    """Run one fault; raise StackLaunchError if the stack does not get ready before it."""
    if not poll_until(bench.ensure_moving, READY_S):
        raise StackLaunchError(
            f'the robot does not move before {fault.name}: {bench.client.reason}'
        )
    wrong: list[str] = []
    with collect_errors(wrong):
        fault.prepare(bench)
    bench.client.reset_metrics()
    before, start_s = len(bench.released_stops), time.monotonic()
    with collect_errors(wrong):
        fault.inject(bench)
    detected_s = _wait_detection(fault, bench, start_s, wrong)
    rested_s = _wait_rest(fault, bench, start_s, wrong)
    with collect_errors(wrong):
        wrong += filter(None, [fault.check(bench)])
    removed_s = time.monotonic()
    with collect_errors(wrong):
        bench.undo.close()
    recovered = bool(poll_until(bench.ensure_moving, RECOVERY_S))
    recovery_s = time.monotonic() - removed_s
    if not recovered:
        wrong.append(f'did not recover: {bench.client.reason}')
    return _complete_result(
        fault,
        bench,
        wrong,
        bench.released_stops[before:],
        FaultResult(
            fault.name,
            False,
            elapsed_ms(detected_s, start_s),
            0.0,
            0,
            elapsed_ms(rested_s, start_s),
            recovered,
            round(1e3 * recovery_s, 1) if recovered else None,
            fault.note,
        ),
    )


@contextmanager
def collect_errors(problems: list[str]) -> Iterator[None]:
    """Collect errors of a stack that does not respond as problems of the row.

    Whatever else is raised (a worker that is not there yet, a program that takes too long) leaves
    the row without a judgment, which it says; the rows after it are still to come.
    """
    try:
        yield
    except (StackLaunchError, OSError, ValueError, CalledProcessError, psutil.Error) as error:
        problems.append(str(error))
    except Exception as error:  # noqa: BLE001 - one row is not the table
        text = str(error)[:MAX_ERROR_CHARACTERS]
        problems.append(f'{NOT_JUDGED}: {type(error).__name__}: {text}')


def _wait_detection(
    fault: Fault, bench: FaultTestBench, start_s: float, problems: list[str]
) -> float | None:
    if fault.detect is None:
        return None
    pattern: str = fault.detect
    entry = poll_until(lambda: bench.find_log_entry(pattern, start_s), fault.within_s)
    if entry is None:
        problems.append(f'no report of {fault.detect!r}; {bench.client.reason}')
        return None
    return entry.time_s


def _wait_rest(
    fault: Fault, bench: FaultTestBench, start_s: float, problems: list[str]
) -> float | None:
    """Wait for the duration of the fault; return when the joints came to rest, if required."""
    rested_s = None
    if fault.rests:
        rested_s = poll_until(lambda: bench.client.find_rest_start_s(start_s), fault.within_s)
        if rested_s is None:
            problems.append(f'the joints did not come to rest; {bench.client.reason}')
    time.sleep(fault.duration_s if fault.rests is not False else max(fault.duration_s, 1.0))
    if fault.rests and rested_s and bench.client.is_moving():
        problems.append('the joints moved again while it lasted')
    if fault.rests is False:
        disturbed = bench.find_log_entry(DISTURBED, start_s)
        if disturbed is not None or not bench.client.is_moving():
            problems.append(
                f'motion was disturbed: {disturbed.text if disturbed else "no motion"}'
            )
    return rested_s


def _complete_result(
    fault: Fault,
    bench: FaultTestBench,
    problems: list[str],
    released_stops: list[str],
    result: FaultResult,
) -> FaultResult:
    """Complete a row with executed motion, process errors and episode errors."""
    figures = bench.client.metrics
    seen = figures.status_count
    poll_until(lambda: figures.status_count >= seen + 2, STATUS_S)
    if figures.limit_violations:
        most = ', '.join(
            f'{what} x{figures.max_ratios[what]:.3g}'
            for what in sorted({what for _, what in figures.limit_violations})
        )
        problems.append(
            f'beyond limits ({most}): '
            + ', '.join(f'{joint} {what}' for joint, what in sorted(figures.limit_violations))
        )
    if released_stops and not fault.latches:
        problems.append(f'a latched stop had to be released: {"; ".join(released_stops)}')
    problems += bench.stack.find_process_errors()
    problems += [
        f'episode {path.name} is lost: {why}'
        for path in bench.saved_episodes
        if (why := find_episode_error(path))
    ]
    return replace(
        result,
        ok=not problems,
        max_step_rad=round(figures.max_step_rad, 6),
        limit_violations=len(figures.limit_violations),
        note='; '.join([*filter(None, [result.note]), *problems]),
    )


def find_episode_error(path: Path) -> str:
    """Return why a saved episode is not valid; empty if it is."""
    try:
        found = bag_folder.read_contents(bag_folder.find_mcap_file(path))
    except (OSError, ValueError) as error:
        return str(error)
    if not (path / bag_folder.METADATA_FILE).exists():
        return 'no metadata.yaml'
    return '' if found.message_count else 'no messages'


def elapsed_ms(at_s: float | None, start_s: float) -> float | None:
    """Return the time from `start_s` in ms; None stays None."""
    return None if at_s is None else round(1e3 * (at_s - start_s), 1)

"""One fault after the other: inject, watch, remove, watch, judge; and a row for each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CalledProcessError

import psutil

from wam_policy.recording import bag_folder
from wam_tools.fault_injection.fault import Bench, Fault
from wam_tools.fault_injection.stack_observer import NoStack, until

READY_S, RECOVERY_S = 60.0, 60.0
STATUS_S = 3.0  # the simulator tells its figures every half second
DISTURBED = r'^motion: (?!FIRST_MOVE|TRACKING)'


@dataclass(frozen=True, slots=True)
class Row:
    """Hold what one fault did; times are counted from its injection or its removal."""

    fault: str
    ok: bool
    detected_ms: float | None
    max_step_rad: float  # largest set-point change over 2 ms
    limit_violations: int  # joints beyond velocity, acceleration or jerk limits
    rest_ms: float | None
    recovered: bool
    recovery_ms: float | None
    note: str


def run(fault: Fault, bench: Bench) -> Row:
    """Live through one fault; a stack that cannot even be made ready raises NoStack."""
    if not until(bench.driving, READY_S):
        raise NoStack(f'not driving before {fault.name}: {condition(bench)}')
    wrong: list[str] = []
    with noted(wrong):
        fault.prepare(bench)
    bench.watch.recount()
    before, begun_s = len(bench.released), time.monotonic()
    with noted(wrong):
        fault.inject(bench)
    detected_s = _detected(fault, bench, begun_s, wrong)
    rested_s = _rested(fault, bench, begun_s, wrong)
    with noted(wrong):
        wrong += filter(None, [fault.check(bench)])
    removed_s = time.monotonic()
    with noted(wrong):
        fault.remove(bench)
    recovered = bool(until(bench.driving, RECOVERY_S))
    recovery_s = time.monotonic() - removed_s
    if not recovered:
        wrong.append(f'did not recover: {condition(bench)}')
    return _judged(
        fault,
        bench,
        wrong,
        bench.released[before:],
        Row(
            fault.name,
            False,
            _ms(detected_s, begun_s),
            0.0,
            0,
            _ms(rested_s, begun_s),
            recovered,
            round(1e3 * recovery_s, 1) if recovered else None,
            fault.note,
        ),
    )


def condition(bench: Bench) -> str:
    watch = bench.watch
    return (
        f'policy {watch.policy.state_name}: {watch.policy.reason}; motion '
        f'{watch.motion.state_name}: {watch.motion.reason}'
    )


@contextmanager
def noted(wrong: list[str]) -> Iterator[None]:
    """Turn a stack that does not answer into a note of the row."""
    try:
        yield
    except (NoStack, OSError, ValueError, CalledProcessError, psutil.Error) as error:
        wrong.append(str(error))


def _detected(fault: Fault, bench: Bench, begun_s: float, wrong: list[str]) -> float | None:
    if fault.detect is None:
        return None
    pattern: str = fault.detect
    said = until(lambda: bench.found(pattern, begun_s), fault.within_s)
    if said is None:
        wrong.append(f'nobody said {fault.detect!r}; {condition(bench)}')
        return None
    return said.at_s


def _rested(fault: Fault, bench: Bench, begun_s: float, wrong: list[str]) -> float | None:
    """Let the fault last, and return when the joints came to rest, if they should."""
    rested_s = None
    if fault.rests:
        rested_s = until(lambda: bench.watch.resting_since(begun_s), fault.within_s)
        if rested_s is None:
            wrong.append(f'the joints did not come to rest; {condition(bench)}')
    time.sleep(fault.lasts_s if fault.rests is not False else max(fault.lasts_s, 1.0))
    if fault.rests and rested_s and bench.watch.moving():
        wrong.append('the joints moved again while it lasted')
    if fault.rests is False:
        disturbed = bench.found(DISTURBED, begun_s)
        if disturbed is not None or not bench.watch.moving():
            wrong.append(f'motion was disturbed: {disturbed.text if disturbed else "it rests"}')
    return rested_s


def _judged(fault: Fault, bench: Bench, wrong: list[str], released: list[str], row: Row) -> Row:
    """Complete a row with what was executed, what is left of the processes and of the episodes."""
    figures = bench.watch.figures
    seen = figures.statuses
    until(lambda: figures.statuses >= seen + 2, STATUS_S)
    if figures.over:
        most = ', '.join(
            f'{what} x{figures.ratios[what]:.3g}'
            for what in sorted({what for _, what in figures.over})
        )
        wrong.append(
            f'beyond limits ({most}): '
            + ', '.join(f'{joint} {what}' for joint, what in sorted(figures.over))
        )
    if released and not fault.latches:
        wrong.append(f'a latched stop had to be released: {"; ".join(released)}')
    wrong += bench.stack.strays()
    wrong += [f'episode {path.name} is lost: {why}' for path in bench.saved if (why := lost(path))]
    return replace(
        row,
        ok=not wrong,
        max_step_rad=round(figures.step_rad, 6),
        limit_violations=len(figures.over),
        note='; '.join([*filter(None, [row.note]), *wrong]),
    )


def lost(path: Path) -> str:
    """Return why a saved episode is none; empty: it is one."""
    try:
        found = bag_folder.contents(bag_folder.file_of(path))
    except (OSError, ValueError) as error:
        return str(error)
    if not (path / bag_folder.METADATA).exists():
        return 'it is not described'
    return '' if found.messages else 'it is empty'


def _ms(at_s: float | None, begun_s: float) -> float | None:
    return None if at_s is None else round(1e3 * (at_s - begun_s), 1)

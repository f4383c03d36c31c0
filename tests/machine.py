"""What the machine gave while a test ran: a small program at the highest priority keeps count.

Tests of real processes in real time say nothing on a machine that is taken away for seconds (a
shared host, a slow disk). What the program does not get although it goes first, no test can get.

    python -m tests.machine        prints a line a second: time, delay of a sleep, seconds of work
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PERIOD_S, HASH_INPUT = 1.0, bytes(16 << 20)  # to hash: a hundredth of a core
IO_PRESSURE_FILE = Path('/proc/pressure/io')  # kernels with pressure stall information
MAX_DELAYED_SHARE, MAX_SLOWDOWN, MAX_STALLED_SHARE = 0.1, 3.0, 0.2


@dataclass(frozen=True, slots=True)
class MachineSample:
    """State one second: when it ended, how late a sleep ended, how long the work took, in s."""

    at_s: float
    delay_s: float
    work_s: float
    stalled_s: float  # since the machine started: all that wanted to run waited for a disk


def describe_shortage(samples: Sequence[MachineSample], since_s: float) -> str:
    """Tell what the machine did not give since then, in words; empty: nothing was lacking.

    The fastest work of all samples says what the machine can do.
    """
    seen = [sample for sample in samples if sample.at_s >= since_s]
    if len(seen) < 2:
        return ''
    span_s = seen[-1].at_s - seen[0].at_s + PERIOD_S
    delayed = sum(sample.delay_s for sample in seen) / span_s
    best_s = min(sample.work_s for sample in samples)
    slower = sum(sample.work_s for sample in seen) / len(seen) / best_s
    stalled = (seen[-1].stalled_s - seen[0].stalled_s) / span_s
    if delayed > MAX_DELAYED_SHARE:
        return f'programs of the highest priority waited for {delayed:.0%} of the time'
    if slower > MAX_SLOWDOWN:
        return f'programs of the highest priority took {slower:.1f} times as long as usual'
    return f'the disk held up everything for {stalled:.0%} of the time' * (
        stalled > MAX_STALLED_SHARE
    )


class MachineMonitor:
    """Keep count from here on, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0
        )
        os.set_blocking(self._process.stdout.fileno(), False)
        self._partial_line, self._samples = b'', []

    def describe_shortage(self, since_s: float) -> str:
        """Tell what was lacking since then (monotonic clock)."""
        *lines, self._partial_line = (
            self._partial_line + (self._process.stdout.read() or b'')
        ).split(b'\n')
        self._samples += [MachineSample(*map(float, line.split())) for line in lines]
        return describe_shortage(self._samples, since_s)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def _read_stalled_s() -> float:
    """Return the total of the line `full avg10=... total=<microseconds>`; 0 if not told."""
    try:
        return int(IO_PRESSURE_FILE.read_text().rsplit('total=', 1)[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


def main() -> None:
    with suppress(OSError):  # only root may; the count is then a little harsher
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    parent = os.getppid()
    while os.getppid() == parent:
        begun_s = time.monotonic()
        time.sleep(PERIOD_S)
        woken_s = time.monotonic()
        hashlib.sha256(HASH_INPUT).digest()
        done_s = time.monotonic()
        print(
            done_s, woken_s - begun_s - PERIOD_S, done_s - woken_s, _read_stalled_s(), flush=True
        )


if __name__ == '__main__':
    main()

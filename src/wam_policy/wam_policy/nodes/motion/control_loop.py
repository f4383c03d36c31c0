"""A loop that ticks at a fixed rate in its own thread and knows how punctual it is.

A thread on the monotonic clock, not a timer of the executor: a burst of callbacks (chunks of a
flood, a parameter service) must not delay the monitors, and simulated time must not pace them.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np

JITTER_WINDOW_TICKS = 1000  # 10 s at 100 Hz
SWITCH_INTERVAL_S = 0.0001  # a thread that computes gives way to the loop this soon
REALTIME_PRIORITY = 10  # real time, above every ordinary process, below drivers and kernel
CONTROL_LOOP_PRIORITY = 11  # above the threads that plan and listen


def set_realtime_priority(
    priority: int = REALTIME_PRIORITY, switch_interval_s: float = SWITCH_INTERVAL_S
) -> bool:
    """Let this process, and its threads to come, run before ordinary ones; tell whether allowed.

    Real time instead of niceness: the kernel weighs niceness within one terminal session only
    (autogroups). Root and users with an rtprio limit may (limits.conf); others run without.
    """
    sys.setswitchinterval(switch_interval_s)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except PermissionError:
        return False
    return True


class ControlLoop:
    """Call `tick` every `period_s` until closed; an exception ends the loop and is kept."""

    def __init__(self, tick: Callable[[], None], period_s: float) -> None:
        self._tick, self._period_s = tick, period_s
        self._closing = threading.Event()
        self._lateness_s: deque[float] = deque(maxlen=JITTER_WINDOW_TICKS)
        self._thread = threading.Thread(target=self._run, name='control', daemon=True)
        self.late_ticks = 0  # later than two periods after the one before
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the loop; it must not be called from the tick."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def jitter_p99_ms(self) -> float:
        """Return how late 99 of 100 recent ticks were at most."""
        recent = list(self._lateness_s)
        return float(np.percentile(recent, 99) * 1e3) if recent else 0.0

    def _run(self) -> None:
        if os.sched_getscheduler(0) == os.SCHED_RR:  # of this thread: favored
            with suppress(PermissionError):  # as far as the limit goes
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(CONTROL_LOOP_PRIORITY))
        due_s = time.monotonic() + self._period_s
        try:
            while not self._closing.is_set():
                time.sleep(max(0.0, due_s - time.monotonic()))
                late_s = time.monotonic() - due_s
                self._lateness_s.append(late_s)
                self._tick()
                if late_s > self._period_s:
                    self.late_ticks += 1
                # a tick that was missed is not made up for: the next one sees the newest state
                due_s += self._period_s * (1 + max(0.0, late_s) // self._period_s)
        except Exception as error:  # noqa: BLE001 - the node ends with it, see error
            self.error = error

"""Pacing of physics steps to the wall clock, and the real-time factor; reads no clock itself."""

from collections import deque

MAX_LAG_NS = 500_000_000  # a shorter stall is caught up with extra steps
RATE_WINDOW_NS = 3_000_000_000


class Pacer:
    """Count the steps that keep simulated time at the wall clock, with a limited lag.

    A lag of up to MAX_LAG_NS is caught up. A larger one is dropped: simulated time then runs
    slower than the wall clock and the real-time factor is below 1.
    """

    def __init__(self, step_ns: int, wall_ns: int) -> None:
        self._step_ns = step_ns
        self._next_ns = wall_ns + step_ns  # wall time at which the next step is due
        self._history: deque[tuple[int, int]] = deque([(wall_ns, 0)])
        self._simulated_ns = 0
        self.dropped_ns = 0

    def count_due_steps(self, wall_ns: int) -> int:
        """Return the number of steps until simulated time reaches `wall_ns`."""
        lag_ns = wall_ns - self._next_ns
        return 0 if lag_ns < 0 else 1 + lag_ns // self._step_ns

    def drop_excess_lag(self, wall_ns: int) -> int:
        """Drop a lag of more than MAX_LAG_NS; return the dropped time in ns, or 0."""
        lag_ns = wall_ns - self._next_ns
        if lag_ns <= MAX_LAG_NS:
            return 0
        self._next_ns += lag_ns
        self.dropped_ns += lag_ns
        return lag_ns

    def record_steps(self, steps: int, wall_ns: int) -> None:
        """Record that `steps` were done by `wall_ns`."""
        self._next_ns += steps * self._step_ns
        self._simulated_ns += steps * self._step_ns
        self._history.append((wall_ns, self._simulated_ns))
        while self._history[0][0] < wall_ns - RATE_WINDOW_NS and len(self._history) > 2:
            self._history.popleft()

    def wait_s(self, wall_ns: int, steps: int) -> float:
        """Return the time in s until `steps` steps are due."""
        return max(0, self._next_ns + (steps - 1) * self._step_ns - wall_ns) / 1e9

    @property
    def real_time_factor(self) -> float:
        """Return simulated / wall time of the last 3 s; 0 before the first step."""
        (wall_0, done_0), (wall_1, done_1) = self._history[0], self._history[-1]
        return (done_1 - done_0) / (wall_1 - wall_0) if wall_1 > wall_0 else 0.0

"""How many physics steps are due, and how fast simulated time really runs; no clock in here."""

from collections import deque

MAX_LAG_NS = 500_000_000  # up to here a stall is caught up with extra steps
RATE_WINDOW_NS = 3_000_000_000


class Pacer:
    """Follow a wall clock in whole steps; fall behind openly rather than spiral.

    A short stall is caught up. If the machine is too slow for that, time is given up: simulated
    time then ran slower than the wall, and the real-time factor says so.
    """

    def __init__(self, step_ns: int, wall_ns: int) -> None:
        self._step_ns = step_ns
        self._next_ns = wall_ns + step_ns  # wall time at which the next step is due
        self._history: deque[tuple[int, int]] = deque([(wall_ns, 0)])
        self._simulated_ns = 0
        self.dropped_ns = 0

    def count_due_steps(self, wall_ns: int) -> int:
        """Return how many steps bring simulated time up to `wall_ns`."""
        lag_ns = wall_ns - self._next_ns
        return 0 if lag_ns < 0 else 1 + lag_ns // self._step_ns

    def drop_excess_lag(self, wall_ns: int) -> int:
        """Return how many ns, if any, can no longer be caught up, and drop them."""
        lag_ns = wall_ns - self._next_ns
        if lag_ns <= MAX_LAG_NS:
            return 0
        self._next_ns += lag_ns
        self.dropped_ns += lag_ns
        return lag_ns

    def record_steps(self, steps: int, wall_ns: int) -> None:
        """Count `steps` done by `wall_ns`."""
        self._next_ns += steps * self._step_ns
        self._simulated_ns += steps * self._step_ns
        self._history.append((wall_ns, self._simulated_ns))
        while self._history[0][0] < wall_ns - RATE_WINDOW_NS and len(self._history) > 2:
            self._history.popleft()

    def wait_s(self, wall_ns: int, steps: int) -> float:
        """Return how long to sleep until `steps` steps are due."""
        return max(0, self._next_ns + (steps - 1) * self._step_ns - wall_ns) / 1e9

    @property
    def real_time_factor(self) -> float:
        """Return simulated over wall time in the last seconds; 0 before the first step."""
        (wall_0, done_0), (wall_1, done_1) = self._history[0], self._history[-1]
        return (done_1 - done_0) / (wall_1 - wall_0) if wall_1 > wall_0 else 0.0

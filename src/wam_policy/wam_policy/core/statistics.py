"""Statistics of recent events in bounded memory: latencies per stage, means and rates."""

from collections import deque
from collections.abc import Mapping

import numpy as np


class LatencyStatistics:
    """Percentiles of the last `capacity` measurements of named stages."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f'latencies: want a capacity of at least 1, got {capacity}')
        self._capacity = capacity
        self._stages: dict[str, deque[float]] = {}

    def add(self, timings_ms: Mapping[str, float]) -> None:
        for stage, value_ms in timings_ms.items():
            if stage not in self._stages:
                self._stages[stage] = deque(maxlen=self._capacity)
            self._stages[stage].append(value_ms)

    def percentiles_ms(self, *percents: float) -> tuple[dict[str, float], ...]:
        """Return stage -> value in ms for each of `percents`, in order of first appearance."""
        alike: dict[int, list[str]] = {}  # number of measurements -> stages
        for stage, values in self._stages.items():
            alike.setdefault(len(values), []).append(stage)
        found = {}
        for stages in alike.values():  # one call for equal lengths, because it runs often
            measured = np.array([self._stages[stage] for stage in stages])
            found.update(
                zip(stages, np.percentile(measured, percents, axis=1).T.tolist(), strict=True)
            )
        return tuple(
            {stage: found[stage][i] for stage in self._stages} for i in range(len(percents))
        )

    def clear(self) -> None:
        self._stages.clear()


class InitialRange:
    """Range from the 10th to the 90th percentile of the first values; it then stays as it is.

    Later values are compared with it, so they must not move it.
    """

    def __init__(self, minimum: int, capacity: int) -> None:
        """Take how many values are needed for a range, and how many make it."""
        if not 1 <= minimum <= capacity:
            raise ValueError(f'range: want 1 <= minimum <= capacity, got {minimum}, {capacity}')
        self._minimum, self._capacity = minimum, capacity
        self._values: list[float] = []
        self.bounds: tuple[float, float] | None = None  # None: too few values yet

    def add(self, value: float) -> None:
        if len(self._values) == self._capacity:
            return
        self._values.append(value)
        if len(self._values) >= self._minimum:
            low, high = np.percentile(self._values, (10, 90)).tolist()
            self.bounds = low, high


class RunningMean:
    """Running mean of values."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        self._sum, self._count = self._sum + value, self._count + 1

    @property
    def value(self) -> float:
        """Return the mean of all values; 0 without any."""
        return self._sum / self._count if self._count else 0.0


class EventRate:
    """Rate of events over a time window."""

    def __init__(self, window_ns: int) -> None:
        if window_ns < 1:
            raise ValueError(f'rate: want a window above 0 ns, got {window_ns}')
        self._window_ns = window_ns
        self._stamps_ns: deque[int] = deque()
        self._start_ns: int | None = None

    def tick(self, now_ns: int) -> None:
        """Count one event; if the clock went back, clear first."""
        if self._stamps_ns and now_ns < self._stamps_ns[-1]:
            self.clear()
        if self._start_ns is None:
            self._start_ns = now_ns
        self._stamps_ns.append(now_ns)
        self._drop_old(now_ns)

    def hz(self, now_ns: int) -> float:
        """Return events per second over the window, or over the time since the first event."""
        self._drop_old(now_ns)
        if self._start_ns is None or now_ns <= self._start_ns:
            return 0.0
        if now_ns - self._start_ns < self._window_ns:
            return (len(self._stamps_ns) - 1) / ((now_ns - self._start_ns) / 1e9)
        return len(self._stamps_ns) / (self._window_ns / 1e9)

    def clear(self) -> None:
        self._stamps_ns.clear()
        self._start_ns = None

    def _drop_old(self, now_ns: int) -> None:
        while self._stamps_ns and self._stamps_ns[0] <= now_ns - self._window_ns:
            self._stamps_ns.popleft()


def compute_query_stages_ms(
    observation_ns: int,
    arrived_ns: int,
    sent_ns: int,
    answered_ns: int,
    worker_ms: Mapping[str, float],
) -> dict[str, float]:
    """Return the duration of each stage up to the result, ms; their sum is the elapsed time.

    image_transport: from the stamp until the frame that completed the observation arrived; queue:
    until the query was sent; then the workers' own stages; transport: the rest of the round trip.
    """
    own_ms = sum(worker_ms.values())
    return {
        'image_transport': _elapsed_ms(observation_ns, arrived_ns),
        'queue': _elapsed_ms(arrived_ns, sent_ns),
        **worker_ms,
        'transport': max(0.0, _elapsed_ms(sent_ns, answered_ns) - own_ms),
    }


def compute_publish_stages_ms(
    observation_ns: int, answered_ns: int, published_ns: int
) -> dict[str, float]:
    """Return the duration of the last stage and the total, ms."""
    return {
        'publish': _elapsed_ms(answered_ns, published_ns),
        'total': _elapsed_ms(observation_ns, published_ns),
    }


def _elapsed_ms(from_ns: int, to_ns: int) -> float:
    return (to_ns - from_ns) / 1e6

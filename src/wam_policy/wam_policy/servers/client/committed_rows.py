"""Rows of the last chunk that are executed while the server computes the next one.

A server that continues them (real-time chunking) needs them and their number. The time of an
answer is that of the slowest of the last ones: rows beyond the delay are the server's choice,
rows within it are not.
"""

import math
from collections import deque

import numpy as np

NUM_ANSWERS = 10  # whose slowest gives the delay


class CommittedRows:
    """The newest chunk of a session, and how long answers take."""

    def __init__(self, step_dt_s: float) -> None:
        self._step_dt_s = step_dt_s
        self._durations_s: deque[float] = deque(maxlen=NUM_ANSWERS)
        self._targets: np.ndarray | None = None  # [rows commanded]
        self._stamp_ns = 0  # of the observation from which row 0 counts

    def reset(self) -> None:
        """Forget the chunk: a new session continues none."""
        self._targets = None

    def add_chunk(self, targets: np.ndarray, stamp_ns: int, duration_s: float) -> None:
        """Record the answer to a query with an observation of `stamp_ns`."""
        self._targets, self._stamp_ns = targets, stamp_ns
        self._durations_s.append(duration_s)

    def select(self, stamp_ns: int) -> np.ndarray | None:
        """Return the rows [delay commanded] due from `stamp_ns` until the answer is expected.

        None: there is no chunk, or its rows are over by then.
        """
        if self._targets is None or stamp_ns < self._stamp_ns:
            return None
        first = math.ceil((stamp_ns - self._stamp_ns) / 1e9 / self._step_dt_s - 1e-6)
        delay = math.ceil(max(self._durations_s) / self._step_dt_s)
        rows = self._targets[first : first + delay]
        return rows if len(rows) == delay < len(self._targets) else None

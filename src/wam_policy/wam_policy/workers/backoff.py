"""How long to wait before workers are started again; knows no clock."""


class Backoff:
    """Double the delay after every failure; a healthy life starts the count anew."""

    def __init__(
        self, initial_delay_s: float = 0.5, max_delay_s: float = 10.0, reset_after_s: float = 60.0
    ) -> None:
        if not 0 <= initial_delay_s <= max_delay_s:
            raise ValueError(
                f'back-off: want 0 <= first <= last, got {initial_delay_s} s and {max_delay_s} s'
            )
        self._initial_delay_s = initial_delay_s
        self._max_delay_s = max_delay_s
        self._reset_after_s = reset_after_s
        self._failures = 0

    def next_delay_s(self, ready_for_s: float) -> float:
        """Return the wait after a failure of workers that had been ready for `ready_for_s`."""
        if ready_for_s >= self._reset_after_s:
            self._failures = 0
        delay_s = min(self._max_delay_s, self._initial_delay_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return delay_s

"""How long to wait before workers are started again; knows no clock."""


class Backoff:
    """Double the delay after every failure; a healthy life starts the count anew."""

    def __init__(
        self, first_s: float = 0.5, last_s: float = 10.0, healthy_s: float = 60.0
    ) -> None:
        if not 0 <= first_s <= last_s:
            raise ValueError(f'back-off: want 0 <= first <= last, got {first_s} s and {last_s} s')
        self._first_s = first_s
        self._last_s = last_s
        self._healthy_s = healthy_s
        self._failures = 0

    def delay_s(self, ready_for_s: float) -> float:
        """Return the wait after a failure of workers that had been ready for `ready_for_s`."""
        if ready_for_s >= self._healthy_s:
            self._failures = 0
        delay_s = min(self._last_s, self._first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return delay_s

"""A slot for one item between two threads: the newest wins, losses are counted."""

from threading import Lock


class LatestSlot[T]:
    """Hand the newest item over; an item nobody took in time is dropped and counted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._item: T | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped

    def put(self, item: T) -> None:
        if item is None:
            raise ValueError('newest: None means empty and cannot be an item')
        with self._lock:
            self._dropped += self._item is not None
            self._item = item

    def take(self) -> T | None:
        """Return the item and empty the slot; None: there is none."""
        with self._lock:
            item, self._item = self._item, None
            return item

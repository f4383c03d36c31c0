"""Progress lines for long steps, with elapsed seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

HEARTBEAT_S = 10.0


class StepProgress:
    """Print a line at the start and end of each step, and every `heartbeat_s` in between.

    Steps may run in several threads.
    """

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._running: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._print_heartbeats, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Report the step `title` while the body runs."""
        start = time.monotonic()
        with self._lock:
            self._running[title] = (start, '')
            print_status(f'… {title}')
        try:
            yield
        except BaseException:
            with self._lock:
                self._running.pop(title)
            raise
        with self._lock:
            self._running.pop(title)
            print_status(f'✓ {title} ({time.monotonic() - start:.0f} s)')

    def set_detail(self, title: str, text: str) -> None:
        """Set the text that a running step shows at the next heartbeat."""
        with self._lock:
            if title in self._running:
                self._running[title] = (self._running[title][0], text)

    def _print_heartbeats(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            now = time.monotonic()
            with self._lock:
                for title, (start, text) in self._running.items():
                    print_status(f'  {title}: {now - start:.0f} s{": " + text if text else ""}')


def print_status(line: str) -> None:
    """Print one line for the user to stderr and flush it."""
    sys.stderr.write(f'wam: {line}\n')
    sys.stderr.flush()

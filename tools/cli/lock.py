"""Lock that allows one setup or build at a time in a checkout; others wait."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from cli.paths import CheckoutLayout
from cli.progress import print_status


@contextmanager
def lock_checkout(layout: CheckoutLayout) -> Iterator[None]:
    """Hold the checkout's lock; the kernel releases it when the process ends."""
    layout.work.mkdir(exist_ok=True)
    with (layout.work / 'lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_status('another ./wam setup or build runs in this checkout: waiting for it')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

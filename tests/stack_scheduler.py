"""Order of tests in several processes: files that start whole stacks run one after the other.

Two stacks at once take all of two slow cores: what they then measure is each other. One process
runs all files with the mark `stack`, the others run the rest meanwhile, a file at a time.
"""

import os
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
STACK_MARK = 'pytest.mark.stack'
MIN_SHARED_CORES = 6  # from here on several stacks keep their real time


@cache
def starts_stack(file: str) -> bool:
    """Tell whether a test file, relative to the repository, has the mark `stack`."""
    return STACK_MARK in (ROOT / file).read_text()


class StackScheduling(LoadFileScheduling):
    """Give each process a file at a time, and one process all files that start stacks."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        is_shared = (os.cpu_count() or 1) < MIN_SHARED_CORES and starts_stack(file)
        return STACK_MARK if is_shared else file

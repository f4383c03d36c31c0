"""Processes below this one: adopted when their parent exits, found, and killed."""

import ctypes
import os
from collections.abc import Collection

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent exits, so that it can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def find_descendants(
    pid: int | None = None, owned_pids: Collection[int] = ()
) -> list[psutil.Process]:
    """Return the running descendants of a process, by default of this one; none if it exited.

    Exited orphans that this process adopted are reaped. `owned_pids` are not: the code that
    started them reads their exit status.
    """
    found = []
    try:
        descendants = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in descendants:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
            elif process.ppid() == os.getpid() and process.pid not in owned_pids:
                process.wait(timeout=0)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue
    return found


def kill_descendants() -> int:
    """Kill the descendants of this process until none runs; return how many were killed."""
    count = 0
    while left := find_descendants():
        for process in left:
            try:
                process.kill()
                count += 1
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1.0)
    return count

"""A launch as a child: started apart, watched as a tree, ended so that nothing is left of it.

Orphans of the tree come to this process (it is their reaper), so whatever a launch that was killed
leaves behind is found and ended too.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
SHUTDOWN_TIMEOUT_S = 15.0  # launch waits 5 s for SIGINT and 5 s for SIGTERM of its own
FINISHED_PATTERN = re.compile(r'\[(?P<name>[\w.]+)-\d+\]: process has finished cleanly')
DIED_PATTERN = re.compile(
    r'\[(?P<name>[\w.]+)-\d+\]: process has died .*exit code (?P<code>-?\d+)'
)
MEBIBYTE = 2**20


class LaunchProcess:
    """Run one command with all that it starts."""

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        """Start it; what the tree prints goes to `log`."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.log_path = log_path
        self.peak_mb = 0.0
        self._own_pid = os.getpid()
        with log_path.open('w') as out:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'wam_tools.die_with_parent', str(self._own_pid), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # Ctrl-C is for us; the launch gets ours, in order

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def measure_memory_mb(self) -> float:
        """Return the resident memory of this process and the tree in MB, and keep the peak.

        Pages that processes share count in each of them: the truth is a little lower.
        """
        total_mb = 0.0
        for process in (psutil.Process(), *_find_own_descendants()):
            try:
                total_mb += process.memory_info().rss / MEBIBYTE
            except psutil.NoSuchProcess:
                continue
        self.peak_mb = max(self.peak_mb, total_mb)
        return total_mb

    def stop(self, force: threading.Event) -> tuple[int | None, int]:
        """End the launch in order, then whatever is left; return its status and how many were.

        `hurry` set: the order is given up.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        end_s = time.monotonic() + SHUTDOWN_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < end_s and not force.is_set():
            time.sleep(0.02)
        orderly = self._process.poll()
        left = self._kill_remaining()
        return orderly, left

    def count_processes(self) -> int:
        """Return how many processes there are below this one."""
        return len(_find_own_descendants())

    def exit_codes(self) -> dict[str, int]:
        """Return the exit status of every node that the launch saw end."""
        text = self.log_path.read_text(errors='replace')
        return {
            **{found['name']: 0 for found in FINISHED_PATTERN.finditer(text)},
            **{found['name']: int(found['code']) for found in DIED_PATTERN.finditer(text)},
        }

    def read_log_tail(self, lines: int = 25) -> str:
        return '\n'.join(self.log_path.read_text(errors='replace').splitlines()[-lines:])

    def _kill_remaining(self) -> int:
        """Kill what still runs until nothing does; return how many there were."""
        count = 0
        while left := _find_own_descendants():
            for process in left:
                try:
                    process.kill()
                    count += 1
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=1.0)
        self._process.poll()
        return count


def _find_own_descendants() -> list[psutil.Process]:
    """Return all living descendants; the dead among our own children are reaped."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
            elif process.ppid() == os.getpid():
                process.wait(timeout=0)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue
    return found

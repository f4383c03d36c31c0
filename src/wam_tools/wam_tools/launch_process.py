"""A launch as a child process: start it, measure its process tree, end all of its processes.

Orphans of the tree are reparented to this process, so that processes left by a killed launch are
found and ended too.
"""

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

from wam_tools.process_tree import adopt_orphans, find_descendants, kill_descendants

SHUTDOWN_TIMEOUT_S = 15.0  # launch waits 5 s for SIGINT and 5 s for SIGTERM of its own
FINISHED_PATTERN = re.compile(r'\[(?P<name>[\w.]+)-\d+\]: process has finished cleanly')
DIED_PATTERN = re.compile(
    r'\[(?P<name>[\w.]+)-\d+\]: process has died .*exit code (?P<code>-?\d+)'
)
MEBIBYTE = 2**20


class LaunchProcess:
    """Run one command and manage its process tree."""

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        """Start the command; the output of the tree goes to `log_path`."""
        adopt_orphans()
        self.log_path = log_path
        self.peak_mb = 0.0
        with log_path.open('w') as out:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'wam_tools.die_with_parent', str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # own session: Ctrl-C reaches only us, and we forward SIGINT

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def measure_memory_mb(self) -> float:
        """Return the resident memory of this process and the tree in MB, and keep the peak.

        Shared pages count in every process, so the actual memory is slightly less.
        """
        total_mb = 0.0
        for process in (psutil.Process(), *self.find_processes()):
            try:
                total_mb += process.memory_info().rss / MEBIBYTE
            except psutil.NoSuchProcess:
                continue
        self.peak_mb = max(self.peak_mb, total_mb)
        return total_mb

    def stop(self, force: threading.Event) -> tuple[int | None, int]:
        """Stop the launch, then kill remaining processes; return its status and their number.

        A set `force` skips the wait for the launch to end by itself.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        end_s = time.monotonic() + SHUTDOWN_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < end_s and not force.is_set():
            time.sleep(0.02)
        orderly = self._process.poll()
        left = kill_descendants()
        self._process.poll()
        return orderly, left

    def find_processes(self) -> list[psutil.Process]:
        """Return the running processes of the tree, adopted orphans included."""
        return find_descendants(owned_pids=[self.pid])

    def exit_codes(self) -> dict[str, int]:
        """Return the exit status of every node from the launch's log."""
        text = self.read_log()
        return {
            **{found['name']: 0 for found in FINISHED_PATTERN.finditer(text)},
            **{found['name']: int(found['code']) for found in DIED_PATTERN.finditer(text)},
        }

    def read_log(self) -> str:
        return self.log_path.read_text(errors='replace')

    def read_log_tail(self, lines: int = 25) -> str:
        return '\n'.join(self.read_log().splitlines()[-lines:])

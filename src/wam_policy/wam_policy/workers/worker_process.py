"""One worker as a child process: its socket, its process group, the tail of its stderr.

A worker has its own interpreter and plain arguments, so torch and ROS never share a process and
any worker can be run by hand. States, requests and restarts are the task of the supervisor.
"""

import os
import select
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import wam_policy
from wam_policy.workers import protocol

STDERR_TAIL_LINES = 30
MAX_LINE_BYTES = 2000  # a longer line is cut: one line must not fill the tail

OnLine = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker ended: exit status or signal, and the last lines of its stderr."""

    rank: int
    role: str
    returncode: int | None  # negative: killed by that signal; None: still running
    stderr_tail: tuple[str, ...]
    cause: str = ''  # why the parent ended it, if it did

    def __str__(self) -> str:
        text = f'worker {self.role} (rank {self.rank}) {self.cause or self.description}'
        return f'{text}; last line: {self.stderr_tail[-1]}' if self.stderr_tail else text

    @property
    def description(self) -> str:
        if self.returncode is None:
            return 'closed its socket'
        if self.returncode >= 0:
            return f'exited with status {self.returncode}'
        return f'was killed by {signal_name(-self.returncode)}'


def signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have only a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'


def make_worker_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with this package first on PYTHONPATH, updated with `extra`."""
    root = str(Path(wam_policy.__file__).resolve().parent.parent)
    inherited = os.environ.get('PYTHONPATH', '')
    path = os.pathsep.join(part for part in (root, inherited) if part)
    return {**os.environ, 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1', **extra}


class WorkerProcess:
    """Run one worker; `command` gets the socket's file descriptor appended as `--fd N`.

    The kernel kills a worker (which requests this with prctl) when the *thread* that started it
    ends: start it from one that runs at least as long as the worker.
    """

    def __init__(
        self,
        command: Sequence[str],
        rank: int,
        role: str,
        on_line: OnLine,
        environment: Mapping[str, str],
    ) -> None:
        self.rank = rank
        self.role = role
        self._on_line: OnLine | None = on_line
        self._stderr_tail: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._partial_line = b''
        self.socket, far = protocol.make_socket_pair()
        with far:
            try:
                self._process = subprocess.Popen(
                    [*command, '--fd', str(far.fileno())],
                    pass_fds=[far.fileno()],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    env=make_worker_environment(environment),
                    process_group=0,
                )  # Ctrl-C reaches the parent only, which stops the workers in order
            except OSError:
                self.socket.close()
                raise
        assert self._process.stderr is not None
        self.stderr = self._process.stderr
        os.set_blocking(self.stderr.fileno(), False)
        self.exit_fd = os.pidfd_open(self._process.pid)  # readable once it has exited

    @property
    def pid(self) -> int:
        return self._process.pid

    def drain_stderr(self) -> bool:
        """Read what is on stderr, line by line; return False at the end of the pipe."""
        while True:
            try:
                raw = os.read(self.stderr.fileno(), 65536)
            except BlockingIOError:
                return True
            if not raw:
                self._on_stderr_line(self._partial_line)
                self._partial_line = b''
                return False
            *lines, self._partial_line = (self._partial_line + raw).split(b'\n')
            for line in lines:
                self._on_stderr_line(line)
            self._partial_line = self._partial_line[:MAX_LINE_BYTES]

    def _on_stderr_line(self, raw: bytes) -> None:
        line = raw[:MAX_LINE_BYTES].decode(errors='replace').rstrip()
        if not line:
            return
        self._stderr_tail.append(line)
        if self._on_line is None:
            return
        try:
            self._on_line(self.rank, line)
        except Exception as error:  # noqa: BLE001  an error of a listener must not end the workers
            self._on_line = None
            self._stderr_tail.append(f'(lines no longer forwarded: the listener raised {error!r})')

    def has_exited(self) -> bool:
        """Return whether the process has exited, without reaping it."""
        poll = select.poll()
        poll.register(self.exit_fd, select.POLLIN)
        return bool(poll.poll(0))

    def send_signal(self, number: int) -> None:
        """Send a signal to the whole process group; ignore a group that has exited."""
        if self._process.returncode is None:  # not reaped: the group id is still valid
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def reap(self, cause: str = '', timeout_s: float = 5.0) -> WorkerExit:
        """Kill the rest of the group, collect the status and close all descriptors."""
        self.send_signal(signal.SIGKILL)
        returncode: int | None
        try:
            returncode = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:  # a driver call that cannot be interrupted
            returncode = None
        self.drain_stderr()
        self.socket.close()
        self.stderr.close()
        os.close(self.exit_fd)
        return WorkerExit(self.rank, self.role, returncode, tuple(self._stderr_tail), cause)

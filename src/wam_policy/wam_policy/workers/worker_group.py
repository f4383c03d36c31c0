"""The worker processes of one generation: started, queried and ended together.

Two threads may call: the supervisor (start, watch, kill, stop, reap) and one requester
(request_all), which shares the sockets with `stop` and `reap`: their callers hold one lock.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage
from wam_policy.workers.worker_process import OnLine, WorkerExit, WorkerProcess

# From a closed socket to the exit that explains it. The exit itself ends the wait: only a worker
# that closes its socket and keeps running, which none of ours does, takes all of it.
EXIT_WAIT_S = 3.0
SIGTERM_TIMEOUT_S = 1.0  # from SIGTERM to SIGKILL
MESSAGE_TIMEOUT_S = 2.0  # for the rest of a message once it has begun

OnProgress = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """The worker that ends a generation; an empty cause: it exited by itself."""

    rank: int
    cause: str = ''
    socket_closed: bool = False  # its exit status will explain more
    restart_immediately: bool = False  # start the next generation without delay


class WorkerGroupError(Exception):
    """A worker did not answer or violated the protocol."""

    def __init__(self, failure: WorkerFailure) -> None:
        super().__init__(failure.cause)
        self.failure = failure


class WorkerGroup:
    """Own the processes of one generation."""

    def __init__(self, generation: int, roles: Sequence[str], on_line: OnLine) -> None:
        self.generation = generation
        self._roles = tuple(roles)
        self._on_line = on_line
        self._processes: list[WorkerProcess] = []

    def start(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> None:
        """Start one process per command, rank by rank, and send it `hello`.

        Raises OSError if one cannot be started.
        """
        for rank, (command, role) in enumerate(zip(commands, self._roles, strict=True)):
            process = WorkerProcess(command, rank, role, self._on_line, environment)
            self._processes.append(process)
            with suppress(protocol.PeerClosed):  # its exit status will explain more
                protocol.send(process.socket, WorkerMessage('hello', {'id': 0}), MESSAGE_TIMEOUT_S)

    def watch(
        self,
        wakeup_fd: int,
        get_pending_failure: Callable[[], WorkerFailure | None],
        start_timeout_s: float,
        on_progress: OnProgress,
    ) -> WorkerFailure:
        """Monitor the workers until one fails or `get_pending_failure` returns a failure."""
        poll = select.poll()
        poll.register(wakeup_fd, select.POLLIN)
        deadline_s = time.monotonic() + start_timeout_s
        starting: dict[int, WorkerProcess] = {}
        for process in self._processes:
            starting[process.socket.fileno()] = process
            for source in (process.exit_fd, process.stderr.fileno(), process.socket.fileno()):
                poll.register(source, select.POLLIN)
        stage = StartupProgress(on_progress, len(self._processes))
        while True:
            left_s = max(0.0, deadline_s - time.monotonic()) if starting else None
            sources = {source for source, _ in poll.poll(left_s and 1000 * left_s)}
            self._drain_stderr(poll, sources)
            if wakeup_fd in sources:
                clear_eventfd(wakeup_fd)
            ended = [process for process in self._processes if process.exit_fd in sources]
            if ended:
                return WorkerFailure(ended[0].rank)
            if (failure := get_pending_failure()) is not None:
                return failure
            for source in sources & starting.keys():
                process = starting[source]
                try:
                    if stage.update(
                        process.rank, protocol.receive(process.socket, MESSAGE_TIMEOUT_S)
                    ):
                        poll.unregister(source)  # from now on the requester reads it
                        del starting[source]
                except (protocol.ProtocolError, WorkerGroupError) as error:
                    return WorkerFailure(
                        process.rank,
                        f'failed to start: {error}',
                        isinstance(error, protocol.PeerClosed),
                    )
            if starting and time.monotonic() >= deadline_s:
                late = next(iter(starting.values()))
                return WorkerFailure(late.rank, f'was not ready within {start_timeout_s:g} s')

    def request_all(
        self, message: WorkerMessage, timeout_s: float, interrupt_fd: int
    ) -> list[WorkerMessage] | None:
        """Send to every worker and return the answers by rank; None if `interrupt_fd` is set.

        Answers to earlier messages are dropped. Raises WorkerGroupError, or ProtocolError if the
        message itself exceeds a limit.
        """
        deadline_s = time.monotonic() + timeout_s
        for process in self._processes:
            try:
                protocol.send(process.socket, message, max(0.001, deadline_s - time.monotonic()))
            except protocol.PeerClosed as error:
                raise WorkerGroupError(
                    WorkerFailure(process.rank, str(error), socket_closed=True)
                ) from None
            except protocol.ProtocolTimeout:
                raise WorkerGroupError(
                    _make_timeout_failure(process.rank, message, timeout_s)
                ) from None
        waiting = {process.socket.fileno(): process for process in self._processes}
        found: dict[int, WorkerMessage] = {}
        poll = select.poll()
        poll.register(interrupt_fd, select.POLLIN)
        for source in waiting:
            poll.register(source, select.POLLIN)
        while waiting:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise WorkerGroupError(
                    _make_timeout_failure(next(iter(waiting.values())).rank, message, timeout_s)
                )
            sources = {source for source, _ in poll.poll(1000 * left_s)}
            if interrupt_fd in sources:
                return None
            for source in sources & waiting.keys():
                process = waiting[source]
                answer = _receive_answer(process, deadline_s)
                if answer.fields.get('id') == message.fields['id']:
                    found[process.rank] = answer
                    poll.unregister(source)
                    del waiting[source]
        return [found[process.rank] for process in self._processes]

    def kill(self) -> None:
        """Kill every process now."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)

    def await_exit_status(self, failure: WorkerFailure) -> WorkerFailure:
        """Wait for the exit of a worker whose socket closed; return the refined failure."""
        if not failure.socket_closed:
            return failure
        process = self._processes[failure.rank]
        self._wait_for_exit([process], EXIT_WAIT_S)
        return replace(failure, cause='') if process.has_exited() else failure

    def stop(self, shutdown_timeout_s: float) -> None:
        """Ask every process to stop, then send SIGTERM to those that still run."""
        for process in self._processes:
            with suppress(protocol.ProtocolError, OSError):  # it does not read: SIGTERM follows
                protocol.send(process.socket, WorkerMessage('stop'), 0.2)
                # noticed even by a worker that is too busy to read
                process.socket.shutdown(socket.SHUT_WR)
        self._wait_for_exit(self._processes, shutdown_timeout_s)
        for process in self._processes:
            if not process.has_exited():
                process.send_signal(signal.SIGTERM)
        self._wait_for_exit(self._processes, SIGTERM_TIMEOUT_S)

    def reap(self, failure: WorkerFailure) -> WorkerExit:
        """Reap every process and return the exit of the one that `failure` is about.

        If both exited by themselves, the one that only lost its peer is not the cause.
        """
        exited = {process.rank for process in self._processes if process.has_exited()}
        exits = [
            process.reap(failure.cause if process.rank == failure.rank else '')
            for process in self._processes
        ]
        self._processes = []
        causes = [
            worker_exit
            for worker_exit in exits
            if worker_exit.rank in exited and worker_exit.returncode != protocol.EXIT_PEER_LOST
        ]
        if not failure.cause and causes and failure.rank not in {d.rank for d in causes}:
            return causes[0]
        if failure.rank >= len(exits):  # it never started
            return WorkerExit(failure.rank, self._roles[failure.rank], None, (), failure.cause)
        return exits[failure.rank]

    def _drain_stderr(self, poll: select.poll, ready_fds: set[int]) -> None:
        for process in self._processes:
            if process.stderr.fileno() in ready_fds and not process.drain_stderr():
                poll.unregister(process.stderr.fileno())

    def _wait_for_exit(self, processes: Iterable[WorkerProcess], timeout_s: float) -> None:
        """Wait until the processes have exited, draining every stderr."""
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        for process in self._processes:
            poll.register(process.stderr.fileno(), select.POLLIN)
        running = {process.exit_fd for process in processes if not process.has_exited()}
        for source in running:
            poll.register(source, select.POLLIN)
        while running and (left_s := deadline_s - time.monotonic()) > 0:
            sources = {source for source, _ in poll.poll(1000 * left_s)}
            self._drain_stderr(poll, sources)
            for source in sources & running:
                poll.unregister(source)
            running -= sources


class StartupProgress:
    """Track the start of the workers; report the stage of the slowest."""

    STAGES = ('loading', 'warming', 'ready')

    def __init__(self, on_progress: OnProgress, worker_count: int) -> None:
        self._on_progress = on_progress
        self._stages = dict.fromkeys(range(worker_count), 'loading')
        self._reported_stage = 'loading'
        self._info: Mapping[str, Any] = {}
        self._reported_reason: object = None

    def update(self, rank: int, message: WorkerMessage) -> bool:
        """Process a worker's message; return True once this worker is ready."""
        if message.kind == 'error':
            raise WorkerGroupError(WorkerFailure(rank, str(message.fields.get('what'))))
        if message.kind not in self.STAGES:
            raise WorkerGroupError(
                WorkerFailure(rank, f'sent {message.kind!r} before it was ready')
            )
        self._stages[rank] = message.kind
        if rank == 0:
            self._info = message.fields
        slowest = min(self._stages.values(), key=self.STAGES.index)
        reason = self._info.get('reason')
        if (slowest, reason) != (self._reported_stage, self._reported_reason):
            self._reported_stage, self._reported_reason = slowest, reason
            self._on_progress(slowest, self._info)
        return message.kind == 'ready'


def clear_eventfd(fd: int) -> None:
    """Reset an eventfd to zero."""
    with suppress(BlockingIOError):  # it was zero already
        os.eventfd_read(fd)


def _make_timeout_failure(rank: int, message: WorkerMessage, timeout_s: float) -> WorkerFailure:
    return WorkerFailure(rank, f'did not answer {message.kind!r} within {timeout_s:g} s')


def _receive_answer(process: WorkerProcess, deadline_s: float) -> WorkerMessage:
    try:
        return protocol.receive(process.socket, max(0.001, deadline_s - time.monotonic()))
    except protocol.PeerClosed as error:
        raise WorkerGroupError(
            WorkerFailure(process.rank, str(error), socket_closed=True)
        ) from None
    except protocol.ProtocolError as error:
        raise WorkerGroupError(
            WorkerFailure(process.rank, f'sent a wrong message: {error}')
        ) from None

"""The workers of one generation: started together, asked together, ended together.

Two threads may call: the supervisor (start, watched, kill, stop, reaped) and one requester
(answers), which shares the sockets with `stop` and `reaped`: their callers hold one lock.
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
# that hangs up and lives on, which none of ours does, costs all of it.
EXIT_WAIT_S = 3.0
SIGTERM_TIMEOUT_S = 1.0  # from SIGTERM to SIGKILL
MESSAGE_TIMEOUT_S = 2.0  # for the rest of a message once it has begun

OnProgress = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """Name the worker because of which a generation ends; no cause: it ended by itself."""

    rank: int
    cause: str = ''
    socket_closed: bool = False  # its socket ended: an exit status will tell more
    restart_immediately: bool = False  # start the next generation without delay


class WorkerGroupError(Exception):
    """A worker did not answer, or not in our language."""

    def __init__(self, failure: WorkerFailure) -> None:
        super().__init__(failure.cause)
        self.failure = failure


class WorkerGroup:
    """Hold the programs of one generation."""

    def __init__(self, generation: int, roles: Sequence[str], on_line: OnLine) -> None:
        self.generation = generation
        self._roles = tuple(roles)
        self._on_line = on_line
        self._processes: list[WorkerProcess] = []

    def start(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> None:
        """Start one program per command, rank by rank, and ask it for `ready`.

        Raises OSError if one cannot be started.
        """
        for rank, (command, role) in enumerate(zip(commands, self._roles, strict=True)):
            program = WorkerProcess(command, rank, role, self._on_line, environment)
            self._processes.append(program)
            with suppress(protocol.PeerClosed):  # its exit status will tell more
                protocol.send(program.socket, WorkerMessage('hello', {'id': 0}), MESSAGE_TIMEOUT_S)

    def watch(
        self,
        wakeup_fd: int,
        get_pending_failure: Callable[[], WorkerFailure | None],
        start_timeout_s: float,
        on_progress: OnProgress,
    ) -> WorkerFailure:
        """Bring the workers to `ready`, then watch until one ends or `called` gives a fault."""
        poll = select.poll()
        poll.register(wakeup_fd, select.POLLIN)
        deadline_s = time.monotonic() + start_timeout_s
        starting: dict[int, WorkerProcess] = {}
        for program in self._processes:
            starting[program.socket.fileno()] = program
            for source in (program.exit_fd, program.stderr.fileno(), program.socket.fileno()):
                poll.register(source, select.POLLIN)
        stage = StartupProgress(on_progress, len(self._processes))
        while True:
            left_s = max(0.0, deadline_s - time.monotonic()) if starting else None
            sources = {source for source, _ in poll.poll(left_s and 1000 * left_s)}
            self._drain_stderr(poll, sources)
            if wakeup_fd in sources:
                clear_eventfd(wakeup_fd)
            ended = [program for program in self._processes if program.exit_fd in sources]
            if ended:
                return WorkerFailure(ended[0].rank)
            if (fault := get_pending_failure()) is not None:
                return fault
            for source in sources & starting.keys():
                program = starting[source]
                try:
                    if stage.update(
                        program.rank, protocol.receive(program.socket, MESSAGE_TIMEOUT_S)
                    ):
                        poll.unregister(source)  # the requester's from now on
                        del starting[source]
                except (protocol.ProtocolError, WorkerGroupError) as error:
                    return WorkerFailure(
                        program.rank,
                        f'failed to start: {error}',
                        isinstance(error, protocol.PeerClosed),
                    )
            if starting and time.monotonic() >= deadline_s:
                late = next(iter(starting.values()))
                return WorkerFailure(late.rank, f'was not ready within {start_timeout_s:g} s')

    def request_all(
        self, message: WorkerMessage, timeout_s: float, interrupt_fd: int
    ) -> list[WorkerMessage] | None:
        """Send to every worker and collect their answers, by rank; None if `leave` was written.

        Answers to earlier messages are dropped. Raises Broken, or WireError if the message
        itself breaks a limit.
        """
        deadline_s = time.monotonic() + timeout_s
        for program in self._processes:
            try:
                protocol.send(program.socket, message, max(0.001, deadline_s - time.monotonic()))
            except protocol.PeerClosed as error:
                raise WorkerGroupError(
                    WorkerFailure(program.rank, str(error), socket_closed=True)
                ) from None
            except protocol.ProtocolTimeout:
                raise WorkerGroupError(
                    _make_timeout_failure(program.rank, message, timeout_s)
                ) from None
        waiting = {program.socket.fileno(): program for program in self._processes}
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
                program = waiting[source]
                answer = _receive_answer(program, deadline_s)
                if answer.fields.get('id') == message.fields['id']:
                    found[program.rank] = answer
                    poll.unregister(source)
                    del waiting[source]
        return [found[program.rank] for program in self._processes]

    def kill(self) -> None:
        """End every program now."""
        for program in self._processes:
            program.send_signal(signal.SIGKILL)

    def await_exit_status(self, failure: WorkerFailure) -> WorkerFailure:
        """Give a worker whose socket closed the time to show its exit status."""
        if not failure.socket_closed:
            return failure
        program = self._processes[failure.rank]
        self._wait_for_exit([program], EXIT_WAIT_S)
        return replace(failure, cause='') if program.has_exited() else failure

    def stop(self, shutdown_timeout_s: float) -> None:
        """Ask every program to end, then insist."""
        for program in self._processes:
            with suppress(protocol.ProtocolError, OSError):  # will not listen: insisting follows
                protocol.send(program.socket, WorkerMessage('stop'), 0.2)
                program.socket.shutdown(socket.SHUT_WR)  # seen even by one too busy to read
        self._wait_for_exit(self._processes, shutdown_timeout_s)
        for program in self._processes:
            if not program.has_exited():
                program.send_signal(signal.SIGTERM)
        self._wait_for_exit(self._processes, SIGTERM_TIMEOUT_S)

    def reap(self, failure: WorkerFailure) -> WorkerExit:
        """Collect every program and say how it ended for the one that `fault` is about.

        Where both ended by themselves, the one that only lost its peer is not the culprit.
        """
        alone = {program.rank for program in self._processes if program.has_exited()}
        deaths = [
            program.reap(failure.cause if program.rank == failure.rank else '')
            for program in self._processes
        ]
        self._processes = []
        culprits = [
            death
            for death in deaths
            if death.rank in alone and death.returncode != protocol.EXIT_PEER_LOST
        ]
        if not failure.cause and culprits and failure.rank not in {d.rank for d in culprits}:
            return culprits[0]
        if failure.rank >= len(deaths):  # it never started
            return WorkerExit(failure.rank, self._roles[failure.rank], None, (), failure.cause)
        return deaths[failure.rank]

    def _drain_stderr(self, poll: select.poll, ready_fds: set[int]) -> None:
        for program in self._processes:
            if program.stderr.fileno() in ready_fds and not program.drain_stderr():
                poll.unregister(program.stderr.fileno())

    def _wait_for_exit(self, processes: Iterable[WorkerProcess], timeout_s: float) -> None:
        """Wait until the programs have ended, keeping every stderr flowing."""
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        for program in self._processes:
            poll.register(program.stderr.fileno(), select.POLLIN)
        running = {program.exit_fd for program in processes if not program.has_exited()}
        for source in running:
            poll.register(source, select.POLLIN)
        while running and (left_s := deadline_s - time.monotonic()) > 0:
            sources = {source for source, _ in poll.poll(1000 * left_s)}
            self._drain_stderr(poll, sources)
            for source in sources & running:
                poll.unregister(source)
            running -= sources


class StartupProgress:
    """Follow workers through their start: as far as the slowest has come."""

    STAGES = ('loading', 'warming', 'ready')

    def __init__(self, on_progress: OnProgress, worker_count: int) -> None:
        self._on_progress = on_progress
        self._stages = dict.fromkeys(range(worker_count), 'loading')
        self._reported_stage = 'loading'
        self._info: Mapping[str, Any] = {}

    def update(self, rank: int, message: WorkerMessage) -> bool:
        """Take a worker's report; True once this one is ready."""
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
        if slowest != self._reported_stage:
            self._reported_stage = slowest
            self._on_progress(slowest, self._info)
        return message.kind == 'ready'


def clear_eventfd(fd: int) -> None:
    """Set an eventfd back to zero."""
    with suppress(BlockingIOError):  # it was zero
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

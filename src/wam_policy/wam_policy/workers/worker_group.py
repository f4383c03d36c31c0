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

from wam_policy.workers import exit_codes, protocol
from wam_policy.workers.protocol import Message
from wam_policy.workers.worker_process import Death, OnLine, Program

# From a closed socket to the exit that explains it. The exit itself ends the wait: only a worker
# that hangs up and lives on, which none of ours does, costs all of it.
HEAD_START_S = 3.0
TERM_S = 1.0  # from SIGTERM to SIGKILL
MESSAGE_S = 2.0  # for the rest of a message once it has begun

OnProgress = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Name the worker because of which a generation ends; no cause: it ended by itself."""

    rank: int
    cause: str = ''
    closed: bool = False  # its socket ended: an exit status will tell more
    at_once: bool = False  # start the next generation without delay


class Broken(Exception):
    """A worker did not answer, or not in our language."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.cause)
        self.fault = fault


class Crew:
    """Hold the programs of one generation."""

    def __init__(self, generation: int, roles: Sequence[str], on_line: OnLine) -> None:
        self.generation = generation
        self._roles = tuple(roles)
        self._on_line = on_line
        self._programs: list[Program] = []

    def start(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> None:
        """Start one program per command, rank by rank, and ask it for `ready`.

        Raises OSError if one cannot be started.
        """
        for rank, (command, role) in enumerate(zip(commands, self._roles, strict=True)):
            program = Program(command, rank, role, self._on_line, environment)
            self._programs.append(program)
            with suppress(protocol.PeerClosed):  # its exit status will tell more
                protocol.send(program.socket, Message('hello', {'id': 0}), MESSAGE_S)

    def watched(
        self,
        wake: int,
        called: Callable[[], Fault | None],
        start_timeout_s: float,
        on_progress: OnProgress,
    ) -> Fault:
        """Bring the workers to `ready`, then watch until one ends or `called` gives a fault."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        deadline_s = time.monotonic() + start_timeout_s
        starting: dict[int, Program] = {}
        for program in self._programs:
            starting[program.socket.fileno()] = program
            for source in (program.exit_fd, program.stderr.fileno(), program.socket.fileno()):
                poll.register(source, select.POLLIN)
        stage = Stage(on_progress, len(self._programs))
        while True:
            left_s = max(0.0, deadline_s - time.monotonic()) if starting else None
            sources = {source for source, _ in poll.poll(left_s and 1000 * left_s)}
            self._drain(poll, sources)
            if wake in sources:
                cleared(wake)
            ended = [program for program in self._programs if program.exit_fd in sources]
            if ended:
                return Fault(ended[0].rank)
            if (fault := called()) is not None:
                return fault
            for source in sources & starting.keys():
                program = starting[source]
                try:
                    if stage.reached(program.rank, protocol.receive(program.socket, MESSAGE_S)):
                        poll.unregister(source)  # the requester's from now on
                        del starting[source]
                except (protocol.WireError, Broken) as error:
                    return Fault(
                        program.rank,
                        f'failed to start: {error}',
                        isinstance(error, protocol.PeerClosed),
                    )
            if starting and time.monotonic() >= deadline_s:
                late = next(iter(starting.values()))
                return Fault(late.rank, f'was not ready within {start_timeout_s:g} s')

    def answers(self, message: Message, timeout_s: float, leave: int) -> list[Message] | None:
        """Send to every worker and collect their answers, by rank; None if `leave` was written.

        Answers to earlier messages are dropped. Raises Broken, or WireError if the message
        itself breaks a limit.
        """
        deadline_s = time.monotonic() + timeout_s
        for program in self._programs:
            try:
                protocol.send(program.socket, message, max(0.001, deadline_s - time.monotonic()))
            except protocol.PeerClosed as error:
                raise Broken(Fault(program.rank, str(error), closed=True)) from None
            except protocol.WireTimeout:
                raise Broken(_late(program.rank, message, timeout_s)) from None
        waiting = {program.socket.fileno(): program for program in self._programs}
        found: dict[int, Message] = {}
        poll = select.poll()
        poll.register(leave, select.POLLIN)
        for source in waiting:
            poll.register(source, select.POLLIN)
        while waiting:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise Broken(_late(next(iter(waiting.values())).rank, message, timeout_s))
            sources = {source for source, _ in poll.poll(1000 * left_s)}
            if leave in sources:
                return None
            for source in sources & waiting.keys():
                program = waiting[source]
                answer = _received(program, deadline_s)
                if answer.fields.get('id') == message.fields['id']:
                    found[program.rank] = answer
                    poll.unregister(source)
                    del waiting[source]
        return [found[program.rank] for program in self._programs]

    def kill(self) -> None:
        """End every program now."""
        for program in self._programs:
            program.signal(signal.SIGKILL)

    def explain(self, fault: Fault) -> Fault:
        """Give a worker whose socket closed the time to show its exit status."""
        if not fault.closed:
            return fault
        program = self._programs[fault.rank]
        self._wait([program], HEAD_START_S)
        return replace(fault, cause='') if program.ended() else fault

    def stop(self, grace_s: float) -> None:
        """Ask every program to end, then insist."""
        for program in self._programs:
            with suppress(protocol.WireError, OSError):  # will not listen: insisting follows
                protocol.send(program.socket, Message('stop'), 0.2)
                program.socket.shutdown(socket.SHUT_WR)  # seen even by one too busy to read
        self._wait(self._programs, grace_s)
        for program in self._programs:
            if not program.ended():
                program.signal(signal.SIGTERM)
        self._wait(self._programs, TERM_S)

    def reaped(self, fault: Fault) -> Death:
        """Collect every program and say how it ended for the one that `fault` is about.

        Where both ended by themselves, the one that only lost its peer is not the culprit.
        """
        alone = {program.rank for program in self._programs if program.ended()}
        deaths = [
            program.reaped(fault.cause if program.rank == fault.rank else '')
            for program in self._programs
        ]
        self._programs = []
        culprits = [
            death
            for death in deaths
            if death.rank in alone and death.returncode != exit_codes.PEER_LOST
        ]
        if not fault.cause and culprits and fault.rank not in {d.rank for d in culprits}:
            return culprits[0]
        if fault.rank >= len(deaths):  # it never started
            return Death(fault.rank, self._roles[fault.rank], None, (), fault.cause)
        return deaths[fault.rank]

    def _drain(self, poll: select.poll, sources: set[int]) -> None:
        for program in self._programs:
            if program.stderr.fileno() in sources and not program.drain():
                poll.unregister(program.stderr.fileno())

    def _wait(self, programs: Iterable[Program], timeout_s: float) -> None:
        """Wait until the programs have ended, keeping every stderr flowing."""
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        for program in self._programs:
            poll.register(program.stderr.fileno(), select.POLLIN)
        running = {program.exit_fd for program in programs if not program.ended()}
        for source in running:
            poll.register(source, select.POLLIN)
        while running and (left_s := deadline_s - time.monotonic()) > 0:
            sources = {source for source, _ in poll.poll(1000 * left_s)}
            self._drain(poll, sources)
            for source in sources & running:
                poll.unregister(source)
            running -= sources


class Stage:
    """Follow workers through their start: as far as the slowest has come."""

    ORDER = ('loading', 'warming', 'ready')

    def __init__(self, on_progress: OnProgress, workers: int) -> None:
        self._on_progress = on_progress
        self._reached = dict.fromkeys(range(workers), 'loading')
        self._told = 'loading'
        self._facts: Mapping[str, Any] = {}

    def reached(self, rank: int, message: Message) -> bool:
        """Take a worker's report; True once this one is ready."""
        if message.kind == 'error':
            raise Broken(Fault(rank, str(message.fields.get('what'))))
        if message.kind not in self.ORDER:
            raise Broken(Fault(rank, f'sent {message.kind!r} before it was ready'))
        self._reached[rank] = message.kind
        if rank == 0:
            self._facts = message.fields
        slowest = min(self._reached.values(), key=self.ORDER.index)
        if slowest != self._told:
            self._told = slowest
            self._on_progress(slowest, self._facts)
        return message.kind == 'ready'


def cleared(event: int) -> None:
    """Set an eventfd back to zero."""
    with suppress(BlockingIOError):  # it was zero
        os.eventfd_read(event)


def _late(rank: int, message: Message, timeout_s: float) -> Fault:
    return Fault(rank, f'did not answer {message.kind!r} within {timeout_s:g} s')


def _received(program: Program, deadline_s: float) -> Message:
    try:
        return protocol.receive(program.socket, max(0.001, deadline_s - time.monotonic()))
    except protocol.PeerClosed as error:
        raise Broken(Fault(program.rank, str(error), closed=True)) from None
    except protocol.WireError as error:
        raise Broken(Fault(program.rank, f'sent a wrong message: {error}')) from None

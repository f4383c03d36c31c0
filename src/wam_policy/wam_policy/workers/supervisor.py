"""Supervision of the workers by their parent process: start, request, monitor, restart.

- One supervisor thread owns every child: it starts, monitors, ends and reaps them, so no call
  from another thread waits for a process without a limit.
- Both workers of a pair start and end together, because a broken torch process group cannot be
  repaired.
- One request is in progress at a time; the answer to an interrupted one is dropped.
This module imports no torch and does not depend on the meaning of requests.
"""

import os
import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from wam_policy.workers.protocol import EXIT_PERMANENT_FAILURE, WorkerMessage
from wam_policy.workers.worker_group import (
    WorkerFailure,
    WorkerGroup,
    WorkerGroupError,
    clear_eventfd,
)
from wam_policy.workers.worker_process import OnLine, WorkerExit

EXIT_REPORT_TIMEOUT_S = 15.0  # for the supervisor to end and reap a worker that failed a request


class WorkerState(StrEnum):
    """States of a pair; each is reported with a reason."""

    STARTING = 'starting'  # processes run, models load
    WARMING = 'warming'  # models are loaded, first query in progress
    READY = 'ready'
    FAILED = 'failed'  # see WorkerStatus.retry_s
    STOPPED = 'stopped'  # not started yet, or closed


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Report the state of the workers; a new generation starts without sessions."""

    state: WorkerState
    reason: str
    generation: int = 0  # pairs started so far
    restarts: int = 0  # of those, started after a failure
    retry_s: float | None = None  # FAILED: wait before the next start; None: no further try
    info: Mapping[str, Any] = field(default_factory=dict)  # fields of `ready` from rank 0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Configuration of a pair of workers.

    One device runs both branches of guidance, two run one each; without guidance the first
    device runs the only branch. `arguments` are passed to every worker unchanged.
    """

    devices: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    guided: bool = True
    program: tuple[str, ...] = (sys.executable, '-m', 'wam_policy.workers.run_worker')
    cores: tuple[int, ...] = ()  # one CPU core per worker to run on; empty: any
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 300.0  # 46 GB from a slow disk
    shutdown_timeout_s: float = 3.0  # from `stop` to SIGTERM
    # starts in a row that may fail before the workers are ready; None: any number. A worker that
    # the kernel kills for memory, or that crashes in a driver, would do so for ever
    max_failed_starts: int | None = 5
    restart_delay_s: float = 0.5
    max_restart_delay_s: float = 10.0

    def __post_init__(self) -> None:
        if len(self.devices) not in (1, 2):
            raise ValueError(f'devices: want one or two, got {list(self.devices)}')
        if self.cores and len(self.cores) < len(self.roles):
            raise ValueError(
                f'cores: {len(self.roles)} workers need {len(self.roles)} cores, '
                f'got {list(self.cores)}'
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """Return each worker's branch of guidance, by rank."""
        if not self.guided:
            return ('cond',)
        return ('both',) if len(self.devices) == 1 else ('cond', 'uncond')

    @property
    def dist_backend(self) -> str:
        """Return the torch.distributed backend: NCCL requires one GPU per worker."""
        gpus = {device for device in self.devices if device.startswith('cuda')}
        return 'nccl' if len(gpus) == 2 else 'gloo'

    def build_commands(self, folder: str) -> list[list[str]]:
        """Return each worker's command line; `folder` is private to this generation."""
        rendezvous = Path(folder, 'rendezvous').as_uri()
        found = []
        for rank, role in enumerate(self.roles):
            core = ['--cpu-affinity', str(self.cores[rank])] if self.cores else []
            found.append(
                [
                    *(*self.program, *self.arguments),
                    *('--rank', str(rank), '--world-size', str(len(self.roles))),
                    *('--role', role, '--device', self.devices[rank]),
                    *('--dist-backend', self.dist_backend, '--rendezvous', rendezvous),
                    *core,
                ]
            )
        return found


class Backoff:
    """Double the delay after every failure; a long healthy run resets it."""

    def __init__(
        self, initial_delay_s: float = 0.5, max_delay_s: float = 10.0, reset_after_s: float = 60.0
    ) -> None:
        if not 0 <= initial_delay_s <= max_delay_s:
            raise ValueError(
                f'back-off: want 0 <= first <= last, got {initial_delay_s} s and {max_delay_s} s'
            )
        self._initial_delay_s = initial_delay_s
        self._max_delay_s = max_delay_s
        self._reset_after_s = reset_after_s
        self._failures = 0

    def next_delay_s(self, ready_for_s: float) -> float:
        """Return the delay after a failure of workers that had been ready for `ready_for_s`."""
        if ready_for_s >= self._reset_after_s:
            self._failures = 0
        delay_s = min(self._max_delay_s, self._initial_delay_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return delay_s


class WorkersNotReady(Exception):
    """The workers cannot answer now; `status` holds the reason."""

    def __init__(self, status: WorkerStatus) -> None:
        super().__init__(f'workers are {status.state}: {status.reason}')
        self.status = status


class WorkerExited(Exception):
    """A worker exited or was killed for not answering; the pair restarts automatically."""

    def __init__(self, worker_exit: WorkerExit) -> None:
        super().__init__(str(worker_exit))
        self.worker_exit = worker_exit


class WorkerError(Exception):
    """A worker rejected or failed a request, and still runs."""

    def __init__(self, rank: int, what: str, fix: str) -> None:
        super().__init__(f'{what}; {fix}' if fix else what)
        self.rank = rank
        self.what = what
        self.fix = fix


class RequestInterrupted(Exception):
    """The request was interrupted; its answer will be dropped."""


class WorkerSupervisor:
    """Keep one or two workers running and send each request to all of them."""

    def __init__(
        self,
        spec: WorkerSpec,
        on_line: OnLine = lambda rank, line: None,
        on_status: Callable[[WorkerStatus], None] = lambda status: None,
    ) -> None:
        """Take listeners for stderr lines (rank, line) and new states.

        Both are called from the supervisor thread and must return soon.
        """
        self.spec = spec
        self._on_line = on_line
        self._on_status = on_status
        self._status = WorkerStatus(WorkerState.STOPPED, 'not started')
        self._status_changed = threading.Condition()
        self._request_lock = threading.Lock()  # held while the sockets are in use
        self._group: WorkerGroup | None = None
        self._last_exit: tuple[int, WorkerExit] | None = None  # generation, how it ended
        self._pending_failure: WorkerFailure | None = None  # handled by the supervisor thread
        self._closing = False
        self._request_id = 0  # of the last request
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # supervisor
        self._interrupt_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # requester
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> WorkerStatus:
        return self._status

    def start(self) -> None:
        """Start the workers in the background; see `status` and `wait_ready`."""
        if self._thread is not None:
            raise RuntimeError('start() was called twice')
        self._thread = threading.Thread(target=self._run, name='workers', daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> WorkerStatus:
        """Wait until the workers are ready, failed permanently or stopped; return the status.

        After `timeout_s` return the status as it is then.
        """

        def is_settled() -> bool:
            state = self._status.state
            return (
                state == WorkerState.READY
                or (state == WorkerState.FAILED and self._status.retry_s is None)
                or (state == WorkerState.STOPPED and self._closing)
            )

        with self._status_changed:
            self._status_changed.wait_for(is_settled, timeout_s)
            return self._status

    def request(
        self,
        kind: str,
        fields: Mapping[str, Any] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        timeout_s: float,
    ) -> WorkerMessage:
        """Send a request to every worker and return the answer of rank 0.

        Raises WorkersNotReady; WorkerError if one rejected it; RequestInterrupted; WorkerExited
        if one exited or did not answer in time (the pair is then restarted); ProtocolError if the
        message exceeds a limit.
        """
        with self._request_lock:
            clear_eventfd(self._interrupt_fd)
            group = self._group  # read after clearing, or the end of this group could be missed
            if group is None:
                raise WorkersNotReady(self._status)
            self._request_id += 1
            message = WorkerMessage(kind, {**(fields or {}), 'id': self._request_id}, arrays or {})
            try:
                answers = group.request_all(message, timeout_s, self._interrupt_fd)
                failure = WorkerFailure(0, f'ended during {kind!r}')
            except WorkerGroupError as error:
                answers, failure = None, error.failure
            else:
                if answers is not None:
                    return _select_answer(answers)
                if self._group is group and not self._closing:
                    raise RequestInterrupted(f'{kind!r} was interrupted')
        worker_exit = self._await_exit(group.generation, failure)
        if worker_exit is None:
            raise WorkersNotReady(self._status)
        raise WorkerExited(worker_exit)

    def interrupt(self) -> None:
        """Make a request in progress raise RequestInterrupted now.

        The workers finish it; the next request waits for that, at most one query.
        """
        os.eventfd_write(self._interrupt_fd, 1)

    def restart(self, reason: str) -> None:
        """End the workers and start new ones at once, even after a permanent failure."""
        with self._status_changed:
            self._pending_failure = WorkerFailure(
                0, f'was restarted: {reason}', restart_immediately=True
            )
        os.eventfd_write(self._wakeup_fd, 1)

    def close(self) -> None:
        """Stop the workers and wait until they have exited; may be called twice."""
        with self._status_changed:
            self._closing = True
        os.eventfd_write(self._wakeup_fd, 1)
        os.eventfd_write(self._interrupt_fd, 1)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _await_exit(self, generation: int, failure: WorkerFailure) -> WorkerExit | None:
        """Report a failure to the supervisor thread and wait for the exit; None while closing."""

        def get_known() -> bool:
            return self._last_exit is not None and self._last_exit[0] >= generation

        with self._status_changed:
            if self._pending_failure is None and not get_known():
                self._pending_failure = failure
                os.eventfd_write(self._wakeup_fd, 1)
            self._status_changed.wait_for(
                lambda: get_known() or self._closing, EXIT_REPORT_TIMEOUT_S
            )
            if get_known() and self._last_exit is not None:
                return self._last_exit[1]
            if self._closing:
                return None
        return WorkerExit(failure.rank, self.spec.roles[failure.rank], None, (), failure.cause)

    def _run(self) -> None:
        try:
            self._supervise()
        finally:  # also if a listener raised: the status must not stay READY
            if not self._closing:
                self._set_status(WorkerState.FAILED, 'the supervisor of the workers failed')

    def _supervise(self) -> None:
        backoff = Backoff(self.spec.restart_delay_s, self.spec.max_restart_delay_s)
        failed_starts = 0  # in a row
        while not self._closing:
            started = self._status.generation
            self._set_status(
                WorkerState.STARTING,
                'loading the model',
                generation=started + 1,
                restarts=started,
                info={},
            )
            failure, worker_exit, ready_for_s = self._run_generation()
            if self._closing:
                break
            retry_s: float | None = (
                0.0 if failure.restart_immediately else backoff.next_delay_s(ready_for_s)
            )
            failed_starts = 0 if ready_for_s or failure.restart_immediately else failed_starts + 1
            reason = f'{worker_exit}; restart in {retry_s:g} s'
            if worker_exit.returncode == EXIT_PERMANENT_FAILURE and not failure.cause:
                retry_s, reason = None, str(worker_exit)
            elif failed_starts == self.spec.max_failed_starts:
                retry_s = None
                reason = (
                    f'{worker_exit}; {failed_starts} starts in a row failed, no further try: mend '
                    'the cause (the log has all of it; a worker killed by SIGKILL usually lacked '
                    'memory), then reload'
                )
            if retry_s is None:
                failed_starts = 0  # a requested restart tries as often
            self._set_status(WorkerState.FAILED, reason, retry_s=retry_s)
            self._wait_before_restart(retry_s)
        self._set_status(WorkerState.STOPPED, 'closed')

    def _run_generation(self) -> tuple[WorkerFailure, WorkerExit, float]:
        """Run one generation; return why and how it ended, and for how long it was ready."""
        ready_s: float | None = None
        group = WorkerGroup(self._status.generation, self.spec.roles, self._on_line)

        def on_progress(stage: str, info: Mapping[str, Any]) -> None:
            nonlocal ready_s
            if stage == WorkerState.READY:
                ready_s = time.monotonic()
                self._group = group
            state = WorkerState.STARTING if stage == 'loading' else WorkerState(stage)
            self._set_status(state, str(info.get('reason', '')), info=dict(info))

        failure = WorkerFailure(0, 'was abandoned')
        with tempfile.TemporaryDirectory(prefix='wam-workers-') as folder:  # mode 0700
            try:
                group.start(self.spec.build_commands(folder), self.spec.environment)
                failure = group.await_exit_status(
                    group.watch(
                        self._wakeup_fd,
                        self._get_pending_failure,
                        self.spec.start_timeout_s,
                        on_progress,
                    )
                )
            except OSError as error:  # no such interpreter, no memory for a process
                failure = WorkerFailure(0, f'did not start: {error}')
            finally:
                ready_for_s = 0.0 if ready_s is None else time.monotonic() - ready_s
                worker_exit = self._terminate(group, failure)
        return failure, worker_exit, ready_for_s

    def _terminate(self, group: WorkerGroup, failure: WorkerFailure) -> WorkerExit:
        """End a group in any state and wake a waiting request."""
        self._group = None
        os.eventfd_write(self._interrupt_fd, 1)
        if not self._closing:
            group.kill()
        with self._request_lock:  # no request uses the sockets any more
            if self._closing:
                group.stop(self.spec.shutdown_timeout_s)
            worker_exit = group.reap(failure)
        with self._status_changed:
            self._last_exit = (group.generation, worker_exit)
            self._pending_failure = None
            self._status_changed.notify_all()
        return worker_exit

    def _get_pending_failure(self) -> WorkerFailure | None:
        return WorkerFailure(0, 'was stopped') if self._closing else self._pending_failure

    def _wait_before_restart(self, timeout_s: float | None) -> None:
        """Sleep until the timeout, a requested restart or close."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._wakeup_fd, select.POLLIN)
        while self._get_pending_failure() is None:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                break
            poll.poll(None if left_s is None else 1000 * left_s)
            clear_eventfd(self._wakeup_fd)
        with self._status_changed:
            self._pending_failure = None

    def _set_status(
        self, state: WorkerState, reason: str, *, retry_s: float | None = None, **changed: Any
    ) -> None:
        with self._status_changed:
            self._status = replace(
                self._status, state=state, reason=reason, retry_s=retry_s, **changed
            )
            self._status_changed.notify_all()
        self._on_status(self._status)


def _select_answer(answers: list[WorkerMessage]) -> WorkerMessage:
    """Return rank 0's answer; raise WorkerError if any worker sent an error."""
    for rank, answer in enumerate(answers):
        if answer.kind == 'error':
            raise WorkerError(
                rank, str(answer.fields.get('what', 'failed')), str(answer.fields.get('fix', ''))
            )
    return answers[0]

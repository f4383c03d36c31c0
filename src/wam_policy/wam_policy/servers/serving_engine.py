"""Backend of the policy server: the same worker processes that the policy node starts.

The models run in the workers, so this process imports no torch and continues when they fail. The
supervisor restarts them; all sessions are then empty and `generation` increases.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.session.model_requests import read_max_committed_rows
from wam_policy.servers.session_manager import BackendQuery
from wam_policy.workers.supervisor import (
    WorkerError,
    WorkerSpec,
    WorkerState,
    WorkerStatus,
    WorkerSupervisor,
)

Views = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Properties of the model that the workers run."""

    name: str
    trained: bool
    first_frames: int
    frames_per_block: int
    frame_period_s: float
    window_blocks: int
    horizon: int
    step_dt_s: float
    max_committed_rows: int = 0  # how many rows it continues


class ServerBackend:
    """Run the workers of a spec and send them the requests of sessions."""

    def __init__(self, spec: WorkerSpec, timeout_s: float, log: Callable[[str], None]) -> None:
        """Create; `timeout_s` limits one answer, `log` receives lines for the operator."""
        self._timeout_s, self._log = timeout_s, log
        self._on_permanent_failure: Callable[[], object] = lambda: None
        self._first_status: WorkerStatus | None = None  # result of the first start
        self._start_finished = threading.Event()
        self._supervisor = WorkerSupervisor(spec, lambda rank, line: log(line), self._on_status)

    def start(self) -> WorkerStatus:
        """Start the workers, wait until they are ready or have failed once, return the status."""
        self._supervisor.start()
        self._start_finished.wait()
        assert self._first_status is not None
        return self._first_status

    def close(self) -> None:
        self._supervisor.close()

    @property
    def generation(self) -> int:
        """Return the number of worker starts; sessions do not survive a restart."""
        return self._supervisor.status.generation

    @property
    def restarts(self) -> int:
        return self._supervisor.status.restarts

    @property
    def not_ready_reason(self) -> str:
        """Return why requests are impossible now, or an empty string."""
        status = self._supervisor.status
        ready = status.state is WorkerState.READY
        return '' if ready else f'workers are {status.state}: {status.reason}'

    @property
    def has_failed_permanently(self) -> bool:
        """Return whether the workers have failed and will not be restarted."""
        return _has_failed_permanently(self._supervisor.status)

    def set_permanent_failure_callback(self, callback: Callable[[], object]) -> None:
        """Set what the supervisor thread calls when the workers will not be restarted."""
        self._on_permanent_failure = callback
        if self.has_failed_permanently:
            callback()

    @property
    def model(self) -> ServedModel:
        """Return the model's properties; valid after `start` returned READY."""
        assert self._first_status is not None
        facts = self._first_status.info
        named = {
            key: facts['geometry'][key]
            for key in (
                'first_frames',
                'frames_per_block',
                'frame_period_s',
                'window_blocks',
                'horizon',
                'step_dt_s',
            )
        }
        return ServedModel(
            name=facts['model'].removeprefix('UNTRAINED '),
            trained=facts['trained'],
            max_committed_rows=read_max_committed_rows(facts.get('rtc')),
            **named,
        )

    def reset(self, session: str, instruction: str, mode: str) -> None:
        """Start or restart a session; `mode` is the memory update, streaming | released.

        This method, `commit` and `query_batch` raise the errors of WorkerSupervisor.request.
        """
        self._request(
            'reset', {'session': session, 'instruction': instruction, 'memory_update': mode}
        )

    def commit(self, session: str, block: int, views: Views) -> Mapping[str, Any]:
        """Add frames uint8 [T h w 3] of each camera to the memory; return the worker's fields."""
        return self._request(
            'commit',
            {'session': session, 'block': block, 'stamps_ns': []},
            {f'frames/{key}': view for key, view in views.items()},
        ).fields

    def query_batch(self, queries: Sequence[BackendQuery]) -> list[np.ndarray | Exception]:
        """Predict absolute targets [horizon commanded] of each query, in one batch.

        A query that failed by itself has its WorkerError in place of targets.
        """
        fields = [
            {
                'session': query.session,
                'sequence': query.sequence,
                'stamp_ns': 0,
                'seed': query.seed,
                'delay': query.delay,
            }
            for query in queries
        ]
        if len(queries) == 1:  # every worker knows this request, also one that cannot batch
            try:
                answer = self._request('query', fields[0], _name_arrays(queries[0]))
            except WorkerError as error:
                return [error]
            return [answer.arrays['targets']]
        arrays = {
            f'{i}/{name}': array
            for i, query in enumerate(queries)
            for name, array in _name_arrays(query).items()
        }
        answer = self._request('queries', {'queries': fields}, arrays)
        return [
            WorkerError(0, str(found.get('what')), str(found.get('fix', '')))
            if found['kind'] == 'error'
            else answer.arrays[f'{i}/targets']
            for i, found in enumerate(answer.fields['answers'])
        ]

    def _request(self, kind: str, fields: Mapping[str, Any], arrays: Views | None = None) -> Any:
        return self._supervisor.request(kind, fields, arrays, timeout_s=self._timeout_s)

    def _on_status(self, status: WorkerStatus) -> None:
        if self._first_status is None and status.state in (
            WorkerState.READY,
            WorkerState.FAILED,
            WorkerState.STOPPED,
        ):
            self._first_status = status
            self._start_finished.set()
        if status.state is WorkerState.FAILED:
            self._log(f'workers failed: {status.reason}')
        if _has_failed_permanently(status):
            self._on_permanent_failure()


def _name_arrays(query: BackendQuery) -> dict[str, np.ndarray]:
    """Return the arrays of a query by their names on the worker's wire."""
    arrays = {'joints': query.joints}
    if query.committed is not None:
        arrays['committed'] = query.committed
    return arrays | {f'newest/{key}': view for key, view in (query.newest or {}).items()}


def _has_failed_permanently(status: WorkerStatus) -> bool:
    return status.state is WorkerState.FAILED and status.retry_s is None


def make_worker_spec(
    devices: tuple[str, ...], arguments: tuple[str, ...], guided: bool, start_timeout_s: float
) -> WorkerSpec:
    """Return the spec of the model workers; raises ValueError for invalid devices."""
    return WorkerSpec(
        devices,
        arguments,
        guided,
        start_timeout_s=start_timeout_s,
        program=(sys.executable, '-m', 'wam_policy.workers.run_worker'),
    )

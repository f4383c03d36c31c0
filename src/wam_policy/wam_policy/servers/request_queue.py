"""One queue of the requests of all clients, whatever their transport, and the thread of sessions.

Requests that wait for each other are answered together, so that their queries share the passes of
the network. A request is never held back for others, with one exception: clients that were
answered a moment ago ask again at once, so the first of them waits for the rest.
"""

import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from wam_policy.servers import value_mapping
from wam_policy.servers.codecs.wire_arrays import MalformedMessage
from wam_policy.servers.server_metrics import ServerMetrics
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.session_manager import (
    ClientRequest,
    ConnectionId,
    InvalidClientRequest,
    SessionManager,
)

INVALID_REQUEST_ERRORS = (MalformedMessage, value_mapping.ProfileMismatch, InvalidClientRequest)
LOCKSTEP_S = 0.01  # a client answered this long ago is expected to ask again now
MAX_WAIT_S = 0.004  # for such clients, and at most half of the last batch's duration


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request of a client, not decoded yet."""

    connection_id: ConnectionId
    profile: ServerProfile
    decode: Callable[[], Mapping[str, Any]]
    is_open: Callable[[], bool]
    endpoint: str | None
    arrived_s: float = field(default_factory=time.perf_counter)
    future: 'Future[Any]' = field(default_factory=Future)


class ClientGone(Exception):
    """Report that the client closed its connection before its request was executed."""


class RequestQueue:
    """Execute requests in one thread, several together."""

    def __init__(
        self,
        session_manager: SessionManager,
        metrics: ServerMetrics,
        log: Callable[[str], None],
        *,
        log_requests: bool = True,
        max_batch: int = 8,
    ) -> None:
        """Start the thread; `max_batch` requests at most are executed together."""
        self._session_manager, self._metrics, self._log = session_manager, metrics, log
        self._log_requests, self._max_batch = log_requests, max_batch
        self._queue: queue.SimpleQueue[QueuedRequest | Callable[[], None] | None] = (
            queue.SimpleQueue()
        )
        self._connection_ids = itertools.count(1)
        self._answered_s: dict[ConnectionId, float] = {}  # when each was answered last
        self._last_batch_s = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='sessions', daemon=True)
        self._thread.start()

    def connect(self) -> ConnectionId:
        """Return the id of a new connection, on whatever transport."""
        return next(self._connection_ids)

    def disconnect(self, connection_id: ConnectionId) -> None:
        """End the sessions of a connection, after its requests in the queue."""

        def end_sessions() -> None:
            self._answered_s.pop(connection_id, None)
            self._session_manager.disconnect(connection_id)

        self._queue.put(end_sessions)

    def submit(
        self,
        connection_id: ConnectionId,
        profile: ServerProfile,
        decode: Callable[[], Mapping[str, Any]],
        is_open: Callable[[], bool] = lambda: True,
        endpoint: str | None = None,
    ) -> 'Future[Any]':
        """Queue a request; its future gets the answer in the profile's form, or the error.

        One of INVALID_REQUEST_ERRORS is the client's fault, every other error the server's.
        """
        request = QueuedRequest(connection_id, profile, decode, is_open, endpoint)
        self._queue.put(request)
        return request.future

    def close(self) -> None:
        """End the thread when it has executed what it has begun."""
        self._closed = True
        self._queue.put(None)

    def _run(self) -> None:
        while not self._closed:
            found = self._queue.get()
            batch: list[QueuedRequest] = []
            while isinstance(found, QueuedRequest):
                batch.append(found)
                found = self._get_next(batch)
            if batch:
                self._execute(batch)
            if callable(found):
                found()

    def _get_next(self, batch: list[QueuedRequest]) -> QueuedRequest | Callable[[], None] | None:
        """Return what else is queued; wait a moment for clients in lockstep, None: nothing."""
        if len(batch) >= self._max_batch:
            return None
        now_s, present = time.perf_counter(), {request.connection_id for request in batch}
        expected = any(
            now_s - at_s < LOCKSTEP_S and connection_id not in present
            for connection_id, at_s in self._answered_s.items()
        )
        left_s = min(MAX_WAIT_S, self._last_batch_s / 2) - (now_s - batch[0].arrived_s)
        try:
            if expected and left_s > 0:
                return self._queue.get(timeout=left_s)
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def _execute(self, batch: list[QueuedRequest]) -> None:
        started_s = time.perf_counter()
        requests: list[tuple[QueuedRequest, ClientRequest]] = []
        results: list[tuple[QueuedRequest, object, Any]] = []  # with endpoint, answer or error
        for queued in batch:
            try:
                if not queued.is_open():
                    raise ClientGone('closed while the request was queued')
                message = queued.decode()
                request = ClientRequest(
                    queued.connection_id, queued.profile, message, queued.endpoint
                )
                requests.append((queued, request))
            except Exception as error:  # noqa: BLE001  the request of one client only
                results.append((queued, 'other', error))
        answers = self._session_manager.handle_requests([request for _, request in requests])
        for (queued, request), answer in zip(requests, answers, strict=True):
            results.append((queued, self._session_manager.get_endpoint(request), answer))
        self._last_batch_s = time.perf_counter() - started_s
        for queued, endpoint, answer in results:
            self._report(queued, endpoint, answer, started_s)
            self._answered_s[queued.connection_id] = time.perf_counter()
            if not queued.future.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            if isinstance(answer, Exception):
                queued.future.set_exception(answer)
            else:
                queued.future.set_result(answer)

    def _report(
        self, queued: QueuedRequest, endpoint: object, answer: Any, started_s: float
    ) -> None:
        waited_s, worked_s = started_s - queued.arrived_s, time.perf_counter() - started_s
        name, outcome = f'connection {queued.connection_id}', 'ok'
        if isinstance(answer, ClientGone):
            outcome = 'gone'
        elif isinstance(answer, INVALID_REQUEST_ERRORS):
            outcome = 'declined'
            self._log(f'{name}: declined {endpoint!s:.40}: {answer}')
        elif isinstance(answer, Exception):
            outcome = 'failed'
            trace = ''.join(traceback.format_exception(answer))
            self._log(f'{name}: {endpoint!s:.40} failed\n{trace}')
        self._metrics.count_request(endpoint, outcome, waited_s, worked_s)
        if self._log_requests and outcome == 'ok':
            self._log(
                f'{name}: {endpoint} {1e3 * worked_s:.1f} ms, after {1e3 * waited_s:.1f} ms in '
                'the queue'
            )

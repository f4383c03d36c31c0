"""The one thread that asks the workers: it takes what the policy wants next, and waits for it.

Callbacks run in another thread and never wait for a worker; both meet in `policy`, under its lock.
"""

import threading
from collections.abc import Callable

import numpy as np

from wam_policy.core.session.model_requests import (
    CacheStatus,
    Commit,
    Query,
    QueryResult,
    Request,
    Reset,
)
from wam_policy.core.session.policy_session import PolicySession, WorkerAvailability
from wam_policy.core.types import Chunk
from wam_policy.nodes.policy.worker_backend import WorkerBackend
from wam_policy.workers.supervisor import (
    RequestInterrupted,
    WorkerError,
    WorkerExited,
    WorkersNotReady,
)

POLL_S = 0.004  # how late a new frame may find an idle requester; costs 1 % of a core
IDLE_S = 0.05  # where nothing can be asked before someone calls `wake`
RETRY_NS = 1_000_000_000
VIDEO_PERIOD_NS = 1_000_000_000
VIDEO_OVERDUE_NS = 4_000_000_000  # then it comes before the next query: workers may never be idle


class LatestSlot[T]:
    """Pass the newest item between two threads; an item not taken is dropped and counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._item: T | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped

    def put(self, item: T) -> None:
        if item is None:
            raise ValueError('latest slot: None means empty and cannot be an item')
        with self._lock:
            self._dropped += self._item is not None
            self._item = item

    def take(self) -> T | None:
        """Return the item and empty the slot; None: there is none."""
        with self._lock:
            item, self._item = self._item, None
            return item


class LockedPolicy:
    """Lend the policy to one thread at a time: `with shared as policy`."""

    def __init__(self, policy: PolicySession) -> None:
        self._policy = policy
        self._lock = threading.Lock()

    def __enter__(self) -> PolicySession:
        self._lock.acquire()
        return self._policy

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class InferenceLoop:
    """Ask what the policy wants next until it is closed."""

    def __init__(
        self,
        locked_policy: LockedPolicy,
        now_ns: Callable[[], int],
        publish_chunk: Callable[[Chunk, int], None],
        publish_video: Callable[[int, np.ndarray], None],
        is_video_requested: Callable[[], bool],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Take `publish_chunk(chunk, answered_ns)`, `publish_video(from_ns, frames)` and others.

        The own thread calls them; predicted frames follow the frame that is stamped `from_ns`.

        `on_error` gets what none of the workers' errors is; the thread goes on.
        """
        self._locked_policy, self._now_ns = locked_policy, now_ns
        self._publish_chunk, self._publish_video = publish_chunk, publish_video
        self._is_video_requested = is_video_requested
        self._on_error = on_error
        self._backend: WorkerBackend | None = None
        self._next_backend: LatestSlot[WorkerBackend] = LatestSlot()
        self._active = False
        self._closing = False
        self._wake_event = threading.Event()
        self._undecoded_from_ns: int | None = None  # where the newest chunk's video begins
        self._last_video_ns: int | None = None  # when video was last decoded
        self._thread = threading.Thread(target=self._run, name='requester', daemon=True)

    def start(self, backend: WorkerBackend) -> None:
        self._next_backend.put(backend)
        self._thread.start()

    def replace_backend(self, backend: WorkerBackend) -> None:
        """Close the workers and start others; returns at once."""
        self._next_backend.put(backend)
        self._wake_event.set()

    def set_active(self, active: bool) -> None:
        self._active = active
        self._wake_event.set()

    def wake(self) -> None:
        """Look again now: something arrived that may change what is asked."""
        self._wake_event.set()

    def close(self) -> None:
        """End the thread and the workers; a request under way is given up."""
        self._closing = True
        self._wake_event.set()
        engine = self._backend
        if engine is not None:
            engine.interrupt()
        if self._thread.ident is not None:  # a configuration may have failed before
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                if not self._step():
                    self._wake_event.wait(POLL_S if self._active else IDLE_S)
                    self._wake_event.clear()
        finally:
            for engine in (self._backend, self._next_backend.take()):
                if engine is not None:
                    engine.close()

    def _step(self) -> bool:
        """Switch the workers if asked to, then ask one thing; False: wait before the next."""
        try:
            backend = self._switch_backend()
            return backend is not None and self._execute_next(backend)
        except Exception as error:  # noqa: BLE001 - passed to the node, which else hangs
            self._on_error(error)
            return False

    def _switch_backend(self) -> WorkerBackend | None:
        """Start the workers that are to replace others; return those to ask."""
        engine = self._next_backend.take()
        if engine is not None:
            if self._backend is not None:
                self._backend.close()
            self._backend = engine
            engine.start()
        return self._backend

    def _execute_next(self, backend: WorkerBackend) -> bool:
        """Ask one thing; False: there is nothing to ask."""
        if not self._active:
            return False
        try:
            if self._is_video_overdue() and self._decode_video(backend):
                return True
            with self._locked_policy as policy:
                request = policy.next_request(self._now_ns())
            if request is not None:
                self._execute(backend, request)
                return True
            return self._decode_video(backend)
        except (WorkersNotReady, RequestInterrupted):
            self._undecoded_from_ns = None  # what was predicted is gone with the workers
        except WorkerExited as death:
            self._undecoded_from_ns = None
            with self._locked_policy as policy:
                policy.on_workers_unavailable(WorkerAvailability.DOWN, str(death))
        except WorkerError as error:
            with self._locked_policy as policy:
                policy.on_request_failed(str(error), self._now_ns() + RETRY_NS)
        return False

    def _execute(self, backend: WorkerBackend, request: Request) -> None:
        result = backend.execute(request)
        answered_ns = self._now_ns()
        with self._locked_policy as policy:
            if isinstance(request, Reset):
                policy.on_reset_done(request)
                self._undecoded_from_ns = None  # the prediction went with its session
            elif isinstance(request, Commit) and isinstance(result, CacheStatus):
                policy.on_commit_done(request, result)
            elif isinstance(request, Query) and isinstance(result, QueryResult):
                chunk = policy.on_query_result(request, result, answered_ns)
                self._undecoded_from_ns = chunk and policy.predicted_from_ns(request)
                if chunk is not None:
                    # still under the lock: a new instruction comes before or after, never between
                    self._publish_chunk(chunk, answered_ns)
                    policy.on_published(chunk, answered_ns, self._now_ns())

    def _is_video_overdue(self) -> bool:
        last_ns = self._last_video_ns
        return last_ns is None or not 0 <= self._now_ns() - last_ns < VIDEO_OVERDUE_NS

    def _decode_video(self, backend: WorkerBackend) -> bool:
        """Decode the newest prediction if someone watches; return whether it was decoded."""
        now_ns, from_ns = self._now_ns(), self._undecoded_from_ns
        recent = (
            self._last_video_ns is not None and 0 <= now_ns - self._last_video_ns < VIDEO_PERIOD_NS
        )
        if from_ns is None or recent or not self._is_video_requested():
            return False
        self._undecoded_from_ns, self._last_video_ns = None, now_ns
        self._publish_video(from_ns, backend.decode_video())
        return True

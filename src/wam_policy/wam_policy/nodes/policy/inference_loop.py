"""The one thread that asks the workers: it takes what the policy wants next, and waits for it.

Callbacks run in another thread and never wait for a worker; both meet in `policy`, under its lock.
"""

import threading
from collections.abc import Callable

import numpy as np

from wam_policy.core.observation.latest_slot import Newest
from wam_policy.core.session.model_requests import Answer, Cache, Commit, Query, Request, Reset
from wam_policy.core.session.policy_session import Policy, Workers
from wam_policy.core.types import Chunk
from wam_policy.nodes.policy.worker_backend import Engine
from wam_policy.workers.supervisor import Interrupted, NotReady, WorkerDied, WorkerError

POLL_S = 0.004  # how late a new frame may find an idle requester; costs 1 % of a core
IDLE_S = 0.05  # where nothing can be asked before someone calls `wake`
RETRY_NS = 1_000_000_000
VIDEO_PERIOD_NS = 1_000_000_000


class Shared:
    """Lend the policy to one thread at a time: `with shared as policy`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lock = threading.Lock()

    def __enter__(self) -> Policy:
        self._lock.acquire()
        return self._policy

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class Requester:
    """Ask what the policy wants next until it is closed."""

    def __init__(
        self,
        shared: Shared,
        now_ns: Callable[[], int],
        publish: Callable[[Chunk, int], None],
        on_video: Callable[[Chunk, np.ndarray], None],
        wants_video: Callable[[], bool],
    ) -> None:
        """Take `publish(chunk, answered_ns)` and `on_video`; the own thread calls them."""
        self._shared, self._now_ns = shared, now_ns
        self._publish, self._on_video, self._wants_video = publish, on_video, wants_video
        self._engine: Engine | None = None
        self._next_engine: Newest[Engine] = Newest()
        self._active = False
        self._closing = False
        self._awake = threading.Event()
        self._shown: Chunk | None = None  # newest chunk, whose video may be wanted
        self._video_ns: int | None = None  # when video was last decoded
        self._thread = threading.Thread(target=self._run, name='requester', daemon=True)

    def start(self, engine: Engine) -> None:
        self._next_engine.put(engine)
        self._thread.start()

    def replace(self, engine: Engine) -> None:
        """Close the workers and start others; returns at once."""
        self._next_engine.put(engine)
        self._awake.set()

    def activate(self, active: bool) -> None:
        self._active = active
        self._awake.set()

    def wake(self) -> None:
        """Look again now: something arrived that may change what is asked."""
        self._awake.set()

    def close(self) -> None:
        """End the thread and the workers; a request under way is given up."""
        self._closing = True
        self._awake.set()
        engine = self._engine
        if engine is not None:
            engine.interrupt()
        if self._thread.ident is not None:  # a configuration may have failed before
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._change_engine()
                if not self._step():
                    self._awake.wait(POLL_S if self._active else IDLE_S)
                    self._awake.clear()
        finally:
            for engine in (self._engine, self._next_engine.take()):
                if engine is not None:
                    engine.close()

    def _change_engine(self) -> None:
        engine = self._next_engine.take()
        if engine is None:
            return
        if self._engine is not None:
            self._engine.close()
        self._engine = engine
        engine.start()

    def _step(self) -> bool:
        """Ask one thing; False: there is nothing to ask."""
        if not self._active:
            return False
        with self._shared as policy:
            request = policy.next(self._now_ns())
        try:
            if request is not None:
                self._ask(request)
                return True
            return self._show()
        except (NotReady, Interrupted):
            return False  # the news say why
        except WorkerDied as death:
            with self._shared as policy:
                policy.on_workers(Workers.DOWN, str(death))
        except WorkerError as error:
            with self._shared as policy:
                policy.on_failure(str(error), self._now_ns() + RETRY_NS)
        return False

    def _ask(self, request: Request) -> None:
        said = self._engine.ask(request)
        answered_ns = self._now_ns()
        with self._shared as policy:
            if isinstance(request, Reset):
                policy.on_reset(request)
            elif isinstance(request, Commit) and isinstance(said, Cache):
                policy.on_committed(request, said)
            elif isinstance(request, Query) and isinstance(said, Answer):
                self._shown = policy.on_answer(request, said, answered_ns)
                if self._shown is not None:
                    # still under the lock: a new instruction comes before or after, never between
                    self._publish(self._shown, answered_ns)
                    policy.on_published(self._shown, answered_ns, self._now_ns())

    def _show(self) -> bool:
        """Decode the newest prediction if someone watches; only where nothing else is due."""
        now_ns, chunk = self._now_ns(), self._shown
        recent = self._video_ns is not None and 0 <= now_ns - self._video_ns < VIDEO_PERIOD_NS
        if chunk is None or recent or not self._wants_video():
            return False
        self._shown, self._video_ns = None, now_ns
        self._on_video(chunk, self._engine.video())
        return True

"""The thread that plans and the only one that publishes trajectories, in the order decided.

Planning takes milliseconds and must not delay the control loop; publishing from one thread means
that no trajectory can overtake another. Messages are made before the plan is accepted: making
them takes milliseconds too, and an accepted plan must be on its way at once.
"""

import threading
from collections import deque
from collections.abc import Callable

from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.motion.plan_request import compute_plan
from wam_policy.core.motion.trajectory import Trajectory

MAX_WAIT_S = 0.05  # a lost wake-up costs this much, not the motion


class PlannerThread:
    """Work off what motion wants planned or published until closed."""

    def __init__(
        self,
        motion: MotionControl,
        lock: threading.Lock,
        now_ns: Callable[[], int],
        make_publish_fn: Callable[[Trajectory], Callable[[], None]],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Take motion with its lock; `make_publish_fn` returns what publishes a trajectory.

        `on_error` gets what planning or publishing raised; the thread goes on.
        """
        self._motion, self._lock = motion, lock
        self._now_ns, self._make_publish_fn = now_ns, make_publish_fn
        self._on_error = on_error
        self._publish_queue: deque[Callable[[], None]] = deque()
        self._wake_event = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='planner', daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Plan and publish what is still due, a stop above all, then end."""
        self._closing = True
        self._wake_event.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Say that there may be something to plan."""
        self._wake_event.set()

    def enqueue(self, trajectory: Trajectory) -> None:
        """Publish `trajectory` soon; the caller holds the lock under which it was decided."""
        self._publish_queue.append(self._make_publish_fn(trajectory))
        self._wake_event.set()

    def _run(self) -> None:
        while True:
            self._wake_event.wait(MAX_WAIT_S)
            self._wake_event.clear()
            try:
                busy = self._plan_and_publish()
            except Exception as error:  # noqa: BLE001 - reported to the node, which stops
                self._on_error(error)
                if self._closing:  # what was sent ends at rest; this may fail for ever
                    return
                continue
            if self._closing and not busy and not self._motion.stop_requested:
                return  # a stop may first have waited for a report

    def _plan_and_publish(self) -> bool:
        """Plan at most one thing and publish everything decided; tell whether there was any."""
        with self._lock:
            motion = self._motion  # every report wakes, few find something to plan
            is_due = motion.stop_requested or motion.pending_chunk is not None
            job = motion.next_plan_request(self._now_ns()) if is_due else None
        if job is not None:
            proposal = compute_plan(job)
            publish = (
                self._make_publish_fn(proposal.trajectory)
                if proposal.trajectory is not None
                else None
            )
            with self._lock:
                plan = self._motion.accept_plan(proposal, self._now_ns())
                if plan is not None:  # the proposal's own, or a hold in its place
                    if publish is None or plan is not proposal.trajectory:
                        publish = self._make_publish_fn(plan)
                    self._publish_queue.append(publish)
            self._wake_event.set()  # what came meanwhile, or what came too late
        busy = job is not None or bool(self._publish_queue)
        while self._publish_queue:
            self._publish_queue.popleft()()
        return busy

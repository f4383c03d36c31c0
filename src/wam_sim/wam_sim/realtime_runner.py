"""Run a simulation at the rate of the wall clock in its own thread.

Imports no ROS: trajectories are objects with the fields of JointTrajectory; callbacks run in the
physics thread. Times are ns of the clock that message stamps use.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import mujoco

from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_sim.pacer import Pacer
from wam_sim.physics.simulation import STEP_NS, Simulation

STEPS_PER_BATCH = 5  # steps between two joint states: 10 ms
MAX_CATCH_UP_STEPS = 25  # 50 ms of physics per call


class RealtimeRunner:
    """Step a simulation in real time; with `skip_lost_time`, stamps skip time that was dropped."""

    def __init__(
        self,
        simulation: Simulation,
        wall_ns: Callable[[], int],
        *,
        skip_lost_time: bool,
        on_batch: Callable[[Simulation], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        self.simulation = simulation
        self.lock = threading.Lock()  # protects `simulation`
        simulation.now_ns = wall_ns()
        self.pacer = Pacer(STEP_NS, simulation.now_ns)
        self._wall_ns, self._skip_lost_time = wall_ns, skip_lost_time
        self._on_batch, self._on_reject = on_batch, on_reject
        self._pending_trajectories: deque[tuple[int, str, Any]] = deque()
        self._resumed_ns = 0  # when the controllers last resumed after a stall
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name='physics')

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def queue_trajectory(self, controller: str, message: Any) -> None:
        """Queue a trajectory; the controller receives it at the step due at this time."""
        now_ns = self._wall_ns() if self._skip_lost_time else self.simulation.now_ns
        self._pending_trajectories.append((now_ns, controller, message))

    def copy_render_state(self, target: mujoco.MjData) -> int:
        with self.lock:
            return self.simulation.copy_render_state(target)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._stop.wait(self.pacer.wait_s(self._wall_ns(), STEPS_PER_BATCH))
                self.run_due_steps()
        except BaseException as error:  # noqa: BLE001 — the main thread raises it
            self.error = error

    def run_due_steps(self) -> None:
        """Run the steps that are due now; called by the thread or by tests."""
        wall_ns = self._wall_ns()
        steps = min(
            self.pacer.count_due_steps(wall_ns) // STEPS_PER_BATCH * STEPS_PER_BATCH,
            MAX_CATCH_UP_STEPS,
        )
        for _ in range(steps // STEPS_PER_BATCH):
            with self.lock:
                end_ns = self.simulation.now_ns + STEPS_PER_BATCH * STEP_NS
                while self.simulation.now_ns < end_ns:
                    self._deliver_due_trajectories()
                    self.simulation.step(self._count_steps_to_delivery(end_ns))
                self._on_batch(self.simulation)
        self.pacer.record_steps(steps, self._wall_ns())
        dropped_ns = self.pacer.drop_excess_lag(self._wall_ns())
        if dropped_ns and self._skip_lost_time:
            with self.lock:
                self.simulation.now_ns += dropped_ns
                self.simulation.hold()
                self._resumed_ns = self.simulation.now_ns

    def _deliver_due_trajectories(self) -> None:
        """Deliver the trajectories that arrived before the next step's time."""
        while (
            self._pending_trajectories
            and self._pending_trajectories[0][0] <= self.simulation.now_ns + STEP_NS
        ):
            _, controller, message = self._pending_trajectories.popleft()
            reason = self._find_outdated_reason(message) or self.simulation.accept(
                controller, message
            )
            if reason is not None:
                self._on_reject(controller, reason)

    def _count_steps_to_delivery(self, end_ns: int) -> int:
        """Return the number of steps until `end_ns` or the next trajectory, at least 1."""
        now_ns = self.simulation.now_ns
        due_ns = (
            min(end_ns, self._pending_trajectories[0][0] - STEP_NS)
            if self._pending_trajectories
            else end_ns
        )
        return max(1, -((now_ns - due_ns) // STEP_NS))

    def _find_outdated_reason(self, message: Any) -> str | None:
        """Return a reason for a trajectory planned before a stall: it starts elsewhere."""
        if isinstance(message, TrajectoryPoints):
            stamp_ns = message.stamp_ns
        else:
            stamp_ns = message.header.stamp.sec * NS_PER_S + message.header.stamp.nanosec
        if 0 < stamp_ns < self._resumed_ns:  # stamp 0 means start on acceptance
            return 'planned before the controllers resumed after a stall'
        return None

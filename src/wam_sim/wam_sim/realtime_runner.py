"""A simulation that runs with the wall clock in its own thread, and the pictures it can give.

ROS-free: messages go in as anything shaped like a JointTrajectory, results come out through
callbacks made in the physics thread. Time here is nanoseconds of the clock that stamps are in.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import mujoco

from wam_policy.core.motion.jtc_emulator import Points
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_sim.pacer import Pacer
from wam_sim.physics.simulation import STEP_NS, Simulation

BATCH = 5  # steps between two joint states: 10 ms
CATCH_UP = 25  # steps at most before others get the lock


class Live:
    """Step a simulation as time passes; `jumps` lets stamps follow time that was given up."""

    def __init__(
        self,
        simulation: Simulation,
        wall_ns: Callable[[], int],
        *,
        jumps: bool,
        on_batch: Callable[[Simulation], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        self.simulation = simulation
        self.lock = threading.Lock()  # whoever holds it may touch `simulation`
        simulation.now_ns = wall_ns()
        self.pacer = Pacer(STEP_NS, simulation.now_ns)
        self._wall_ns, self._jumps = wall_ns, jumps
        self._on_batch, self._on_reject = on_batch, on_reject
        self._inbox: deque[tuple[int, str, Any]] = deque()
        self._resumed_ns = 0  # when the controllers last came back from a stall
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name='physics')

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def post(self, controller: str, message: Any) -> None:
        """Queue a trajectory; its controller takes it at the step that is due at this instant."""
        now_ns = self._wall_ns() if self._jumps else self.simulation.now_ns
        self._inbox.append((now_ns, controller, message))

    def snapshot(self, into: mujoco.MjData) -> int:
        with self.lock:
            return self.simulation.snapshot(into)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._stop.wait(self.pacer.wait_s(self._wall_ns(), BATCH))
                self.advance()
        except BaseException as error:  # noqa: BLE001 — kept for the main thread to raise
            self.failure = error

    def advance(self) -> None:
        """Do the steps that are due now; the thread calls it, a test may."""
        wall_ns = self._wall_ns()
        steps = min(self.pacer.due(wall_ns) // BATCH * BATCH, CATCH_UP)
        for _ in range(steps // BATCH):
            with self.lock:
                end_ns = self.simulation.now_ns + BATCH * STEP_NS
                while self.simulation.now_ns < end_ns:
                    self._deliver()
                    self.simulation.step(self._undisturbed(end_ns))
                self._on_batch(self.simulation)
        self.pacer.ran(steps, self._wall_ns())
        given_up_ns = self.pacer.give_up(self._wall_ns())
        if given_up_ns and self._jumps:
            with self.lock:
                self.simulation.now_ns += given_up_ns
                self.simulation.hold()
                self._resumed_ns = self.simulation.now_ns

    def _deliver(self) -> None:
        """Hand over what arrived before the coming step, not before its time in a catch-up."""
        while self._inbox and self._inbox[0][0] <= self.simulation.now_ns + STEP_NS:
            _, controller, message = self._inbox.popleft()
            reason = self._outdated(message) or self.simulation.accept(controller, message)
            if reason is not None:
                self._on_reject(controller, reason)

    def _undisturbed(self, end_ns: int) -> int:
        """Return how many steps there are until `end_ns` or the next message's time."""
        now_ns = self.simulation.now_ns
        due_ns = min(end_ns, self._inbox[0][0] - STEP_NS) if self._inbox else end_ns
        return max(1, -((now_ns - due_ns) // STEP_NS))

    def _outdated(self, message: Any) -> str | None:
        """Refuse what was planned before a stall: its way is not where the arm stands now."""
        if isinstance(message, Points):
            stamp_ns = message.stamp_ns
        else:
            stamp_ns = message.header.stamp.sec * NS_PER_S + message.header.stamp.nanosec
        if 0 < stamp_ns < self._resumed_ns:  # 0 starts when it is accepted
            return 'planned before the controllers came back'
        return None

"""The simulator's expert as a policy: it sees the state itself and answers with real chunks.

It validates the loop it is run in (delays, limits, seams, controllers): what the expert cannot do
through that loop, no model can.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_sim.physics.simulation import STEP_NS, Simulation
from wam_sim.tasks.cartesian_motion import Mover
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.task_families import Task

HORIZON = 24  # rows, as the models'
COMMITTED_NS = 200_000_000  # latency, planning and a plan's lead


@dataclass(frozen=True, slots=True)
class Geometry:
    """State a time base like that of the small models."""

    frames_per_block: int
    frame_period_s: float
    window_blocks: int
    step_dt_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Count commits; the expert remembers nothing."""

    frames: int
    window_frames: int
    commits: int
    rebuilds: int


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Hold an answer; fields as in model.policy.Targets."""

    targets: np.ndarray  # float64 [horizon commanded], absolute
    reference: np.ndarray  # float64 [commanded]
    timings_ms: Mapping[str, float]


class Oracle:
    """Answer queries by playing the expert ahead in a copy of the simulation."""

    def __init__(self, simulation: Simulation, tasks: Mapping[str, Task]) -> None:
        """Take the simulation it lives in and what each instruction means there."""
        self._simulation, self._tasks = simulation, tasks
        self._robot: Embodiment = simulation.robot.embodiment
        self._ahead = Simulation(
            simulation.robot, task=simulation.task.family, seed=simulation.scene.seed
        )
        self._mover = Mover(simulation.robot, self._ahead.model)
        self._expert = Expert(simulation.robot, self._mover)
        self._steps = round(self._robot.step_dt_s * 1e9 / STEP_NS)
        self._row_ns = round(self._robot.step_dt_s * 1e9)
        self._begun_ns: int | None = None
        # when, and the motion then: what was played ahead last, row by row
        self._played: list[tuple[int, tuple]] = []
        self._commits = 0
        self.geometry = Geometry(4, 0.2, 4, self._robot.step_dt_s)

    @property
    def memory(self) -> Memory:
        return Memory(min(self._commits, 5), 5, self._commits, 0)

    def reset(self, instruction: str) -> Mapping[str, float]:
        self._task = self._tasks[instruction]
        self._begun_ns = None
        return {}

    def commit(self, views: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        self._commits += 1
        if self._begun_ns is None:
            self._begun_ns = self._simulation.now_ns
        return {}

    def query(self, joints: np.ndarray, seed: int, newest: object = None) -> Targets:
        """Play ahead from the state of this instant; row i is the set-point i rows later.

        Until an answer can take effect the robot does what it was told before: an expert that
        planned from this instant instead would correct what its last answer corrects already.
        """
        ahead, now_ns = self._ahead, self._simulation.now_ns
        mirror(self._simulation, ahead)
        self._expert.begin(self._task, self._simulation.start)
        times_ns, rows = [now_ns], [ahead.controllers.sample(now_ns).position]
        resumed = next((knot for knot in self._played if knot[0] >= now_ns + COMMITTED_NS), None)
        until_ns = now_ns + COMMITTED_NS if resumed is None else resumed[0]
        while ahead.now_ns < until_ns:
            ahead.step()
            times_ns.append(ahead.now_ns)
            rows.append(ahead.controllers.sample(ahead.now_ns).position)
        if resumed is None:
            self._mover.put(rows[-1])
        else:
            self._mover.resume(resumed[1])
        self._played = [(ahead.now_ns, self._mover.state())]
        while ahead.now_ns < now_ns + HORIZON * self._row_ns:
            here = rows[-1]
            if not self._expert.waits((ahead.now_ns - self._begun_ns) / 1e9):
                here = self._mover.toward(self._expert.goal(ahead.state(), ahead.joints()))
            ahead.follow(rows[-1], here, self._steps)
            self._played.append((ahead.now_ns, self._mover.state()))
            times_ns.append(ahead.now_ns)
            rows.append(here)
        due_ns = now_ns + np.arange(HORIZON) * self._row_ns
        targets = [np.interp(due_ns, times_ns, column) for column in np.transpose(rows)]
        reference = joints[[self._robot.observed.index(name) for name in self._robot.commanded]]
        return Targets(np.transpose(targets), reference, {})


def mirror(original: Simulation, copied: Simulation) -> None:
    """Put a copy of the same model into the state of `original`, controllers included."""
    for field in ('qpos', 'qvel', 'act', 'qacc_warmstart', 'mocap_pos', 'ctrl'):
        getattr(copied.data, field)[:] = getattr(original.data, field)
    copied.now_ns = original.now_ns
    # a follower replaces what it holds and changes none of it: shallow copies are independent
    copied.controllers.followers = {
        name: copy.copy(follower) for name, follower in original.controllers.followers.items()
    }
    mujoco.mj_forward(copied.model, copied.data)

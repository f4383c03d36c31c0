"""Wrap the scripted expert of the simulator as a policy: it reads the state and returns chunks.

It validates the evaluation loop (delays, limits, blending, controllers): where the expert fails,
no model can succeed.
"""

import copy
from collections.abc import Mapping

import mujoco
import numpy as np

from wam_learning.evaluation.rollout import CommitCount, QueryTargets, TimeBase
from wam_policy.core.robot.embodiment import Embodiment
from wam_sim.physics.simulation import STEP_NS, Simulation
from wam_sim.tasks.cartesian_motion import CartesianMotion
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.task_families import Task

HORIZON = 24  # rows, as the models'
COMMITTED_NS = 200_000_000  # latency, planning and a plan's lead


class ExpertPolicy:
    """Answer queries by running the expert ahead in a copy of the simulation."""

    def __init__(self, simulation: Simulation, tasks: Mapping[str, Task]) -> None:
        """Take the simulation that it controls, and the task of each instruction."""
        self._simulation, self._tasks = simulation, tasks
        self._robot: Embodiment = simulation.robot.embodiment
        self._lookahead = Simulation(
            simulation.robot, task=simulation.task.family, seed=simulation.scene.seed
        )
        self._mover = CartesianMotion(simulation.robot, self._lookahead.model)
        self._expert = Expert(simulation.robot, self._mover)
        self._physics_steps_per_row = round(self._robot.step_dt_s * 1e9 / STEP_NS)
        self._row_ns = round(self._robot.step_dt_s * 1e9)
        self._start_ns: int | None = None
        # time and motion state of the last lookahead, row by row
        self._lookahead_states: list[tuple[int, tuple]] = []
        self._commits = 0
        self.geometry = TimeBase(4, 0.2, 4, self._robot.step_dt_s)

    @property
    def memory(self) -> CommitCount:
        return CommitCount(min(self._commits, 5), 5, self._commits, 0)

    def reset(self, instruction: str) -> Mapping[str, float]:
        self._task = self._tasks[instruction]
        self._start_ns = None
        return {}

    def commit(self, views: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        self._commits += 1
        if self._start_ns is None:
            self._start_ns = self._simulation.now_ns
        return {}

    def query(self, joints: np.ndarray, seed: int, newest: object = None) -> QueryTargets:
        """Simulate ahead from the present state; row i is the setpoint i rows later.

        Until a reply can take effect the robot executes earlier commands: planning from the
        present instead would repeat the corrections of the last reply.
        """
        if self._start_ns is None:
            raise ValueError('commit a frame before the first query')
        ahead, now_ns = self._lookahead, self._simulation.now_ns
        copy_state(self._simulation, ahead)
        self._expert.begin(self._task, self._simulation.start)
        times_ns, rows = [now_ns], [ahead.controllers.sample(now_ns).position]
        resumed = next(
            (knot for knot in self._lookahead_states if knot[0] >= now_ns + COMMITTED_NS), None
        )
        until_ns = now_ns + COMMITTED_NS if resumed is None else resumed[0]
        while ahead.now_ns < until_ns:
            ahead.step()
            times_ns.append(ahead.now_ns)
            rows.append(ahead.controllers.sample(ahead.now_ns).position)
        if resumed is None:
            self._mover.reset(rows[-1])
        else:
            self._mover.set_state(resumed[1])
        self._lookahead_states = [(ahead.now_ns, self._mover.get_state())]
        while ahead.now_ns < now_ns + HORIZON * self._row_ns:
            here = rows[-1]
            if not self._expert.is_waiting((ahead.now_ns - self._start_ns) / 1e9):
                here = self._mover.step_toward(
                    self._expert.compute_goal(ahead.state(), ahead.joint_state())
                )
            ahead.step_linear(rows[-1], here, self._physics_steps_per_row)
            self._lookahead_states.append((ahead.now_ns, self._mover.get_state()))
            times_ns.append(ahead.now_ns)
            rows.append(here)
        due_ns = now_ns + np.arange(HORIZON) * self._row_ns
        targets = [np.interp(due_ns, times_ns, column) for column in np.transpose(rows)]
        reference = joints[[self._robot.observed.index(name) for name in self._robot.commanded]]
        return QueryTargets(np.transpose(targets), reference, {})


def copy_state(source: Simulation, target: Simulation) -> None:
    """Copy the state of a simulation, controllers included, into one of the same model."""
    for field in ('qpos', 'qvel', 'act', 'qacc_warmstart', 'mocap_pos', 'ctrl'):
        getattr(target.data, field)[:] = getattr(source.data, field)
    target.now_ns = source.now_ns
    # a follower replaces its arrays and never modifies them: shallow copies are independent
    target.controllers.followers = {
        name: copy.copy(follower) for name, follower in source.controllers.followers.items()
    }
    mujoco.mj_forward(target.model, target.data)

"""A scripted expert: from where things are now to the posture to move to next.

It keeps no plan. What it does follows from the present geometry (how far the hand is from the
cube, how high, what the fingers hold), so it takes over from any posture at any time. The hand
comes from above: it may be low only near its goal, and rises before it goes sideways.
"""

import numpy as np
from wam_policy.core.types import JointState

from wam_sim.ik import FORWARD_DOWN, Arm
from wam_sim.scene import CUBE_HALF_M
from wam_sim.simulation import Simulation
from wam_sim.tasks import LIFT_M, PUSH_M, State, Task

LEARNABLE = ('touch', 'push', 'lift', 'recall')
BLOCK_S = 0.8                               # the model's memory; it acts at these borders
ACROSS = np.array([0.0, 1.0, 0.0])          # fingers open sideways
# heights of the tool point, m
HOVER_M = 0.115                             # over the table: fingers clear the can
CLEAR_M = 0.018                             # over the top of a cube: fingers clear it
TOUCH_M = 0.006                             # over the top of a cube
PUSH_HEIGHT_M = 0.024                       # over the table
GRIP_M = 0.003                              # over the centre of a cube
RAISED_M = LIFT_M + 0.03
PUSH_BEYOND_M = 0.035                       # what the fingers' play and a margin need
# sideways distances, m
FAR_M, NEAR_M, OVER_M = 0.09, 0.016, 0.007
LOW_M = 0.02                                # above the pushing height: still between the fingers
SUNK_M = 0.03                               # this far below the funnel: straight up first
CLOSED = 0.2                                # command that holds a cube; 0 would crush it
ASIDE_M = np.array([-0.03, 0.1, 0.03])      # where the other hand makes room


class Expert:
    """Know one robot; `begin` names the task, `goal` says where to move from here."""

    def __init__(self, simulation: Simulation) -> None:
        robot = simulation.robot
        self._robot, body = robot, robot.embodiment
        self._table_m = robot.table.height_m
        self._column = {name: i for i, name in enumerate(body.commanded)}
        self._arms = {side: Arm(robot, simulation.model, side) for side in ('left', 'right')}
        self._columns = {side: np.array([self._column[name] for name in arm.names])
                         for side, arm in self._arms.items()}
        self._rest = body.rest_of(body.commanded)
        self._aside = {side: self._made_room(side) for side in self._arms}
        self._warm = {side: self._rest[columns] for side, columns in self._columns.items()}

    def begin(self, task: Task, start: State) -> None:
        """Take a task; ValueError for a family that it has not learned."""
        if task.family not in LEARNABLE:
            raise ValueError(f'the expert cannot {task.family}; it knows {", ".join(LEARNABLE)}')
        self.task, self._start = task, start
        self.hand = task.side
        if task.family in ('push', 'lift'):
            self.hand = 'left' if start.objects[task.slot][1] > 0 else 'right'
        self._warm = {side: self._rest[columns] for side, columns in self._columns.items()}
        self._iterations = 60

    def waits(self, elapsed_s: float) -> bool:
        """Tell whether it keeps still: a mark must have gone out and a block have ended."""
        return elapsed_s < np.ceil(self.task.mark_s / BLOCK_S) * BLOCK_S - 1e-6

    def goal(self, now: State, joints: JointState) -> np.ndarray:
        """Return the posture [commanded] to move to."""
        grip = self._robot.hand(self.hand).gripper
        point, opening = getattr(self, f'_{self.task.family}')(
            now, float(joints.positions([grip])[0]), float(joints.velocities([grip])[0]))
        goal = self._rest.copy()
        other = 'right' if self.hand == 'left' else 'left'
        inward = -point[1] if other == 'right' else point[1]
        share = np.clip((inward - 0.02) / 0.06, 0.0, 1.0)
        columns = self._columns[other]
        goal[columns] += share * (self._aside[other] - goal[columns])
        goal[self._columns[self.hand]] = self.posture(self.hand, point)
        goal[self._column[grip]] = opening
        return goal

    def posture(self, side: str, point: np.ndarray) -> np.ndarray:
        """Return the arm's posture with its tool at `point`, near that of the last call."""
        arm, rest = self._arms[side], self._rest[self._columns[side]]
        pose = arm.solve(point, FORWARD_DOWN, self._warm[side], rest,
                         iterations=self._iterations, across=ACROSS)
        self._warm[side], self._iterations = pose.joints_rad, 3
        return pose.joints_rad

    def random_posture(self, rng: np.random.Generator) -> np.ndarray:
        """Return a posture [commanded] with each hand somewhere over its half of the table."""
        x_low, x_high, _, y_high = self._robot.workspace
        posture = self._rest.copy()
        for side, way in (('left', 1.0), ('right', -1.0)):
            point = np.array([rng.uniform(x_low, x_high), way * rng.uniform(0.04, y_high + 0.07),
                              self._table_m + rng.uniform(HOVER_M, 0.26)])
            rest = self._rest[self._columns[side]]
            posture[self._columns[side]] = self._arms[side].solve(
                point, FORWARD_DOWN, rest, rest, across=ACROSS).joints_rad
        return posture

    def _made_room(self, side: str) -> np.ndarray:
        arm, rest = self._arms[side], self._rest[self._columns[side]]
        point, _ = arm.tool(rest)
        shift = ASIDE_M * (1.0 if side == 'left' else -1.0)
        return arm.solve(point + [ASIDE_M[0], shift[1], ASIDE_M[2]], FORWARD_DOWN, rest,
                         rest).joints_rad

    def _touch(self, now: State, _opening: float, _speed: float) -> tuple[np.ndarray, float]:
        cube = now.objects[self.task.slot]
        low = cube[2] + CUBE_HALF_M + TOUCH_M
        return self._funnelled(now, cube, [NEAR_M, FAR_M], [low, self._table_m + HOVER_M]), 1.0

    _recall = _touch

    def _push(self, now: State, _opening: float, _speed: float) -> tuple[np.ndarray, float]:
        cube, tool = now.objects[self.task.slot], now.tools[self.hand]
        way = 1.0 if self.task.side == 'left' else -1.0
        low = self._table_m + PUSH_HEIGHT_M
        along, beside = way * (tool[1] - cube[1]), abs(tool[0] - cube[0])
        if tool[2] < low + LOW_M and -0.014 < along < 0.032 and beside < 0.025:
            end = self._start.objects[self.task.slot][1] + way * (PUSH_M + PUSH_BEYOND_M)
            return np.array([cube[0], end, low]), 1.0
        return self._over(now, cube, low), 1.0

    def _lift(self, now: State, opening: float, speed: float) -> tuple[np.ndarray, float]:
        cube, tool = now.objects[self.task.slot], now.tools[self.hand]
        start = self._start.objects[self.task.slot]
        beside, above = np.linalg.norm((tool - cube)[:2]), tool[2] - cube[2] - GRIP_M
        raised = cube[2] - start[2] > 0.01
        if beside > (0.03 if raised else 0.014) or above > 0.014:
            return self._over(now, cube, cube[2] + GRIP_M), 1.0
        if raised or (opening < 0.8 and abs(speed) < 0.25):
            return np.array([cube[0], cube[1], start[2] + GRIP_M + RAISED_M]), CLOSED
        return np.array([cube[0], cube[1], cube[2] + GRIP_M]), CLOSED

    def _over(self, now: State, cube: np.ndarray, low: float) -> np.ndarray:
        """Return the point to move to for open fingers to come down around a cube."""
        clear = cube[2] + CUBE_HALF_M + CLEAR_M
        return self._funnelled(now, cube, [OVER_M, NEAR_M, FAR_M],
                               [low, clear, max(clear, self._table_m + HOVER_M)])

    def _funnelled(self, now: State, over: np.ndarray, sideways_m: list[float],
                   heights_m: list[float]) -> np.ndarray:
        """Return the point to move to: as low as the distance to `over` allows, up first."""
        tool = now.tools[self.hand]
        away = over[:2] - tool[:2]
        height = np.interp(np.linalg.norm(away), sideways_m, heights_m)
        free = 1.0 - np.clip((height - tool[2] - 0.01) / SUNK_M, 0.0, 1.0)
        return np.array([*(tool[:2] + free * away), height])

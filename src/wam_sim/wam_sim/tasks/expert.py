"""A scripted expert: from where things are now to the point to move to next.

It keeps no plan. What it does follows from the present geometry (how far the hand is from the
cube, how high, what the fingers hold), so it takes over from any posture at any time. The hand
comes from above: it may be low only near its goal, and rises before it goes sideways.
"""

from collections.abc import Mapping

import numpy as np

from wam_policy.core.types import JointState
from wam_sim.physics.scene import CUBE_HALF_M
from wam_sim.physics.sim_robot import Robot
from wam_sim.tasks.cartesian_motion import Goal, Mover
from wam_sim.tasks.task_families import LIFT_M, PUSH_M, State, Task

LEARNABLE = ('touch', 'push', 'lift', 'recall')
# heights of the tool point, m
HOVER_M = 0.115  # over the table: fingers clear the can
CLEAR_M = 0.018  # over the top of a cube: fingers clear it
TOUCH_M = 0.006  # over the top of a cube
PUSH_HEIGHT_M = 0.024  # over the table
GRIP_M = 0.003  # over the centre of a cube
RAISED_M = LIFT_M + 0.03
PUSH_BEYOND_M = 0.055  # a policy without memory of where it began stops early
# sideways distances, m
FAR_M, NEAR_M, OVER_M = 0.09, 0.016, 0.007
LOW_M = 0.02  # above the pushing height: still between the fingers
SUNK_M = 0.03  # this far below the funnel: straight up first
CLOSED = 0.2  # command that holds a cube; 0 would crush it
MISSED_M = (0.03, 0.1), (PUSH_HEIGHT_M, 0.07)  # where a missed hand is: beside, and how high
ASIDE_M = np.array([-0.03, 0.1, 0.03])  # where the other hand makes room


class Expert:
    """Know one robot; `begin` names the task, `goal` says where to move from here."""

    def __init__(self, robot: Robot, mover: Mover) -> None:
        self._robot, self._table_m = robot, robot.table.height_m
        self._homes: Mapping[str, np.ndarray] = {
            side: hand.home for side, hand in mover.hands.items()
        }
        self._solved = {side: hand.solved for side, hand in mover.hands.items()}
        self._columns = {side: hand.columns for side, hand in mover.hands.items()}
        self._rest = mover.rest

    def begin(self, task: Task, start: State) -> None:
        """Take a task; ValueError for a family that it has not learned."""
        if task.family not in LEARNABLE:
            raise ValueError(f'the expert cannot {task.family}; it knows {", ".join(LEARNABLE)}')
        self.task, self._start = task, start
        self.hand = task.side
        if task.family in ('push', 'lift'):
            self.hand = 'left' if start.objects[task.slot][1] > 0 else 'right'

    def waits(self, elapsed_s: float) -> bool:
        """Tell whether it keeps still: a mark must have gone out and a block have ended."""
        return elapsed_s < self.task.begins_s - 1e-6

    def goal(self, now: State, joints: JointState) -> Goal:
        """Return where to move; the other hand goes home and makes room."""
        grip = self._robot.hand(self.hand).gripper
        speeds = joints.velocities([grip])
        point, opening = getattr(self, f'_{self.task.family}')(
            now, float(joints.positions([grip])[0]), 0.0 if speeds is None else float(speeds[0])
        )
        other, way = ('right', -1.0) if self.hand == 'left' else ('left', 1.0)
        share = np.clip((way * point[1] - 0.02) / 0.06, 0.0, 1.0)
        home = self._homes[other] + share * ASIDE_M * [1.0, way, 1.0]
        return Goal(
            {self.hand: point, other: home}, {self.hand: opening, other: 1.0}, frozenset({other})
        )

    def anywhere(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a point [3] for each hand, somewhere over its half of the table."""
        x_low, x_high, _, y_high = self._robot.workspace
        return {
            side: np.array(
                [
                    rng.uniform(x_low, x_high),
                    way * rng.uniform(0.04, y_high + 0.07),
                    self._table_m + rng.uniform(HOVER_M, 0.26),
                ]
            )
            for side, way in (('left', 1.0), ('right', -1.0))
        }

    def missed(self, now: State, named: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a point [3] for each hand: one low beside an object, as after a miss.

        Half of the time that is the one in the slot `named`.
        """
        slot = named if rng.random() < 0.5 else rng.choice(sorted(now.objects))
        at, angle = now.objects[slot], rng.uniform(0.0, 2.0 * np.pi)
        beside_m, height_m = (rng.uniform(*span) for span in MISSED_M)
        point = np.array(
            [
                *(at[:2] + beside_m * np.array([np.cos(angle), np.sin(angle)])),
                self._table_m + height_m,
            ]
        )
        return self.anywhere(rng) | {'left' if point[1] > 0 else 'right': point}

    def posture(self, points: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return a posture [commanded] with each tool at its point."""
        posture = self._rest.copy()
        for side, point in points.items():
            posture[self._columns[side]] = self._solved[side](point, 120)
        return posture

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
        return self._funnelled(
            now, cube, [OVER_M, NEAR_M, FAR_M], [low, clear, max(clear, self._table_m + HOVER_M)]
        )

    def _funnelled(
        self, now: State, over: np.ndarray, sideways_m: list[float], heights_m: list[float]
    ) -> np.ndarray:
        """Return the point to move to: as low as the distance to `over` allows, up first."""
        tool = now.tools[self.hand]
        away = over[:2] - tool[:2]
        height = np.interp(np.linalg.norm(away), sideways_m, heights_m)
        free = 1.0 - np.clip((height - tool[2] - 0.01) / SUNK_M, 0.0, 1.0)
        return np.array([*(tool[:2] + free * away), height])

"""Scripted expert: computes the next goal of every hand from the present state.

It has no plan or memory. The goal depends only on the present geometry (distance and height of the
hand, opening of the fingers), so it can start from any joint positions at any time. The hand
approaches from above: it is low only near its goal, and rises before it moves sideways.
"""

from collections.abc import Mapping

import numpy as np

from wam_policy.core.types import JointState
from wam_sim.physics.scene import CUBE_HALF_M
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.tasks.cartesian_motion import CartesianMotion, ToolGoal
from wam_sim.tasks.task_families import LIFT_M, ONLY, PUSH_M, SceneState, Task

LEARNABLE = ('touch', 'push', 'lift', 'recall')
# heights of the tool point, m
HOVER_M = 0.115  # above the table; fingers clear the can
CLEAR_M = 0.018  # above the top of a cube; fingers clear it
TOUCH_M = 0.006  # above the top of a cube
PUSH_HEIGHT_M = 0.024  # above the table
GRASP_HEIGHT_M = 0.003  # above the center of a cube
LIFT_HEIGHT_M = LIFT_M + 0.03
PUSH_BEYOND_M = 0.055  # beyond PUSH_M; a policy without memory of the start stops early
# sideways distances, m
FAR_M, NEAR_M, ALIGNED_M = 0.09, 0.016, 0.007
PUSH_TOLERANCE_M = 0.02  # above PUSH_HEIGHT_M the cube is still between the fingers
RISE_RANGE_M = 0.03  # this far below the allowed height: straight up first
CLOSED_COMMAND = 0.2  # opening that holds a cube; 0 would press too hard
NEAR_MISS_M = (0.03, 0.1), (PUSH_HEIGHT_M, 0.07)  # distance and height ranges
# of the idle hand from home, away from the active one
CLEARANCE_OFFSET_M = np.array([-0.03, 0.1, 0.03])


class Expert:
    """Expert for one robot: `begin` sets the task, `compute_goal` returns the next goal."""

    def __init__(self, robot: SimRobot, mover: CartesianMotion) -> None:
        self._robot, self._table_m = robot, robot.table.height_m
        self._home_points: Mapping[str, np.ndarray] = {
            side: hand.home_point for side, hand in mover.hands.items()
        }
        self._solve_ik = {side: hand.solve_ik for side, hand in mover.hands.items()}
        self._columns = {side: hand.columns for side, hand in mover.hands.items()}
        self._home_positions = mover.home

    def begin(self, task: Task, start: SceneState) -> None:
        """Start a task; raises ValueError for a family not in LEARNABLE."""
        if task.family not in LEARNABLE:
            raise ValueError(
                f'the expert has no family {task.family!r}; want one of {", ".join(LEARNABLE)}'
            )
        self.task, self._start = task, start
        self.hand = task.side
        if task.family in ('push', 'lift'):
            self.hand = self._choose_hand(start.objects[task.slot])

    def is_waiting(self, elapsed_s: float) -> bool:
        """Return whether the hands must wait until the mark is hidden and a block has ended."""
        return elapsed_s < self.task.hands_start_s - 1e-6

    def compute_goal(self, now: SceneState, joints: JointState) -> ToolGoal:
        """Return the goal of every hand; an idle hand goes home, away from the active one."""
        grip = self._robot.hand(self.hand).gripper
        speeds = joints.velocities([grip])
        point, opening = getattr(self, f'_{self.task.family}')(
            now, float(joints.positions([grip])[0]), 0.0 if speeds is None else float(speeds[0])
        )
        points, openings = {self.hand: point}, {self.hand: opening}
        idle = frozenset(side for side in self._home_points if side != self.hand)
        for side in idle:
            way = 1.0 if side == 'left' else -1.0
            share = np.clip((way * point[1] - 0.02) / 0.06, 0.0, 1.0)
            away = share * CLEARANCE_OFFSET_M * [1.0, way, 1.0]
            points[side], openings[side] = self._home_points[side] + away, 1.0
        return ToolGoal(points, openings, idle)

    def _choose_hand(self, point: np.ndarray) -> str:
        """Return the side of the hand that works at `point` [3]."""
        first, *others = self._home_points
        return first if point[1] > 0 or not others else others[0]

    def sample_random_points(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a random tool point [3] for each hand, above its half of the table."""
        x_low, x_high, _, y_high = self._robot.workspace
        y_end = y_high + 0.07
        spans = {'left': (1.0, 0.04), 'right': (-1.0, 0.04), ONLY: (1.0, -y_end)}
        return {
            side: np.array(
                [
                    rng.uniform(x_low, x_high),
                    way * rng.uniform(y_start, y_end),
                    self._table_m + rng.uniform(HOVER_M, 0.26),
                ]
            )
            for side, (way, y_start) in spans.items()
            if side in self._home_points
        }

    def sample_near_miss(
        self, now: SceneState, task_slot: str, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Return a tool point [3] for each hand, one low beside an object, as after a miss.

        With probability 0.5 the object is the one in `task_slot`.
        """
        slot = task_slot if rng.random() < 0.5 else rng.choice(sorted(now.objects))
        at, angle = now.objects[slot], rng.uniform(0.0, 2.0 * np.pi)
        beside_m, height_m = (rng.uniform(*span) for span in NEAR_MISS_M)
        point = np.array(
            [
                *(at[:2] + beside_m * np.array([np.cos(angle), np.sin(angle)])),
                self._table_m + height_m,
            ]
        )
        return self.sample_random_points(rng) | {self._choose_hand(point): point}

    def solve_joint_positions(self, points: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return joint positions [commanded] with each tool at its point."""
        hand_positions = self._home_positions.copy()
        for side, point in points.items():
            hand_positions[self._columns[side]] = self._solve_ik[side](point, 120)
        return hand_positions

    def _touch(self, now: SceneState, _opening: float, _speed: float) -> tuple[np.ndarray, float]:
        cube = now.objects[self.task.slot]
        low = cube[2] + CUBE_HALF_M + TOUCH_M
        return self._compute_approach_point(
            now, cube, [NEAR_M, FAR_M], [low, self._table_m + HOVER_M]
        ), 1.0

    _recall = _touch

    def _push(self, now: SceneState, _opening: float, _speed: float) -> tuple[np.ndarray, float]:
        cube, tool = now.objects[self.task.slot], now.tools[self.hand]
        way = 1.0 if self.task.side == 'left' else -1.0
        low = self._table_m + PUSH_HEIGHT_M
        along, beside = way * (tool[1] - cube[1]), abs(tool[0] - cube[0])
        if tool[2] < low + PUSH_TOLERANCE_M and -0.014 < along < 0.032 and beside < 0.025:
            end = self._start.objects[self.task.slot][1] + way * (PUSH_M + PUSH_BEYOND_M)
            return np.array([cube[0], end, low]), 1.0
        return self._compute_point_over(now, cube, low), 1.0

    def _lift(self, now: SceneState, opening: float, speed: float) -> tuple[np.ndarray, float]:
        cube, tool = now.objects[self.task.slot], now.tools[self.hand]
        start = self._start.objects[self.task.slot]
        beside, above = np.linalg.norm((tool - cube)[:2]), tool[2] - cube[2] - GRASP_HEIGHT_M
        raised = cube[2] - start[2] > 0.01
        if beside > (0.03 if raised else 0.014) or above > 0.014:
            return self._compute_point_over(now, cube, cube[2] + GRASP_HEIGHT_M), 1.0
        if raised or (opening < 0.8 and abs(speed) < 0.25):
            return np.array(
                [cube[0], cube[1], start[2] + GRASP_HEIGHT_M + LIFT_HEIGHT_M]
            ), CLOSED_COMMAND
        return np.array([cube[0], cube[1], cube[2] + GRASP_HEIGHT_M]), CLOSED_COMMAND

    def _compute_point_over(self, now: SceneState, cube: np.ndarray, low: float) -> np.ndarray:
        """Return the next tool point [3] for open fingers to descend around a cube to `low`."""
        clear = cube[2] + CUBE_HALF_M + CLEAR_M
        return self._compute_approach_point(
            now,
            cube,
            [ALIGNED_M, NEAR_M, FAR_M],
            [low, clear, max(clear, self._table_m + HOVER_M)],
        )

    def _compute_approach_point(
        self, now: SceneState, target: np.ndarray, sideways_m: list[float], heights_m: list[float]
    ) -> np.ndarray:
        """Return the next tool point [3]: height by distance to `target`, upward motion first."""
        tool = now.tools[self.hand]
        away = target[:2] - tool[:2]
        height = np.interp(np.linalg.norm(away), sideways_m, heights_m)
        free = 1.0 - np.clip((height - tool[2] - 0.01) / RISE_RANGE_M, 0.0, 1.0)
        return np.array([*(tool[:2] + free * away), height])

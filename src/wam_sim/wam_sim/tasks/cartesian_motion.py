"""Setpoints that move both tool points along smooth straight paths, row by row.

Tool points move with limited speed, acceleration and jerk, also if the goal changes between rows;
inverse kinematics converts them to joint positions. The difference between the joints and the IK
solution (at home, or after another controller moved them) decays with its own limits. The sum of
both stays below the embodiment's limits, so nothing downstream clamps it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
import ruckig

from wam_sim.physics.sim_robot import SimRobot
from wam_sim.tasks.inverse_kinematics import FORWARD_DOWN, ArmIk

OFFSET_LIMITS = (0.3, 0.9, 8.0)  # rad/s, rad/s^2, rad/s^3
GRIPPER_LIMITS = (1.6, 10.0, 150.0)  # of the opening per s, s^2, s^3
GRIPPER_SPEED_SHARE = 0.88  # of the embodiment's limit at most
OPENING_AXIS = np.array([0.0, 1.0, 0.0])  # fingers open sideways
AT_REST_TOLERANCE = 1e-7  # in the units above: below it the goal is reached
# small, so that the joint motion between rows stays smooth
AXIS_GAIN, LIMIT_AVOIDANCE_RANGE_RAD = 0.1, 0.5
IK_ITERATIONS = 2  # enough for at most 13 mm of motion per row


@dataclass(frozen=True, slots=True, eq=False)
class ToolGoal:
    """Goals of both hands; a hand in `at_home` also takes its home joint positions."""

    points: Mapping[str, np.ndarray]  # side -> tool point [3], m
    openings: Mapping[str, float]  # side -> gripper
    at_home: frozenset[str]  # sides


class CartesianMotion:
    """Commanded motion of all joints."""

    def __init__(self, robot: SimRobot, model: mujoco.MjModel) -> None:
        body = robot.embodiment
        self.home = body.home_positions(body.commanded)
        column = {name: i for i, name in enumerate(body.commanded)}
        self.hands = {
            hand.side: _HandMotion(
                ArmIk(robot, model, hand.side), self.home, column, column[hand.gripper], robot
            )
            for hand in robot.hands
        }
        self.reset(self.home)

    def reset(self, position: np.ndarray) -> None:
        """Start at rest at `position` [commanded]."""
        self.position = np.array(position, dtype=np.float64)
        for hand in self.hands.values():
            hand.reset(self.position)

    def override(self, position: np.ndarray) -> np.ndarray:
        """Take the next row [commanded] from another source; later rows continue its motion."""
        self.position = np.array(position, dtype=np.float64)
        for hand in self.hands.values():
            hand.override(self.position)
        return self.position

    def get_state(self) -> tuple:
        """Return a state for `set_state`, independent of later motion."""
        return self.position, {side: hand.get_state() for side, hand in self.hands.items()}

    def set_state(self, state: tuple) -> None:
        """Restore the motion that `get_state` returned."""
        self.position, hands = state
        for side, hand in self.hands.items():
            hand.set_state(hands[side])

    def step_toward(self, goal: ToolGoal) -> np.ndarray:
        """Return the setpoints [commanded] of the next row; RuntimeError if planning fails."""
        self.position = self.position.copy()
        for side, hand in self.hands.items():
            self.position[hand.columns] = hand.step_toward(goal.points[side], side in goal.at_home)
            self.position[hand.gripper_column] = hand.gripper_motion.step_toward(
                [goal.openings[side]]
            )[0]
        return self.position


class _HandMotion:
    """Motion of one hand: tool point, joint offset from the IK solution, gripper."""

    def __init__(
        self,
        arm: ArmIk,
        home: np.ndarray,
        column: Mapping[str, int],
        gripper_column: int,
        robot: SimRobot,
    ) -> None:
        step_s = robot.embodiment.step_dt_s
        self.arm, self.gripper_column = arm, gripper_column
        self.columns = np.array([column[name] for name in arm.names])
        self.home_joints = home[self.columns]
        self.home_point, _ = arm.compute_tool_pose(self.home_joints)
        self.point_motion = _OnlineTrajectory(3, robot.tool_limits, step_s)
        self.offset_motion = _OnlineTrajectory(len(self.columns), OFFSET_LIMITS, step_s)
        speed, *rates = GRIPPER_LIMITS
        speed_limit = float(robot.embodiment.limits().velocity[gripper_column])
        self.gripper_motion = _OnlineTrajectory(
            1, (min(speed, GRIPPER_SPEED_SHARE * speed_limit), *rates), step_s
        )
        self._home_offset = self.home_joints - self.solve_ik(self.home_point, 200)

    def solve_ik(
        self, point: np.ndarray, iterations: int, start: np.ndarray | None = None
    ) -> np.ndarray:
        """Return joint positions [arm joints] for a tool point [3], from `start` or home."""
        return self.arm.solve(
            point,
            FORWARD_DOWN,
            self.home_joints if start is None else start,
            self.home_joints,
            iterations=iterations,
            axis_gain=AXIS_GAIN,
            opening_axis=OPENING_AXIS,
            avoidance_range_rad=LIMIT_AVOIDANCE_RANGE_RAD,
        ).joints_rad

    def reset(self, position: np.ndarray) -> None:
        joints = position[self.columns]
        point, _ = self.arm.compute_tool_pose(joints)
        self._solution = self.solve_ik(point, 100)
        self.point_motion.reset(point)
        self.offset_motion.reset(joints - self._solution)
        self.gripper_motion.reset(position[[self.gripper_column]])

    def override(self, position: np.ndarray) -> None:
        joints = position[self.columns]
        point, _ = self.arm.compute_tool_pose(joints)
        self._solution = self.solve_ik(point, IK_ITERATIONS, self._solution)
        self.point_motion.override(point)
        self.offset_motion.override(joints - self._solution)
        self.gripper_motion.override(position[[self.gripper_column]])

    def get_state(self) -> tuple:
        return self._solution, [
            way.get_state() for way in (self.point_motion, self.offset_motion, self.gripper_motion)
        ]

    def set_state(self, state: tuple) -> None:
        self._solution, ways = state
        for way, motion in zip(
            (self.point_motion, self.offset_motion, self.gripper_motion), ways, strict=True
        ):
            way.set_state(motion)

    def step_toward(self, point: np.ndarray, at_home: bool) -> np.ndarray:
        """Return the joint positions [arm joints] of the next row."""
        now = self.point_motion.step_toward(point)
        self._solution = self.solve_ik(now, IK_ITERATIONS, self._solution)
        return self._solution + self.offset_motion.step_toward(
            self._home_offset if at_home else np.zeros_like(self.home_joints)
        )


class _OnlineTrajectory:
    """Move to goals that may change, within limits of speed, acceleration and jerk."""

    def __init__(self, size: int, limits: tuple[float, ...], step_s: float) -> None:
        self._input, self._step_s = ruckig.InputParameter(size), step_s
        for name, limit in zip(('velocity', 'acceleration', 'jerk'), limits, strict=True):
            setattr(self._input, f'max_{name}', np.full(size, limit))
        self._planner = ruckig.Ruckig(size, step_s)
        self._output = ruckig.OutputParameter(size)
        self._max_speed = limits[0]
        self.reset(np.zeros(size))

    def reset(self, position: np.ndarray) -> None:
        """Start at rest at `position`."""
        self._set_motion(position, np.zeros(len(position)))

    def override(self, position: np.ndarray) -> None:
        """Set the position of the next step; the speed follows from the difference."""
        speed = np.subtract(position, self._input.current_position) / self._step_s
        self._set_motion(
            position,
            np.clip(
                np.where(np.abs(speed) < AT_REST_TOLERANCE, 0.0, speed),
                -self._max_speed,
                self._max_speed,
            ),
        )

    def _set_motion(self, position: np.ndarray, speed: np.ndarray) -> None:
        self._input.current_position = position
        self._input.current_velocity = speed
        self._input.current_acceleration = np.zeros(len(position))

    def get_state(self) -> tuple[np.ndarray, ...]:
        motion = self._input
        return tuple(
            np.array(part)
            for part in (
                motion.current_position,
                motion.current_velocity,
                motion.current_acceleration,
            )
        )

    def set_state(self, state: tuple[np.ndarray, ...]) -> None:
        motion = self._input
        (motion.current_position, motion.current_velocity, motion.current_acceleration) = state

    def step_toward(self, goal: np.ndarray | list[float]) -> np.ndarray:
        """Return the position after one step; raises RuntimeError if planning fails."""
        motion = self._input
        motion.target_position = goal
        left = np.abs(np.subtract(goal, motion.current_position)).max()
        # the planner fails for distances of 1e-12
        if (
            max(
                left,
                np.abs(motion.current_velocity).max(),
                np.abs(motion.current_acceleration).max(),
            )
            > AT_REST_TOLERANCE
        ):
            self._update_planner()
            self._output.pass_to_input(motion)
        return np.array(motion.current_position)

    def _update_planner(self) -> None:
        """Plan with synchronized axes, or without if that has no solution (rare)."""
        try:
            self._planner.update(self._input, self._output)
        except ruckig.RuckigError:
            self._input.synchronization = ruckig.Synchronization.No
            try:
                self._planner.update(self._input, self._output)
            except ruckig.RuckigError as error:
                raise RuntimeError(f'no trajectory to the goal: {error}') from error
            finally:
                self._input.synchronization = ruckig.Synchronization.Time

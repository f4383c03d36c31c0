"""Set-points that lead both tools along smooth straight ways, row by row.

Tool points move with limited speed, acceleration and jerk, however the goal changes from row to
row; inverse kinematics turns them into joints. What the joints differ from its solution (at rest,
or after somebody else moved them) fades with limits of its own. The limits are chosen so that the
sum stays well inside the embodiment's and nothing downstream clamps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
import ruckig

from wam_sim.physics.sim_robot import Robot
from wam_sim.tasks.inverse_kinematics import FORWARD_DOWN, Arm

TOOL = (0.34, 1.05, 6.5)  # m/s, m/s^2, m/s^3
OFFSET = (0.3, 0.9, 8.0)  # rad/s, rad/s^2, rad/s^3
GRIPPER = (1.6, 10.0, 150.0)  # of the opening per s, s^2, s^3
ACROSS = np.array([0.0, 1.0, 0.0])  # fingers open sideways
STILL = 1e-7  # of anything above: nothing is left to do
AXIS_GAIN, SHY_RAD = 0.1, 0.5  # gently: what IK turns in a row must be smooth too
ITERATIONS = 2  # a row moves the point by 13 mm at most


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """Say where both hands are to go; a hand at home takes its posture at rest."""

    points: Mapping[str, np.ndarray]  # side -> tool point [3], m
    openings: Mapping[str, float]  # side -> gripper
    at_home: frozenset[str]  # sides


class Mover:
    """Hold the commanded motion of all joints."""

    def __init__(self, robot: Robot, model: mujoco.MjModel) -> None:
        body = robot.embodiment
        self.rest = body.rest_of(body.commanded)
        column = {name: i for i, name in enumerate(body.commanded)}
        self.hands = {
            hand.side: _Hand(
                Arm(robot, model, hand.side),
                self.rest,
                column,
                column[hand.gripper],
                body.step_dt_s,
            )
            for hand in robot.hands
        }
        self.put(self.rest)

    def put(self, position: np.ndarray) -> None:
        """Begin at rest at `position` [commanded]."""
        self.position = np.array(position, dtype=np.float64)
        for hand in self.hands.values():
            hand.put(self.position)

    def take(self, position: np.ndarray) -> np.ndarray:
        """Let something else decide the next row [commanded]; go on from its motion later."""
        self.position = np.array(position, dtype=np.float64)
        for hand in self.hands.values():
            hand.take(self.position)
        return self.position

    def state(self) -> tuple:
        """Return what `resume` needs to go on from here, however far this has moved on."""
        return self.position, {side: hand.state() for side, hand in self.hands.items()}

    def resume(self, state: tuple) -> None:
        """Be where `state` was taken, in the same motion."""
        self.position, hands = state
        for side, hand in self.hands.items():
            hand.resume(hands[side])

    def toward(self, goal: Goal) -> np.ndarray:
        """Return the set-points [commanded] of the next row; RuntimeError if no way is found."""
        self.position = self.position.copy()
        for side, hand in self.hands.items():
            self.position[hand.columns] = hand.moved(goal.points[side], side in goal.at_home)
            self.position[hand.gripper] = hand.grip.next([goal.openings[side]])[0]
        return self.position


class _Hand:
    """Hold one hand's motion: the point, the offset of the joints, the gripper."""

    def __init__(
        self, arm: Arm, rest: np.ndarray, column: Mapping[str, int], gripper: int, step_s: float
    ) -> None:
        self.arm, self.gripper, self._step_s = arm, gripper, step_s
        self.columns = np.array([column[name] for name in arm.names])
        self.rest = rest[self.columns]
        self.home, _ = arm.tool(self.rest)
        self.point, self.offset = _Way(3, TOOL, step_s), _Way(len(self.columns), OFFSET, step_s)
        self.grip = _Way(1, GRIPPER, step_s)
        self._home_offset = self.rest - self.solved(self.home, 200)

    def solved(
        self, point: np.ndarray, iterations: int, start: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the joints for a tool point, from `start` or from the posture at rest."""
        return self.arm.solve(
            point,
            FORWARD_DOWN,
            self.rest if start is None else start,
            self.rest,
            iterations=iterations,
            axis_gain=AXIS_GAIN,
            across=ACROSS,
            shy_rad=SHY_RAD,
        ).joints_rad

    def put(self, position: np.ndarray) -> None:
        joints = position[self.columns]
        point, _ = self.arm.tool(joints)
        self._solution = self.solved(point, 100)
        self.point.put(point)
        self.offset.put(joints - self._solution)
        self.grip.put(position[[self.gripper]])

    def take(self, position: np.ndarray) -> None:
        joints = position[self.columns]
        point, _ = self.arm.tool(joints)
        self._solution = self.solved(point, ITERATIONS, self._solution)
        self.point.take(point)
        self.offset.take(joints - self._solution)
        self.grip.take(position[[self.gripper]])

    def state(self) -> tuple:
        return self._solution, [way.state() for way in (self.point, self.offset, self.grip)]

    def resume(self, state: tuple) -> None:
        self._solution, ways = state
        for way, motion in zip((self.point, self.offset, self.grip), ways, strict=True):
            way.resume(motion)

    def moved(self, point: np.ndarray, at_home: bool) -> np.ndarray:
        """Return the joints of the next row."""
        now = self.point.next(point)
        self._solution = self.solved(now, ITERATIONS, self._solution)
        return self._solution + self.offset.next(
            self._home_offset if at_home else np.zeros_like(self.rest)
        )


class _Way:
    """Approach goals that may change, within limits of speed, acceleration and jerk."""

    def __init__(self, size: int, limits: tuple[float, float, float], step_s: float) -> None:
        self._motion, self._step_s = ruckig.InputParameter(size), step_s
        for name, limit in zip(('velocity', 'acceleration', 'jerk'), limits, strict=True):
            setattr(self._motion, f'max_{name}', np.full(size, limit))
        self._planner = ruckig.Ruckig(size, step_s)
        self._after = ruckig.OutputParameter(size)
        self._speed = limits[0]
        self.put(np.zeros(size))

    def put(self, position: np.ndarray) -> None:
        """Be at rest at `position`."""
        self._set(position, np.zeros(len(position)))

    def take(self, position: np.ndarray) -> None:
        """Be at `position` one step after the last one."""
        speed = np.subtract(position, self._motion.current_position) / self._step_s
        self._set(
            position,
            np.clip(np.where(np.abs(speed) < STILL, 0.0, speed), -self._speed, self._speed),
        )

    def _set(self, position: np.ndarray, speed: np.ndarray) -> None:
        self._motion.current_position = position
        self._motion.current_velocity = speed
        self._motion.current_acceleration = np.zeros(len(position))

    def state(self) -> tuple[np.ndarray, ...]:
        motion = self._motion
        return tuple(
            np.array(part)
            for part in (
                motion.current_position,
                motion.current_velocity,
                motion.current_acceleration,
            )
        )

    def resume(self, state: tuple[np.ndarray, ...]) -> None:
        motion = self._motion
        (motion.current_position, motion.current_velocity, motion.current_acceleration) = state

    def next(self, goal: np.ndarray | list[float]) -> np.ndarray:
        """Go one step on; RuntimeError if the planner finds no way."""
        motion = self._motion
        motion.target_position = goal
        left = np.abs(np.subtract(goal, motion.current_position)).max()
        # the planner cannot handle a way of 1e-12
        if (
            max(
                left,
                np.abs(motion.current_velocity).max(),
                np.abs(motion.current_acceleration).max(),
            )
            > STILL
        ):
            self._plan()
            self._after.pass_to_input(motion)
        return np.array(motion.current_position)

    def _plan(self) -> None:
        """Let all numbers arrive together; rarely that has no solution, then each by itself."""
        try:
            self._planner.update(self._motion, self._after)
        except ruckig.RuckigError:
            self._motion.synchronization = ruckig.Synchronization.No
            try:
                self._planner.update(self._motion, self._after)
            except ruckig.RuckigError as error:
                raise RuntimeError(f'no way to go on: {error}') from error
            finally:
                self._motion.synchronization = ruckig.Synchronization.Time

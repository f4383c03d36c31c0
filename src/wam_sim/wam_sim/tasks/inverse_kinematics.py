"""Inverse kinematics of one arm: tool position first, tool direction and posture second.

Damped least squares on the position; tool direction and a preferred posture act in its null space,
so they do not change the position error.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from wam_sim.physics.sim_robot import SimRobot

FORWARD_DOWN = np.array([0.3, 0.0, -1.0]) / np.linalg.norm([0.3, 0.0, -1.0])
DAMPING_M = 0.02
STEP_RAD = 0.2  # largest change of a joint per iteration
AXIS_GAIN = 0.6
PREFERRED_GAIN = 0.05
LIMIT_AVOIDANCE_GAIN = 4.0
LIMIT_MARGIN_RAD = 0.06  # kept from the joint limits


@dataclass(frozen=True, slots=True, eq=False)
class IkSolution:
    """Joint positions of a solution and its errors."""

    joints_rad: np.ndarray  # [arm joints]
    error_m: float  # tool point to target
    tilt_rad: float  # angle between tool axis and wanted direction


class ArmIk:
    """Inverse kinematics of one hand of a compiled model, with its own MjData."""

    def __init__(self, robot: SimRobot, model: mujoco.MjModel, side: str) -> None:
        hand = robot.hand(side)
        links = robot.descendants(hand.arm_base)
        self.names = tuple(
            name
            for controller in robot.embodiment.controllers
            for name in controller.joints
            if name != hand.gripper
            and any(joint.name == name and joint.child in links for joint in robot.joints)
        )
        self.model, self.data = model, mujoco.MjData(model)
        self._tool_body = model.body(hand.tool_link).id
        self._site = model.site(f'{side}_tool').id
        joints = [model.joint(name) for name in self.names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        limits = np.array([joint.range for joint in joints])
        self.lower, self.upper = limits[:, 0] + LIMIT_MARGIN_RAD, limits[:, 1] - LIMIT_MARGIN_RAD
        self._jacobian = np.zeros((2, 3, model.nv))

    def solve(
        self,
        target_m: np.ndarray,
        axis: np.ndarray,
        start_rad: np.ndarray,
        preferred_rad: np.ndarray,
        *,
        iterations: int = 120,
        preferred_gain: float = PREFERRED_GAIN,
        axis_gain: float = AXIS_GAIN,
        opening_axis: np.ndarray | None = None,
        avoidance_range_rad: float = 0.0,
    ) -> IkSolution:
        """Return the solution closest to `target_m` [3] with the tool near `axis` (world frame).

        With `opening_axis` [3] the fingers open near that direction. Within
        `avoidance_range_rad` of a limit the null space moves a joint away from it, because a
        joint that stops suddenly at its limit causes a jerk.
        """
        joints = np.clip(start_rad, self.lower, self.upper)
        for _ in range(iterations):
            point, along = self.compute_tool_pose(joints)
            error = target_m - point
            mujoco.mj_jacSite(
                self.model, self.data, self._jacobian[0], self._jacobian[1], self._site
            )
            reach, turn = self._jacobian[:, :, self._dof]
            wanted = np.cross(along, axis)
            if opening_axis is not None:
                wanted = wanted + along * (along @ self._compute_opening_rotation(opening_axis))
            aside = axis_gain * turn.T @ wanted + preferred_gain * (preferred_rad - joints)
            if avoidance_range_rad:
                aside = aside + axis_gain * self._compute_limit_avoidance(
                    joints, avoidance_range_rad
                )
            moved = self._step(joints, error, reach, aside)
            if np.abs(moved - joints).max() < 1e-5:
                break
            joints = moved
        point, along = self.compute_tool_pose(joints)
        return IkSolution(
            joints,
            float(np.linalg.norm(target_m - point)),
            float(np.arccos(np.clip(along @ axis, -1.0, 1.0))),
        )

    def _step(
        self,
        joints: np.ndarray,
        error: np.ndarray,
        jacobian: np.ndarray,
        nullspace_step: np.ndarray,
    ) -> np.ndarray:
        """Return the joints after one step, without joints that would pass their limit."""
        free = np.ones(len(joints), dtype=bool)
        while True:
            active = jacobian * free
            inverse = active.T @ np.linalg.inv(active @ active.T + DAMPING_M**2 * np.eye(3))
            null = np.diag(free.astype(float)) - inverse @ active
            change = inverse @ error + null @ (nullspace_step * free)
            change *= min(1.0, STEP_RAD / max(np.abs(change).max(), 1e-12))
            moved = joints + change
            stuck = free & (
                ((moved > self.upper) & (joints >= self.upper))
                | ((moved < self.lower) & (joints <= self.lower))
            )
            if not stuck.any() or free.sum() <= 3:
                return np.clip(moved, self.lower, self.upper)
            free &= ~stuck

    def _compute_limit_avoidance(
        self, joints: np.ndarray, avoidance_range_rad: float
    ) -> np.ndarray:
        """Return the step [arm joints] away from limits closer than `avoidance_range_rad`."""
        low = np.maximum(self.lower + avoidance_range_rad - joints, 0.0)
        high = np.maximum(joints - self.upper + avoidance_range_rad, 0.0)
        return LIMIT_AVOIDANCE_GAIN * (low**2 - high**2) / avoidance_range_rad

    def _compute_opening_rotation(self, opening_axis: np.ndarray) -> np.ndarray:
        """Return the rotation vector [3] from the fingers' opening line to `opening_axis`."""
        fingers = self.data.xmat[self._tool_body].reshape(3, 3)[:, 1]
        return np.cross(fingers, opening_axis if fingers @ opening_axis > 0 else -opening_axis)

    def compute_tool_pose(self, joints_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tool point (m) and direction, [3] each in the world, of joints [arm joints]."""
        self.data.qpos[self._qpos] = joints_rad
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        return (
            self.data.site_xpos[self._site].copy(),
            self.data.site_xmat[self._site].reshape(3, 3)[:, 2].copy(),
        )

"""Inverse kinematics of one arm: the tool to a point first, its direction and posture second.

Damped least squares on the position; the direction of the tool and the pull towards a preferred
posture only use the freedom that the position leaves, so neither costs a millimetre.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from wam_sim.physics.sim_robot import Robot

FORWARD_DOWN = np.array([0.3, 0.0, -1.0]) / np.linalg.norm([0.3, 0.0, -1.0])
DAMPING_M = 0.02
STEP_RAD = 0.2  # largest change of a joint per iteration
AXIS_GAIN = 0.6
POSTURE_GAIN = 0.05
SHY_GAIN = 4.0
MARGIN_RAD = 0.06  # kept from the joint limits


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Hold one solution and how good it is."""

    joints_rad: np.ndarray  # [arm joints]
    error_m: float  # tool point to target
    tilt_rad: float  # tool axis to the wanted direction


class Arm:
    """Solve for one hand of a compiled model; uses its own data, never the simulation's."""

    def __init__(self, robot: Robot, model: mujoco.MjModel, side: str) -> None:
        hand = robot.hand(side)
        links = robot.below(hand.arm_base)
        self.names = tuple(
            name
            for controller in robot.embodiment.controllers
            for name in controller.joints
            if name != hand.gripper
            and any(joint.name == name and joint.child in links for joint in robot.joints)
        )
        self.model, self.data = model, mujoco.MjData(model)
        self._palm = model.body(hand.tool_link).id
        self._site = model.site(f'{side}_tool').id
        joints = [model.joint(name) for name in self.names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        limits = np.array([joint.range for joint in joints])
        self.lower, self.upper = limits[:, 0] + MARGIN_RAD, limits[:, 1] - MARGIN_RAD
        self._jacobian = np.zeros((2, 3, model.nv))

    def solve(
        self,
        target_m: np.ndarray,
        axis: np.ndarray,
        start_rad: np.ndarray,
        posture_rad: np.ndarray,
        *,
        iterations: int = 120,
        posture_gain: float = POSTURE_GAIN,
        axis_gain: float = AXIS_GAIN,
        across: np.ndarray | None = None,
        shy_rad: float = 0.0,
    ) -> Pose:
        """Return the pose nearest to `target_m` with the tool along `axis` as far as it goes.

        With `across` the fingers open along that line, as far as that goes. Within `shy_rad` of a
        limit a joint gives way before it gets there: a joint that stops at once is a jerk.
        """
        joints = np.clip(start_rad, self.lower, self.upper)
        for _ in range(iterations):
            point, along = self.tool(joints)
            error = target_m - point
            mujoco.mj_jacSite(
                self.model, self.data, self._jacobian[0], self._jacobian[1], self._site
            )
            reach, turn = self._jacobian[:, :, self._dof]
            wanted = np.cross(along, axis)
            if across is not None:
                wanted = wanted + along * (along @ self._twist(across))
            aside = axis_gain * turn.T @ wanted + posture_gain * (posture_rad - joints)
            if shy_rad:
                aside = aside + axis_gain * self._shied(joints, shy_rad)
            moved = self._moved(joints, error, reach, aside)
            if np.abs(moved - joints).max() < 1e-5:
                break
            joints = moved
        point, along = self.tool(joints)
        return Pose(
            joints,
            float(np.linalg.norm(target_m - point)),
            float(np.arccos(np.clip(along @ axis, -1.0, 1.0))),
        )

    def _moved(
        self, joints: np.ndarray, error: np.ndarray, reach: np.ndarray, aside: np.ndarray
    ) -> np.ndarray:
        """Take one step; a joint at its limit that would pass it is left out of it."""
        free = np.ones(len(joints), dtype=bool)
        while True:
            active = reach * free
            inverse = active.T @ np.linalg.inv(active @ active.T + DAMPING_M**2 * np.eye(3))
            null = np.diag(free.astype(float)) - inverse @ active
            change = inverse @ error + null @ (aside * free)
            change *= min(1.0, STEP_RAD / max(np.abs(change).max(), 1e-12))
            moved = joints + change
            stuck = free & (
                ((moved > self.upper) & (joints >= self.upper))
                | ((moved < self.lower) & (joints <= self.lower))
            )
            if not stuck.any() or free.sum() <= 3:
                return np.clip(moved, self.lower, self.upper)
            free &= ~stuck

    def _shied(self, joints: np.ndarray, shy_rad: float) -> np.ndarray:
        """Return the step [arm joints] away from limits nearer than `shy_rad`."""
        low = np.maximum(self.lower + shy_rad - joints, 0.0)
        high = np.maximum(joints - self.upper + shy_rad, 0.0)
        return SHY_GAIN * (low**2 - high**2) / shy_rad

    def _twist(self, across: np.ndarray) -> np.ndarray:
        """Return the turn [3] from the line on which the fingers open to `across`."""
        fingers = self.data.xmat[self._palm].reshape(3, 3)[:, 1]
        return np.cross(fingers, across if fingers @ across > 0 else -across)

    def tool(self, joints_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tool point and direction [3] each of a posture, m in the world."""
        self.data.qpos[self._qpos] = joints_rad
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        return (
            self.data.site_xpos[self._site].copy(),
            self.data.site_xmat[self._site].reshape(3, 3)[:, 2].copy(),
        )

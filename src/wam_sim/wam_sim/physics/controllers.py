"""The simulated joint_trajectory_controllers and the record of what they made the robot do.

The rules of replacement and interpolation are `wam_policy.core.motion.jtc_emulator`; here every
controller of the embodiment gets one, and every physics step has the set-point of its instant. As
the adapters of real robots do (`core.streaming`), they refuse what comes too late to join
smoothly. The record sees each set-point, so its worst figures leave no gap between samples of a
slower observer.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from wam_policy.core.motion.jtc_emulator import TrajectoryFollower, check_lateness
from wam_policy.core.motion.trajectory import JointMotion
from wam_policy.core.robot.embodiment import Embodiment, JointLimits
from wam_sim.physics.trajectory_spline import TrajectorySpline


class SimControllers:
    """Hold one follower per controller and give their set-points as one vector."""

    def __init__(self, robot: Embodiment, position: np.ndarray) -> None:
        column = {name: i for i, name in enumerate(robot.commanded)}
        self.names = robot.commanded
        self.columns: Mapping[str, np.ndarray] = {
            controller.name: np.array([column[name] for name in controller.joints])
            for controller in robot.controllers
        }
        self.followers = {
            controller.name: TrajectoryFollower(
                controller.joints, position[self.columns[controller.name]]
            )
            for controller in robot.controllers
        }
        self._jerk = {
            controller.name: robot.limits(controller.joints).jerk
            for controller in robot.controllers
        }
        self._splines: dict[str, TrajectorySpline] = {}
        self.accepted = 0
        self.rejected = 0

    def accept(self, controller: str, message: Any, now_ns: int) -> str | None:
        """Hand a trajectory to `controller`; return why it was rejected, if it was."""
        running = self.followers[controller]
        candidate = copy(running)
        reason = candidate.accept(message, now_ns) or check_lateness(
            running, candidate, now_ns, self._jerk[controller]
        )
        if reason is None:
            self.followers[controller] = candidate
            self.accepted += 1
        else:
            self.rejected += 1
        return reason

    def hold(self, position: np.ndarray) -> None:
        """Drop all trajectories and stay at `position` [commanded]."""
        for name, follower in self.followers.items():
            follower.hold(position[self.columns[name]])

    def sample(self, now_ns: int) -> JointMotion:
        """Return the set-point of every commanded joint at `now_ns`, [commanded] each."""
        due = self.sample_many(np.array([now_ns]))
        return JointMotion(due.position[0], due.velocity[0], due.acceleration[0])

    def sample_many(self, times_ns: np.ndarray) -> JointMotion:
        """Return the set-points at instants that increase, [times commanded] each.

        Many at once cost a fraction of one after another, and they are the same but for the last
        bits. Afterwards the followers are where the last instant is.
        """
        due = np.empty((3, len(times_ns), len(self.names)))
        for name, follower in self.followers.items():
            due[:, :, self.columns[name]] = self._advance_follower(name, follower, times_ns)
        return JointMotion(*due)

    def _advance_follower(
        self, name: str, follower: TrajectoryFollower, times_ns: np.ndarray
    ) -> np.ndarray:
        """Move a follower along; return position, velocity, acceleration, [3 times joints]."""
        points = follower.points
        if points is None or times_ns[0] - points.stamp_ns < points.time_ns[0]:
            # holding, or on the way to a first point
            states = [follower.sample(now_ns) for now_ns in times_ns.tolist()]
            return np.array(
                [(state.position, state.velocity, state.acceleration) for state in states]
            ).swapaxes(0, 1)
        curve = self._splines.get(name)
        if curve is None or curve.points is not points:
            curve = self._splines[name] = TrajectorySpline(points)
        due = curve.at(times_ns - points.stamp_ns)
        follower.setpoint, follower.setpoint_ns = JointMotion(*due[:, -1]), int(times_ns[-1])
        return due


class ExecutedMotion:
    """Keep the worst of what was executed since the start, per commanded joint.

    Jerk is the change of the set-points' acceleration over one step: exact inside a cubic, its
    mean across a knot, and large where the acceleration itself jumps, as it should be.
    """

    def __init__(self, limits: JointLimits, step_s: float, position: np.ndarray) -> None:
        self._limits, self._step_s = limits, step_s
        self.reset_maxima()
        self._last_setpoint = JointMotion.at_rest(position)

    def reset_maxima(self) -> None:
        """Forget the worst figures; what is executed goes on."""
        (
            self.velocity,
            self.acceleration,
            self.jerk,
            self.step,
            self.measured_velocity,
            self.tracking_error,
        ) = np.zeros((6, len(self._limits.names)))

    def set_position(self, position: np.ndarray) -> None:
        """Go on from `position` [commanded], where the robot was put: no controller moved it."""
        self._last_setpoint = JointMotion.at_rest(position)

    def record(self, setpoints: JointMotion, position: np.ndarray, velocity: np.ndarray) -> None:
        """Take physics steps: set-points and measured joints, [steps commanded] each."""
        before = self._last_setpoint
        _update_maxima(self.velocity, setpoints.velocity)
        _update_maxima(self.acceleration, setpoints.acceleration)
        _update_maxima(self.measured_velocity, velocity)
        _update_maxima(self.tracking_error, setpoints.position - position)
        _update_maxima(
            self.step, np.diff(setpoints.position, axis=0, prepend=before.position[None])
        )
        _update_maxima(
            self.jerk,
            np.diff(setpoints.acceleration, axis=0, prepend=before.acceleration[None])
            / self._step_s,
        )
        self._last_setpoint = JointMotion(
            setpoints.position[-1], setpoints.velocity[-1], setpoints.acceleration[-1]
        )

    def limit_ratios(self) -> dict[str, np.ndarray]:
        """Return velocity, acceleration, jerk and measured velocity against their limits."""
        limits = self._limits
        return {
            'velocity': self.velocity / limits.velocity,
            'acceleration': self.acceleration / limits.acceleration,
            'jerk': self.jerk / limits.jerk,
            'measured_velocity': self.measured_velocity / limits.velocity,
        }


def _update_maxima(maxima: np.ndarray, values: np.ndarray) -> None:
    np.maximum(maxima, np.abs(values).max(axis=0), out=maxima)

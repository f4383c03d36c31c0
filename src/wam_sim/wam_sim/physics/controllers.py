"""Simulated joint_trajectory_controllers, and the maxima of the motion they executed.

Replacement and interpolation follow `wam_policy.core.motion.jtc_emulator`, one emulator per
controller of the embodiment, with one setpoint per physics step. Like the adapters of real robots
(`core.motion.setpoint_stream`) they reject a trajectory that arrives too late for a continuous
transition. The maxima cover every setpoint, so they miss nothing between slower samples.
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
    """One trajectory follower per controller, with setpoints as one vector [commanded]."""

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
        """Give a trajectory to `controller`; return the reason if it is rejected, else None."""
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
        """Drop all trajectories and hold `position` [commanded]."""
        for name, follower in self.followers.items():
            follower.hold(position[self.columns[name]])

    def set_speed_scaling(self, controller: str, factor: float) -> None:
        """Let trajectories of `controller` pass `factor` times as fast as the clock."""
        self.followers[controller].speed_scaling = factor

    def sample(self, now_ns: int) -> JointMotion:
        """Return the setpoints at `now_ns`, [commanded] each."""
        due = self.sample_many(np.array([now_ns]))
        return JointMotion(due.position[0], due.velocity[0], due.acceleration[0])

    def sample_many(self, times_ns: np.ndarray) -> JointMotion:
        """Return the setpoints at increasing times, [times commanded] each.

        Equal to repeated `sample` except for rounding, and faster. Afterwards the state of the
        followers is that of the last time.
        """
        due = np.empty((3, len(times_ns), len(self.names)))
        for name, follower in self.followers.items():
            due[:, :, self.columns[name]] = self._advance_follower(name, follower, times_ns)
        return JointMotion(*due)

    def _advance_follower(
        self, name: str, follower: TrajectoryFollower, times_ns: np.ndarray
    ) -> np.ndarray:
        """Advance a follower; return position, velocity, acceleration, [3 times joints]."""
        points = follower.points
        if (
            points is None
            or not follower.is_on_time
            or times_ns[0] - points.stamp_ns < points.time_ns[0]
        ):  # holding, at another speed, or before the first point
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
    """Maxima of the executed motion since the start, [commanded] each.

    Jerk is the change of the setpoints' acceleration over one step: exact within a cubic segment,
    the mean across a knot, and large where the acceleration jumps.
    """

    def __init__(self, limits: JointLimits, step_s: float, position: np.ndarray) -> None:
        self._limits, self._step_s = limits, step_s
        self.reset_maxima()
        self._last_setpoint = JointMotion.at_rest(position)

    def reset_maxima(self) -> None:
        """Set all maxima to 0; the motion continues."""
        (
            self.velocity,
            self.acceleration,
            self.jerk,
            self.step,
            self.measured_velocity,
            self.tracking_error,
        ) = np.zeros((6, len(self._limits.names)))

    def set_position(self, position: np.ndarray) -> None:
        """Continue from `position` [commanded] after the robot was moved without a controller."""
        self._last_setpoint = JointMotion.at_rest(position)

    def record(self, setpoints: JointMotion, position: np.ndarray, velocity: np.ndarray) -> None:
        """Record physics steps: setpoints and measured joints, [steps commanded] each."""
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
        """Return velocity, acceleration, jerk and measured velocity divided by their limits."""
        limits = self._limits
        return {
            'velocity': self.velocity / limits.velocity,
            'acceleration': self.acceleration / limits.acceleration,
            'jerk': self.jerk / limits.jerk,
            'measured_velocity': self.measured_velocity / limits.velocity,
        }


def _update_maxima(maxima: np.ndarray, values: np.ndarray) -> None:
    np.maximum(maxima, np.abs(values).max(axis=0), out=maxima)

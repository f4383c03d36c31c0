"""The simulated joint_trajectory_controllers and the record of what they made the robot do.

The rules of replacement and interpolation are `wam_policy.core.follower`; here every controller
of the embodiment gets one, and every physics step asks all of them for the set-point. As the
adapters of real robots do (`core.streaming`), they refuse what comes too late to join smoothly.
The record sees each set-point, so its worst figures leave no gap between samples of a slower
observer.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from wam_policy.core.embodiment import Embodiment, Limits
from wam_policy.core.follower import Follower
from wam_policy.core.lateness import late
from wam_policy.core.trajectory import Motion


class Controllers:
    """Hold one follower per controller and give their set-points as one vector."""

    def __init__(self, robot: Embodiment, position: np.ndarray) -> None:
        column = {name: i for i, name in enumerate(robot.commanded)}
        self.names = robot.commanded
        self.columns: Mapping[str, np.ndarray] = {
            controller.name: np.array([column[name] for name in controller.joints])
            for controller in robot.controllers}
        self.followers = {
            controller.name: Follower(controller.joints, position[self.columns[controller.name]])
            for controller in robot.controllers}
        self._jerk = {controller.name: robot.limits(controller.joints).jerk
                      for controller in robot.controllers}
        self.accepted = 0
        self.rejected = 0

    def accept(self, controller: str, message: Any, now_ns: int) -> str | None:
        """Hand a trajectory to `controller`; return why it was rejected, if it was."""
        running = self.followers[controller]
        candidate = copy(running)
        reason = (candidate.accept(message, now_ns)
                  or late(running, candidate, now_ns, self._jerk[controller]))
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

    def sample(self, now_ns: int) -> Motion:
        """Return the set-point of every commanded joint at `now_ns`, [commanded] each."""
        position, velocity, acceleration = np.empty((3, len(self.names)))
        for name, follower in self.followers.items():
            motion, columns = follower.sample(now_ns), self.columns[name]
            position[columns] = motion.position
            velocity[columns] = motion.velocity
            acceleration[columns] = motion.acceleration
        return Motion(position, velocity, acceleration)


class Executed:
    """Keep the worst of what was executed since the start, per commanded joint.

    Jerk is the change of the set-points' acceleration over one step: exact inside a cubic, its
    mean across a knot, and large where the acceleration itself jumps, as it should be.
    """

    def __init__(self, limits: Limits, step_s: float, position: np.ndarray) -> None:
        self._limits, self._step_s = limits, step_s
        self.recount()
        self._before = Motion.at_rest(position)

    def recount(self) -> None:
        """Forget the worst figures; what is executed goes on."""
        (self.velocity, self.acceleration, self.jerk, self.step, self.measured_velocity,
         self.tracking_error) = np.zeros((6, len(self._limits.names)))

    def put(self, position: np.ndarray) -> None:
        """Go on from `position` [commanded], where the robot was put: no controller moved it."""
        self._before = Motion.at_rest(position)

    def record(self, setpoint: Motion, position: np.ndarray, velocity: np.ndarray) -> None:
        """Take one physics step: the set-point and the measured joints, [commanded] each."""
        _keep(self.velocity, setpoint.velocity)
        _keep(self.acceleration, setpoint.acceleration)
        _keep(self.measured_velocity, velocity)
        _keep(self.tracking_error, setpoint.position - position)
        _keep(self.step, setpoint.position - self._before.position)
        _keep(self.jerk, (setpoint.acceleration - self._before.acceleration) / self._step_s)
        self._before = setpoint

    def ratios(self) -> dict[str, np.ndarray]:
        """Return velocity, acceleration, jerk and measured velocity against their limits."""
        limits = self._limits
        return {'velocity': self.velocity / limits.velocity,
                'acceleration': self.acceleration / limits.acceleration,
                'jerk': self.jerk / limits.jerk,
                'measured_velocity': self.measured_velocity / limits.velocity}


def _keep(worst: np.ndarray, value: np.ndarray) -> None:
    np.maximum(worst, np.abs(value), out=worst)

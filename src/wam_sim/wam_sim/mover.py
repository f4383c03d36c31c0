"""Set-points that approach a posture with limited speed, acceleration and jerk, row by row.

The goal may change at every row; the limits hold all the same, because each row continues the
motion of the row before. They are shares of the embodiment's, so that nothing downstream clamps.
"""

import numpy as np
import ruckig
from wam_policy.core.embodiment import Embodiment

SPEED, ACCELERATION, JERK = 0.5, 0.5, 0.4   # shares of the embodiment's limits

STILL = 1e-7                                # rad, rad/s, rad/s^2: at rest at the goal


class Mover:
    """Hold the commanded motion of all joints; those of one controller arrive together."""

    def __init__(self, robot: Embodiment) -> None:
        self._step_s = robot.step_dt_s
        self.position = robot.rest_of(robot.commanded).copy()
        column = {name: i for i, name in enumerate(robot.commanded)}
        self._groups = []
        for controller in robot.controllers:
            limits = robot.limits(controller.joints)
            motion = ruckig.InputParameter(len(controller.joints))
            motion.max_velocity = SPEED * limits.velocity
            motion.max_acceleration = ACCELERATION * limits.acceleration
            motion.max_jerk = JERK * limits.jerk
            planner = ruckig.Ruckig(len(controller.joints), robot.step_dt_s)
            self._groups.append((np.array([column[name] for name in controller.joints]), motion,
                                 planner, ruckig.OutputParameter(len(controller.joints))))
        self.put(self.position)

    def put(self, position: np.ndarray) -> None:
        """Begin at rest at `position` [commanded]."""
        self.position = np.array(position, dtype=np.float64)
        for columns, motion, _, _ in self._groups:
            motion.current_position = self.position[columns]
            motion.current_velocity = motion.current_acceleration = np.zeros(len(columns))

    def take(self, position: np.ndarray) -> np.ndarray:
        """Let something else decide the next row [commanded]; go on from its motion later."""
        before, self.position = self.position, np.array(position, dtype=np.float64)
        speed = (self.position - before) / self._step_s
        for columns, motion, _, _ in self._groups:
            motion.current_position = self.position[columns]
            motion.current_velocity = np.clip(speed[columns], -np.array(motion.max_velocity),
                                              motion.max_velocity)
            motion.current_acceleration = np.zeros(len(columns))
        return self.position

    def toward(self, goal: np.ndarray) -> np.ndarray:
        """Return the set-points [commanded] of the next row on the way to `goal`, at rest there.

        RuntimeError where the planner finds no way.
        """
        self.position = self.position.copy()
        for columns, motion, planner, after in self._groups:
            motion.target_position = goal[columns]
            if _there(motion):
                continue
            try:
                planner.update(motion, after)
            except ruckig.RuckigError as error:
                raise RuntimeError(f'no way to go on: {error}') from error
            after.pass_to_input(motion)
            self.position[columns] = after.new_position
        return self.position


def _there(motion: ruckig.InputParameter) -> bool:
    """Tell whether nothing is left to do; the planner cannot handle a way of 1e-12 rad."""
    left = np.subtract(motion.target_position, motion.current_position)
    return bool(max(np.abs(left).max(), np.abs(motion.current_velocity).max(),
                    np.abs(motion.current_acceleration).max()) < STILL)

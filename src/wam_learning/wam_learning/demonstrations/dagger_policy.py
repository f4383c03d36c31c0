"""Let a policy drive in play, so that what follows shows how its own mistakes are put right.

This is the policy's part of DAgger (Ross et al. 2011): states come from the policy, actions from
the expert. Chunks take effect as late as they would on a robot.
"""

import numpy as np

from wam_learning.evaluation.rollout import (
    PolicyRunner,
    RolloutConfig,
    RolloutObserver,
    RolloutPolicy,
)
from wam_policy.core.robot.limits import gripper_mask, limits_with_margin
from wam_policy.core.types import Chunk, Observation
from wam_sim.physics.sim_robot import SimRobot

ROLL_IN_CONFIG = RolloutConfig(camera_s=0.0, query_s=0.06, commit_s=0.02)
BLEND_S = 0.2  # what a new chunk wants otherwise comes in so slowly


class RollInPolicy:
    """Follow a policy's chunks, row by row, without motion planning but within joint speeds."""

    def __init__(self, robot: SimRobot, policy: RolloutPolicy) -> None:
        self._robot, self._policy = robot.embodiment, policy
        limits = limits_with_margin(self._robot)
        self._lower, self._upper = limits.lower, limits.upper
        self._max_step = limits.velocity * self._robot.step_dt_s
        # a gripper's range may be left by nobody, but its set-point may jump
        self._max_step = np.where(gripper_mask(self._robot), np.inf, self._max_step)

    def reset(self) -> None:
        """Forget the episode before."""
        self._runner = PolicyRunner(self._robot, self._policy, ROLL_IN_CONFIG, RolloutObserver())
        self._instruction, self._chunk = '', None
        self._blend_offset, self._blend_start_ns = np.zeros(len(self._robot.commanded)), 0
        self._last_frame_ns = -1

    def observe(self, observation: Observation, instruction: str, position: np.ndarray) -> None:
        """Look at this row; `position` [commanded] is its set-point."""
        now_ns, decisions = observation.stamp_ns, self._runner.session
        if instruction != self._instruction:
            decisions.on_instruction(instruction)
            self._instruction, self._chunk = instruction, None
        if observation.frames[0].stamp_ns != self._last_frame_ns:
            self._last_frame_ns = observation.frames[0].stamp_ns
            for frame in observation.frames:
                decisions.on_frame(frame, now_ns)
        decisions.on_joints(observation.joints, now_ns)
        chunk = self._runner.poll_chunk(now_ns)
        if chunk is not None:
            self._chunk, self._blend_start_ns = chunk, now_ns
            self._blend_offset = position - self._interpolate(chunk, now_ns)

    def compute_setpoint(self, position: np.ndarray, now_ns: int) -> np.ndarray:
        """Return the set-points [commanded] of the row after this one."""
        if self._chunk is None:
            return position
        then_ns = now_ns + round(self._robot.step_dt_s * 1e9)
        left = 1.0 - min(1.0, (then_ns - self._blend_start_ns) / 1e9 / BLEND_S)
        wanted = self._interpolate(self._chunk, then_ns) + left * self._blend_offset
        wanted = np.clip(wanted, self._lower, self._upper)
        return position + np.clip(wanted - position, -self._max_step, self._max_step)

    @staticmethod
    def _interpolate(chunk: Chunk, at_ns: int) -> np.ndarray:
        due_s = np.arange(len(chunk.targets)) * chunk.step_dt_s
        at_s = (at_ns - chunk.stamp_ns) / 1e9
        return np.array([np.interp(at_s, due_s, column) for column in chunk.targets.T])

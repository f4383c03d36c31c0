"""Let a policy control the arms during generation, so that the expert corrects its mistakes.

This is the roll-in of DAgger (Ross et al. 2011): the policy chooses the states, the expert labels
the actions. Chunks take effect with the latency of a real robot.
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
BLEND_S = 0.2  # duration of the blend into a new chunk


class RollInPolicy:
    """Execute the chunks of a policy row by row, within velocity limits, without planning."""

    def __init__(self, robot: SimRobot, policy: RolloutPolicy) -> None:
        self._robot, self._policy = robot.embodiment, policy
        limits = limits_with_margin(self._robot)
        self._lower, self._upper = limits.lower, limits.upper
        self._max_step = limits.velocity * self._robot.step_dt_s
        # a gripper must stay in its range, but its setpoint may jump
        self._max_step = np.where(gripper_mask(self._robot), np.inf, self._max_step)

    def reset(self) -> None:
        """Start a new episode."""
        self._runner = PolicyRunner(self._robot, self._policy, ROLL_IN_CONFIG, RolloutObserver())
        self._instruction, self._chunk = '', None
        self._blend_offset, self._blend_start_ns = np.zeros(len(self._robot.commanded)), 0
        self._last_frame_ns = -1

    def observe(self, observation: Observation, instruction: str, position: np.ndarray) -> None:
        """Process the observation of a row; `position` [commanded] is its setpoint."""
        now_ns, session = observation.stamp_ns, self._runner.session
        if instruction != self._instruction:
            session.on_instruction(instruction)
            self._instruction, self._chunk = instruction, None
        if observation.frames[0].stamp_ns != self._last_frame_ns:
            self._last_frame_ns = observation.frames[0].stamp_ns
            for frame in observation.frames:
                session.on_frame(frame, now_ns)
        session.on_joints(observation.joints, now_ns)
        chunk = self._runner.poll_chunk(now_ns)
        if chunk is not None:
            self._chunk, self._blend_start_ns = chunk, now_ns
            self._blend_offset = position - self._interpolate(chunk, now_ns)

    def compute_setpoint(self, position: np.ndarray, now_ns: int) -> np.ndarray:
        """Return the setpoints [commanded] of the next row."""
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

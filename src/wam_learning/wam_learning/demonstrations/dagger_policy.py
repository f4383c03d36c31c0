"""Let a policy drive in play, so that what follows shows how its own mistakes are put right.

This is the policy's part of DAgger (Ross et al. 2011): states come from the policy, actions from
the expert. Chunks take effect as late as they would on a robot.
"""

import numpy as np

from wam_learning.evaluation.rollout import Audience, Mind, Pace, Policy
from wam_policy.core.robot.limits import gripping, margined
from wam_policy.core.types import Chunk, Observation
from wam_sim.physics.sim_robot import Robot

PACE = Pace(camera_s=0.0, query_s=0.06, commit_s=0.02)
FADE_S = 0.2  # what a new chunk wants otherwise comes in so slowly


class Driver:
    """Follow a policy's chunks, row by row, without motion planning but within joint speeds."""

    def __init__(self, robot: Robot, policy: Policy) -> None:
        self._robot, self._policy = robot.embodiment, policy
        limits = margined(self._robot)
        self._lower, self._upper = limits.lower, limits.upper
        self._most = limits.velocity * self._robot.step_dt_s
        # a gripper's range may be left by nobody, but its set-point may jump
        self._most = np.where(gripping(self._robot), np.inf, self._most)

    def begin(self) -> None:
        """Forget the episode before."""
        self._mind = Mind(self._robot, self._policy, PACE, Audience())
        self._words, self._chunk = '', None
        self._offset, self._joined_ns = np.zeros(len(self._robot.commanded)), 0
        self._shown_ns = -1

    def see(self, seen: Observation, words: str, position: np.ndarray) -> None:
        """Look at this row; `position` [commanded] is its set-point."""
        now_ns, decisions = seen.stamp_ns, self._mind.decisions
        if words != self._words:
            decisions.on_instruction(words)
            self._words, self._chunk = words, None
        if seen.frames[0].stamp_ns != self._shown_ns:
            self._shown_ns = seen.frames[0].stamp_ns
            for frame in seen.frames:
                decisions.on_frame(frame, now_ns)
        decisions.on_joints(seen.joints, now_ns)
        chunk = self._mind.chunk(now_ns)
        if chunk is not None:
            self._chunk, self._joined_ns = chunk, now_ns
            self._offset = position - self._wanted(chunk, now_ns)

    def next(self, position: np.ndarray, now_ns: int) -> np.ndarray:
        """Return the set-points [commanded] of the row after this one."""
        if self._chunk is None:
            return position
        then_ns = now_ns + round(self._robot.step_dt_s * 1e9)
        left = 1.0 - min(1.0, (then_ns - self._joined_ns) / 1e9 / FADE_S)
        wanted = self._wanted(self._chunk, then_ns) + left * self._offset
        wanted = np.clip(wanted, self._lower, self._upper)
        return position + np.clip(wanted - position, -self._most, self._most)

    @staticmethod
    def _wanted(chunk: Chunk, at_ns: int) -> np.ndarray:
        due_s = np.arange(len(chunk.targets)) * chunk.step_dt_s
        at_s = (at_ns - chunk.stamp_ns) / 1e9
        return np.array([np.interp(at_s, due_s, column) for column in chunk.targets.T])

"""The first move after enabling: slow until command and policy agree, then up to full speed."""

from dataclasses import replace

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.embodiment import Embodiment, Limits
from wam_policy.core.robot.limits import gripping


class Approach:
    """Tell how fast each joint may move at a time; starts slow."""

    def __init__(self, robot: Embodiment) -> None:
        self.rule = robot.safety.first_move
        self.arms = ~gripping(robot)
        kinds = [robot.joint(name).kind for name in robot.commanded]
        slow = {
            'revolute': self.rule.max_velocity_rad_s,
            'prismatic': self.rule.max_prismatic_velocity_m_s,
            'gripper': np.inf,
        }
        self.cap = np.array([slow[kind] for kind in kinds])
        self.close_since_ns: int | None = None
        self.done_ns: int | None = None

    def restart(self) -> None:
        self.close_since_ns = self.done_ns = None

    @property
    def going_on(self) -> bool:
        """Tell whether command and policy have not yet agreed for long enough."""
        return self.done_ns is None

    def ramping(self, now_ns: int) -> bool:
        """Tell whether speed is still below full."""
        return self.going_on or now_ns < self.done_ns + round(self.rule.ramp_s * NS_PER_S)

    def compare(self, command: np.ndarray, wanted: np.ndarray, now_ns: int) -> None:
        """Note how far the command [joints] is from what the policy wants now [joints]."""
        if not self.going_on:
            return
        if np.abs(command - wanted)[self.arms].max(initial=0.0) >= self.rule.tolerance_rad:
            self.close_since_ns = None
        elif self.close_since_ns is None:
            self.close_since_ns = now_ns
        elif now_ns - self.close_since_ns >= self.rule.dwell_s * NS_PER_S:
            self.done_ns = now_ns

    def limits(self, limits: Limits, now_ns: int) -> Limits:
        """Return `limits` with the velocities that may be used from `now_ns` on."""
        if not self.ramping(now_ns):
            return limits
        slow = np.minimum(self.cap, limits.velocity)
        share = (
            0.0
            if self.done_ns is None
            else ((now_ns - self.done_ns) / (self.rule.ramp_s * NS_PER_S))
        )
        return replace(limits, velocity=slow + max(0.0, share) * (limits.velocity - slow))

"""The first move after enabling: slow until command and policy agree, then up to full speed."""

from dataclasses import replace

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.embodiment import Embodiment, JointLimits
from wam_policy.core.robot.limits import gripper_mask


class FirstMoveLimiter:
    """Tell how fast each joint may move at a time; starts slow."""

    def __init__(self, robot: Embodiment) -> None:
        self.config = robot.safety.first_move
        self.arm_mask = ~gripper_mask(robot)
        kinds = [robot.joint(name).kind for name in robot.commanded]
        slow = {
            'revolute': self.config.max_velocity_rad_s,
            'prismatic': self.config.max_prismatic_velocity_m_s,
            'gripper': np.inf,
        }
        self.max_velocity = np.array([slow[kind] for kind in kinds])
        self.within_tolerance_since_ns: int | None = None
        self.done_ns: int | None = None

    def reset(self) -> None:
        self.within_tolerance_since_ns = self.done_ns = None

    @property
    def is_active(self) -> bool:
        """Tell whether command and policy have not yet agreed for long enough."""
        return self.done_ns is None

    def is_ramping(self, now_ns: int) -> bool:
        """Tell whether speed is still below full."""
        return self.done_ns is None or now_ns < self.done_ns + round(self.config.ramp_s * NS_PER_S)

    def update(self, command: np.ndarray, target: np.ndarray, now_ns: int) -> None:
        """Note how far the command [joints] is from what the policy wants now [joints]."""
        if not self.is_active:
            return
        if np.abs(command - target)[self.arm_mask].max(initial=0.0) >= self.config.tolerance_rad:
            self.within_tolerance_since_ns = None
        elif self.within_tolerance_since_ns is None:
            self.within_tolerance_since_ns = now_ns
        elif now_ns - self.within_tolerance_since_ns >= self.config.dwell_s * NS_PER_S:
            self.done_ns = now_ns

    def cap_velocity(self, limits: JointLimits, now_ns: int) -> JointLimits:
        """Return `limits` with the velocities that may be used from `now_ns` on."""
        if not self.is_ramping(now_ns):
            return limits
        slow = np.minimum(self.max_velocity, limits.velocity)
        share = (
            0.0
            if self.done_ns is None
            else ((now_ns - self.done_ns) / (self.config.ramp_s * NS_PER_S))
        )
        return replace(limits, velocity=slow + max(0.0, share) * (limits.velocity - slow))

"""Exact extrema of a trajectory between its knots, compared with the joint limits."""

from dataclasses import dataclass, replace

import numpy as np

from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot.embodiment import Embodiment, JointLimits


@dataclass(frozen=True, slots=True, eq=False)
class LimitUsage:
    """Largest usage of each limit per joint, [joints] each; 1.0 is at the limit."""

    position: np.ndarray  # distance from mid-range over half the range
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray

    @property
    def max_rate(self) -> float:
        """Return the maximum of velocity, acceleration and jerk over all joints."""
        return float(max(self.velocity.max(), self.acceleration.max(), self.jerk.max()))


def compute_limit_usage(trajectory: Trajectory, limits: JointLimits) -> LimitUsage:
    """Return the usage of `limits` by `trajectory`, with extrema between knots."""
    lowest, highest = compute_position_range(trajectory)
    middle, half = (limits.upper + limits.lower) / 2, (limits.upper - limits.lower) / 2
    jerk = np.abs(trajectory.jerk).max(axis=0, initial=0.0)
    return LimitUsage(
        np.maximum(highest - middle, middle - lowest) / half,
        _compute_max_speed(trajectory) / limits.velocity,
        np.abs(trajectory.acceleration).max(axis=0) / limits.acceleration,
        jerk / limits.jerk,
    )


def compute_position_range(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest position of each joint, [joints] each."""
    positions = [trajectory.position]
    if len(trajectory.time_ns) > 1:
        p, v, a, jerk, end = _split_segments(trajectory)
        for t in _find_velocity_zeros(v, a, jerk):
            inside = (t > 0.0) & (t < end)
            t = np.where(inside, t, 0.0)
            positions.append(p + t * (v + t * (a / 2 + t * jerk / 6)))
    return (
        np.min([block.min(axis=0) for block in positions], axis=0),
        np.max([block.max(axis=0) for block in positions], axis=0),
    )


def limits_with_margin(robot: Embodiment) -> JointLimits:
    """Return the commanded joints' limits, with positions reduced by the robot's margin.

    Grippers keep their whole range, because 0.02 from closed they would not grip.
    """
    limits = robot.limits()
    margin = np.where(gripper_mask(robot), 0.0, robot.safety.position_margin)
    return replace(limits, lower=limits.lower + margin, upper=limits.upper - margin)


def gripper_mask(robot: Embodiment) -> np.ndarray:
    """Return which commanded joints are grippers, bool [joints]."""
    return np.array([robot.joint(name).kind == 'gripper' for name in robot.commanded])


def _split_segments(trajectory: Trajectory) -> tuple[np.ndarray, ...]:
    """Return p, v, a at the start of each segment, its jerk and its length [segments 1]."""
    return (
        trajectory.position[:-1],
        trajectory.velocity[:-1],
        trajectory.acceleration[:-1],
        trajectory.jerk,
        trajectory.duration_s[:, None],
    )


def _compute_max_speed(trajectory: Trajectory) -> np.ndarray:
    speed = np.abs(trajectory.velocity).max(axis=0)
    if len(trajectory.time_ns) == 1:
        return speed
    _, v, a, jerk, end = _split_segments(trajectory)
    with np.errstate(divide='ignore', invalid='ignore'):
        t = -a / jerk
    t = np.where((t > 0.0) & (t < end), t, 0.0)  # NaN compares false
    return np.maximum(speed, np.abs(v + t * (a + t * jerk / 2)).max(axis=0))


def _find_velocity_zeros(
    v: np.ndarray, a: np.ndarray, jerk: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return both times where v + a t + jerk t^2 / 2 = 0; NaN where there is none."""
    with np.errstate(divide='ignore', invalid='ignore'):
        # the form that does not cancel, whatever the signs and however small the jerk
        root = -(a + np.copysign(np.sqrt(a * a - 2.0 * jerk * v), a))
        return 2.0 * v / root, root / jerk

"""Compute when the rows of a chunk are due and blend a new chunk into the executed motion."""

from dataclasses import dataclass

import numpy as np

from wam_policy.core.motion.qp_planner import STEP_NS, STEP_S
from wam_policy.core.motion.trajectory import NS_PER_S, JointMotion
from wam_policy.core.robot.embodiment import JointLimits
from wam_policy.core.types import Chunk

ACCELERATION_FRACTION = 0.7  # fraction of the acceleration limit that speed limiting uses


@dataclass(frozen=True, slots=True, eq=False)
class BlendedChunk:
    """Hold how one chunk continues the motion at a switch."""

    targets: np.ndarray  # [steps joints], blended, not yet limited
    blend_offset: np.ndarray  # [joints], command minus chunk; grippers 0


def compute_chunk_start_ns(chunk: Chunk, switch_ns: int, at_rest_since_ns: int | None) -> int:
    """Return when row 0 is due.

    A chunk is anchored at its observation. If the arm has come to rest since, the time it rested
    does not count: it would skip rows that nobody executed.
    """
    if at_rest_since_ns is None:
        return chunk.stamp_ns
    return chunk.stamp_ns + max(0, switch_ns - max(chunk.stamp_ns, at_rest_since_ns))


def count_rows_left(chunk: Chunk, chunk_start_ns: int, now_ns: int) -> float:
    """Return how many rows are not yet due, at least 0."""
    last_ns = chunk_start_ns + (chunk.horizon - 1) * chunk.step_dt_s * NS_PER_S
    return max(0.0, (last_ns - now_ns) / (chunk.step_dt_s * NS_PER_S))


def check_chunk_lateness(
    chunk: Chunk, chunk_start_ns: int, switch_ns: int, max_age_s: float
) -> str | None:
    """Return why nothing of `chunk` can be executed from `switch_ns` on, if so."""
    if count_rows_left(chunk, chunk_start_ns, switch_ns) < STEP_S / chunk.step_dt_s:
        return (
            f'late chunk: its last row was due '
            f'{(switch_ns - chunk_start_ns) / NS_PER_S - chunk.horizon * chunk.step_dt_s:.2f} s '
            'before it could start'
        )
    if (switch_ns - chunk_start_ns) / NS_PER_S > max_age_s:
        return (
            f'late chunk: {(switch_ns - chunk_start_ns) / NS_PER_S:.2f} s behind its observation'
        )
    return None


def blend(
    chunk: Chunk,
    chunk_start_ns: int,
    start: JointMotion,
    start_ns: int,
    blend_s: float,
    gripper_mask: np.ndarray,
) -> BlendedChunk:
    """Sample `chunk` on the planning grid after `start_ns`, continued from `start`.

    The policy saw an arm that lagged its command, so a new chunk begins behind the old one:
    arms start with the whole difference, which decays to zero over `blend_s` (0: at once). A
    gripper must not stay between two targets: its newest target applies at once.
    """
    last_ns = chunk_start_ns + (chunk.horizon - 1) * chunk.step_dt_s * NS_PER_S
    steps = int((last_ns - start_ns) // STEP_NS)
    times_ns = start_ns + STEP_NS * np.arange(steps + 1)
    rows = _interpolate(chunk, (times_ns - chunk_start_ns) / NS_PER_S / chunk.step_dt_s)
    offset = np.where(gripper_mask, 0.0, start.position - rows[0])
    kept = (
        smoothstep_fade(STEP_S * np.arange(1, steps + 1) / blend_s)[:, None]
        if blend_s > 0.0
        else 0.0
    )
    return BlendedChunk(rows[1:] + kept * offset, offset)


def smoothstep_fade(progress: np.ndarray) -> np.ndarray:
    """Return 1 at progress 0, 0 from 1 on, with level ends (smoothstep)."""
    x = np.clip(progress, 0.0, 1.0)
    return 1.0 - x * x * (3.0 - 2.0 * x)


def limit_speed(
    targets: np.ndarray, start: JointMotion, limits: JointLimits, gripper_mask: np.ndarray
) -> np.ndarray:
    """Return `targets` [steps joints] inside the position limits and no faster than they allow.

    If one arm joint is too fast, or would have to gain speed too fast, the whole step of both
    arms shrinks: their path keeps its direction. A joint beyond a position limit may stay there
    but goes no further out.
    """
    here, arms = np.asarray(start.position), ~gripper_mask
    inside = np.clip(targets, np.minimum(limits.lower, here), np.maximum(limits.upper, here))
    reach, gain = limits.velocity * STEP_S, ACCELERATION_FRACTION * limits.acceleration * STEP_S**2
    before = start.velocity * STEP_S
    paced_rows = np.empty_like(inside)
    for row, target in enumerate(inside):
        step = target - here
        size, along = np.abs(step), np.sign(step)
        # how long this joint's step may be: from rest `gain`, in motion so much more
        longest = np.minimum(reach, np.maximum(along * before, 0.0) + gain)
        share = 1.0 / max(1.0, float((size / longest)[arms].max(initial=0.0)))
        before = np.where(gripper_mask, np.clip(step, -reach, reach), share * step)
        here = here + before
        paced_rows[row] = here
    return paced_rows


def find_excess(targets: np.ndarray, limits: JointLimits, gripper_mask: np.ndarray) -> np.ndarray:
    """Return the joints, bool [joints], of which `targets` [steps joints] ask for too much.

    What counts is their own position, speed and acceleration, not how far the arm is behind when
    they begin. Arms are slowed as a whole, so what one joint asks for counts for all of them.
    """
    speed = np.diff(targets, axis=0) / STEP_S
    acceleration = np.diff(speed, axis=0) / STEP_S
    over = ((targets < limits.lower) | (targets > limits.upper)).any(axis=0)
    over |= (np.abs(speed) > limits.velocity).any(axis=0)
    over |= (np.abs(acceleration) > limits.acceleration).any(axis=0)
    return np.where(gripper_mask, over, over[~gripper_mask].any())


def _interpolate(chunk: Chunk, rows: np.ndarray) -> np.ndarray:
    """Return the chunk at fractional `rows`: cubic Hermite with finite-difference slopes."""
    targets = chunk.targets
    if len(targets) == 1:
        return np.repeat(targets, len(rows), axis=0)
    slopes = np.gradient(targets, axis=0)
    rows = np.clip(rows, 0.0, len(targets) - 1.0)
    low = np.minimum(rows.astype(np.int64), len(targets) - 2)
    x = (rows - low)[:, None]
    p0, p1, m0, m1 = targets[low], targets[low + 1], slopes[low], slopes[low + 1]
    return p0 + x * (m0 + x * (3 * (p1 - p0) - 2 * m0 - m1 + x * (2 * (p0 - p1) + m0 + m1)))

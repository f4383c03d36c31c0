"""When a row of a chunk is due, and how a new chunk joins the motion being executed."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from wam_policy.core.motion.qp_planner import STEP_NS, STEP_S
from wam_policy.core.motion.trajectory import NS_PER_S, JointMotion
from wam_policy.core.robot.embodiment import Embodiment, JointLimits
from wam_policy.core.types import Chunk

MAX_FUTURE_STAMP_S = 0.05  # a stamp this far in the future is a wrong clock, not jitter
# A chunk may be this old when the arm has rested since its observation: nothing moved meanwhile,
# but people and objects may have. Slower policies than this are not driven.
MAX_AGE_AT_REST_S = 10.0
MAX_RETIRED_SESSIONS = 64
COMPETING_PUBLISHERS_WINDOW_NS = 1_000_000_000  # two policies that spoke within this time are two
ACCELERATION_FRACTION = 0.7  # share of the acceleration that pacing asks for; jerk takes the rest


class ChunkValidator:
    """Judge chunks in the order they arrive; remember the sessions and the newest sequence."""

    def __init__(self, robot: Embodiment) -> None:
        self.robot = robot
        self.session: str | None = None
        self.sequence = -1
        self.retired: deque[str] = deque(maxlen=MAX_RETIRED_SESSIONS)
        self.session_start_ns = 0  # first observation of the present session
        self.last_chunk_ns: dict[str, int] = {}  # rivals: session -> when it last spoke
        self.reject_until_ns: int | None = None

    def validate(self, chunk: Chunk, now_ns: int) -> str | None:
        """Return why `chunk` may not be executed at all, whatever the arm does now.

        A chunk that passes is the newest from here on: its session retires the one before, older
        sequences of its own are refused.
        """
        reason = (
            self._check_content(chunk)
            or self._check_competing_publishers(chunk, now_ns)
            or self._check_order(chunk)
            or self._check_age(chunk, now_ns)
        )
        if reason is None:
            if self.session != chunk.session:
                if self.session is not None:
                    self.retired.append(self.session)
                self.session_start_ns = chunk.stamp_ns
            self.session, self.sequence = chunk.session, chunk.sequence
        return reason

    def reject_until(self, stamp_ns: int | None) -> None:
        """Refuse what was observed up to `stamp_ns`; None refuses nothing for its stamp."""
        self.reject_until_ns = stamp_ns

    def _check_content(self, chunk: Chunk) -> str | None:
        robot = self.robot
        if not (np.isfinite(chunk.targets).all() and np.isfinite(chunk.reference).all()):
            finite = np.isfinite(chunk.targets).all(axis=0) & np.isfinite(chunk.reference)
            joints = [name for name, good in zip(chunk.names, finite, strict=True) if not good]
            return f'chunk is not finite: {", ".join(joints)}'
        if chunk.names != robot.commanded:
            wrong = sorted(set(chunk.names) ^ set(robot.commanded)) or ['order']
            return f'chunk has other joints than {robot.name}: {", ".join(wrong[:4])}'
        limits = robot.limits()
        beyond = limits.upper - limits.lower
        absurd = (
            (chunk.targets < limits.lower - beyond) | (chunk.targets > limits.upper + beyond)
        ).any(axis=0)
        if absurd.any():
            joint = int(np.argmax(absurd))
            return (
                f'chunk asks {chunk.names[joint]} for '
                f'{chunk.targets[:, joint].min():.3g} .. {chunk.targets[:, joint].max():.3g}, '
                'a whole range beyond its limits: wrong unit?'
            )
        if not np.isclose(chunk.step_dt_s, robot.step_dt_s, rtol=1e-3):
            return f'chunk rows are {chunk.step_dt_s:g} s apart, want {robot.step_dt_s:g} s'
        if chunk.embodiment_hash != robot.config_hash:
            return 'chunk was made for another description of the robot (contract differs)'
        return None

    def _check_competing_publishers(self, chunk: Chunk, now_ns: int) -> str | None:
        """Refuse everybody while two policies speak; afterwards follow the one that is left.

        A session that is over and yet tells of what it saw after the next one began was not
        followed by it: somebody else publishes chunks.
        """
        if chunk.session in self.retired and chunk.stamp_ns > self.session_start_ns:
            self.last_chunk_ns.setdefault(self.session, now_ns)
        elif not self.last_chunk_ns:
            return None
        self.last_chunk_ns[chunk.session] = now_ns
        recent = {
            session: heard_ns
            for session, heard_ns in self.last_chunk_ns.items()
            if 0 <= now_ns - heard_ns < COMPETING_PUBLISHERS_WINDOW_NS
        }
        if len(recent) > 1:
            return f'two policies publish chunks, only one may: {" and ".join(sorted(recent))}'
        self.last_chunk_ns.clear()
        if chunk.session != self.session:
            self.retired = deque(
                (session for session in self.retired if session != chunk.session),
                MAX_RETIRED_SESSIONS,
            )
        return None

    def _check_order(self, chunk: Chunk) -> str | None:
        if chunk.session in self.retired:
            return f'chunk of an old session ({chunk.session})'
        if self.reject_until_ns is not None and chunk.stamp_ns <= self.reject_until_ns:
            return 'chunk was observed before the policy paused'
        if chunk.session == self.session and chunk.sequence <= self.sequence:
            return f'chunk {chunk.sequence} came after {self.sequence}'
        return None

    def _check_age(self, chunk: Chunk, now_ns: int) -> str | None:
        age_s = (now_ns - chunk.stamp_ns) / NS_PER_S
        if age_s < -MAX_FUTURE_STAMP_S:
            return f'chunk is stamped {-age_s:.2f} s in the future'
        if age_s > MAX_AGE_AT_REST_S:
            return f'late chunk: its observation is {age_s:.1f} s old'
        return None


@dataclass(frozen=True, slots=True, eq=False)
class BlendedChunk:
    """Hold how one chunk continues the motion at a switch."""

    targets: np.ndarray  # [steps joints], seam faded, not yet limited
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
    arms start with the whole difference and lose it over `fade_s` (0: at once). A gripper must
    not dwell between two intentions: its newest target counts at once.
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
    """Return `wanted` [steps joints] inside the position limits and no faster than they allow.

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

"""What motion is doing: states, counts, what there is to tell of an instant and how bad it is."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from wam_policy.core.motion import chunk_blending
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.limits import LimitUsage
from wam_policy.core.session.policy_health import DiagnosticLevel

if TYPE_CHECKING:
    from wam_policy.core.motion.motion_control import MotionControl


class MotionState(enum.IntEnum):
    """Name what motion does; the values are those of MotionStatus."""

    UNCONFIGURED = 0
    DISABLED = 1
    HOLDING = 2
    FIRST_MOVE = 3
    TRACKING = 4
    STOPPING = 5
    ESTOPPED = 6
    PROTECTIVE_STOP = 7


LATCHED_STATES = (MotionState.ESTOPPED, MotionState.PROTECTIVE_STOP)
RUNNING_STATES = (MotionState.FIRST_MOVE, MotionState.TRACKING)
ACTIVE_STATES = (MotionState.HOLDING, *RUNNING_STATES, MotionState.STOPPING)
JITTER_WARN_MS = 2.0  # what the loop keeps on two loaded cores, 99 of 100 times
JITTER_ERROR_MS = 10.0  # a whole period of 100 Hz
AT_GOAL_RAD = 1e-3  # rad: a plan may end long after what it does is too little to see


@dataclass(slots=True)
class MotionCounters:
    """Count since activation."""

    accepted: int = 0
    rejected: int = 0
    late: int = 0  # chunks that came after their last usable row
    underruns: int = 0
    replanned: int = 0  # plans that were not ready at their switch
    max_step: float = 0.0  # rad
    velocity_ratio: float = 0.0  # of what was published, worst joint
    acceleration_ratio: float = 0.0
    jerk_ratio: float = 0.0
    predicted_collisions: int = 0  # chunks cut short or refused for contact ahead
    stops: int = 0  # by a person or a monitor; after each only a new instruction moves the arm
    commands_lost: int = 0  # commands that a controller does not follow

    def record_step(self, before: np.ndarray | None, now: np.ndarray) -> None:
        """Note the commands of two ticks, [joints]; None: there was none to compare with."""
        if before is not None:
            self.max_step = max(self.max_step, float(np.abs(now - before).max()))

    def record_usage(self, usage: LimitUsage) -> None:
        """Note what a published plan uses of the limits."""
        self.velocity_ratio = max(self.velocity_ratio, float(usage.velocity.max()))
        self.acceleration_ratio = max(self.acceleration_ratio, float(usage.acceleration.max()))
        self.jerk_ratio = max(self.jerk_ratio, float(usage.jerk.max()))


@dataclass(frozen=True, slots=True, eq=False)
class MotionSnapshot:
    """Hold what there is to tell at one instant."""

    state: MotionState
    enabled: bool
    estop: bool
    first_move: bool
    dry_run: bool
    deadman_ok: bool
    clamp_counts: np.ndarray  # int64 [joints]
    clamp_rate_hz: float
    blend_offset: float
    chunk_age_s: float | None  # of the executed chunk's observation
    rows_left: float
    counters: MotionCounters
    reason: str
    inactive_checks: Mapping[str, str]  # checks without inputs -> why
    report_warning: str  # about the controllers' reports, empty if none

    @classmethod
    def from_motion(cls, motion: 'MotionControl', now_ns: int) -> Self:
        """Return what there is to tell of `motion` at `now_ns`."""
        active = motion.active_chunk
        return cls(
            state=motion.state,
            enabled=motion.enabled,
            estop=motion.state is MotionState.ESTOPPED,
            first_move=motion.enabled and motion.first_move.is_active,
            dry_run=motion.dry_run,
            deadman_ok=motion.deadman_ok,
            clamp_counts=motion.limit_rate_monitor.counts.copy(),
            clamp_rate_hz=motion.limit_rate_monitor.rate_hz,
            blend_offset=active.blend_offset if active else 0.0,
            chunk_age_s=(now_ns - active.chunk.stamp_ns) / NS_PER_S if active else None,
            rows_left=chunk_blending.count_rows_left(active.chunk, active.start_ns, now_ns)
            if active
            else 0.0,
            counters=replace(motion.counters),
            reason=motion.reason,
            inactive_checks=motion.safety_checks.find_inactive(motion, now_ns),
            report_warning=motion.command_tracker.report_warning,
        )


def diagnose_state(snapshot: MotionSnapshot) -> tuple[DiagnosticLevel, str]:
    text = f'{snapshot.state.name}: {snapshot.reason}'
    if snapshot.state in LATCHED_STATES:
        return DiagnosticLevel.ERROR, text
    if snapshot.state is MotionState.DISABLED or not snapshot.deadman_ok:
        return DiagnosticLevel.WARN, text
    if snapshot.report_warning:
        return (
            DiagnosticLevel.WARN,
            f'{text}; {snapshot.report_warning}: lost commands go unnoticed',
        )
    return DiagnosticLevel.OK, text


def diagnose_checks(snapshot: MotionSnapshot) -> tuple[DiagnosticLevel, str]:
    """Judge which safety checks have their inputs."""
    if not snapshot.inactive_checks:
        return DiagnosticLevel.OK, 'all checks are active'
    return DiagnosticLevel.WARN, f'not active: {", ".join(snapshot.inactive_checks)}'


def diagnose_loop(jitter_p99_ms: float, late_ticks: int) -> tuple[DiagnosticLevel, str]:
    text = f'jitter p99 {jitter_p99_ms:.2f} ms, {late_ticks} late ticks'
    if jitter_p99_ms > JITTER_ERROR_MS:
        return DiagnosticLevel.ERROR, text
    return (DiagnosticLevel.WARN if jitter_p99_ms > JITTER_WARN_MS else DiagnosticLevel.OK), text


def diagnose_limit_rate(rate_hz: float, stop_rate_hz: float) -> tuple[DiagnosticLevel, str]:
    """Judge how many rows per second are limited; the trip stops motion at `stop_rate_hz`."""
    text = f'{rate_hz:.0f} rows per second limited'
    return (DiagnosticLevel.WARN if rate_hz > stop_rate_hz / 2 else DiagnosticLevel.OK), text


def diagnose_chunks(snapshot: MotionSnapshot, max_age_s: float) -> tuple[DiagnosticLevel, str]:
    if snapshot.state not in RUNNING_STATES or snapshot.chunk_age_s is None:
        return DiagnosticLevel.OK, 'no chunk is being executed'
    text = f'chunk observed {snapshot.chunk_age_s:.2f} s ago, {snapshot.rows_left:.0f} rows left'
    old = snapshot.chunk_age_s > max_age_s / 2
    return (DiagnosticLevel.WARN if old else DiagnosticLevel.OK), text

"""What the figures of motion mean: fine, worth a look, or an error, each with the reason."""

from wam_policy.core.motion.motion_control import (
    LATCHED_STATES,
    RUNNING_STATES,
    MotionSnapshot,
    MotionState,
)
from wam_policy.core.session.policy_health import DiagnosticLevel

JITTER_WARN_MS = 2.0  # what the loop keeps on two loaded cores, 99 of 100 times
JITTER_ERROR_MS = 10.0  # a whole period of 100 Hz


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

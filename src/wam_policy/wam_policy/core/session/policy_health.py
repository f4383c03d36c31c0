"""Diagnostic levels of policy_node's metrics, with thresholds and their reasons."""

from enum import IntEnum

from wam_policy.core.session.policy_session import PolicyState

# Below this, a 0.8 s chunk is replaced less than five times within its duration.
MIN_QUERY_RATE_HZ = 7.0
# With a larger share of the chunk elapsed on arrival, few rows are left for planning.
WARN_LATENCY_FRACTION = 0.5
# Cameras below this share of their nominal rate lose frames.
MIN_CAMERA_RATE_FRACTION = 0.4


class DiagnosticLevel(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


def diagnose_state(state: PolicyState, reason: str) -> tuple[DiagnosticLevel, str]:
    """Return level and message for the policy's state."""
    level = {
        PolicyState.ERROR: DiagnosticLevel.ERROR,
        PolicyState.STALE_OBSERVATION: DiagnosticLevel.ERROR,
        PolicyState.STARTING: DiagnosticLevel.WARN,
        PolicyState.WAITING_OBSERVATION: DiagnosticLevel.WARN,
        PolicyState.UNCONFIGURED: DiagnosticLevel.WARN,
    }.get(state, DiagnosticLevel.OK)
    return level, f'{state.name}: {reason}' if reason else state.name


def diagnose_queries(
    state: PolicyState, rate_hz: float, target_hz: float, p99_ms: float | None, chunk_s: float
) -> tuple[DiagnosticLevel, str]:
    """Return level and message for query rate and latency, relative to the chunk's duration."""
    if state is not PolicyState.RUNNING or p99_ms is None:
        return DiagnosticLevel.OK, 'no queries now'
    if p99_ms > 1e3 * chunk_s:
        return (
            DiagnosticLevel.ERROR,
            f'latency p99 {p99_ms:.0f} ms is longer than a chunk ({chunk_s:g} s)',
        )
    if p99_ms > WARN_LATENCY_FRACTION * 1e3 * chunk_s:
        return DiagnosticLevel.WARN, (
            f'latency p99 {p99_ms:.0f} ms uses more than {WARN_LATENCY_FRACTION:.0%} of a '
            f'chunk ({chunk_s:g} s)'
        )
    if rate_hz < min(MIN_QUERY_RATE_HZ, target_hz):
        return (
            DiagnosticLevel.WARN,
            f'{rate_hz:.1f} queries/s, want {min(MIN_QUERY_RATE_HZ, target_hz):g}',
        )
    return DiagnosticLevel.OK, f'{rate_hz:.1f} queries/s, p99 {p99_ms:.0f} ms'


def diagnose_camera(
    age_s: float | None,
    max_age_s: float,
    rate_hz: float,
    fps: float,
) -> tuple[DiagnosticLevel, str]:
    """Return level and message for a camera from the age of its newest frame and its rate."""
    if age_s is None:
        return DiagnosticLevel.ERROR, 'no frame yet'
    if age_s > max_age_s:
        return DiagnosticLevel.ERROR, f'newest frame is {age_s:.2f} s old, limit {max_age_s:g} s'
    if rate_hz < MIN_CAMERA_RATE_FRACTION * fps:
        return DiagnosticLevel.WARN, f'{rate_hz:.1f} Hz of {fps:g} Hz'
    return DiagnosticLevel.OK, f'{rate_hz:.1f} Hz'


def diagnose_workers(restarts: int, trained: bool, model: str) -> tuple[DiagnosticLevel, str]:
    """Return level and message for the workers from their restarts and model."""
    if not model:
        return DiagnosticLevel.WARN, 'not ready yet'
    if not trained:
        return DiagnosticLevel.WARN, f'{model}: random weights, motion without a purpose'
    return (
        (DiagnosticLevel.WARN, f'{model}: restarted {restarts} times')
        if restarts
        else (DiagnosticLevel.OK, model)
    )

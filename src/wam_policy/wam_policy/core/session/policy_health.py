"""When a figure of policy_node is fine, worth a look or a fault; thresholds with their reasons."""

from enum import IntEnum

from wam_policy.core.session.policy_session import PolicyState

# Below this a 0.8 s chunk is renewed less than five times before it runs out.
MIN_QUERY_RATE_HZ = 7.0
# A chunk of which this share has passed before it arrives leaves little to plan with.
WARN_LATENCY_FRACTION = 0.5
# Cameras that deliver less than this share of their nominal rate lose frames on the way.
MIN_CAMERA_RATE_FRACTION = 0.4


class DiagnosticLevel(IntEnum):
    """Name the levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


def diagnose_state(state: PolicyState, reason: str) -> tuple[DiagnosticLevel, str]:
    """Judge the workers and the loop as a whole."""
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
    """Judge query rate and latency (observation to publication) against a chunk's length."""
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
    """Judge one camera by the age of its newest frame and its rate."""
    if age_s is None:
        return DiagnosticLevel.ERROR, 'no frame yet'
    if age_s > max_age_s:
        return DiagnosticLevel.ERROR, f'newest frame is {age_s:.2f} s old, limit {max_age_s:g} s'
    if rate_hz < MIN_CAMERA_RATE_FRACTION * fps:
        return DiagnosticLevel.WARN, f'{rate_hz:.1f} Hz of {fps:g} Hz'
    return DiagnosticLevel.OK, f'{rate_hz:.1f} Hz'


def diagnose_workers(restarts: int, trained: bool, model: str) -> tuple[DiagnosticLevel, str]:
    """Judge the workers by how often they died and by what they run."""
    if not model:
        return DiagnosticLevel.WARN, 'not ready yet'
    if not trained:
        return DiagnosticLevel.WARN, f'{model}: random weights, motion means nothing'
    return (
        (DiagnosticLevel.WARN, f'{model}: restarted {restarts} times')
        if restarts
        else (DiagnosticLevel.OK, model)
    )

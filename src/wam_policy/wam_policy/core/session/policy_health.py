"""When a figure of policy_node is fine, worth a look or a fault; thresholds with their reasons."""

from enum import IntEnum

from wam_policy.core.session.policy_session import State

# Below this a 0.8 s chunk is renewed less than five times before it runs out.
SLOW_QUERIES_HZ = 7.0
# A chunk of which this share has passed before it arrives leaves little to plan with.
LATE_SHARE = 0.5
# Cameras that deliver less than this share of their nominal rate lose frames on the way.
SLOW_CAMERA_SHARE = 0.4


class Level(IntEnum):
    """Name the levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


def of_state(state: State, reason: str) -> tuple[Level, str]:
    """Judge the workers and the loop as a whole."""
    level = {
        State.ERROR: Level.ERROR,
        State.STALE_OBSERVATION: Level.ERROR,
        State.STARTING: Level.WARN,
        State.WAITING_OBSERVATION: Level.WARN,
        State.UNCONFIGURED: Level.WARN,
    }.get(state, Level.OK)
    return level, f'{state.name}: {reason}' if reason else state.name


def of_queries(
    state: State, rate_hz: float, wanted_hz: float, p99_ms: float | None, chunk_s: float
) -> tuple[Level, str]:
    """Judge query rate and latency (observation to publication) against a chunk's length."""
    if state is not State.RUNNING or p99_ms is None:
        return Level.OK, 'no queries now'
    if p99_ms > 1e3 * chunk_s:
        return Level.ERROR, f'latency p99 {p99_ms:.0f} ms is longer than a chunk ({chunk_s:g} s)'
    if p99_ms > LATE_SHARE * 1e3 * chunk_s:
        return Level.WARN, (
            f'latency p99 {p99_ms:.0f} ms uses more than {LATE_SHARE:.0%} of a '
            f'chunk ({chunk_s:g} s)'
        )
    if rate_hz < min(SLOW_QUERIES_HZ, wanted_hz):
        return Level.WARN, f'{rate_hz:.1f} queries/s, want {min(SLOW_QUERIES_HZ, wanted_hz):g}'
    return Level.OK, f'{rate_hz:.1f} queries/s, p99 {p99_ms:.0f} ms'


def of_camera(
    age_s: float | None,
    max_age_s: float,
    rate_hz: float,
    fps: float,
) -> tuple[Level, str]:
    """Judge one camera by the age of its newest frame and its rate."""
    if age_s is None:
        return Level.ERROR, 'no frame yet'
    if age_s > max_age_s:
        return Level.ERROR, f'newest frame is {age_s:.2f} s old, limit {max_age_s:g} s'
    if rate_hz < SLOW_CAMERA_SHARE * fps:
        return Level.WARN, f'{rate_hz:.1f} Hz of {fps:g} Hz'
    return Level.OK, f'{rate_hz:.1f} Hz'


def of_workers(restarts: int, trained: bool, model: str) -> tuple[Level, str]:
    """Judge the workers by how often they died and by what they run."""
    if not model:
        return Level.WARN, 'not ready yet'
    if not trained:
        return Level.WARN, f'{model}: random weights, motion means nothing'
    return (Level.WARN, f'{model}: restarted {restarts} times') if restarts else (Level.OK, model)

"""What the figures of motion mean: fine, worth a look, or an error, each with the reason."""

from wam_policy.core.motion.motion_control import LATCHED, RUNNING, Snapshot, State
from wam_policy.core.session.policy_health import Level

JITTER_WARN_MS = 2.0  # what the loop keeps on two loaded cores, 99 of 100 times
JITTER_ERROR_MS = 10.0  # a whole period of 100 Hz


def of_state(snapshot: Snapshot) -> tuple[Level, str]:
    text = f'{snapshot.state.name}: {snapshot.reason}'
    if snapshot.state in LATCHED:
        return Level.ERROR, text
    if snapshot.state is State.DISABLED or not snapshot.deadman_ok:
        return Level.WARN, text
    if snapshot.complaint:
        return Level.WARN, f'{text}; {snapshot.complaint}: lost commands go unnoticed'
    return Level.OK, text


def of_loop(jitter_p99_ms: float, late_ticks: int) -> tuple[Level, str]:
    text = f'jitter p99 {jitter_p99_ms:.2f} ms, {late_ticks} late ticks'
    if jitter_p99_ms > JITTER_ERROR_MS:
        return Level.ERROR, text
    return (Level.WARN if jitter_p99_ms > JITTER_WARN_MS else Level.OK), text


def of_clamps(rate_hz: float, trip_hz: float) -> tuple[Level, str]:
    """Judge how many rows per second are limited; the trip stops motion at `trip_hz`."""
    text = f'{rate_hz:.0f} rows per second limited'
    return (Level.WARN if rate_hz > trip_hz / 2 else Level.OK), text


def of_chunks(snapshot: Snapshot, max_age_s: float) -> tuple[Level, str]:
    if snapshot.state not in RUNNING or snapshot.chunk_age_s is None:
        return Level.OK, 'no chunk is being executed'
    text = f'chunk observed {snapshot.chunk_age_s:.2f} s ago, {snapshot.rows_left:.0f} rows left'
    old = snapshot.chunk_age_s > max_age_s / 2
    return (Level.WARN if old else Level.OK), text

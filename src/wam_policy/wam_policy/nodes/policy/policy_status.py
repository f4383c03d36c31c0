"""The status message of policy_node."""

from wam_msgs.msg import PolicyStatus
from wam_policy.core.observation.observation_buffer import StampedBuffer
from wam_policy.core.session.policy_session import PolicySession
from wam_policy.nodes import message_conversion
from wam_policy.nodes.policy.worker_backend import BackendStatus

NOT_MEASURED = -1.0  # instead of a distance
UNTRAINED = 'UNTRAINED'  # in the name of a model with random weights


def format_model_name(backend_status: BackendStatus) -> str:
    """Name the weights; random ones are called so."""
    if not backend_status.model:
        return ''
    return (
        backend_status.model
        if backend_status.trained or UNTRAINED in backend_status.model
        else f'{UNTRAINED} {backend_status.model}'
    )


def make_status_msg(
    policy: PolicySession, backend_status: BackendStatus, memory_update: str, now_ns: int
) -> PolicyStatus:
    """Return the status at `now_ns`."""
    state, reason = policy.get_state(now_ns)
    p50_ms, p99_ms = policy.latencies.percentiles_ms(50, 99)
    error = policy.cache_status.imagination_error
    low, high = policy.imagination_range.bounds or (NOT_MEASURED, NOT_MEASURED)
    rings = policy.observations.camera_buffers
    msg = PolicyStatus(
        state=state.value,
        state_name=state.name,
        memory_update=memory_update,
        robot=policy.robot.name,
        instruction=policy.instruction,
        session=policy.session,
        trained=backend_status.trained,
        model=format_model_name(backend_status),
        sequence=policy.sequence,
        chunks_published=policy.counters.chunks,
        query_rate_hz=policy.chunk_rate.hz(now_ns),
        stage_names=list(p50_ms),
        stage_p50_ms=list(p50_ms.values()),
        stage_p99_ms=list(p99_ms.values()),
        camera_names=list(rings),
        camera_age_ms=[_compute_age_ms(ring, now_ns) for ring in rings.values()],
        camera_rate_hz=[ring.rate_hz(now_ns) for ring in rings.values()],
        joints_age_ms=_compute_age_ms(policy.observations.joint_buffer, now_ns),
        kv_cached_blocks=policy.cache_status.blocks,
        kv_window_fill=policy.cache_status.window_fill,
        kv_commits=policy.counters.commits,
        kv_rebuilds=policy.counters.rebuilds,
        imagination_error=NOT_MEASURED if error is None else error,
        imagination_error_low=low,
        imagination_error_high=high,
        view_layout=backend_status.view_layout,
        dropped_frames=policy.dropped_frames,
        dropped_chunks=policy.counters.dropped_chunks,
        worker_restarts=backend_status.restart_count,
        reason=reason,
    )
    msg.header.stamp = message_conversion.time_to_msg(now_ns)
    return msg


def _compute_age_ms(buffer: StampedBuffer, now_ns: int) -> float:
    return (now_ns - buffer.newest.stamp_ns) / 1e6 if buffer.newest else -1.0

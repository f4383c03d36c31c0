"""What policy_node tells about itself: one snapshot of the policy as a message."""

from wam_msgs.msg import PolicyStatus
from wam_policy.core.observation.observation_buffer import Ring
from wam_policy.core.session.policy_session import Policy
from wam_policy.nodes import message_conversion
from wam_policy.nodes.policy.worker_backend import News

UNTRAINED = 'UNTRAINED'


def model_title(news: News) -> str:
    """Name the weights; random ones are called so."""
    if not news.model:
        return ''
    return news.model if news.trained or UNTRAINED in news.model else f'{UNTRAINED} {news.model}'


def message(policy: Policy, news: News, mode: str, now_ns: int) -> PolicyStatus:
    """Return the status at `now_ns`."""
    state, reason = policy.condition(now_ns)
    p50_ms, p99_ms = policy.latencies.percentiles_ms(50, 99)
    rings = policy.views.rings
    msg = PolicyStatus(
        state=state.value,
        state_name=state.name,
        mode=mode,
        robot=policy.robot.name,
        instruction=policy.instruction,
        session=policy.session,
        trained=news.trained,
        model=model_title(news),
        sequence=policy.sequence,
        chunks=policy.tally.chunks,
        query_rate_hz=policy.rate.hz(now_ns),
        stage_names=list(p50_ms),
        stage_p50_ms=list(p50_ms.values()),
        stage_p99_ms=list(p99_ms.values()),
        camera_names=list(rings),
        camera_age_ms=[_age_ms(ring, now_ns) for ring in rings.values()],
        camera_rate_hz=[ring.rate_hz(now_ns) for ring in rings.values()],
        joints_age_ms=_age_ms(policy.views.joints, now_ns),
        kv_committed_blocks=policy.cache.blocks,
        kv_window_fill=policy.cache.window_fill,
        kv_commits=policy.tally.commits,
        kv_rebuilds=policy.tally.rebuilds,
        dropped_frames=policy.dropped_frames,
        dropped_chunks=policy.tally.dropped_chunks,
        worker_restarts=news.restarts,
        reason=reason,
    )
    msg.header.stamp = message_conversion.time(now_ns)
    return msg


def _age_ms(ring: Ring, now_ns: int) -> float:
    return (now_ns - ring.newest.stamp_ns) / 1e6 if ring.newest else -1.0

"""EpisodeStatus: how recording stands, in one message."""

from collections.abc import Sequence

from wam_msgs.msg import EpisodeStatus
from wam_policy.nodes import message_conversion
from wam_policy.nodes.recorder.recorder_state import RecorderSnapshot


def make_message(
    snapshot: RecorderSnapshot, topic_names: Sequence[str], now_ns: int
) -> EpisodeStatus:
    """Return the message that shows a snapshot."""
    msg = EpisodeStatus(
        state=snapshot.state.value,
        episode_name=snapshot.episode,
        instruction=snapshot.instruction,
        duration=snapshot.duration_s,
        size_bytes=snapshot.progress.size_bytes,
        topic_names=list(topic_names),
        message_counts=list(snapshot.progress.written_counts),
        dropped_counts=list(snapshot.progress.dropped_counts),
        reason=snapshot.reason,
    )
    msg.header.stamp = message_conversion.time_to_msg(now_ns)
    return msg

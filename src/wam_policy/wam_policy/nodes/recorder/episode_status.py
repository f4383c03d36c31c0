"""EpisodeStatus: how recording stands, in one message."""

from collections.abc import Sequence

from wam_msgs.msg import EpisodeStatus
from wam_policy.nodes import message_conversion
from wam_policy.nodes.recorder.recorder_state import Snapshot


def message(seen: Snapshot, topics: Sequence[str], now_ns: int) -> EpisodeStatus:
    """Return the message that shows a snapshot."""
    msg = EpisodeStatus(
        state=seen.state.value,
        episode=seen.episode,
        instruction=seen.instruction,
        duration=seen.duration_s,
        bytes=seen.progress.bytes,
        topic_names=list(topics),
        messages=list(seen.progress.messages),
        dropped=list(seen.progress.dropped),
        reason=seen.reason,
    )
    msg.header.stamp = message_conversion.time(now_ns)
    return msg

"""Where the time of one chunk went, from the observation's stamp to its publication."""

from collections.abc import Mapping


def compute_query_stages_ms(
    observation_ns: int,
    arrived_ns: int,
    sent_ns: int,
    answered_ns: int,
    worker_ms: Mapping[str, float],
) -> dict[str, float]:
    """Return the stages up to the answer; together they last as long as it really took.

    receive: stamp until the frame that completed the observation arrived; wait: until the query
    was sent; then the workers' own stages; transport: what of the round trip they did not spend.
    """
    own_ms = sum(worker_ms.values())
    return {
        'receive': _elapsed_ms(observation_ns, arrived_ns),
        'wait': _elapsed_ms(arrived_ns, sent_ns),
        **worker_ms,
        'transport': max(0.0, _elapsed_ms(sent_ns, answered_ns) - own_ms),
    }


def compute_publish_stages_ms(
    observation_ns: int, answered_ns: int, published_ns: int
) -> dict[str, float]:
    """Return the last stage and the total."""
    return {
        'publish': _elapsed_ms(answered_ns, published_ns),
        'total': _elapsed_ms(observation_ns, published_ns),
    }


def _elapsed_ms(from_ns: int, to_ns: int) -> float:
    return (to_ns - from_ns) / 1e6

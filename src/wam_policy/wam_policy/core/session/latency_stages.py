"""Where the time of one chunk went, from the observation's stamp to its publication."""

from collections.abc import Mapping


def asked_ms(
    observed_ns: int,
    arrived_ns: int,
    asked_ns: int,
    answered_ns: int,
    worker_ms: Mapping[str, float],
) -> dict[str, float]:
    """Return the stages up to the answer; together they last as long as it really took.

    receive: stamp until the frame that completed the observation arrived; wait: until the query
    was sent; then the workers' own stages; transport: what of the round trip they did not spend.
    """
    own_ms = sum(worker_ms.values())
    return {
        'receive': _ms(observed_ns, arrived_ns),
        'wait': _ms(arrived_ns, asked_ns),
        **worker_ms,
        'transport': max(0.0, _ms(asked_ns, answered_ns) - own_ms),
    }


def published_ms(observed_ns: int, answered_ns: int, published_ns: int) -> dict[str, float]:
    """Return the last stage and the total."""
    return {'publish': _ms(answered_ns, published_ns), 'total': _ms(observed_ns, published_ns)}


def _ms(from_ns: int, to_ns: int) -> float:
    return (to_ns - from_ns) / 1e6

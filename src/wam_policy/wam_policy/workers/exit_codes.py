"""How a worker ends: what its exit status means to whoever started it."""

OK = 0  # asked to stop, or nobody left to answer
FAILED = 1  # may go better next time
PERMANENT_FAILURE = 2  # these arguments will never work
PEER_LOST = 3  # the other worker went away


class PeerLost(Exception):
    """The other worker died or does not answer; this one cannot go on without it."""

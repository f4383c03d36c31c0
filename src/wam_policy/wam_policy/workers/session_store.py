"""Sessions of a worker: one policy each; the least recently used session is evicted.

All workers of a pair receive the same requests in the same order, so they keep the same sessions.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from wam_policy.model.robot_policy import Policy


@dataclass(slots=True)
class WorkerSession:
    """Hold one session and the policy that it uses."""

    name: str
    policy: Policy
    committed_blocks: int = 0
    last_sequence: int = -1  # sequence number of the last query


class SessionPool:
    """Assign policies to sessions; a new session allocates nothing."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """Take one policy per session that can be active at a time; all are identical."""
        self._free = deque(policies)
        self._active: OrderedDict[str, WorkerSession] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the active sessions, least recently used first."""
        return tuple(self._active)

    def get(self, name: str) -> WorkerSession | None:
        """Return a session and mark it as used; None if there is none of that name."""
        if name in self._active:
            self._active.move_to_end(name)
        return self._active.get(name)

    def start(self, name: str) -> WorkerSession:
        """Start or restart a session; evict the least recently used one if no policy is free."""
        if name in self._active or not self._free:
            self.close(name if name in self._active else next(iter(self._active)))
        session = self._active[name] = WorkerSession(name, self._free.popleft())
        return session

    def close(self, name: str) -> None:
        """End a session and free its policy; do nothing if there is none of that name."""
        session = self._active.pop(name, None)
        if session is not None:
            self._free.appendleft(session.policy)

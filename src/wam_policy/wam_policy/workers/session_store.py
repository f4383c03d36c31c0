"""Whose memory is whose: as many sessions as memories, the one unused for longest makes room.

Every worker of a pair is told the same in the same order, so all of them keep the same sessions.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from wam_policy.model.robot_policy import Policy


@dataclass(slots=True)
class WorkerSession:
    """Hold one conversation and the policy that lives it."""

    name: str
    policy: Policy
    committed_blocks: int = 0  # committed
    last_sequence: int = -1  # of the last query


class SessionPool:
    """Lend policies to sessions; nothing is allocated for a new one."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """Take one policy per session that can live at a time; all are alike."""
        self._free = deque(policies)
        self._active: OrderedDict[str, WorkerSession] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Name those that live, the one unused for longest first."""
        return tuple(self._active)

    def get(self, name: str) -> WorkerSession | None:
        """Give a session and note that it is in use; None if there is no such one."""
        if name in self._active:
            self._active.move_to_end(name)
        return self._active.get(name)

    def start(self, name: str) -> WorkerSession:
        """Begin a session, anew if it lives; the oldest makes room where all memories are lent."""
        if name in self._active or not self._free:
            self.close(name if name in self._active else next(iter(self._active)))
        session = self._active[name] = WorkerSession(name, self._free.popleft())
        return session

    def close(self, name: str) -> None:
        """End a session; its memory is free for another."""
        session = self._active.pop(name, None)
        if session is not None:
            self._free.appendleft(session.policy)

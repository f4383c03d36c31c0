"""Whose memory is whose: as many sessions as memories, the one unused for longest makes room.

Every worker of a pair is told the same in the same order, so all of them keep the same sessions.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from wam_policy.model.robot_policy import Policy


@dataclass(slots=True)
class Session:
    """Hold one conversation and the policy that lives it."""

    name: str
    policy: Policy
    blocks: int = 0  # committed
    sequence: int = -1  # of the last query


class Sessions:
    """Lend policies to sessions; nothing is allocated for a new one."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """Take one policy per session that can live at a time; all are alike."""
        self._free = deque(policies)
        self._live: OrderedDict[str, Session] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Name those that live, the one unused for longest first."""
        return tuple(self._live)

    def used(self, name: str) -> Session | None:
        """Give a session and note that it is in use; None if there is no such one."""
        if name in self._live:
            self._live.move_to_end(name)
        return self._live.get(name)

    def opened(self, name: str) -> Session:
        """Begin a session, anew if it lives; the oldest makes room where all memories are lent."""
        if name in self._live or not self._free:
            self.forget(name if name in self._live else next(iter(self._live)))
        session = self._live[name] = Session(name, self._free.popleft())
        return session

    def forget(self, name: str) -> None:
        """End a session; its memory is free for another."""
        session = self._live.pop(name, None)
        if session is not None:
            self._free.appendleft(session.policy)

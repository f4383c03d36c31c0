"""The two clocks: when to ask for actions, and how real time is cut into blocks of memory.

Both are pure functions of stamps. The query clock runs free on the newest observation; the KV
clock advances only as real frames elapse, however often the model is asked in between.

When the stamps go back (a bag that loops, a simulator that restarts) there is no honest way to
go on: the owner forgets its frames, calls `without_history` on the query clock and begins a new KV
clock with the next frame.
"""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class QueryClock:
    """Say when the next query is due: one in flight, never faster than `period_ns`."""

    period_ns: int  # shortest time between two queries; 0: as they come
    sent_ns: int | None = None  # when the last query was sent
    observation_ns: int | None = None  # stamp of the observation it carried
    in_flight: bool = False

    def __post_init__(self) -> None:
        if self.period_ns < 0:
            raise ValueError(f'query clock: want a period of at least 0 ns, got {self.period_ns}')

    def is_due(self, now_ns: int, observation_ns: int) -> bool:
        """Tell whether to ask now about an observation of that stamp; never twice about one."""
        if self.in_flight:
            return False
        if self.sent_ns is None or self.observation_ns is None:
            return True
        return observation_ns > self.observation_ns and now_ns - self.sent_ns >= self.period_ns

    def with_query_sent(self, now_ns: int, observation_ns: int) -> Self:
        return replace(self, sent_ns=now_ns, observation_ns=observation_ns, in_flight=True)

    def with_query_done(self) -> Self:
        """Return the clock after an answer, an error or a lost worker."""
        return replace(self, in_flight=False)

    def without_history(self) -> Self:
        """Return the clock without a past, for a new session or after a jump of the clock.

        A query in flight stays in flight: its answer will still come and must not overlap.
        """
        return replace(self, sent_ns=None, observation_ns=None)


@dataclass(frozen=True, slots=True)
class KvClock:
    """Cut real time into blocks: block 0 is the first frame alone, the others are equally long.

    Instants follow from the session's first stamp alone, so late, lost or extra camera frames
    cannot bend the grid. An instant without a fresh frame is the memory's business: it repeats
    the newest one within its gap limit and begins a new session beyond it.
    """

    first_ns: int  # stamp of the session's first frame
    frame_period_ns: int
    frames_per_block: int

    def __post_init__(self) -> None:
        if self.frame_period_ns < 1 or self.frames_per_block < 1:
            raise ValueError(
                'KV clock: want a frame period and frames per block of at least 1, '
                f'got {self.frame_period_ns} ns and {self.frames_per_block}'
            )

    def block_stamps_ns(self, block: int) -> tuple[int, ...]:
        """Return the instants of a block's frames, oldest first."""
        if block < 0:
            raise ValueError(f'KV clock: want a block of at least 0, got {block}')
        if block == 0:
            return (self.first_ns,)
        before = (block - 1) * self.frames_per_block
        return tuple(
            self.first_ns + (before + i) * self.frame_period_ns
            for i in range(1, self.frames_per_block + 1)
        )

    def count_elapsed_blocks(self, newest_ns: int) -> int:
        """Return how many blocks are over once every camera has been seen up to `newest_ns`."""
        if newest_ns < self.first_ns:
            return 0
        return 1 + (newest_ns - self.first_ns) // (self.frame_period_ns * self.frames_per_block)

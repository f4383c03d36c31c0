"""Query clock (when a query is due) and KV clock (blocks of real time for the memory).

Both are pure functions of stamps. The query clock follows the newest observation; the KV clock
advances only with the time of real frames, independent of the query rate.

If stamps go back (a bag that loops, a simulator that restarts), the owner drops its frames, calls
`without_history` on the query clock and starts a new KV clock with the next frame.
"""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class QueryClock:
    """Schedule of queries: one in progress, at least `period_ns` apart."""

    period_ns: int  # shortest time between two queries; 0: no limit
    sent_ns: int | None = None  # when the last query was sent
    observation_ns: int | None = None  # stamp of the observation it carried
    in_flight: bool = False

    def __post_init__(self) -> None:
        if self.period_ns < 0:
            raise ValueError(f'query clock: want a period of at least 0 ns, got {self.period_ns}')

    def is_due(self, now_ns: int, observation_ns: int) -> bool:
        """Return whether a query is due for an observation; at most one per observation."""
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
        """Return the clock without history, for a new session or after a jump of the clock.

        A query in progress stays in progress, so that the next one does not overlap with it.
        """
        return replace(self, sent_ns=None, observation_ns=None)


@dataclass(frozen=True, slots=True)
class KvClock:
    """Grid of blocks in real time: block 0 is the first frame, the others have equal length.

    Instants depend only on the session's first stamp, not on late, lost or extra camera frames.
    For an instant without a new frame, FrameHistory repeats the newest one within its gap limit,
    and restarts beyond it.
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
        """Return the number of elapsed blocks if all cameras have frames up to `newest_ns`."""
        if newest_ns < self.first_ns:
            return 0
        return 1 + (newest_ns - self.first_ns) // (self.frame_period_ns * self.frames_per_block)

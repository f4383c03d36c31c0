"""One instruction with an end: when a run is over and why."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """Name how a run can end; the names are those of the RunInstruction action."""

    TIME_OVER = 'its time is over'
    CANCELLED = 'it was cancelled'
    REPLACED = 'a newer instruction came'
    FAILED = 'policy or motion needs attention'
    SUCCEEDED = 'the success detector said so'


@dataclass(frozen=True, slots=True)
class World:
    """Hold what decides over a run at one instant."""

    now_ns: int
    order: int  # number of the newest instruction
    fault: str = ''  # why policy or motion needs attention; empty: fine
    achieved: str = ''  # instruction a success detector saw fulfilled
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Follow one instruction from its acceptance on."""

    instruction: str
    order: int  # number its instruction was given
    start_ns: int
    limit_ns: int
    first_chunk: int  # chunks published before it

    def __post_init__(self) -> None:
        if not self.instruction:
            raise ValueError('a run needs an instruction; to stop, publish an empty one instead')
        if self.limit_ns <= 0:
            raise ValueError('a run needs a time limit above 0 s')

    def outcome(self, world: World) -> Outcome | None:
        """Return how the run ended, or None while it goes on.

        A replaced run is over whatever else is true: the robot follows someone else already.
        """
        if world.order != self.order:
            return Outcome.REPLACED
        if world.cancelled:
            return Outcome.CANCELLED
        if world.fault:
            return Outcome.FAILED
        if world.achieved == self.instruction:
            return Outcome.SUCCEEDED
        return Outcome.TIME_OVER if world.now_ns >= self.start_ns + self.limit_ns else None

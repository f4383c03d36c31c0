"""One instruction with an end: when a run is over and why."""

from dataclasses import dataclass
from enum import Enum


class InstructionOutcome(Enum):
    """Name how a run can end; the names are those of the RunInstruction action."""

    TIMED_OUT = 'its time is over'
    CANCELED = 'it was canceled'
    PREEMPTED = 'a newer instruction came'
    FAILED = 'policy or motion needs attention'
    SUCCEEDED = 'the success detector said so'


@dataclass(frozen=True, slots=True)
class GoalContext:
    """Hold what decides over a run at one instant."""

    now_ns: int
    instruction_number: int  # number of the newest instruction
    failure: str = ''  # why policy or motion needs attention; empty: fine
    achieved_instruction: str = ''  # instruction a success detector saw fulfilled
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class InstructionGoal:
    """Follow one instruction from its acceptance on."""

    instruction: str
    instruction_number: int  # number its instruction was given
    start_ns: int
    time_limit_ns: int
    chunks_before: int  # chunks published before it

    def __post_init__(self) -> None:
        if not self.instruction:
            raise ValueError('a run needs an instruction; to stop, publish an empty one instead')
        if self.time_limit_ns <= 0:
            raise ValueError('a run needs a time limit above 0 s')

    def evaluate(self, context: GoalContext) -> InstructionOutcome | None:
        """Return how the run ended, or None while it goes on.

        A replaced run is over whatever else is true: the robot follows someone else already.
        """
        if context.instruction_number != self.instruction_number:
            return InstructionOutcome.PREEMPTED
        if context.cancelled:
            return InstructionOutcome.CANCELED
        if context.failure:
            return InstructionOutcome.FAILED
        if context.achieved_instruction == self.instruction:
            return InstructionOutcome.SUCCEEDED
        return (
            InstructionOutcome.TIMED_OUT
            if context.now_ns >= self.start_ns + self.time_limit_ns
            else None
        )

"""Goal of the RunInstruction action: when and why it ends."""

from dataclasses import dataclass
from enum import Enum


class InstructionOutcome(Enum):
    """Outcomes of a run, with the names of the RunInstruction action."""

    TIMED_OUT = 'the time limit was reached'
    CANCELED = 'it was canceled'
    PREEMPTED = 'a newer instruction was received'
    FAILED = 'policy or motion needs attention'
    SUCCEEDED = 'the success detector reported success'


@dataclass(frozen=True, slots=True)
class GoalContext:
    """Inputs for the evaluation of a run at one instant."""

    now_ns: int
    instruction_number: int  # number of the newest instruction
    failure: str = ''  # why policy or motion needs attention; empty: no failure
    achieved_instruction: str = ''  # instruction reported as fulfilled by a success detector
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class InstructionGoal:
    """One accepted goal."""

    instruction: str
    instruction_number: int  # number of its instruction
    start_ns: int
    time_limit_ns: int
    chunks_before: int  # chunks published before it

    def __post_init__(self) -> None:
        if not self.instruction:
            raise ValueError('a run needs an instruction; to stop, publish an empty one instead')
        if self.time_limit_ns <= 0:
            raise ValueError('a run needs a time limit above 0 s')

    def evaluate(self, context: GoalContext) -> InstructionOutcome | None:
        """Return the outcome, or None while the run continues.

        PREEMPTED has precedence, because the robot already follows another instruction.
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

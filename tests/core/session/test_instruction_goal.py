import pytest

from wam_policy.core.session.instruction_goal import (
    GoalContext,
    InstructionGoal,
    InstructionOutcome,
)

RUN = InstructionGoal(
    'lift the cup', instruction_number=3, start_ns=0, time_limit_ns=10, chunks_before=0
)


@pytest.mark.parametrize(
    ('world', 'outcome'),
    [
        (GoalContext(9, 3), None),
        (GoalContext(10, 3), InstructionOutcome.TIMED_OUT),
        (GoalContext(5, 4), InstructionOutcome.PREEMPTED),
        (GoalContext(5, 3, cancelled=True), InstructionOutcome.CANCELED),
        (GoalContext(5, 3, failure='e-stop'), InstructionOutcome.FAILED),
        (GoalContext(5, 3, achieved_instruction='lift the cup'), InstructionOutcome.SUCCEEDED),
        (GoalContext(5, 3, achieved_instruction='push the cup'), None),
        (
            GoalContext(
                99, 4, failure='e-stop', achieved_instruction='lift the cup', cancelled=True
            ),
            InstructionOutcome.PREEMPTED,
        ),
        (GoalContext(99, 3, achieved_instruction='lift the cup'), InstructionOutcome.SUCCEEDED),
    ],
)
def test_how_a_run_ends(world, outcome):
    assert RUN.evaluate(world) is outcome


def test_a_run_without_words_or_time_is_refused():
    with pytest.raises(ValueError, match='needs an instruction'):
        InstructionGoal('', 1, 0, 10, 0)
    with pytest.raises(ValueError, match='above 0 s'):
        InstructionGoal('lift', 1, 0, 0, 0)

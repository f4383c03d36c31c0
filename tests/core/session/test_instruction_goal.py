import pytest

from wam_policy.core.session.instruction_goal import Outcome, Run, World

RUN = Run('lift the cup', order=3, start_ns=0, limit_ns=10, first_chunk=0)


@pytest.mark.parametrize(
    ('world', 'outcome'),
    [
        (World(9, 3), None),
        (World(10, 3), Outcome.TIME_OVER),
        (World(5, 4), Outcome.REPLACED),
        (World(5, 3, cancelled=True), Outcome.CANCELLED),
        (World(5, 3, fault='e-stop'), Outcome.FAILED),
        (World(5, 3, achieved='lift the cup'), Outcome.SUCCEEDED),
        (World(5, 3, achieved='push the cup'), None),
        (World(99, 4, fault='e-stop', achieved='lift the cup', cancelled=True), Outcome.REPLACED),
        (World(99, 3, achieved='lift the cup'), Outcome.SUCCEEDED),
    ],
)
def test_how_a_run_ends(world, outcome):
    assert RUN.outcome(world) is outcome


def test_a_run_without_words_or_time_is_refused():
    with pytest.raises(ValueError, match='needs an instruction'):
        Run('', 1, 0, 10, 0)
    with pytest.raises(ValueError, match='above 0 s'):
        Run('lift', 1, 0, 0, 0)

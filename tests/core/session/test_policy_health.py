import pytest

from wam_policy.core.session.policy_health import (
    DiagnosticLevel,
    diagnose_camera,
    diagnose_queries,
    diagnose_state,
    diagnose_workers,
)
from wam_policy.core.session.policy_session import PolicyState


@pytest.mark.parametrize(
    ('state', 'level'),
    [
        (PolicyState.RUNNING, DiagnosticLevel.OK),
        (PolicyState.HOLDING, DiagnosticLevel.OK),
        (PolicyState.IDLE, DiagnosticLevel.OK),
        (PolicyState.STARTING, DiagnosticLevel.WARN),
        (PolicyState.WAITING_OBSERVATION, DiagnosticLevel.WARN),
        (PolicyState.STALE_OBSERVATION, DiagnosticLevel.ERROR),
        (PolicyState.ERROR, DiagnosticLevel.ERROR),
    ],
)
def test_every_state_has_a_level_and_tells_its_reason(state, level):
    assert diagnose_state(state, 'because') == (level, f'{state.name}: because')


@pytest.mark.parametrize(
    ('rate_hz', 'p99_ms', 'level', 'text'),
    [
        (8.0, 200.0, DiagnosticLevel.OK, '8.0 queries/s'),
        (6.0, 200.0, DiagnosticLevel.WARN, 'want 7'),
        (8.0, 401.0, DiagnosticLevel.WARN, 'more than 50%'),
        (8.0, 801.0, DiagnosticLevel.ERROR, 'longer than a chunk'),
    ],
)
def test_queries_are_judged_against_the_length_of_a_chunk(rate_hz, p99_ms, level, text):
    judged, said = diagnose_queries(PolicyState.RUNNING, rate_hz, 10.0, p99_ms, 0.8)
    assert judged is level and text in said


def test_a_rate_that_was_asked_for_is_not_slow():
    assert diagnose_queries(PolicyState.RUNNING, 3.0, 3.0, 100.0, 0.8)[0] is DiagnosticLevel.OK
    assert diagnose_queries(PolicyState.HOLDING, 0.0, 10.0, 100.0, 0.8)[0] is DiagnosticLevel.OK
    assert diagnose_queries(PolicyState.RUNNING, 0.0, 10.0, None, 0.8)[0] is DiagnosticLevel.OK


@pytest.mark.parametrize(
    ('age_s', 'rate_hz', 'level'),
    [
        (0.05, 15.0, DiagnosticLevel.OK),
        (0.05, 11.0, DiagnosticLevel.WARN),
        (0.3, 15.0, DiagnosticLevel.ERROR),
        (None, 0.0, DiagnosticLevel.ERROR),
    ],
)
def test_cameras(age_s, rate_hz, level):
    assert diagnose_camera(age_s, 0.2, rate_hz, 30.0)[0] is level


@pytest.mark.parametrize(
    ('restarts', 'trained', 'model', 'level'),
    [
        (0, True, 'wam-mini', DiagnosticLevel.OK),
        (2, True, 'wam-mini', DiagnosticLevel.WARN),
        (0, False, 'UNTRAINED tiny', DiagnosticLevel.WARN),
        (0, False, '', DiagnosticLevel.WARN),
    ],
)
def test_workers(restarts, trained, model, level):
    assert diagnose_workers(restarts, trained, model)[0] is level

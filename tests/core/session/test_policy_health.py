import pytest

from wam_policy.core.session.policy_health import (
    Level,
    of_camera,
    of_queries,
    of_state,
    of_workers,
)
from wam_policy.core.session.policy_session import State


@pytest.mark.parametrize(
    ('state', 'level'),
    [
        (State.RUNNING, Level.OK),
        (State.HOLDING, Level.OK),
        (State.IDLE, Level.OK),
        (State.STARTING, Level.WARN),
        (State.WAITING_OBSERVATION, Level.WARN),
        (State.STALE_OBSERVATION, Level.ERROR),
        (State.ERROR, Level.ERROR),
    ],
)
def test_every_state_has_a_level_and_tells_its_reason(state, level):
    assert of_state(state, 'because') == (level, f'{state.name}: because')


@pytest.mark.parametrize(
    ('rate_hz', 'p99_ms', 'level', 'text'),
    [
        (8.0, 200.0, Level.OK, '8.0 queries/s'),
        (6.0, 200.0, Level.WARN, 'want 7'),
        (8.0, 401.0, Level.WARN, 'more than 50%'),
        (8.0, 801.0, Level.ERROR, 'longer than a chunk'),
    ],
)
def test_queries_are_judged_against_the_length_of_a_chunk(rate_hz, p99_ms, level, text):
    judged, said = of_queries(State.RUNNING, rate_hz, 10.0, p99_ms, 0.8)
    assert judged is level and text in said


def test_a_rate_that_was_asked_for_is_not_slow():
    assert of_queries(State.RUNNING, 3.0, 3.0, 100.0, 0.8)[0] is Level.OK
    assert of_queries(State.HOLDING, 0.0, 10.0, 100.0, 0.8)[0] is Level.OK
    assert of_queries(State.RUNNING, 0.0, 10.0, None, 0.8)[0] is Level.OK


@pytest.mark.parametrize(
    ('age_s', 'rate_hz', 'level'),
    [
        (0.05, 15.0, Level.OK),
        (0.05, 11.0, Level.WARN),
        (0.3, 15.0, Level.ERROR),
        (None, 0.0, Level.ERROR),
    ],
)
def test_cameras(age_s, rate_hz, level):
    assert of_camera(age_s, 0.2, rate_hz, 30.0)[0] is level


@pytest.mark.parametrize(
    ('restarts', 'trained', 'model', 'level'),
    [
        (0, True, 'wam-mini', Level.OK),
        (2, True, 'wam-mini', Level.WARN),
        (0, False, 'UNTRAINED tiny', Level.WARN),
        (0, False, '', Level.WARN),
    ],
)
def test_workers(restarts, trained, model, level):
    assert of_workers(restarts, trained, model)[0] is level

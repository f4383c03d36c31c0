"""Queries that start where the arm will be, or continue what it does until then."""

from dataclasses import replace

import numpy as np
import pytest

from tests.core.session.test_policy_session import GRID, MS, SessionHarness
from wam_policy.core.robot import embodiment
from wam_policy.core.session.delay_compensation import (
    MAX_DELAY_NS,
    MAX_OVER_NS,
    SLOW_RAD_S,
    DelayCompensation,
)
from wam_policy.core.session.model_requests import (
    Query,
    describe_committed_rows,
    read_max_committed_rows,
)
from wam_policy.core.types import Chunk, JointState, Observation

ROBOT = embodiment.load_embodiment('yam')
STEP_NS = round(ROBOT.step_dt_s * 1e9)
START_NS = 5_000_000_000
HOME = JointState(START_NS, ROBOT.observed, np.full(len(ROBOT.observed), 0.05))
RISE = 0.01  # of the chunk's values per row
COMMANDED = [ROBOT.observed.index(name) for name in ROBOT.commanded]


def make_chunk(stamp_ns: int = START_NS, rows: int = 24) -> Chunk:
    """Return a chunk whose values tell their row."""
    targets = np.repeat(RISE * np.arange(rows)[:, None], len(ROBOT.commanded), 1)
    return Chunk(
        stamp_ns,
        's',
        1,
        ROBOT.step_dt_s,
        ROBOT.commanded,
        targets,
        targets[0],
        ROBOT.config_hash,
        {},
    )


def make_query(stamp_ns: int) -> Query:
    return Query('s', 1, Observation(stamp_ns, (), HOME), 0, 0)


def compensate(execution: str, delay_rows: float, max_held_rows: int = 0) -> DelayCompensation:
    made = DelayCompensation(ROBOT, execution, max_held_rows)
    made.add_delay(round(delay_rows * STEP_NS))
    made.set_chunk(make_chunk())
    return made


def values(rows: np.ndarray) -> list[float]:
    """Return the place of each row in the chunk."""
    assert (rows == rows[:, :1]).all()
    return (rows[:, 0] / RISE).round(6).tolist()


def test_blended_queries_start_at_the_observation():
    query = make_query(START_NS)
    assert compensate('blended', 6, 9).compensate(query) is query


def test_rows_until_the_answer_are_rolled_over():
    start = compensate('rolled_forward', 3).compensate(make_query(START_NS + 2 * STEP_NS))
    assert start.committed is None and values(start.lead_rows) == [2, 3, 4]
    assert start.observation.joints.position[COMMANDED].tolist() == pytest.approx(
        [5 * RISE] * len(COMMANDED)
    )
    assert start.observation.joints.stamp_ns == START_NS + 5 * STEP_NS


def test_rows_until_the_answer_are_continued():
    start = compensate('trained_prefix', 3, 8).compensate(make_query(START_NS + 2 * STEP_NS))
    assert len(start.lead_rows) == 0 and values(start.committed) == [2, 3, 4]
    # the model knows setpoints that begin where the arm is, and a chunk that is executed does not
    assert start.observation.joints.position[COMMANDED[0]] == pytest.approx(2 * RISE)
    assert start.observation.joints.stamp_ns == START_NS + 2 * STEP_NS


def test_rows_of_arms_that_rest_and_of_an_instruction_before_are_rolled_over():
    query = make_query(START_NS + 2 * STEP_NS)
    made = compensate('trained_prefix', 3, 8)
    for chunk in (
        replace(make_chunk(), targets=make_chunk().targets / RISE * SLOW_RAD_S * 0.9 / 30),
        replace(make_chunk(), session='before'),
    ):
        made.set_chunk(chunk)
        start = made.compensate(query)
        assert start.committed is None and len(start.lead_rows) == 3
    made.set_chunk(
        replace(make_chunk(), targets=make_chunk().targets / RISE * SLOW_RAD_S * 1.1 / 30)
    )
    assert len(made.compensate(query).committed) == 3


def test_what_the_model_cannot_continue_is_rolled_over():
    start = compensate('trained_prefix', 6, 4).compensate(make_query(START_NS + STEP_NS))
    assert values(start.lead_rows) == [1, 2] and values(start.committed) == [3, 4, 5, 6]
    assert start.observation.joints.position[COMMANDED[0]] == pytest.approx(3 * RISE)


def test_a_delay_between_two_rows_counts_as_the_later():
    start = compensate('trained_prefix', 2.5, 8).compensate(make_query(START_NS + STEP_NS // 2))
    assert values(start.committed) == [0.5, 1.5, 2.5]


def test_a_chunk_holds_its_last_row_and_then_tells_nothing():
    made = compensate('rolled_forward', 4)
    assert values(made.compensate(make_query(START_NS + 22 * STEP_NS)).lead_rows) == [
        22,
        23,
        23,
        23,
    ]
    late = made.compensate(make_query(START_NS + 24 * STEP_NS + MAX_OVER_NS))
    assert values(late.lead_rows) == [5] * 4  # as measured: the arm rests
    assert values(made.compensate(make_query(START_NS - STEP_NS)).lead_rows) == [5] * 4
    made.set_chunk(None)
    assert values(made.compensate(make_query(START_NS)).lead_rows) == [5] * 4


def test_an_arm_that_does_not_follow_is_where_it_was_measured():
    made = compensate('rolled_forward', 4)
    far = np.repeat(HOME.position[COMMANDED][None] + 0.9, 24, 0)
    made.set_chunk(replace(make_chunk(), targets=far))
    assert values(made.compensate(make_query(START_NS)).lead_rows) == [5] * 4


def test_the_longest_of_the_last_delays_is_expected():
    made = DelayCompensation(ROBOT, 'rolled_forward', 0)
    made.set_chunk(make_chunk())
    query = make_query(START_NS)
    assert made.compensate(query) is query  # nothing is known yet
    made.add_delay(7 * STEP_NS)
    for _ in range(9):
        made.add_delay(2 * STEP_NS)
    assert len(made.compensate(make_query(START_NS)).lead_rows) == 7
    made.add_delay(2 * STEP_NS)
    assert len(made.compensate(make_query(START_NS)).lead_rows) == 2
    made.add_delay(MAX_DELAY_NS + 1)
    assert made.compensate(query) is query


def test_a_model_without_the_training_is_refused():
    with pytest.raises(ValueError, match='was not trained to continue committed rows'):
        DelayCompensation(ROBOT, 'trained_prefix', 0)
    with pytest.raises(ValueError, match='want one of blended'):
        DelayCompensation(ROBOT, 'naive', 4)


@pytest.mark.parametrize(('execution', 'held'), [('rolled_forward', 0), ('trained_prefix', 2)])
def test_a_query_continues_the_motion_and_its_chunk_begins_at_the_observation(execution, held):
    stage = SessionHarness(query_ms=120, ready=False, execution=execution)
    stage.targets = np.repeat(np.arange(24.0)[:, None], 14, 1) / 100
    stage.policy.on_workers_ready(GRID, max_committed_rows=2)
    stage.policy.on_instruction('fold')
    stage.run(2000)
    stage.policy.on_published(stage.chunks[-1], stage.now_ms * MS, stage.now_ms * MS)
    stage.run(300)
    first, *later = (query for _, query in stage.requests_of(Query))
    assert first.lead_rows is None and first.committed is None  # no delay is known
    chunk = stage.chunks[-1]
    (query,) = (query for query in later if query.sequence == chunk.sequence)
    assert query.lead_rows.max() > 0.015  # of the published chunk
    assert query.lead_count + held >= 4 and (query.committed is None) == (held == 0)
    assert held == 0 or len(query.committed) == held
    assert chunk.horizon == 24 + query.lead_count
    assert chunk.stamp_ns == query.observation.stamp_ns
    np.testing.assert_array_equal(chunk.targets[: query.lead_count], query.lead_rows)
    np.testing.assert_allclose(query.observation.joints.position, query.lead_rows[-1], atol=0.011)


def test_an_execution_that_the_model_was_not_trained_for_is_refused():
    stage = SessionHarness(ready=False, execution='trained_prefix')
    with pytest.raises(ValueError, match='train it with'):
        stage.policy.on_workers_ready(GRID)


@pytest.mark.parametrize(
    ('rtc', 'rows'),
    [
        (describe_committed_rows(4), 4),
        (describe_committed_rows(0), 0),
        (None, 0),
        ('held', 0),
        ({'max_rows': -3}, 0),
        ({'max_rows': '4'}, 0),
        ({'max_rows': True}, 0),
    ],
)
def test_a_server_that_states_no_number_of_rows_continues_none(rtc, rows):
    assert read_max_committed_rows(rtc) == rows

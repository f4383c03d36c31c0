import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.core.session.latency_stages import (
    compute_publish_stages_ms,
    compute_query_stages_ms,
)

STEP = st.integers(0, 10**9)


@given(STEP, STEP, STEP, STEP, STEP)
def test_stages_add_up_to_the_total(start, receive, wait, answer, publish):
    arrived, asked = start + receive, start + receive + wait
    answered = asked + answer
    stages = compute_query_stages_ms(start, arrived, asked, answered, {'denoise': answer / 2e6})
    last = compute_publish_stages_ms(start, answered, answered + publish)
    assert sum(stages.values()) + last['publish'] == pytest.approx(last['total'])
    assert min(stages.values()) >= 0.0


def test_workers_that_claim_more_than_the_round_trip_leave_no_negative_transport():
    assert compute_query_stages_ms(0, 0, 0, 1_000_000, {'denoise': 2.0})['transport'] == 0.0

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.core.observation.clocks import KvClock, QueryClock

MS = 1_000_000
KV = st.builds(
    KvClock,
    first_ns=st.integers(0, 10**18),
    frame_period_ns=st.integers(1, 10**10),
    frames_per_block=st.integers(1, 16),
)


@given(KV, st.integers(0, 200))
def test_blocks_tile_time_without_gap_or_overlap(clock, blocks):
    stamps = [stamp for block in range(blocks + 1) for stamp in clock.block_stamps_ns(block)]
    assert stamps == [clock.first_ns + i * clock.frame_period_ns for i in range(len(stamps))]
    assert len(stamps) == 1 + blocks * clock.frames_per_block


@given(KV, st.integers(0, 200))
def test_a_block_is_over_exactly_when_its_last_frame_has_been_seen(clock, block):
    last_ns = clock.block_stamps_ns(block)[-1]
    assert clock.count_elapsed_blocks(last_ns) == block + 1
    assert clock.count_elapsed_blocks(last_ns - 1) == block


def test_released_geometry_takes_8_frames_in_1_6_seconds():
    clock = KvClock(first_ns=0, frame_period_ns=200 * MS, frames_per_block=8)
    assert clock.block_stamps_ns(0) == (0,)
    assert clock.block_stamps_ns(1) == tuple(range(200 * MS, 1601 * MS, 200 * MS))
    assert (
        clock.count_elapsed_blocks(1599 * MS) == 1 and clock.count_elapsed_blocks(1600 * MS) == 2
    )
    assert clock.count_elapsed_blocks(-1) == 0


@pytest.mark.parametrize(
    'make',
    [
        lambda: KvClock(0, 0, 8),
        lambda: KvClock(0, 1, 0),
        lambda: QueryClock(-1),
        lambda: KvClock(0, 1, 1).block_stamps_ns(-1),
    ],
)
def test_impossible_clocks_are_refused(make):
    with pytest.raises(ValueError, match='clock: want'):
        make()


@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 120), st.booleans()), max_size=60),
)
def test_never_two_in_flight_never_too_fast_never_twice_about_the_same(period_ms, steps):
    clock, now, stamp, asked = QueryClock(period_ms * MS), 0, 0, []
    for later, newer, answered in steps:
        now, stamp = now + later * MS, stamp + newer * MS
        if answered:
            clock = clock.with_query_done()
        if clock.is_due(now, stamp):
            assert not clock.in_flight
            clock = clock.with_query_sent(now, stamp)
            asked.append((now, stamp))
            assert not clock.is_due(now + 10**12, stamp + 10**12)
    for (before, seen), (after, newly) in pairwise(asked):
        assert after - before >= period_ms * MS and newly > seen


def test_free_running_asks_as_soon_as_answer_and_newer_observation_are_there():
    clock = QueryClock(period_ns=0)
    assert clock.is_due(0, 5)
    clock = clock.with_query_sent(0, 5)
    assert not clock.is_due(1, 6)
    clock = clock.with_query_done()
    assert not clock.is_due(2, 5)
    assert clock.is_due(2, 6)


def test_a_clock_set_back_goes_on_after_restart_and_keeps_the_query_in_flight():
    clock = QueryClock(100 * MS).with_query_sent(10_000 * MS, 9_900 * MS)
    assert not clock.with_query_done().is_due(50 * MS, 40 * MS)  # the old timeline still counts
    assert clock.with_query_done().without_history().is_due(50 * MS, 40 * MS)
    assert not clock.without_history().is_due(50 * MS, 40 * MS)
    assert clock.without_history().with_query_done().is_due(50 * MS, 40 * MS)

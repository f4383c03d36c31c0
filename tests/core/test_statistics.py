import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.core.statistics import EventRate, InitialRange, LatencyStatistics

MS = 1_000_000


@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=80), st.integers(1, 40))
def test_percentiles_are_those_of_the_last_measurements(values, capacity):
    window = LatencyStatistics(capacity)
    for value in values:
        window.add({'encode': value})
    kept = values[-capacity:]
    assert window.percentiles_ms(50, 99) == tuple(
        {'encode': pytest.approx(np.percentile(kept, percent))} for percent in (50, 99)
    )


def test_stages_may_come_and_go_and_keep_their_order():
    window = LatencyStatistics(10)
    window.add({'total': 5.0})
    window.add({'total': 7.0, 'encode': 2.0})
    assert list(window.percentiles_ms(50)[0].items()) == [('total', 6.0), ('encode', 2.0)]
    window.clear()
    assert window.percentiles_ms(50, 99) == ({}, {})


@given(st.integers(1, 200))
def test_steady_events_have_their_rate(period_ms):
    rate = EventRate(2000 * MS)
    now = 0
    for _ in range(500):
        now += period_ms * MS
        rate.tick(now)
    assert rate.hz(now) == pytest.approx(1000 / period_ms, rel=0.01, abs=0.5)
    assert rate.hz(now + 2001 * MS) == 0.0


def test_rate_is_sane_from_the_first_event_on():
    rate = EventRate(2000 * MS)
    assert rate.hz(0) == 0.0
    rate.tick(0)
    assert rate.hz(0) == 0.0
    rate.tick(100 * MS)
    assert rate.hz(100 * MS) == pytest.approx(10.0)


def test_rate_starts_anew_when_the_clock_goes_back():
    rate = EventRate(2000 * MS)
    for i in range(20):
        rate.tick(10_000 * MS + i * 100 * MS)
    rate.tick(0)
    rate.tick(500 * MS)
    assert rate.hz(500 * MS) == pytest.approx(2.0)


@pytest.mark.parametrize('make', [lambda: LatencyStatistics(0), lambda: EventRate(0)])
def test_empty_windows_are_refused(make):
    with pytest.raises(ValueError, match='want a'):
        make()


def test_the_usual_range_is_that_of_the_first_values_and_stays():
    usual = InitialRange(minimum=3, capacity=10)
    for value in (1.0, 2.0):
        usual.add(value)
        assert usual.bounds is None
    for value in range(3, 11):
        usual.add(float(value))
    assert usual.bounds == pytest.approx((1.9, 9.1))
    for _ in range(100):
        usual.add(1000.0)
    assert usual.bounds == pytest.approx((1.9, 9.1))
    with pytest.raises(ValueError, match='want 1 <= minimum'):
        InitialRange(0, 10)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_learning.data import column_stats


def test_six_are_over_rows():
    found = column_stats.compute_stats(np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]]))
    assert found['mean'] == [2.0, 5.0] and found['min'] == [0.0, 5.0] and found['max'] == [4, 5]
    assert found['std'] == pytest.approx([np.sqrt(8 / 3), 0.0])
    assert found['q01'] == pytest.approx([0.04, 5.0]) and found['q99'] == pytest.approx([3.96, 5])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 6))
def test_relative_statistics_are_those_of_every_pair(lengths, horizon):
    rng = np.random.default_rng(sum(lengths))
    states = [rng.normal(size=(n, 2)) for n in lengths]
    actions = [rng.normal(size=(n, 2)) for n in lengths]
    pairs = [
        action[i + j] - state[i]
        for state, action in zip(states, actions, strict=True)
        for i in range(len(state) - horizon + 1)
        for j in range(horizon)
    ]
    found = column_stats.compute_relative_stats(states, actions, horizon)
    if not pairs:
        assert found is None
        return
    assert found is not None
    expected = column_stats.compute_stats(np.array(pairs))
    for name in column_stats.STAT_NAMES:
        assert found[name] == pytest.approx(expected[name])


def test_picture_statistics_have_the_shape_lerobot_reads():
    white, black = (np.full((16, 16, 3), value, np.uint8) for value in (255, 0))
    found = column_stats.compute_image_stats([white, black])
    assert np.shape(found['mean']) == (3, 1, 1) and found['count'] == [2]
    assert np.ravel(found['mean']) == pytest.approx(0.5)

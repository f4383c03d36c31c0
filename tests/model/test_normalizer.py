"""Normaliser: each inverse, padding, references, refusals."""

from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model import normalizer
from wam_policy.model.checkpoint import normalization_stats
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata, Statistics
from wam_policy.model.normalizer import Normalizer, VectorKey


def statistics(width: int, low: float = -2.0, high: float = 3.0) -> Statistics:
    row = np.ones(width)
    return Statistics(
        q01=low * row,
        q99=high * row,
        min=(low - 1) * row,
        max=(high + 1) * row,
        mean=0.3 * row,
        std=0.7 * row,
    )


ARM = statistics(3)
GRIPPER = statistics(1, 0.0, 1.0)
STATE = (VectorKey('arm', 3), VectorKey('gripper', 1), VectorKey('head', 2))
ACTION = (
    VectorKey('arm', 3, relative=True),
    VectorKey('head', 2, masked=True),
    VectorKey('gripper', 1),
)


def tag() -> EmbodimentMetadata:
    return EmbodimentMetadata(
        'toy',
        MappingProxyType({'arm': ARM, 'gripper': GRIPPER, 'head': statistics(2)}),
        MappingProxyType({'arm': ARM, 'gripper': GRIPPER}),
        MappingProxyType({}),
    )


def toy() -> Normalizer:
    return Normalizer(tag(), STATE, ACTION, state_width=8, action_width=7)


inside = st.floats(-1.99, 2.99)


@settings(deadline=None)
@given(st.lists(inside, min_size=3, max_size=3), st.sampled_from(normalizer.NORMALIZATION_MODES))
def test_restoring_inverts_normalising_inside_the_statistics(values, mode) -> None:
    values = np.array(values)
    there = normalizer.normalize(values, ARM, mode)
    assert np.allclose(normalizer.denormalize(there, ARM, mode), values, atol=2e-6)
    if mode != 'mean_std':
        assert np.abs(there).max() <= 1


@settings(deadline=None)
@given(st.floats(-1e6, 1e6))
def test_q99_clamps_outside_values_to_the_border(value) -> None:
    there = normalizer.normalize(np.full(3, value), ARM, 'q99')
    assert np.array_equal(
        normalizer.denormalize(there, ARM, 'q99'),
        normalizer.denormalize(np.clip(there, -1, 1), ARM, 'q99'),
    )
    assert np.abs(there).max() <= 1


def test_a_dimension_that_never_moved_has_no_scale() -> None:
    still = Statistics(*(np.array([0.2]) for _ in range(5)), std=np.zeros(1))
    values = np.array([5.0])
    assert normalizer.normalize(values, still, 'q99') == 1.0
    assert normalizer.normalize(values, still, 'min_max') == 0.0
    assert normalizer.normalize(values, still, 'mean_std') == 5.0
    for mode in normalizer.NORMALIZATION_MODES:
        assert normalizer.denormalize(values, still, mode) == np.float32(0.2)


@settings(deadline=None)
@given(
    st.lists(inside, min_size=3, max_size=3),
    st.floats(0.01, 0.99),
    st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3),
)
def test_actions_invert_targets_with_the_same_reference(arm, gripper, offset) -> None:
    parts = toy()
    reference = {'arm': np.array(arm), 'gripper': np.array([0.5]), 'head': np.zeros(2)}
    targets = {
        'arm': (reference['arm'] + offset)[None].repeat(4, 0),
        'gripper': np.full((4, 1), gripper),
    }
    actions = parts.normalize_targets(targets, reference)
    assert actions.shape == (4, 7)
    assert (actions[:, ~parts.action_mask()] == 0).all()
    back = parts.denormalize_actions(actions, reference)
    assert set(back) == {'arm', 'gripper'}
    for key, rows in targets.items():
        assert np.allclose(back[key], rows, atol=5e-6)


def test_rows_with_a_spread_of_their_own_come_back_as_they_were() -> None:
    mean_std = [VectorKey(f.key, f.width, f.relative, f.masked, 'mean_std') for f in ACTION]
    spread = Normalizer(tag(), STATE, mean_std, 8, 7, row_std=(0.5, 2.0))
    plain = Normalizer(tag(), STATE, mean_std, 8, 7)
    targets = {'arm': np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), 'gripper': np.ones((2, 1))}
    reference = {'arm': np.zeros(3), 'gripper': np.zeros(1), 'head': np.zeros(2)}
    actions = spread.normalize_targets(targets, reference)
    assert np.allclose(actions, plain.normalize_targets(targets, reference) / [[0.5], [2.0]])
    back = spread.denormalize_actions(actions, reference)
    assert all(np.allclose(back[key], targets[key], atol=1e-6) for key in targets)


def test_only_relative_keys_follow_the_reference_of_the_query() -> None:
    parts = toy()
    actions = np.zeros((2, 7))
    here = {'arm': np.array([1.0, 2.0, 3.0]), 'gripper': np.array([1.0])}
    there = {'arm': np.array([0.0, 0.0, 0.0]), 'gripper': np.array([0.0])}
    first, second = (
        parts.denormalize_actions(actions, here),
        parts.denormalize_actions(actions, there),
    )
    assert np.allclose(first['arm'] - second['arm'], here['arm'])
    assert np.array_equal(first['gripper'], second['gripper'])
    assert first['arm'].dtype == np.float32


def test_state_is_concatenated_and_zero_padded() -> None:
    vector = toy().normalize_state(
        {'arm': np.full(3, 3.0), 'gripper': np.zeros(1), 'head': np.full(2, 0.5)}
    )
    assert np.allclose(vector, [1, 1, 1, -1, 0, 0, 0, 0])


def test_the_mask_marks_what_carries_data() -> None:
    assert toy().action_mask().tolist() == [True] * 3 + [False] * 2 + [True] + [False]


@pytest.mark.parametrize(
    ('state', 'action', 'words'),
    [
        ((VectorKey('leg', 3),), ACTION, 'no state statistics of leg for tag .toy.; it has arm'),
        (STATE, (VectorKey('arm', 4),), 'checkpoint has 3 values, the robot 4'),
        (STATE[1:], ACTION, 'without a state of the same width: arm'),
        (STATE + (VectorKey('far', 3, masked=True),), ACTION, 'need 9 values, the model takes 8'),
    ],
)
def test_refusals_name_the_key(state, action, words) -> None:
    with pytest.raises(ValueError, match=words):
        Normalizer(tag(), state, action, state_width=8, action_width=7)


def test_a_missing_or_broken_value_is_refused() -> None:
    with pytest.raises(ValueError, match="no value for 'gripper'"):
        toy().normalize_state({'arm': np.zeros(3)})
    with pytest.raises(ValueError, match='arm: want 3 finite'):
        toy().normalize_state({'arm': np.array([0.0, np.nan, 0.0])})
    with pytest.raises(ValueError, match='known: q99'):
        normalizer.normalize(np.zeros(3), ARM, 'zscore')


def test_metadata_survives_a_round_trip() -> None:
    content = normalization_stats.to_dict({'toy': tag()})
    again = normalization_stats.parse_metadata(content)['toy']
    assert np.array_equal(again.action['arm'].q99, ARM.q99)
    assert not again.synthetic
    assert normalization_stats.to_dict({'toy': again}) == content


def test_metadata_faults_name_the_place() -> None:
    content = normalization_stats.to_dict({'toy': tag()})
    del content['toy']['statistics']['action']['arm']['q99']
    with pytest.raises(ValueError, match='toy/action/arm has no q99'):
        normalization_stats.parse_metadata(content)
    content = normalization_stats.to_dict({'toy': tag()})
    content['toy']['statistics']['state']['arm']['std'] = [1.0]
    with pytest.raises(ValueError, match='toy/state/arm: want six lists'):
        normalization_stats.parse_metadata(content)
    with pytest.raises(ValueError, match="tag 'toy' is malformed"):
        normalization_stats.parse_metadata({'toy': {'statistics': {'state': {}}}})

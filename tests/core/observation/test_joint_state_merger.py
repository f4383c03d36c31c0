"""Joint states in parts: merged by name, as old as the oldest part, gaps named with their age."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.observation.joint_state_merger import JointStateMerger
from wam_policy.core.types import JointState

MS = 1_000_000
ARM, GRIPPER, HEAD = ('a1', 'a2'), ('g',), ('h1', 'h2')


def make_part(ms, names, values=None, **fields):
    given = [ms + k / 10 for k in range(len(names))] if values is None else values
    return JointState(ms * MS, names, np.array(given, dtype=float), **fields)


def make_merger(optional=()):
    return JointStateMerger(ARM + GRIPPER, optional, max_age_s=0.1)


def test_a_whole_message_is_handed_on_in_our_order():
    state = make_merger().add(
        make_part(10, ('x', 'g', 'a2', 'a1'), [9, 3, 2, 1], effort=np.array([0, np.nan, 5, 4]))
    )
    assert state.names == ARM + GRIPPER and state.stamp_ns == 10 * MS
    assert state.position.tolist() == [1, 2, 3] and state.velocity is None
    assert state.effort[:2].tolist() == [4, 5] and np.isnan(state.effort[2])


def test_parts_make_a_state_as_old_as_the_oldest_of_them():
    merger = make_merger()
    with pytest.raises(ValueError, match='joint state: g missing; got a1, a2'):
        merger.add(make_part(10, ARM))
    first = merger.add(make_part(12, GRIPPER))
    assert first.stamp_ns == 10 * MS and first.position.tolist() == [10, 10.1, 12]
    assert merger.add(make_part(14, GRIPPER)) is None  # the arm is still the old one
    second = merger.add(make_part(20, ARM))
    assert second.stamp_ns == 14 * MS and second.position.tolist() == [20, 20.1, 14]


def test_a_part_that_falls_silent_is_named_with_its_age():
    merger = make_merger()
    for ms in (0, 10):
        with_gripper = make_part(ms, ARM + GRIPPER)
        merger.add(with_gripper)
    for ms in range(20, 111, 10):
        assert merger.add(make_part(ms, ARM)) is None
    with pytest.raises(ValueError, match='joint state: g missing: last reported 0.11 s before'):
        merger.add(make_part(120, ARM))
    assert merger.add(make_part(130, GRIPPER)).stamp_ns == 120 * MS


@pytest.mark.parametrize('ms', [10, 5, -5])
def test_what_is_not_newer_says_nothing(ms):
    merger = make_merger()
    merger.add(make_part(10, ARM + GRIPPER))
    assert merger.add(make_part(ms, ARM + GRIPPER, [7, 7, 7])) is None
    assert merger.add(make_part(20, ARM + GRIPPER)).position.tolist() == [20, 20.1, 20.2]


def test_a_clock_that_was_set_back_begins_anew():
    merger = make_merger()
    merger.add(make_part(5000, ARM + GRIPPER))
    with pytest.raises(ValueError, match='g missing'):
        merger.add(make_part(100, ARM))
    assert merger.add(make_part(110, GRIPPER)).stamp_ns == 100 * MS


def test_one_stamp_far_ahead_does_not_block_for_ever():
    merger = make_merger()
    merger.add(make_part(0, ARM + GRIPPER))
    with pytest.raises(ValueError, match='g missing: last reported 60.00 s before'):
        merger.add(make_part(60_000, ARM))
    assert merger.add(make_part(20, ARM + GRIPPER)).stamp_ns == 20 * MS


def test_optional_joints_belong_to_it_only_whole_and_fresh():
    merger = make_merger(HEAD)
    assert merger.add(make_part(0, ARM + GRIPPER)).names == ARM + GRIPPER
    merger.add(make_part(1, HEAD[:1]))
    assert merger.add(make_part(10, ARM + GRIPPER)).names == ARM + GRIPPER
    merger.add(make_part(11, HEAD))
    assert merger.add(make_part(20, ARM + GRIPPER)).names == ARM + GRIPPER + HEAD
    assert merger.add(make_part(200, ARM + GRIPPER)).names == ARM + GRIPPER


def test_strangers_alone_are_named():
    with pytest.raises(ValueError, match='a1, a2, g missing; got wheel'):
        make_merger().add(make_part(0, ('wheel',)))
    with pytest.raises(ValueError, match='got no names'):
        make_merger().add(make_part(0, ()))
    merger = make_merger()
    merger.add(make_part(0, ARM + GRIPPER))
    assert merger.add(make_part(90, ('wheel',))) is None  # of another device
    with pytest.raises(ValueError, match='a1, a2, g missing: last reported 0.11 s before wheel'):
        merger.add(make_part(110, ('wheel',)))  # or ours, renamed


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.booleans(), st.booleans()), max_size=60))
def test_stamps_increase_and_values_are_never_mixed_up(events):
    merger, last_ns = make_merger(), -1
    for ms, arm, gripper in events:
        names = (ARM if arm else ()) + (GRIPPER if gripper else ())
        try:
            state = merger.add(make_part(ms, names, [ms] * len(names)))
        except ValueError:
            continue
        if state is not None:
            assert state.stamp_ns > last_ns
            last_ns = state.stamp_ns
            assert state.position[0] == state.position[1]  # of one message
            assert state.position.min() * MS == state.stamp_ns

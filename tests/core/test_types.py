import numpy as np
import pytest

from wam_policy.core.types import Chunk, Frame, JointState


def chunk(targets, reference=(0.0, 0.0)):
    return Chunk(
        stamp_ns=5,
        session='s',
        sequence=1,
        step_dt_s=0.1,
        names=['a', 'b'],
        targets=targets,
        reference=np.array(reference),
        embodiment_hash='c',
        timings_ms={},
    )


def test_arrays_that_travel_cannot_be_written_or_changed_from_behind():
    source = np.zeros((3, 2))
    sent = chunk(source)
    source[:] = 7.0
    assert not sent.targets.any()
    with pytest.raises(ValueError):
        sent.targets[0, 0] = 1.0
    with pytest.raises(TypeError):
        sent.timings_ms['encode'] = 1.0
    with pytest.raises(AttributeError):
        sent.sequence = 2


def test_frame_shares_pixels_and_forbids_writing():
    pixels = np.zeros((4, 5, 3), np.uint8)
    frame = Frame('top', 1, pixels)
    assert np.shares_memory(frame.rgb, pixels)
    with pytest.raises(ValueError):
        frame.rgb[0] = 1
    assert pixels.flags.writeable  # the view is sealed, not what belongs to someone else


@pytest.mark.parametrize(
    'pixels', [np.zeros((4, 5, 3)), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8)]
)
def test_frame_refuses_what_is_not_an_rgb_image(pixels):
    with pytest.raises(ValueError, match='frame of top'):
        Frame('top', 1, pixels)


def test_chunk_accepts_nan_for_the_executor_to_judge_but_not_wrong_shapes():
    assert np.isnan(chunk(np.full((3, 2), np.nan)).targets).all()
    assert chunk(np.zeros((3, 2))).horizon == 3
    for targets in (np.zeros((3, 3)), np.zeros(2), np.zeros((0, 2))):
        with pytest.raises(ValueError, match='targets'):
            chunk(targets)
    with pytest.raises(ValueError, match='reference'):
        chunk(np.zeros((3, 2)), reference=(0.0,))


def test_joint_state_is_finite_and_picked_by_name():
    state = JointState(1, ('a', 'b', 'c'), np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    assert state.positions(['c', 'a']).tolist() == [3.0, 1.0]
    assert state.velocities(['b']).tolist() == [5.0]
    assert JointState(1, ('a',), np.zeros(1)).velocities(['a']) is None
    with pytest.raises(KeyError, match='no d'):
        state.positions(['a', 'd'])
    with pytest.raises(ValueError, match='position of b is not finite'):
        JointState(1, ('a', 'b'), np.array([0.0, np.inf]))
    with pytest.raises(ValueError, match='shape'):
        JointState(1, ('a', 'b'), np.zeros(3))

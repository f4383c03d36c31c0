import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.observation.frame_history import BlockTiming, FrameHistory
from wam_policy.core.observation.observation_buffer import StampedBuffer
from wam_policy.core.types import Frame, JointState, Observation

PERIOD_NS = 200_000_000
GRID = BlockTiming(frames_per_block=4, frame_period_ns=PERIOD_NS, window_blocks=3)


def frame(stamp_ns, camera='head', value=0, size=2):
    return Frame(camera, stamp_ns, np.full((size, size, 3), value, np.uint8))


def make_buffer(stamps_ns, camera='head', **more):
    filled = StampedBuffer(10**10, 1000)
    for stamp_ns in stamps_ns:
        filled.put(frame(stamp_ns, camera, **more))
    return filled


def start_history(grid=GRID, stamp_ns=0, max_gap_ns=2 * 10**9, cameras=('head',)):
    memory = FrameHistory(grid, max_gap_ns)
    joints = JointState(stamp_ns, ('a',), np.zeros(1))
    memory.start(Observation(stamp_ns, tuple(frame(stamp_ns, c) for c in cameras), joints))
    return memory


def collect_blocks(memory):
    block, blocks = memory.first_block(), []
    while block:
        blocks.append(block)
        block = memory.block_after(block.index)
    return blocks


def test_a_block_is_recorded_when_its_last_instant_was_seen_by_every_camera():
    memory = start_history(cameras=('head', 'hand'))
    head = make_buffer(range(0, 900_000_001, 100_000_000))
    hand = make_buffer(range(0, 700_000_001, 100_000_000), 'hand')
    assert memory.advance({'head': head, 'hand': hand}) is None
    assert memory.block_after(0) is None
    hand.put(frame(4 * PERIOD_NS, 'hand'))
    memory.advance({'head': head, 'hand': hand})
    block = memory.block_after(0)
    assert block.stamps_ns == tuple(PERIOD_NS * i for i in (1, 2, 3, 4))
    assert [f.stamp_ns for f in block.views['hand']] == list(block.stamps_ns)
    assert block.stack_pixels()['head'].shape == (4, 2, 2, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(20, 180), min_size=20, max_size=80), st.integers(1, 6))
def test_picks_are_nearest_to_the_grid_whenever_advance_is_called(steps, every):
    stamps_ns = np.cumsum([0, *steps]) * 1_000_000
    memory, shown = start_history(), make_buffer([0])
    for i, stamp_ns in enumerate(stamps_ns[1:]):
        shown.put(frame(int(stamp_ns)))
        if i % every == 0:
            assert memory.advance({'head': shown}) is None
            for block in collect_blocks(memory)[1:]:
                for instant, picked in zip(block.stamps_ns, block.views['head'], strict=True):
                    nearest_ns = min(abs(s - instant) for s in stamps_ns)
                    assert abs(picked.stamp_ns - instant) == nearest_ns


def test_the_window_slides_and_a_replay_opens_with_the_last_real_frame_before_it():
    memory = start_history()
    memory.advance({'head': make_buffer(range(0, 41 * PERIOD_NS, PERIOD_NS))})
    blocks = collect_blocks(memory)
    assert [b.index for b in blocks] == [7, 8, 9, 10]
    assert len(blocks[0].stamps_ns) == 1 and blocks[0].stack_pixels()['head'].shape[0] == 1
    assert blocks[0].stamps_ns[0] + PERIOD_NS == blocks[1].stamps_ns[0]
    assert memory.is_evicted(5) and not memory.is_evicted(6)


def test_a_gap_breaks_the_record_and_a_pause_within_the_limit_does_not():
    memory = start_history(max_gap_ns=10**9)
    assert memory.advance({'head': make_buffer([0, 950_000_000])}) is None
    picked = [f.stamp_ns for f in memory.block_after(0).views['head']]
    assert picked == [0, 0, 950_000_000, 950_000_000]
    broken = memory.advance({'head': make_buffer([0, 950_000_000, 3 * 10**9])})
    assert 'head: no frame for more than 1 s' in broken and memory.is_empty


def test_a_camera_that_changes_its_size_breaks_the_record():
    memory, shown = start_history(), make_buffer([0])
    shown.put(frame(PERIOD_NS, size=3))
    shown.put(frame(4 * PERIOD_NS, size=3))
    assert 'changed from 2x2 to 3x3' in memory.advance({'head': shown})


def test_nothing_is_recorded_before_the_first_view_or_while_a_camera_is_silent():
    memory = FrameHistory(GRID, 10**9)
    assert memory.advance({'head': make_buffer([0, 10**9])}) is None and memory.is_empty
    memory = start_history()
    assert memory.advance({'head': make_buffer([10**9]), 'hand': StampedBuffer(10**9, 5)}) is None
    assert not memory.is_empty


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match='at least 1'):
        BlockTiming(frames_per_block=0, frame_period_ns=1, window_blocks=1)

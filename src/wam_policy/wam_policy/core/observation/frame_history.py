"""History of real camera frames, in blocks of the KV clock.

The history continues while workers are down, so that it can be replayed to restarted ones. It has
no cache and no session: PolicySession requests the next block or replays all. It contains no
predicted frames.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam_policy.core.observation.clocks import KvClock
from wam_policy.core.observation.observation_buffer import StampedBuffer
from wam_policy.core.types import Frame, JointState, Observation

type Rings = Mapping[str, StampedBuffer[Frame]]


@dataclass(frozen=True, slots=True)
class BlockTiming:
    """Timing of blocks: one first frame, then blocks of equal length."""

    frames_per_block: int
    frame_period_ns: int
    window_blocks: int  # capacity of the cache after the first frame
    # blocks begin with the execution of a chunk and have one frame after each of its rows: for a
    # server that wants what was executed, and lets the robot rest while it computes
    follows_chunks: bool = False

    def __post_init__(self) -> None:
        if min(self.frames_per_block, self.frame_period_ns, self.window_blocks) < 1:
            raise ValueError(f'memory grid: every value must be at least 1, got {self}')


@dataclass(frozen=True, slots=True, eq=False)
class FrameBlock:
    """Frames of one block, nearest to the instants of the grid."""

    index: int  # 0: the first frame alone
    stamps_ns: tuple[int, ...]
    views: Mapping[str, tuple[Frame, ...]]  # camera -> one frame per instant
    joints: tuple[JointState, ...] = ()  # one per instant; empty: not recorded

    def stack_pixels(self) -> dict[str, np.ndarray]:
        """Copy the frames into one array per camera, uint8 [frames height width 3]."""
        return {
            camera: np.stack([frame.rgb for frame in frames])
            for camera, frames in self.views.items()
        }

    def stack_joints(self) -> np.ndarray | None:
        """Return the joint positions at the instants, [frames observed]; None: not recorded."""
        return np.stack([state.position for state in self.joints]) if self.joints else None


class FrameHistory:
    """Record real frames in blocks, as many as the cache can hold."""

    def __init__(self, timing: BlockTiming, max_gap_ns: int) -> None:
        self.timing = timing
        self._max_gap_ns = max_gap_ns
        self._clock: KvClock | None = None
        self._chunk_stamps_ns: tuple[int, ...] = ()  # instants of the chunk that is executed
        self._blocks: deque[FrameBlock] = deque(maxlen=timing.window_blocks + 1)

    @property
    def is_empty(self) -> bool:
        return not self._blocks

    @property
    def newest_index(self) -> int:
        """Return the index of the newest block; 0 while there is none."""
        return self._blocks[-1].index if self._blocks else 0

    def clear(self) -> None:
        """Drop the history; the next complete observation starts a new one."""
        self._blocks.clear()
        self._chunk_stamps_ns = ()

    def start(self, observation: Observation) -> None:
        """Start a new history with one complete observation."""
        self._clock = KvClock(
            observation.stamp_ns, self.timing.frame_period_ns, self.timing.frames_per_block
        )
        self.clear()
        self._blocks.append(
            FrameBlock(
                0,
                self._clock.block_stamps_ns(0),
                {frame.camera: (frame,) for frame in observation.frames},
                (observation.joints,) if self.timing.follows_chunks else (),
            )
        )

    def start_chunk(self, start_ns: int, rows: int, step_dt_s: float) -> None:
        """Begin the block of a chunk whose first row is due at `start_ns`."""
        step_ns = step_dt_s * 1e9
        self._chunk_stamps_ns = tuple(start_ns + round(step_ns * (i + 1)) for i in range(rows))

    def advance(
        self, buffers: Rings, joint_buffer: StampedBuffer[JointState] | None = None
    ) -> str | None:
        """Append every elapsed block; return a reason if the history became discontinuous.

        A block has elapsed when each camera has a frame at or after its last instant, because its
        nearest frames cannot change afterwards. A discontinuous history is dropped.
        """
        newest = [frame for buffer in buffers.values() if (frame := buffer.newest) is not None]
        if self._clock is None or not self._blocks or len(newest) < len(buffers):
            return None
        for index, stamps_ns in self._list_elapsed(min(frame.stamp_ns for frame in newest)):
            views = {}
            for camera, ring in buffers.items():
                views[camera], broken = self._pick_frames(camera, ring, stamps_ns)
                if broken:
                    self.clear()
                    return broken
            joints = self._pick_joints(joint_buffer, stamps_ns)
            self._blocks.append(FrameBlock(index, stamps_ns, views, joints))
        return None

    def block_after(self, index: int) -> FrameBlock | None:
        """Return the block after `index`, or None."""
        return next((block for block in self._blocks if block.index == index + 1), None)

    def is_evicted(self, index: int) -> bool:
        """Return whether the block after `index` is no longer in the history."""
        return bool(self._blocks) and self._blocks[0].index > index + 1

    def first_block(self) -> FrameBlock:
        """Return the one-frame block with which a cache starts.

        If the first frame has left the window, it is the last frame of the oldest block, which
        directly precedes the next block.
        """
        oldest = self._blocks[0]
        return FrameBlock(
            oldest.index,
            oldest.stamps_ns[-1:],
            {camera: frames[-1:] for camera, frames in oldest.views.items()},
            oldest.joints[-1:],
        )

    def _list_elapsed(self, newest_ns: int) -> list[tuple[int, tuple[int, ...]]]:
        """Return index and instants of the blocks that elapsed, all cameras at `newest_ns`."""
        assert self._clock is not None
        following = self._blocks[-1].index + 1
        if not self.timing.follows_chunks:
            elapsed = self._clock.count_elapsed_blocks(newest_ns)
            return [(i, self._clock.block_stamps_ns(i)) for i in range(following, elapsed)]
        stamps_ns = self._chunk_stamps_ns
        if not stamps_ns or newest_ns < stamps_ns[-1]:
            return []
        self._chunk_stamps_ns = ()
        return [(following, stamps_ns)]

    def _pick_joints(
        self, buffer: StampedBuffer[JointState] | None, stamps_ns: tuple[int, ...]
    ) -> tuple[JointState, ...]:
        """Return the joint states nearest to the instants, if the block has them."""
        if buffer is None or not self.timing.follows_chunks:
            return ()
        found = [buffer.nearest(stamp_ns) for stamp_ns in stamps_ns]
        return tuple(state for state in found if state is not None)

    def _pick_frames(
        self,
        camera: str,
        buffer: StampedBuffer[Frame],
        stamps_ns: tuple[int, ...],
    ) -> tuple[tuple[Frame, ...], str | None]:
        """Return the frames nearest to the instants, or why there are none."""
        shape = self._blocks[-1].views[camera][-1].rgb.shape
        frames = []
        for stamp_ns in stamps_ns:
            earlier, frame = buffer.as_of(stamp_ns), buffer.nearest(stamp_ns)
            if earlier is None or frame is None or stamp_ns - earlier.stamp_ns > self._max_gap_ns:
                return (), (
                    f'{camera}: no frame for more than {self._max_gap_ns / 1e9:g} s; '
                    'the memory restarts'
                )
            if frame.rgb.shape != shape:
                return (), (
                    f'{camera} changed from {shape[1]}x{shape[0]} to '
                    f'{frame.rgb.shape[1]}x{frame.rgb.shape[0]}; the memory restarts'
                )
            frames.append(frame)
        return tuple(frames), None

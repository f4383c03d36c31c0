"""What the policy really saw: blocks of camera frames on the KV clock.

The record goes on while workers are down, so that a restarted pair can be given the same past.
It knows neither caches nor sessions: whoever owns those asks for the next block, or for the
whole record again. Imagined frames have no way in.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam_policy.core.observation.clocks import KvClock
from wam_policy.core.observation.observation_buffer import Ring
from wam_policy.core.types import Frame, Observation

type Rings = Mapping[str, Ring[Frame]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Say how real time is cut into blocks: one first frame, then blocks of equal length."""

    frames_per_block: int
    frame_period_ns: int
    window_blocks: int  # blocks the cache can hold after the first frame

    def __post_init__(self) -> None:
        if min(self.frames_per_block, self.frame_period_ns, self.window_blocks) < 1:
            raise ValueError(f'memory grid: every value must be at least 1, got {self}')


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Hold the frames of one block, picked as of the grid's instants."""

    index: int  # 0: the first frame alone
    stamps_ns: tuple[int, ...]
    views: Mapping[str, tuple[Frame, ...]]  # camera -> one frame per instant

    def pixels(self) -> dict[str, np.ndarray]:
        """Copy the frames into one array per camera, uint8 [frames height width 3]."""
        return {
            camera: np.stack([frame.rgb for frame in frames])
            for camera, frames in self.views.items()
        }


class Memory:
    """Record real frames block by block, as many blocks as a cache can hold."""

    def __init__(self, grid: Grid, max_gap_ns: int) -> None:
        self.grid = grid
        self._max_gap_ns = max_gap_ns
        self._clock: KvClock | None = None
        self._blocks: deque[Block] = deque(maxlen=grid.window_blocks + 1)

    @property
    def empty(self) -> bool:
        return not self._blocks

    @property
    def newest(self) -> int:
        """Return the index of the newest block; 0 while there is none."""
        return self._blocks[-1].index if self._blocks else 0

    def forget(self) -> None:
        """Drop the record; the next complete view begins a new one."""
        self._blocks.clear()

    def begin(self, seen: Observation) -> None:
        """Start a new record with one complete view."""
        self._clock = KvClock(seen.stamp_ns, self.grid.frame_period_ns, self.grid.frames_per_block)
        self._blocks.clear()
        self._blocks.append(
            Block(0, self._clock.stamps_ns(0), {frame.camera: (frame,) for frame in seen.frames})
        )

    def advance(self, rings: Rings) -> str | None:
        """Append every block whose time has passed; return why the record broke, if it did.

        A block is complete once each camera has shown something at or after its last instant:
        from then on no earlier pick can change. A broken record is forgotten.
        """
        newest = [ring.newest for ring in rings.values()]
        if not self._blocks or any(frame is None for frame in newest):
            return None
        elapsed = self._clock.elapsed(min(frame.stamp_ns for frame in newest))
        for index in range(self._blocks[-1].index + 1, elapsed):
            stamps_ns = self._clock.stamps_ns(index)
            views = {}
            for camera, ring in rings.items():
                views[camera], broken = self._picked(camera, ring, stamps_ns)
                if broken:
                    self.forget()
                    return broken
            self._blocks.append(Block(index, stamps_ns, views))
        return None

    def after(self, index: int) -> Block | None:
        """Return the recorded block that follows `index`, if there is one."""
        return next((block for block in self._blocks if block.index == index + 1), None)

    def lost(self, index: int) -> bool:
        """Tell whether the block that follows `index` has left the record already."""
        return bool(self._blocks) and self._blocks[0].index > index + 1

    def opening(self) -> Block:
        """Return the one-frame block with which a cache is begun.

        Where the first frame has left the window, the last frame of the oldest block is the best
        stand-in: real, and directly before the block that follows it.
        """
        oldest = self._blocks[0]
        return Block(
            oldest.index,
            oldest.stamps_ns[-1:],
            {camera: frames[-1:] for camera, frames in oldest.views.items()},
        )

    def _picked(
        self,
        camera: str,
        ring: Ring[Frame],
        stamps_ns: tuple[int, ...],
    ) -> tuple[tuple[Frame, ...], str | None]:
        """Return the frames shown at the instants, or why this is no record of them."""
        shape = self._blocks[-1].views[camera][-1].rgb.shape
        frames = []
        for stamp_ns in stamps_ns:
            frame = ring.as_of(stamp_ns)
            if frame is None or stamp_ns - frame.stamp_ns > self._max_gap_ns:
                return (), (
                    f'{camera} showed nothing for more than {self._max_gap_ns / 1e9:g} s; '
                    'the memory begins anew'
                )
            if frame.rgb.shape != shape:
                return (), (
                    f'{camera} changed from {shape[1]}x{shape[0]} to '
                    f'{frame.rgb.shape[1]}x{frame.rgb.shape[0]}; the memory begins anew'
                )
            frames.append(frame)
        return tuple(frames), None

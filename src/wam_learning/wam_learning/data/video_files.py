"""Write one mp4 per camera and episode, frame by frame, with exact times.

H.264 with short groups and no reordering: every player supports it, a trainer can seek to every
tenth frame, and frame i has time i / fps.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CODEC, PIXEL_FORMAT = 'h264', 'yuv420p'
ENCODER_OPTIONS = {'crf': '18', 'preset': 'veryfast', 'g': '10', 'bf': '0', 'threads': '1'}


class VideoWriter:
    """Write one file; `close` completes it."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        """Open a video of (width, height); raise ValueError for odd sizes, impossible in 4:2:0."""
        if size[0] % 2 or size[1] % 2:
            raise ValueError(
                f'{path.parent.name}: images of {size[0]}x{size[1]} cannot be '
                'encoded, both sides must be even'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = Fraction(fps).limit_denominator(1001)
        self.size, self.frame_count = size, 0
        self._container = av.open(str(path), 'w', options={'movflags': 'faststart'})
        self._stream: Any = self._container.add_stream(
            'libx264', rate=rate, options=ENCODER_OPTIONS
        )
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = PIXEL_FORMAT
        self._stream.codec_context.time_base = 1 / rate

    def add(self, rgb: np.ndarray) -> None:
        """Append uint8 [height width 3]."""
        if rgb.shape[1::-1] != self.size:
            raise ValueError(
                f'the image size changed from {self.size[0]}x{self.size[1]} to '
                f'{rgb.shape[1]}x{rgb.shape[0]}'
            )
        frame = av.VideoFrame.from_ndarray(rgb, format='rgb24')
        frame.pts = self.frame_count
        self.frame_count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def read_frame_times(path: Path) -> tuple[int, list[float]]:
    """Decode a video; return the number of frames and their times in s."""
    with av.open(str(path)) as container:
        times_s = [float(frame.time) for frame in container.decode(video=0)]
    return len(times_s), times_s


def read_frames_at(
    path: Path, indices: Sequence[int] | np.ndarray, fps: float, start_s: float = 0.0
) -> np.ndarray:
    """Decode chosen frames of a video: uint8 [indices height width 3].

    `indices` rise; frame 0 is shown at `start_s`. Raise ValueError with those the video lacks.
    """
    wanted = np.unique(np.asarray(indices))
    found: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if start_s > 0 and stream.time_base:
            container.seek(max(0, int((start_s - 0.5 / fps) / stream.time_base)), stream=stream)
        for frame in container.decode(video=0):
            index = round((float(frame.time or 0.0) - start_s) * fps)
            if index > wanted[-1]:
                break
            at = np.searchsorted(wanted, index)
            if wanted[at] == index:
                found[index] = frame.to_ndarray(format='rgb24')
    missing = [int(index) for index in wanted if index not in found]
    if missing:
        raise ValueError(
            f'{len(missing)} of {len(wanted)} images are missing, the first is image '
            f'{missing[0]} at {start_s + missing[0] / fps:.3f} s'
        )
    return np.stack([found[int(index)] for index in indices])

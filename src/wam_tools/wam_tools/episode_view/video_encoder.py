"""Small H.264 videos in memory: images with times become constant-rate MP4 of bounded size."""

import io
from collections.abc import Sequence
from typing import Any

import av
import cv2
import numpy as np

FPS = 10
MAX_WIDTH = 480  # pixels
CRF, MAX_BIT_RATE = 28, 500_000


def encode_video(
    stamps_ns: Sequence[int],
    images: Sequence[bytes],
    start_ns: int,
    end_ns: int,
    bit_rate: float,
) -> tuple[bytes, int]:
    """Return an MP4 of JPEG or PNG images from `start_ns` to `end_ns`, and its unreadable images.

    Frame i shows the newest image at start + i / FPS, before the first image that one.
    `bit_rate` bounds the size, bits per s. Raises ValueError if no image can be read.
    """
    stamps = np.array(stamps_ns, dtype=np.int64)
    order = np.argsort(stamps, kind='stable').tolist()
    sorted_ns = np.sort(stamps)
    count = max(1, round((end_ns - start_ns) / 1e9 * FPS))
    times_ns = start_ns + np.arange(count) * (1_000_000_000 // FPS)
    rows = np.clip(np.searchsorted(sorted_ns, times_ns, side='right') - 1, 0, None).tolist()
    stored = [images[order[row]] for row in rows]
    first = next((image for image in map(decode, stored) if image is not None), None)
    if first is None:
        raise ValueError('no image can be read')
    return _encode_frames(stored, first, bit_rate)


def decode(stored: bytes) -> np.ndarray | None:
    """Return uint8 [height width 3], BGR; None if it is no image."""
    return cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR)


def _encode_frames(
    stored: Sequence[bytes], first: np.ndarray, bit_rate: float
) -> tuple[bytes, int]:
    """Encode one frame per image; one that cannot be read repeats the last, at first `first`."""
    size = _fit_size(first.shape[1], first.shape[0])
    rate = int(min(bit_rate, MAX_BIT_RATE))
    options = {'crf': str(CRF), 'preset': 'veryfast', 'g': str(2 * FPS), 'threads': '1'}
    options |= {'maxrate': str(rate), 'bufsize': str(2 * rate), 'bf': '0'}
    target, unreadable, shown = io.BytesIO(), 0, b''
    picture: Any = cv2.resize(first, size, interpolation=cv2.INTER_AREA)
    with av.open(target, 'w', format='mp4') as container:
        stream: Any = container.add_stream('libx264', rate=FPS, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, 'yuv420p'
        for number, image in enumerate(stored):
            if image is not shown:
                shown, decoded = image, decode(image)
                unreadable += decoded is None
                if decoded is not None:
                    picture = cv2.resize(decoded, size, interpolation=cv2.INTER_AREA)
            frame = av.VideoFrame.from_ndarray(picture, format='bgr24')
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue(), unreadable


def _fit_size(width: int, height: int) -> tuple[int, int]:
    """Return an even size of at most MAX_WIDTH, with the same shape."""
    scale = min(1.0, MAX_WIDTH / width)
    fitted = (2 * max(1, round(side * scale / 2)) for side in (width, height))
    return next(fitted), next(fitted)

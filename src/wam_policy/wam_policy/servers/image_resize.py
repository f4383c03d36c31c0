"""Convert images to the size, padding and channel order of a server profile."""

import cv2
import numpy as np

cv2.setNumThreads(1)  # this process shares its cores with controllers

FIT_MODES = ('stretch', 'pad')
CHANNEL_ORDERS = ('hwc', 'chw')


def resize(frames: np.ndarray, size: tuple[int, int] | None, fit: str) -> np.ndarray:
    """Resize frames uint8 [T h w 3] to `size` (width, height); None returns them unchanged.

    'pad' keeps the aspect ratio and fills the rest with black, evenly on both sides.
    """
    height, width = frames.shape[1:3]
    if size is None or (width, height) == size:
        return frames
    inner = size
    if fit == 'pad':
        scale = min(size[0] / width, size[1] / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    # INTER_AREA averages all pixels when it shrinks; the other methods skip some
    method = cv2.INTER_AREA if inner[0] < width else cv2.INTER_LINEAR
    resized = np.zeros((len(frames), size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    for target, frame in zip(resized, frames, strict=True):
        target[top : top + inner[1], left : left + inner[0]] = cv2.resize(
            frame, inner, interpolation=method
        )
    return resized


def to_channel_order(frames: np.ndarray, order: str) -> np.ndarray:
    """Convert [T h w 3] to the channel order `hwc` or `chw` ([T 3 h w])."""
    return frames if order == 'hwc' else np.ascontiguousarray(frames.transpose(0, 3, 1, 2))


def to_hwc(frames: np.ndarray, order: str) -> np.ndarray:
    """Undo `to_channel_order`: return [T h w 3]."""
    return frames if order == 'hwc' else frames.transpose(0, 2, 3, 1)

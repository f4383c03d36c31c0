"""Detect cameras with frozen images (equal pixels under new stamps) or images of one color.

If the firmware of a camera hangs, the driver can repeat its last image with new stamps; ages and
rates then look normal. Images of a real sensor differ by noise even for a static scene, so images
that are equal in every pixel are repetitions. A parameter disables this for simulators without
noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wam_policy.core.types import Frame

FROZEN_NS = 400_000_000  # with one more frame at 10 Hz and 0.2 s to the status: within 0.7 s
MIN_REPEATS = 3  # a slow source with one duplicated frame is not frozen
BLANK_CONTRAST = 8  # of 255, brightest minus darkest; a covered lens is below it, noise included
PROBE_STEP = 16  # stride of the rows and columns that are compared first


@dataclass(slots=True)
class _CameraHistory:
    newest: Frame
    same_since_ns: int  # stamp of the first frame with these pixels
    repeats: int = 0
    blank_since_ns: int | None = None  # stamp of the first frame in a row of one color


class FrozenImageMonitor:
    """Monitor the images of cameras."""

    def __init__(self, cameras: Iterable[str], *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._cameras: dict[str, _CameraHistory | None] = dict.fromkeys(cameras)

    def reset(self) -> None:
        """Forget all images, after a jump of the clock."""
        self._cameras = dict.fromkeys(self._cameras)

    def update(self, frame: Frame) -> None:
        """Add a frame; one with a stamp that is not newer is ignored."""
        if not self.enabled:
            return
        seen = self._cameras[frame.camera]
        if seen is not None and frame.stamp_ns <= seen.newest.stamp_ns:
            return
        if seen is None or not _is_same_picture(seen.newest.rgb, frame.rgb):
            blank_since_ns = None if seen is None else seen.blank_since_ns
            if not _is_blank(frame.rgb):
                blank_since_ns = None
            elif blank_since_ns is None:
                blank_since_ns = frame.stamp_ns
            seen = _CameraHistory(frame, frame.stamp_ns, blank_since_ns=blank_since_ns)
        else:
            seen.newest, seen.repeats = frame, seen.repeats + 1
        self._cameras[frame.camera] = seen

    def check(self, camera: str) -> str | None:
        """Return why the images of `camera` are not usable; None if they are."""
        seen = self._cameras[camera]
        if seen is None:
            return None
        stamp_ns = seen.newest.stamp_ns
        if seen.blank_since_ns is not None and stamp_ns - seen.blank_since_ns >= FROZEN_NS:
            level = int(seen.newest.rgb[::PROBE_STEP, ::PROBE_STEP].mean())
            return (
                f'its pictures are of one color (brightness {level} of 255) for more than '
                f'{FROZEN_NS / 1e9:g} s: lens covered, no exposure, or no signal'
            )
        if seen.repeats >= MIN_REPEATS and stamp_ns - seen.same_since_ns >= FROZEN_NS:
            return (
                f'the same picture has come under new stamps for more than {FROZEN_NS / 1e9:g} s: '
                'the camera is frozen; restart it (for a simulator without noise set '
                'detect_frozen_images to false)'
            )
        return None


def _is_same_picture(before: np.ndarray, now: np.ndarray) -> bool:
    if before.shape != now.shape:
        return False
    probe = np.s_[::PROBE_STEP, ::PROBE_STEP]
    return np.array_equal(before[probe], now[probe]) and np.array_equal(before, now)


def _is_blank(rgb: np.ndarray) -> bool:
    probe = rgb[::PROBE_STEP, ::PROBE_STEP]
    if int(probe.max()) - int(probe.min()) > BLANK_CONTRAST:
        return False
    return int(rgb.max()) - int(rgb.min()) <= BLANK_CONTRAST

"""Schedule the images of cameras that run freely: a phase and a jitter per camera."""

from collections.abc import Sequence

import numpy as np


class CameraSchedule:
    """Give the time of the next image and the cameras that are due then.

    Camera i of n lies `phase` * i / n periods after the first; each of its images deviates by up
    to `jitter` periods, uniformly. Cameras without phase and jitter are due together.
    """

    def __init__(
        self,
        keys: Sequence[str],
        period_s: float,
        phase: float = 0.0,
        jitter: float = 0.0,
        *,
        start_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._keys, self._period_s, self._jitter = tuple(keys), period_s, jitter
        self._random = np.random.default_rng(seed)
        self._nominal_s = start_s + period_s * phase * np.arange(len(keys)) / len(keys)
        self._due_s = self._nominal_s + self._draw_jitter_s()

    @property
    def due_s(self) -> float:
        """Return the time in s of the next image."""
        return float(self._due_s.min())

    def pop_due(self, now_s: float) -> tuple[str, ...]:
        """Return the cameras that are due at `now_s` and schedule their next images.

        A camera that is late by a period or more skips what it missed.
        """
        due = self._due_s <= now_s
        missed = np.floor(np.maximum(now_s - self._nominal_s, 0) / self._period_s)
        following_s = self._nominal_s + (missed + 1) * self._period_s
        self._nominal_s = np.where(due, following_s, self._nominal_s)
        self._due_s = np.where(due, following_s + self._draw_jitter_s(), self._due_s)
        return tuple(key for key, is_due in zip(self._keys, due, strict=True) if is_due)

    def _draw_jitter_s(self) -> np.ndarray:
        limit_s = self._jitter * self._period_s
        return self._random.uniform(-limit_s, limit_s, len(self._keys))

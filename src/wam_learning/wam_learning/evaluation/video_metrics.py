"""Compare predicted with real images: metrics per frame, and image strips.

Each error is also measured for two references: the last real frame, copied, and the real frames
through the autoencoder, which no prediction can surpass.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wam_learning.evaluation.eval_metrics import MAX_PSNR_DB
from wam_learning.evaluation.rollout import RolloutObserver, Views

MOVING_THRESHOLD = 16  # of 255: a pixel moves if a channel differs by more from the last frame
STRIP_BLOCKS = 4
STRIP_SCALE = 3
STRIP_GAP_PX = 4  # pixels between the rows of a strip


class VideoPredictionMetrics(RolloutObserver):
    """Compare the first prediction after each commit with the next block's real frames."""

    def __init__(self, policy: Any) -> None:
        """Take a model.robot_policy.Policy or a wrapper of one."""
        self._policy = policy
        self._awaiting_prediction = False
        self._predicted_frames: np.ndarray | None = None  # uint8 [T h w 3], of the coming block
        self._last_frame: np.ndarray | None = None  # uint8 [h w 3], newest real frame
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []  # real, predicted
        self._references: list[tuple[np.ndarray, np.ndarray]] = []  # copied, reconstructed

    def on_commit(self, views: Views) -> None:
        canvases = self._policy.compose_views(views)
        real = canvases.numpy()
        if self._predicted_frames is not None and len(real) >= len(self._predicted_frames):
            count = len(self._predicted_frames)
            shown = _resize_like(real[-count:], self._predicted_frames)
            self.pairs.append((shown, self._predicted_frames))
            last = real[:1] if self._last_frame is None else self._last_frame[None]
            copied = np.repeat(_resize_like(last, self._predicted_frames), count, axis=0)
            rebuilt = self._policy.reconstruct(canvases[-count:]).numpy()
            self._references.append((copied, _resize_like(rebuilt, self._predicted_frames)))
        self._last_frame = real[-1]
        self._predicted_frames, self._awaiting_prediction = None, True

    def on_prediction(self) -> None:
        if self._awaiting_prediction:
            self._predicted_frames = self._policy.decode_prediction()
            self._awaiting_prediction = False

    def compute_psnr_ssim(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean PSNR in dB and SSIM per frame ahead; empty without comparisons."""
        if not self.pairs:
            return (), ()
        values = [
            [(_psnr(a, b), _ssim(a, b)) for a, b in zip(real, predicted, strict=True)]
            for real, predicted in self.pairs
        ]
        psnr, ssim = np.mean(values, axis=0).T
        return tuple(psnr.tolist()), tuple(ssim.tolist())

    def sum_squared_errors(self) -> Mapping[str, float]:
        """Return sums over all pixel values and over those that move.

        `eval_metrics.compute_psnr_db` takes them, of any number of trials.

        `values` counts values (0 to 1 each), `<method>` sums squared errors, with `moving_`
        before both for pixels that moved since the last real frame; `<method>_db` sums the PSNR
        of each frame and `frames` counts them. Methods: predicted, copied, reconstructed.
        """
        sums: dict[str, float] = {}

        def add(name: str, value: float) -> None:
            sums[name] = sums.get(name, 0.0) + float(value)

        for (real, predicted), (copied, rebuilt) in zip(self.pairs, self._references, strict=True):
            change = np.abs(real.astype(np.int16) - copied).max(axis=-1, keepdims=True)
            moving = np.broadcast_to(change > MOVING_THRESHOLD, real.shape)
            add('values', real.size)
            add('moving_values', int(moving.sum()))
            add('frames', len(real))
            methods = {'predicted': predicted, 'copied': copied, 'reconstructed': rebuilt}
            for name, frames in methods.items():
                error = np.square((real.astype(np.float32) - frames) / 255)
                add(name, error.sum())
                add(f'moving_{name}', error[moving].sum())
                add(f'{name}_db', sum(_psnr(a, b) for a, b in zip(real, frames, strict=True)))
        return sums

    def render_strip(self) -> np.ndarray | None:
        """Draw the first blocks, real above predicted, uint8 [h w 3]; None without predictions."""
        if not self.pairs:
            return None
        shown = self.pairs[:STRIP_BLOCKS]
        rows = [
            np.concatenate([np.concatenate(list(pair[row]), axis=1) for pair in shown], axis=1)
            for row in (0, 1)
        ]
        gap = np.full((STRIP_GAP_PX, rows[0].shape[1], 3), 255, np.uint8)
        image = np.concatenate([rows[0], gap, rows[1]])
        return cv2.resize(
            image, None, fx=STRIP_SCALE, fy=STRIP_SCALE, interpolation=cv2.INTER_NEAREST
        )

    def write_strip(self, path: Path) -> bool:
        """Write the strip as PNG; False if there is nothing to draw."""
        image = self.render_strip()
        if image is None:
            return False
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return True


def _resize_like(frames: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return frames [T h w 3] at the height and width of `like` [T h w 3]."""
    if frames.shape[1:] == like.shape[1:]:
        return frames
    size = like.shape[2], like.shape[1]
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _psnr(real: np.ndarray, predicted: np.ndarray) -> float:
    if np.array_equal(real, predicted):
        return MAX_PSNR_DB
    return min(MAX_PSNR_DB, float(peak_signal_noise_ratio(real, predicted, data_range=255)))


def _ssim(real: np.ndarray, predicted: np.ndarray) -> float:
    found = structural_similarity(real, predicted, channel_axis=2, data_range=255)
    return float(np.asarray(found))  # a number unless gradients or maps are requested

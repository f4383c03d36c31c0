"""Compare predicted with real images: metrics per frame, and image strips."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wam_learning.evaluation.rollout import RolloutObserver, Views

MAX_PSNR_DB = 60.0  # equal images have no finite PSNR
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
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []  # real, predicted

    def on_commit(self, views: Views) -> None:
        real = self._policy.compose_views(views).numpy()
        if self._predicted_frames is not None and len(real) >= len(self._predicted_frames):
            size = self._predicted_frames.shape[2], self._predicted_frames.shape[1]
            shown = real[-len(self._predicted_frames) :]
            if shown.shape != self._predicted_frames.shape:
                shown = np.stack(
                    [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in shown]
                )
            self.pairs.append((shown, self._predicted_frames))
        self._predicted_frames, self._awaiting_prediction = None, True

    def on_prediction(self) -> None:
        if self._awaiting_prediction:
            self._predicted_frames, self._awaiting_prediction = (
                self._policy.decode_prediction(),
                False,
            )

    def compute_psnr_ssim(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean PSNR in dB and SSIM per frame ahead; empty without comparisons."""
        if not self.pairs:
            return (), ()
        values = [
            [
                (min(MAX_PSNR_DB, float(_psnr(a, b))), _ssim(a, b))
                for a, b in zip(real, predicted, strict=True)
            ]
            for real, predicted in self.pairs
        ]
        psnr, ssim = np.mean(values, axis=0).T
        return tuple(psnr.tolist()), tuple(ssim.tolist())

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


def _psnr(real: np.ndarray, predicted: np.ndarray) -> float:
    if np.array_equal(real, predicted):
        return MAX_PSNR_DB
    return peak_signal_noise_ratio(real, predicted, data_range=255)


def _ssim(real: np.ndarray, predicted: np.ndarray) -> float:
    found = structural_similarity(real, predicted, channel_axis=2, data_range=255)
    return float(np.asarray(found))  # a number unless gradients or maps are requested

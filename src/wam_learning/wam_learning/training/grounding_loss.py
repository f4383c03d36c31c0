"""Labels and heads of the grounding loss, which is used in training only.

Each clean token predicts whether the instructed object is in its patch, and the action tokens of a
chunk predict its position on the table. Without this loss, learning color words takes hours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_learning.data.episode_arrays import EpisodeArrays
from wam_policy.core.observation.view_tiles import ViewLayout
from wam_policy.model.network.model_config import ModelConfig

OBJECT_SIZE = 0.1  # side of an object / side of the first camera's image


@dataclass(frozen=True, slots=True, eq=False)
class GroundingTargets:
    """Convert labels of the data to the targets of the heads."""

    layout: ViewLayout
    grid: tuple[int, int]  # token rows and columns of the whole canvas
    mean_m: np.ndarray  # [2]
    std_m: np.ndarray  # [2]

    @classmethod
    def from_data(
        cls, data: EpisodeArrays, layout: ViewLayout, config: ModelConfig
    ) -> 'GroundingTargets':
        """Compute mean and std of the object positions."""
        known = data.place[np.isfinite(data.place).all(1)]
        if not len(known):
            return cls(layout, config.grid, np.zeros(2), np.ones(2))
        return cls(layout, config.grid, known.mean(0), np.maximum(known.std(0), 1e-3))

    def patch_targets(self, pixel: np.ndarray) -> np.ndarray:
        """Return the fraction of the object in each token's patch, float32 [... tokens].

        `pixel` [... 2] (right, down; 0..1) is the object's center in the first camera's image. The
        result is 0 without a label, or if the canvas does not show the object.
        """
        tile, crop = self.layout.tiles[0], self.layout.crop
        inside = (pixel - (1 - crop) / 2) / crop
        seen = np.isfinite(pixel).all(-1) & (inside >= 0).all(-1) & (inside < 1).all(-1)
        inside = np.where(seen[..., None], inside, 0.5)
        size = OBJECT_SIZE * np.array([tile.width, tile.height])
        center = inside * [tile.width, tile.height] + [tile.left, tile.top]
        columns, rows = (
            _interval_overlap(center[..., axis], size[axis], length, count)
            for axis, length, count in (
                (0, self.layout.width, self.grid[1]),
                (1, self.layout.height, self.grid[0]),
            )
        )
        share = rows[..., :, None] * columns[..., None, :] * seen[..., None, None]
        return share.reshape(*seen.shape, -1).astype(np.float32)

    def standardize(self, place_m: np.ndarray) -> np.ndarray:
        """Return positions [... 2] (m) with zero mean and unit variance, float32."""
        return ((place_m - self.mean_m) / self.std_m).astype(np.float32)


def _interval_overlap(center: np.ndarray, size: float, length: int, count: int) -> np.ndarray:
    """Return the overlap [... count] of intervals around `center` [...] with equal parts."""
    edges = np.linspace(0, length, count + 1)
    edges[[0, -1]] = -np.inf, np.inf
    low, high = center[..., None] - size / 2, center[..., None] + size / 2
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) / size


class GroundingLosses(NamedTuple):
    """Losses of both heads, and the accuracy of the first; 0 without labels."""

    patch: Tensor
    place: Tensor
    accuracy: Tensor


class GroundingHeads(nn.Module):
    """Predict patch and position of the instructed object from tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))
        self.place = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2))

    def forward(
        self,
        clean_tokens: Tensor,
        action_tokens: Tensor,
        frame_tokens: int,
        patch_target: Tensor,
        place: Tensor,
    ) -> GroundingLosses:
        """Return the losses for clean [batch frames*frame_tokens dim] and action tokens.

        Action tokens are [batch blocks*n dim]; labels [batch blocks frame_tokens] and
        [batch blocks 2] are those of the frame before each block.
        """
        blocks = patch_target.shape[1]
        logits = self.patch(clean_tokens.float())[..., 0].unflatten(1, (-1, frame_tokens))
        stride = max(1, (logits.shape[1] - 1) // max(1, blocks - 1))
        logits = logits[:, ::stride][:, :blocks]
        known = patch_target.sum(-1) > 0
        nothing = logits.sum() * 0
        patch = accuracy = nothing
        if known.any():
            wanted = patch_target[known]
            patch = F.cross_entropy(logits[known], wanted)
            # for an object on a border either patch is correct
            guess = wanted.gather(1, logits[known].argmax(-1, keepdim=True))
            accuracy = (guess > wanted.amax(-1, keepdim=True) / 2).float().mean()
        predicted = self.place(action_tokens.float().unflatten(1, (blocks, -1)).mean(2))
        located = torch.isfinite(place).all(-1)
        miss = (
            (predicted[located] - place[located]).square().mean()
            if located.any()
            else predicted.sum() * 0
        )
        return GroundingLosses(patch, miss, accuracy)

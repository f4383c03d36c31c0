"""Labels and heads of the grounding loss, which exists in training only.

Each clean token answers whether the named object lies in its patch, and a chunk's action tokens
tell where on the table it is. Without that question colour words take hours to be understood.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_policy.learn.clips import Clips
from wam_policy.model.canvas import Layout
from wam_policy.model.config import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Turn labels of the data into what the heads predict."""

    layout: Layout
    grid: tuple[int, int]               # token rows and columns of the whole canvas
    mean_m: np.ndarray                  # [2]
    std_m: np.ndarray                   # [2]

    @classmethod
    def of(cls, clips: Clips, layout: Layout, config: ModelConfig) -> 'Places':
        """Measure where objects lie."""
        known = clips.place[np.isfinite(clips.place).all(1)]
        if not len(known):
            return cls(layout, config.grid, np.zeros(2), np.ones(2))
        return cls(layout, config.grid, known.mean(0), np.maximum(known.std(0), 1e-3))

    def tokens(self, pixel: np.ndarray) -> np.ndarray:
        """Find the token of positions [... 2] (across, down; 0..1) in the first camera's picture.

        int64 [...]; -1 where there is no label or the canvas does not show it.
        """
        tile, crop = self.layout.tiles[0], self.layout.crop
        inside = (pixel - (1 - crop) / 2) / crop
        seen = np.isfinite(pixel).all(-1) & (inside >= 0).all(-1) & (inside < 1).all(-1)
        across, down = np.where(seen[..., None], inside, 0.0).astype(float).T
        rows, columns = self.grid
        row = (tile.top + down * tile.height) * rows // self.layout.height
        column = (tile.left + across * tile.width) * columns // self.layout.width
        return np.where(seen, (row * columns + column).T, -1).astype(np.int64)

    def standardised(self, place_m: np.ndarray) -> np.ndarray:
        """Give places [... 2] in unit variance, float32."""
        return ((place_m - self.mean_m) / self.std_m).astype(np.float32)


class Grounded(NamedTuple):
    """Losses of both heads, and how often the first is right; 0 without labels."""

    patch: Tensor
    place: Tensor
    accuracy: Tensor
    labels: int


class Heads(nn.Module):
    """Ask tokens about the named object."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))
        self.place = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2))

    def forward(self, clean_tokens: Tensor, action_tokens: Tensor, frame_tokens: int,
                target_token: Tensor, place: Tensor) -> Grounded:
        """Read clean tokens [batch frames*frame_tokens dim], action tokens [batch blocks*n dim].

        Labels [batch blocks] and [batch blocks 2] are of the frame before each block.
        """
        blocks = target_token.shape[1]
        logits = self.patch(clean_tokens.float())[..., 0].unflatten(1, (-1, frame_tokens))
        stride = max(1, (logits.shape[1] - 1) // max(1, blocks - 1))
        logits = logits[:, ::stride][:, :blocks]
        known = target_token >= 0
        nothing = logits.sum() * 0
        patch = accuracy = nothing
        if known.any():
            patch = F.cross_entropy(logits[known], target_token[known])
            accuracy = (logits[known].argmax(-1) == target_token[known]).float().mean()
        told = self.place(action_tokens.float().unflatten(1, (blocks, -1)).mean(2))
        located = torch.isfinite(place).all(-1)
        miss = (told[located] - place[located]).square().mean() if located.any() else \
            told.sum() * 0
        return Grounded(patch, miss, accuracy, int(known.sum()))

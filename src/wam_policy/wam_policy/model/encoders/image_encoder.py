"""Encode the first frame of an episode to image tokens with the CLIP vision tower.

The released models read the tower one block before its end and without its last norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from wam_policy.model.encoders.device_constants import constant_like

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pixels, RGB in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Size a vision tower; `layers` are those that run, one fewer than the file holds."""

    dim: int
    heads: int
    layers: int
    mlp_dim: int
    patch: int  # pixels
    size: int  # pixels

    @property
    def tokens(self) -> int:
        return (self.size // self.patch) ** 2 + 1


CLIP_H = ImageConfig(1280, 16, 31, 5120, 14, 224)


def build_network(config: ImageConfig) -> CLIPVisionModel:
    """Build the tower; under `torch.device('meta')` it needs no memory."""
    # imported here: it takes seconds that models without image context do not need
    from transformers import CLIPVisionConfig, CLIPVisionModel

    net = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.size,
            patch_size=config.patch,
            hidden_act='gelu',
            layer_norm_eps=1e-5,
            attention_dropout=0.0,
        )
    )
    # only the pooled output uses it, which is never read
    net.add_module('post_layernorm', nn.Identity())
    return net.eval()


class ImageEncoder(nn.Module):
    """Encode one frame to tokens."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build_network(config)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Encode a frame [B 3 H W] in [-1, 1], of any size, to [B tokens dim]."""
        side = self.config.size
        pixels = F.interpolate(frame, (side, side), mode='bicubic', align_corners=False)
        shape = (1, 3, 1, 1)
        mean, std = (
            constant_like(values, frame).view(shape).to(frame.dtype)
            for values in (CLIP_MEAN, CLIP_STD)
        )
        pixels = (pixels * 0.5 + 0.5 - mean) / std
        return self.net(pixels).last_hidden_state

    def init_position_ids(self, device: torch.device) -> None:
        """Set the position indices, which no file holds, on `device`."""
        places = torch.arange(self.config.tokens, device=device).expand(1, -1)
        self.net.embeddings.register_buffer('position_ids', places, persistent=False)

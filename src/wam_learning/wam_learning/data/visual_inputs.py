"""Provide the visual inputs of windows: cached latents, or images encoded on demand.

Both return the same VisualBatch. Causal autoencoders, whose latents depend on all earlier frames
of a window, cannot use the cache; models with an image condition need the images too.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wam_learning.data.episode_arrays import FrameStore
from wam_learning.data.latent_cache import FrameLatents
from wam_policy.model.encoders import view_layout
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.network.model_config import ModelConfig


class VisualBatch(NamedTuple):
    """Hold the visual inputs of a batch of windows for the training pass."""

    clean: Tensor  # [batch channels frames-frames_per_block h w]
    future: Tensor  # [batch channels frames-1 h w]
    condition: Tensor | None  # [batch condition_channels frames h w]
    image: Tensor | None  # [batch tokens image_dim]


class VisualInputs(Protocol):
    """Encode windows of image indices [batch 1+blocks*block_pixel_frames]."""

    def encode_windows(self, frame_indices: np.ndarray) -> VisualBatch: ...


class CachedLatents:
    """Look up cached latents."""

    def __init__(self, latents: FrameLatents, config: ModelConfig) -> None:
        self._latents, self._config = latents, config

    def encode_windows(self, frame_indices: np.ndarray) -> VisualBatch:
        first = self._latents.static[frame_indices[:, :1]]
        step = self._config.pixel_frames_per_latent
        later = self._latents.group[frame_indices[:, step::step]]
        whole = torch.cat([first, later], dim=1).float().transpose(1, 2)
        return VisualBatch(
            whole[:, :, : -self._config.frames_per_block], whole[:, :, 1:], None, None
        )


class OnlineEncoder:
    """Encode images on demand."""

    def __init__(
        self,
        frame_store: FrameStore,
        encoders: Encoders,
        config: ModelConfig,
        size: tuple[int, int] | None,
    ) -> None:
        self._frame_store, self._encoders = frame_store, encoders
        self._config, self._size = config, size

    @torch.no_grad()
    def encode_windows(self, frame_indices: np.ndarray) -> VisualBatch:
        parts = [self._encode_window(row) for row in frame_indices]

        def concatenate(tensors: list[Tensor | None]) -> Tensor | None:
            given = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(given) if given else None

        whole = torch.cat([latents for latents, _, _ in parts])
        return VisualBatch(
            whole[:, :, : -self._config.frames_per_block],
            whole[:, :, 1:],
            concatenate([condition for _, condition, _ in parts]),
            concatenate([image for _, _, image in parts]),
        )

    def _encode_window(
        self, frame_indices: np.ndarray
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        parameter = next(self._encoders.vae.parameters())
        shown = torch.from_numpy(
            np.stack([self._frame_store[number] for number in frame_indices])
        )[None]
        pixels = view_layout.to_model_input(
            shown.to(parameter.device), parameter.dtype, self._size
        )
        latents = self._encoders.encode_frames(pixels)
        condition = image = None
        if channels := self._config.condition_channels:
            gray = torch.zeros_like(pixels[:, :, 1:])
            still = self._encoders.encode_frames(torch.cat([pixels[:, :, :1], gray], dim=2))
            known = (
                torch.zeros_like(still[:, :1])
                .expand(-1, channels - still.shape[1], -1, -1, -1)
                .clone()
            )
            known[:, :, 0] = 1
            condition = torch.cat([known, still], dim=1).float()
        if self._config.image_context:
            image = self._encoders.encode_image(pixels[:, :, 0]).float()
        return latents.float(), condition, image

"""Define a convolutional autoencoder with the interface of the Wan ones, for models on a CPU.

Four pixel frames are stacked as channels and encoded to one latent frame, independent of other
groups. The first frame of a clip is repeated four times to form a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_policy.model.encoders.device_constants import constant_like
from wam_policy.model.encoders.wan_vae import (
    PIXEL_FRAMES_PER_LATENT,
    EncoderState,
    check_statistics,
)

EMPTY_STATE = EncoderState(())


@dataclass(frozen=True, slots=True)
class ConvVaeConfig:
    """Size a convolutional autoencoder; each of `widths` is a stage that halves the image."""

    channels: int  # of a latent frame
    widths: tuple[int, ...]
    mean: tuple[float, ...]  # per latent channel
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_statistics(self.channels, self.mean, self.std)
        if not self.widths:
            raise ValueError('widths: want at least one stage')

    @property
    def stride(self) -> int:
        """Count the pixels along one side of a latent pixel."""
        return 2 ** len(self.widths)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class ConvAutoencoder(nn.Module):
    """Encode groups [B 3*GROUP H W] to [B channels h w] and back."""

    def __init__(self, config: ConvVaeConfig) -> None:
        super().__init__()
        stages, stacked = config.widths, 3 * PIXEL_FRAMES_PER_LATENT
        down: list[nn.Module] = []
        for inputs, width in pairwise((stacked, *stages)):
            down += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.SiLU()]
        last = stages[-1]
        self.encoder = nn.Sequential(
            *down,
            nn.Conv2d(last, last, 1),
            _ResidualBlock(last),
            nn.SiLU(),
            nn.Conv2d(last, config.channels, 1),
        )
        up: list[nn.Module] = []
        for width, outputs in pairwise((*reversed(stages), stacked)):
            up += [nn.SiLU(), nn.Conv2d(width, 4 * outputs, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, last, 3, padding=1),
            _ResidualBlock(last),
            _ResidualBlock(last),
            *up,
        )


class ConvVae(nn.Module):
    """Encode pixels in [-1, 1] to latents of zero mean and unit deviation; decode."""

    def __init__(self, config: ConvVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.net = ConvAutoencoder(config)

    def _mean_and_std(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            constant_like(values, like).view(1, -1, 1, 1).to(like.dtype)
            for values in (self.config.mean, self.config.std)
        )
        return mean, std

    def encode_groups(self, groups: Tensor) -> Tensor:
        """Encode groups [N 3 GROUP H W], each on its own, to latents [N C h w]."""
        latents = self.net.encoder(groups.flatten(1, 2))
        mean, std = self._mean_and_std(latents)
        return (latents - mean) / std

    def decode_groups(self, latents: Tensor) -> Tensor:
        """Decode latents [N C h w] to groups [N 3 GROUP H W], not clamped."""
        mean, std = self._mean_and_std(latents)
        return self.net.decoder(latents * std + mean).unflatten(1, (3, PIXEL_FRAMES_PER_LATENT))

    def encode_first_frame(self, first: Tensor) -> tuple[Tensor, EncoderState]:
        """Encode the first frame [B 3 1 H W] of a clip: latent [B C 1 h w] and the context."""
        if first.shape[2] != 1:
            raise ValueError(f'a clip begins with one frame, got {first.shape[2]}')
        return self.encode_groups(first.expand(-1, -1, PIXEL_FRAMES_PER_LATENT, -1, -1))[
            :, :, None
        ], EMPTY_STATE

    def encode_next_frames(
        self, state: EncoderState, frames: Tensor
    ) -> tuple[Tensor, EncoderState]:
        """Encode the 4n frames that follow a context: latents [B C n h w], the next context."""
        if frames.shape[2] % PIXEL_FRAMES_PER_LATENT or not frames.shape[2]:
            raise ValueError(
                f'want a multiple of {PIXEL_FRAMES_PER_LATENT} frames, got {frames.shape[2]}'
            )
        latents = [
            self.encode_groups(group) for group in frames.split(PIXEL_FRAMES_PER_LATENT, dim=2)
        ]
        return torch.stack(latents, dim=2), state

    def encode(self, video: Tensor) -> Tensor:
        """Encode a clip [B 3 1+4n H W] to latents [B C 1+n h w]."""
        latent, context = self.encode_first_frame(video[:, :, :1])
        if video.shape[2] == 1:
            return latent
        return torch.cat([latent, self.encode_next_frames(context, video[:, :, 1:])[0]], dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B C n h w] to pixels [B 3 1+4(n-1) H W] in [-1, 1]."""
        groups = [self.decode_groups(latent) for latent in latents.unbind(2)]
        video = torch.cat([groups[0][:, :, -1:], *groups[1:]], dim=2)
        return video.clamp(-1.0, 1.0)

"""Encode pixels to normalized latents and back with the Wan autoencoders (2.1, 2.2) of diffusers.

Encoding can be continued. The encoder is causal in time and works through a
video in groups (first frame, then four frames each), so a clip encoded group by group with its
context kept equals the clip encoded at once, at the cost of the new frames alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wam_policy.model.encoders.device_constants import constant_like

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

PIXEL_FRAMES_PER_LATENT = 4  # pixel frames per latent frame after the first

# Channel statistics of the public Wan autoencoders; the released files do not carry them.
# fmt: off
WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113,  0.1075, -0.1745,  0.9653, -0.1517,  1.5508,
     0.4134, -0.0715,  0.5517, -0.3632, -0.1922, -0.9497,  0.2503, -0.2921,
)
WAN21_STD = (
     2.8184,  1.4541,  2.3275,  2.6558,  1.2196,  1.7708,  2.6052,  2.0743,
     3.2687,  2.1526,  2.8652,  1.5579,  1.6382,  1.1253,  2.8251,  1.9160,
)
WAN22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799,  0.0174,  0.1838,  0.1557,
    -0.1382,  0.0542,  0.2813,  0.0891,  0.1570, -0.0098,  0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698,  0.5109,  0.2665, -0.2108, -0.2158,  0.2502,
    -0.2055, -0.0322,  0.1109,  0.1567, -0.0729,  0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649,  0.0117,  0.0723, -0.2839, -0.2083, -0.0520,  0.3748,
     0.0152,  0.1957,  0.1433, -0.2944,  0.3573, -0.0548, -0.1681, -0.0667,
)
WAN22_STD = (
     0.4765,  1.0364,  0.4514,  1.1677,  0.5313,  0.4990,  0.4818,  0.5013,
     0.8158,  1.0344,  0.5894,  1.0901,  0.6885,  0.6165,  0.8454,  0.4978,
     0.5759,  0.3523,  0.7135,  0.6804,  0.5833,  1.4146,  0.8986,  0.5659,
     0.7069,  0.5338,  0.4889,  0.4917,  0.4069,  0.4999,  0.6866,  0.4093,
     0.5709,  0.6065,  0.6415,  0.4944,  0.5726,  1.2042,  0.5458,  1.6887,
     0.3971,  1.0600,  0.3943,  0.5537,  0.5444,  0.4089,  0.7468,  0.7744,
)
# fmt: on


def check_statistics(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ValueError unless there is a mean and a positive deviation per latent channel."""
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f'{channels} latent channels need as many means and deviations, '
            f'got {len(mean)} and {len(std)}'
        )
    if not all(value > 0 for value in std):
        raise ValueError('a latent deviation is not positive')


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Size a Wan autoencoder; `residual` is the 2.2 design with its averaging shortcuts."""

    channels: int  # of a latent frame
    base_dim: int
    decoder_base_dim: int
    res_blocks: int
    residual: bool
    patch: int  # pixels folded into channels before the first convolution
    mean: tuple[float, ...]  # per latent channel
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_statistics(self.channels, self.mean, self.std)

    @property
    def stride(self) -> int:
        """Count the pixels along one side of a latent pixel."""
        return 8 * self.patch


WAN21 = VaeConfig(16, 96, 96, 2, False, 1, WAN21_MEAN, WAN21_STD)
WAN22 = VaeConfig(48, 160, 256, 2, True, 2, WAN22_MEAN, WAN22_STD)


def build_network(config: VaeConfig) -> AutoencoderKLWan:
    """Build the network; under `torch.device('meta')` it needs no memory."""
    # imported here: it takes seconds that other autoencoders do not need
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    channels = 3 * config.patch**2
    return AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.channels,
        num_res_blocks=config.res_blocks,
        is_residual=config.residual,
        in_channels=channels,
        out_channels=channels,
        patch_size=config.patch if config.patch > 1 else None,
        scale_factor_spatial=config.stride,
        latents_mean=list(config.mean),
        latents_std=list(config.std),
    ).eval()


def patchify(video: torch.Tensor, patch: int) -> torch.Tensor:
    """Fold squares of pixels into channels: [B C T H W] to [B C*patch^2 T H/patch W/patch].

    The column within the square varies slower than the row: that is the order of the weights.
    """
    batch, channels, frames, height, width = video.shape
    split = video.reshape(batch, channels, frames, height // patch, patch, width // patch, patch)
    return split.permute(0, 1, 6, 4, 2, 3, 5).reshape(
        batch, channels * patch**2, frames, height // patch, width // patch
    )


@dataclass(frozen=True, slots=True)
class EncoderState:
    """Hold the state of the causal encoder: one feature map or None per convolution.

    Never changed in place, so that a state can be continued twice.
    """

    features: tuple[torch.Tensor | None, ...]


class Vae(nn.Module):
    """Encode pixels in [-1, 1] to latents of zero mean and unit deviation; decode."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build_network(config)

    def _mean_and_inverse_std(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean = constant_like(self.config.mean, like)
        inverse = 1.0 / constant_like(self.config.std, like)
        return mean.view(shape).to(like.dtype), inverse.view(shape).to(like.dtype)

    def _encode_group(self, group: torch.Tensor, features: list[Any]) -> torch.Tensor:
        group = patchify(group, self.config.patch)
        moments = self.net.quant_conv(self.net.encoder(group, feat_cache=features, feat_idx=[0]))
        mean, inverse = self._mean_and_inverse_std(moments)
        return (moments[:, : self.config.channels] - mean) * inverse

    def encode_first_frame(self, first: torch.Tensor) -> tuple[torch.Tensor, EncoderState]:
        """Encode the first frame [B 3 1 H W] of a clip: latent [B C 1 h w] and the context."""
        if first.shape[2] != 1:
            raise ValueError(f'a clip begins with one frame, got {first.shape[2]}')
        features: list[Any] = [None] * self.net._cached_conv_counts['encoder']
        return self._encode_group(first, features), EncoderState(tuple(features))

    def encode_next_frames(
        self, state: EncoderState, frames: torch.Tensor
    ) -> tuple[torch.Tensor, EncoderState]:
        """Encode the 4n frames that follow a context: latents [B C n h w], the next context."""
        if frames.shape[2] % PIXEL_FRAMES_PER_LATENT or not frames.shape[2]:
            raise ValueError(
                f'want a multiple of {PIXEL_FRAMES_PER_LATENT} frames, got {frames.shape[2]}'
            )
        features = list(state.features)
        latents = [
            self._encode_group(group, features)
            for group in frames.split(PIXEL_FRAMES_PER_LATENT, dim=2)
        ]
        return torch.cat(latents, dim=2), EncoderState(tuple(features))

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Encode a clip [B 3 1+4n H W] to latents [B C 1+n h w]."""
        latent, context = self.encode_first_frame(video[:, :, :1])
        if video.shape[2] == 1:
            return latent
        return torch.cat([latent, self.encode_next_frames(context, video[:, :, 1:])[0]], dim=2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [B C n h w] to pixels [B 3 1+4(n-1) H W] in [-1, 1]."""
        mean, inverse = self._mean_and_inverse_std(latents)
        return self.net.decode(latents / inverse + mean, return_dict=False)[0]

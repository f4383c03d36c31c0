"""Combine the encoders of pixels and text, and the decoder of predicted video."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from wam_policy.model.encoders import conv_vae, image_encoder, text_encoder, wan_vae

AutoencoderConfig = wan_vae.VaeConfig | conv_vae.ConvVaeConfig
_VAE_KINDS = {'wan': wan_vae.VaeConfig, 'conv': conv_vae.ConvVaeConfig}


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Size the encoders of one model; `tokenizer` is 'bytes' or a folder of the checkpoint."""

    vae: AutoencoderConfig
    text: text_encoder.TextConfig
    image: image_encoder.ImageConfig | None
    tokenizer: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        kind = next(name for name, owner in _VAE_KINDS.items() if isinstance(self.vae, owner))
        return {**asdict(self), 'vae': {'kind': kind, **asdict(self.vae)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'EncoderConfig':
        """Read what `to_dict` wrote; ValueError names what does not fit."""
        try:
            pixels = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in values['vae'].items()
            }
            kind = pixels.pop('kind', 'wan')  # older files lack it
            if kind not in _VAE_KINDS:
                raise ValueError(
                    f'encoder config: vae kind {kind!r}: want {", ".join(_VAE_KINDS)}'
                )
            frame = values['image']
            return cls(
                _VAE_KINDS[kind](**pixels),
                text_encoder.TextConfig(**values['text']),
                image_encoder.ImageConfig(**frame) if frame else None,
                values['tokenizer'],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'encoder config: {error}') from error


_TINY = EncoderConfig(
    wan_vae.VaeConfig(8, 8, 8, 1, False, 1, (0.0,) * 8, (1.0,) * 8),
    text_encoder.TextConfig(text_encoder.ByteTokenizer.VOCAB_SIZE, 128, 4, 32, 256, 2, 32),
    None,
    'bytes',
)

# the statistics of latents come with the trained weights
_MINI = EncoderConfig(
    conv_vae.ConvVaeConfig(8, (32, 64, 96), (0.0,) * 8, (1.0,) * 8),
    text_encoder.TextConfig(
        text_encoder.ByteTokenizer.VOCAB_SIZE, 128, 4, 32, 256, 2, 32, words_back=1
    ),
    None,
    'bytes',
)

PRESETS = {
    'dreamzero_14b': EncoderConfig(
        wan_vae.WAN21, text_encoder.UMT5_XXL, image_encoder.CLIP_H, 'tokenizer'
    ),
    'dreamzero_5b': EncoderConfig(
        wan_vae.WAN22, text_encoder.UMT5_XXL, image_encoder.CLIP_H, 'tokenizer'
    ),
    'mini': _MINI,
    'tiny': _TINY,
}


class Encoders(nn.Module):
    """Encode frames, prompts and the episode's first image; decode predicted video.

    Latents are cut to `latent_size` rows and columns: the 5B model uses 10 of the 11 rows that its
    autoencoder returns for a canvas of 176 lines.
    """

    def __init__(
        self,
        config: EncoderConfig,
        latent_size: tuple[int, int],
        tokenizer: text_encoder.Tokenizer | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.latent_size = latent_size
        self.tokenizer = tokenizer
        self.vae: wan_vae.Vae | conv_vae.ConvVae = (
            conv_vae.ConvVae(config.vae)
            if isinstance(config.vae, conv_vae.ConvVaeConfig)
            else wan_vae.Vae(config.vae)
        )
        self.text = text_encoder.TextEncoder(config.text)
        self.image = image_encoder.ImageEncoder(config.image) if config.image else None

    def _crop_latents(self, latents: torch.Tensor) -> torch.Tensor:
        rows, columns = self.latent_size
        if latents.shape[-2] < rows or latents.shape[-1] < columns:
            raise ValueError(
                f'canvas gives latents of {tuple(latents.shape[-2:])}, the model '
                f'wants {self.latent_size}'
            )
        return latents[..., :rows, :columns]

    @torch.no_grad()
    def encode_frames(self, video: torch.Tensor) -> torch.Tensor:
        """Encode a clip [B 3 1+4n H W] in [-1, 1] to latents [B C 1+n h w]."""
        return self._crop_latents(self.vae.encode(video))

    @torch.no_grad()
    def encode_first_frame(self, first: torch.Tensor) -> tuple[torch.Tensor, wan_vae.EncoderState]:
        """Encode the first frame [B 3 1 H W] of a clip; return its latent and the state."""
        latent, context = self.vae.encode_first_frame(first)
        return self._crop_latents(latent), context

    @torch.no_grad()
    def encode_next_frames(
        self, state: wan_vae.EncoderState, frames: torch.Tensor
    ) -> tuple[torch.Tensor, wan_vae.EncoderState]:
        """Encode the next 4n frames [B 3 4n H W] of a clip: latents [B C n h w], new context."""
        latents, state = self.vae.encode_next_frames(state, frames)
        return self._crop_latents(latents), state

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [B C n h w] to uint8 frames [B 1+4(n-1) H W 3]."""
        video = self.vae.decode(latents).float()
        return ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)

    @torch.no_grad()
    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode token ids [B L] with their mask to [B L dim], zero where there is no token."""
        return self.text(ids, mask)

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Tokenize and encode prompts to [B text_len dim]."""
        if self.tokenizer is None:
            raise ValueError('these encoders were built without a tokenizer')
        device = next(self.text.parameters()).device
        ids, mask = self.tokenizer(prompts)
        return self.encode_text(ids.to(device), mask.to(device))

    @torch.no_grad()
    def encode_image(self, frame: torch.Tensor) -> torch.Tensor:
        """Encode a frame [B 3 H W] in [-1, 1] to image tokens [B tokens dim]."""
        if self.image is None:
            raise ValueError('this model has no image encoder: its config says image null')
        return self.image(frame)

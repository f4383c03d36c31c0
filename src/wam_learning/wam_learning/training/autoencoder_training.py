"""Train the convolutional autoencoder on the images of data sets.

Colored and moving pixels have a higher weight, because a plain squared error loses small objects
first. Noise on the latents makes the decoder robust to errors of the transformer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wam_learning.data.episode_arrays import EpisodeArrays, FrameStore
from wam_policy.model.encoders import view_layout
from wam_policy.model.encoders.conv_vae import ConvVae
from wam_policy.model.encoders.wan_vae import PIXEL_FRAMES_PER_LATENT

SALIENT_WEIGHT = 4.0  # of colored or moving pixels, others 1
COLORED_THRESHOLD = 0.25  # spread of a pixel's channels in 0..1 that makes it colored
MOTION_THRESHOLD = 0.06  # change of a pixel within a group
LATENT_NOISE = 0.05  # standard deviation, as a fraction of that of the latents
STATIC_SHARE = 0.2  # of groups that repeat one image
BATCH_SIZE = 16
LEARNING_RATE = 2e-3
WARMUP_STEPS = 50


@dataclass(frozen=True, slots=True)
class AutoencoderProgress:
    """Progress of a training; the loss is smoothed."""

    step: int
    fraction_done: float  # 0..1
    loss: float


def train(
    vae: ConvVae,
    data: EpisodeArrays,
    rng: np.random.Generator,
    fraction_done: Callable[[int], float],
    report: Callable[[AutoencoderProgress], None],
    bf16: bool,
) -> ConvVae:
    """Train until `fraction_done(step)` is 1; return it with measured latent statistics."""
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    starts = _find_group_starts(data)
    whole = data.frame_store
    step, smooth = 0, 0.0
    while (share := fraction_done(step)) < 1:
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, (1 - share) / 0.4)
        for group in optimizer.param_groups:
            group['lr'] = rate
        pixels = _sample_groups(whole, starts, rng)
        with torch.autocast('cpu', torch.bfloat16, bf16):
            latents = vae.net.encoder(pixels.flatten(1, 2))
            noise = torch.randn_like(latents) * LATENT_NOISE * latents.detach().float().std()
            shown = vae.net.decoder(latents + noise)
        loss = _loss(shown.float().unflatten(1, (3, PIXEL_FRAMES_PER_LATENT)), pixels)
        # keeps the latents near unit size
        loss = loss + 1e-4 * latents.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        smooth = value if step == 0 else 0.98 * smooth + 0.02 * value
        step += 1
        report(AutoencoderProgress(step, share, smooth))
    return with_latent_statistics(vae, whole, starts, rng)


@torch.inference_mode()
def with_latent_statistics(
    vae: ConvVae, frames: FrameStore, starts: np.ndarray, rng: np.random.Generator
) -> ConvVae:
    """Return an autoencoder with the same weights and the mean and std of its latent channels."""
    sizes = vae.config.channels
    latents = (
        torch.cat(
            [vae.net.encoder(_sample_groups(frames, starts, rng).flatten(1, 2)) for _ in range(32)]
        )
        .transpose(0, 1)
        .reshape(sizes, -1)
    )
    config = replace(
        vae.config,
        mean=tuple(latents.mean(1).tolist()),
        std=tuple(latents.std(1).clamp(min=1e-3).tolist()),
    )
    found = ConvVae(config)
    found.load_state_dict(vae.state_dict())
    return found.eval()


@torch.inference_mode()
def compute_psnr_db(
    vae: ConvVae, data: EpisodeArrays, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the PSNR in dB over all pixels, and over colored or moving pixels."""
    starts = _find_group_starts(data)
    pixels = torch.cat([_sample_groups(data.frame_store, starts, rng) for _ in range(8)])
    wrong = ((vae.decode_groups(vae.encode_groups(pixels)).clamp(-1, 1) - pixels) / 2).square()
    heavy = _pixel_weights(pixels).expand_as(wrong) > 1
    whole, part = (float(-10 * pixels.mean().log10()) for pixels in (wrong, wrong[heavy]))
    return whole, part


def _find_group_starts(data: EpisodeArrays) -> np.ndarray:
    """Return the images at which a group of one episode may start, [groups]."""
    return np.concatenate(
        [
            np.arange(
                span.first_frame,
                span.first_frame + max(1, span.frame_count - PIXEL_FRAMES_PER_LATENT + 1),
            )
            for span in data.episodes
        ]
    )


def _loss(reconstructed: Tensor, pixels: Tensor) -> Tensor:
    weights = _pixel_weights(pixels)
    return ((reconstructed - pixels).square() * weights).mean() / weights.mean()


def _pixel_weights(pixels: Tensor) -> Tensor:
    """Return weights [B 1 T h w] of pixels [B 3 T h w] in [-1, 1]."""
    colored = (pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)) / 2 > COLORED_THRESHOLD
    moving = (pixels.amax(2, keepdim=True) - pixels.amin(2, keepdim=True)).amax(
        1, keepdim=True
    ) / 2 > MOTION_THRESHOLD
    return 1.0 + (SALIENT_WEIGHT - 1.0) * (colored | moving).float()


def _sample_groups(frames: FrameStore, starts: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Sample groups [BATCH 3 GROUP h w] in [-1, 1]."""
    chosen = []
    for start in rng.choice(starts, BATCH_SIZE):
        still = rng.random() < STATIC_SHARE
        chosen.append(
            np.stack([frames[start + (0 if still else i)] for i in range(PIXEL_FRAMES_PER_LATENT)])
        )
    return view_layout.to_model_input(torch.from_numpy(np.stack(chosen)), torch.float32)

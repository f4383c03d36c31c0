"""Encode images into latents before training: the group that ends at an image, and a static one.

Only for autoencoders with independent groups: a window can then start at any image without
encoding again.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wam_learning.data.episode_arrays import EpisodeArrays
from wam_policy.model.encoders import view_layout
from wam_policy.model.encoders.conv_vae import ConvVae
from wam_policy.model.encoders.wan_vae import PIXEL_FRAMES_PER_LATENT

_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class FrameLatents:
    """Hold the latents of every image, float16 [frames channels rows columns] each.

    `group` ends at the image (near the start of an episode the first image is repeated), `static`
    repeats the image.
    """

    group: Tensor
    static: Tensor


@torch.inference_mode()
def load_or_encode(data: EpisodeArrays, vae: ConvVae) -> FrameLatents:
    """Return the latents of all images, from the cache of each data set or encoded now."""
    name, first, parts = f'latents-{fingerprint(vae)}.safetensors', 0, []
    for canvases, home in zip(data.canvases, data.cache_dirs, strict=True):
        spans = [
            (span.first_frame - first, span.frame_count)
            for span in data.episodes
            if first <= span.first_frame < first + len(canvases)
        ]
        first += len(canvases)
        path = home / name
        if path.is_file():
            parts.append(FrameLatents(**load_file(path)))
            continue
        found = _encode_folder(canvases, spans, vae)
        if sum(frames for _, frames in spans) == len(canvases):
            part = path.with_suffix('.part')
            save_file({'group': found.group, 'static': found.static}, part)
            os.replace(part, path)
        parts.append(found)
    return FrameLatents(
        torch.cat([part.group for part in parts]), torch.cat([part.static for part in parts])
    )


def _encode_folder(
    canvases: np.ndarray, episodes: Sequence[tuple[int, int]], vae: ConvVae
) -> FrameLatents:
    height, width = (side // vae.config.stride for side in canvases.shape[1:3])
    shape = (len(canvases), vae.config.channels, height, width)
    group, static = (torch.zeros(shape, dtype=torch.float16) for _ in range(2))
    for first, frames in episodes:
        shown = torch.from_numpy(np.array(canvases[first : first + frames]))
        pixels = view_layout.to_model_input(shown[None], torch.float32)[0].transpose(
            0, 1
        )  # T 3 h w
        index = torch.arange(frames)[:, None] + torch.arange(1 - PIXEL_FRAMES_PER_LATENT, 1)
        group[first : first + frames] = _encode_groups(
            vae, pixels[index.clamp(min=0)].transpose(1, 2)
        )
        static[first : first + frames] = _encode_groups(
            vae, pixels[:, :, None].expand(-1, -1, PIXEL_FRAMES_PER_LATENT, -1, -1)
        )
    return FrameLatents(group, static)


def _encode_groups(vae: ConvVae, groups: Tensor) -> Tensor:
    return torch.cat([vae.encode_groups(part) for part in groups.split(_BATCH_SIZE)]).half()


def fingerprint(vae: ConvVae) -> str:
    """Return a hash of the configuration and weights of an autoencoder."""
    digest = hashlib.sha256(repr(vae.config).encode())
    for parameter in vae.parameters():
        digest.update(parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()[:16]

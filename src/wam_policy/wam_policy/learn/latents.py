"""Pictures to latents, ahead of training: one for the group that ends at a picture, one static.

Only for autoencoders whose groups know nothing of each other; a window may then start at any
picture without encoding anything again.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wam_policy.learn.clips import Clips
from wam_policy.model import canvas
from wam_policy.model.conv_vae import ConvVae
from wam_policy.model.vae import GROUP

_AT_ONCE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """Hold latents of every picture, float16 [frames channels rows columns] each.

    `group` ends at the picture (before an episode's third, it reaches past its start and repeats
    the first picture), `static` is the picture by itself.
    """

    group: Tensor
    static: Tensor


@torch.inference_mode()
def encoded(clips: Clips, vae: ConvVae) -> Latents:
    """Encode all pictures of the episodes."""
    whole = np.concatenate(clips.canvases) if len(clips.canvases) > 1 else clips.canvases[0]
    shape = None
    group = static = torch.empty(0)
    for span in clips.spans:
        shown = torch.from_numpy(np.array(whole[span.frame:span.frame + span.frames]))
        pixels = canvas.model_input(shown[None], torch.float32)[0].transpose(0, 1)   # T 3 h w
        index = torch.arange(span.frames)[:, None] + torch.arange(1 - GROUP, 1)
        moving = _latents(vae, pixels[index.clamp(min=0)].transpose(1, 2))
        still = _latents(vae, pixels[:, :, None].expand(-1, -1, GROUP, -1, -1))
        if shape is None:
            shape = (len(whole), *moving.shape[1:])
            group, static = (torch.zeros(shape, dtype=torch.float16) for _ in range(2))
        group[span.frame:span.frame + span.frames] = moving
        static[span.frame:span.frame + span.frames] = still
    return Latents(group, static)


def _latents(vae: ConvVae, groups: Tensor) -> Tensor:
    return torch.cat([vae.encode_groups(part) for part in groups.split(_AT_ONCE)]).half()


def fingerprint(vae: ConvVae) -> str:
    """Tell autoencoders apart by their weights and scale."""
    digest = hashlib.sha256(repr(vae.config).encode())
    for parameter in vae.parameters():
        digest.update(parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()[:16]

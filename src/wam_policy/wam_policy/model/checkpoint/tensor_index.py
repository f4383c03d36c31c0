"""Which tensors the released layout has for a design, and what a given set of tensors lacks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from wam_policy.model.checkpoint import tensor_keymap
from wam_policy.model.checkpoint.model_spec import Design
from wam_policy.model.checkpoint.safetensors_shards import Stored
from wam_policy.model.checkpoint.tensor_keymap import Entry
from wam_policy.model.encoders.conv_vae import ConvConfig
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.encoders.text_encoder import Tokenizer
from wam_policy.model.network.video_action_dit import VideoActionDiT

_NEVER = re.compile(r'(?!)')


@dataclass(frozen=True, slots=True)
class Slot:
    """Say which module a file's tensor belongs to; `part` groups tensors for people."""

    part: str  # 'transformer', 'text encoder', 'image encoder' or 'autoencoder'
    module: nn.Module
    entry: Entry


@dataclass(frozen=True, slots=True)
class Networks:
    """Hold all networks of a design."""

    dit: VideoActionDiT
    encoders: Encoders


def networks(design: Design, device: torch.device, tokenizer: Tokenizer | None) -> Networks:
    """Build the networks of a design on a device; 'meta' costs no memory."""
    with device:
        return Networks(
            VideoActionDiT(design.model).eval(),
            Encoders(design.encoders, design.model.latent_size, tokenizer).eval(),
        )


def slots(parts: Networks) -> dict[str, Slot]:
    """List every tensor of the released layout that these networks read, by its file name."""
    encoders = parts.encoders
    vae = encoders.config.vae
    pixels = (
        tensor_keymap.plain(encoders.vae.net)
        if isinstance(vae, ConvConfig)
        else tensor_keymap.vae(encoders.vae.net, residual=vae.residual, res_blocks=vae.res_blocks)
    )
    groups = [
        ('transformer', tensor_keymap.DIT, parts.dit, tensor_keymap.plain(parts.dit)),
        (
            'text encoder',
            tensor_keymap.TEXT,
            encoders.text.net,
            tensor_keymap.text(encoders.text.net),
        ),
        ('autoencoder', tensor_keymap.VAE, encoders.vae.net, pixels),
    ]
    if encoders.image is not None:
        groups.append(
            (
                'image encoder',
                tensor_keymap.IMAGE + 'visual.',
                encoders.image.net,
                tensor_keymap.image(encoders.image.net),
            )
        )
    return {
        prefix + entry.name: Slot(part, module, entry)
        for part, prefix, module, entries in groups
        for entry in entries
    }


def unused(design: Design) -> re.Pattern[str]:
    """Match the tensors that released files hold although inference never reads them."""
    if design.encoders.image is None:
        return _NEVER
    inner = tensor_keymap.image_unused(design.encoders.image.layers)
    return re.compile(re.escape(tensor_keymap.IMAGE) + f'({inner.pattern})')


@dataclass(frozen=True, slots=True)
class Audit:
    """List what does not fit; names are those of the files, each list sorted."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]  # 'name: [stored], want [expected]'
    unused: tuple[str, ...]  # allowed: never read

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)

    def summary(self, most: int = 5) -> str:
        """Say in one line per kind what is wrong, naming the first few."""
        lines = []
        for title in ('missing', 'unexpected', 'misshaped'):
            names = getattr(self, title)
            if names:
                more = f' and {len(names) - most} more' if len(names) > most else ''
                lines.append(f'{len(names)} {title}: {", ".join(names[:most])}{more}')
        return '; '.join(lines)


def audit(
    found: Mapping[str, Stored], wanted: Mapping[str, Slot], ignorable: re.Pattern[str]
) -> Audit:
    """Compare stored tensors, by plain name, with those a design reads."""
    extra = found.keys() - wanted.keys()
    spare = {name for name in extra if ignorable.fullmatch(name)}
    wrong = [
        f'{name}: {list(found[name].shape)}, want {list(wanted[name].entry.shape)}'
        for name in found.keys() & wanted.keys()
        if found[name].shape != wanted[name].entry.shape
    ]
    return Audit(
        tuple(sorted(wanted.keys() - found.keys())),
        tuple(sorted(extra - spare)),
        tuple(sorted(wrong)),
        tuple(sorted(spare)),
    )


def sizes(wanted: Iterable[Slot]) -> dict[str, int]:
    """Count the numbers of each part."""
    counts: dict[str, int] = {}
    for slot in wanted:
        counts[slot.part] = counts.get(slot.part, 0) + torch.Size(slot.entry.shape).numel()
    return counts

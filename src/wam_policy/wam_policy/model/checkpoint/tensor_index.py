"""List the tensors of the released layout for a spec, and compare stored tensors with them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from wam_policy.model.checkpoint import tensor_keymap
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.checkpoint.safetensors_shards import TensorInfo
from wam_policy.model.checkpoint.tensor_keymap import TensorMapping
from wam_policy.model.encoders.conv_vae import ConvVaeConfig
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.encoders.text_encoder import Tokenizer
from wam_policy.model.network.video_action_dit import VideoActionDiT

_MATCH_NOTHING = re.compile(r'(?!)')


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    """Assign a tensor of the files to a module; `part` is its group in reports."""

    part: str  # 'transformer', 'text encoder', 'image encoder' or 'autoencoder'
    module: nn.Module
    entry: TensorMapping


@dataclass(frozen=True, slots=True)
class Networks:
    """Hold all networks of a model."""

    dit: VideoActionDiT
    encoders: Encoders


def build_networks(spec: ModelSpec, device: torch.device, tokenizer: Tokenizer | None) -> Networks:
    """Build the networks of a spec on a device; 'meta' needs no memory."""
    with device:
        return Networks(
            VideoActionDiT(spec.model).eval(),
            Encoders(spec.encoders, spec.model.latent_size, tokenizer).eval(),
        )


def list_slots(networks: Networks) -> dict[str, ParameterSlot]:
    """Return every tensor of the released layout that these networks read, by its name there."""
    encoders = networks.encoders
    vae = encoders.config.vae
    pixels = (
        tensor_keymap.map_identity(encoders.vae.net)
        if isinstance(vae, ConvVaeConfig)
        else tensor_keymap.map_vae(
            encoders.vae.net, residual=vae.residual, res_blocks=vae.res_blocks
        )
    )
    groups = [
        (
            'transformer',
            tensor_keymap.DIT_PREFIX,
            networks.dit,
            tensor_keymap.map_identity(networks.dit),
        ),
        (
            'text encoder',
            tensor_keymap.TEXT_PREFIX,
            encoders.text.net,
            tensor_keymap.map_text_encoder(encoders.text.net),
        ),
        ('autoencoder', tensor_keymap.VAE_PREFIX, encoders.vae.net, pixels),
    ]
    if encoders.image is not None:
        groups.append(
            (
                'image encoder',
                tensor_keymap.IMAGE_PREFIX + 'visual.',
                encoders.image.net,
                tensor_keymap.map_image_encoder(encoders.image.net),
            )
        )
    return {
        prefix + entry.name: ParameterSlot(part, module, entry)
        for part, prefix, module, entries in groups
        for entry in entries
    }


def unused_tensor_pattern(spec: ModelSpec) -> re.Pattern[str]:
    """Return the pattern of tensors in released files that inference never reads."""
    if spec.encoders.image is None:
        return _MATCH_NOTHING
    inner = tensor_keymap.unused_image_pattern(spec.encoders.image.layers)
    return re.compile(re.escape(tensor_keymap.IMAGE_PREFIX) + f'({inner.pattern})')


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """List the differences by the names in the files, each list sorted."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]  # 'name: [stored], want [expected]'
    unused: tuple[str, ...]  # allowed: never read

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)

    def format_summary(self, max_names: int = 5) -> str:
        """Format one clause per kind of difference, naming the first few."""
        lines = []
        for title in ('missing', 'unexpected', 'misshaped'):
            names = getattr(self, title)
            if names:
                more = f' and {len(names) - max_names} more' if len(names) > max_names else ''
                lines.append(f'{len(names)} {title}: {", ".join(names[:max_names])}{more}')
        return '; '.join(lines)


def compare_tensors(
    found: Mapping[str, TensorInfo], slots: Mapping[str, ParameterSlot], ignorable: re.Pattern[str]
) -> TensorDiff:
    """Compare stored tensors, by plain name, with those a spec reads."""
    extra = found.keys() - slots.keys()
    spare = {name for name in extra if ignorable.fullmatch(name)}
    wrong = [
        f'{name}: {list(found[name].shape)}, want {list(slots[name].entry.shape)}'
        for name in found.keys() & slots.keys()
        if found[name].shape != slots[name].entry.shape
    ]
    return TensorDiff(
        tuple(sorted(slots.keys() - found.keys())),
        tuple(sorted(extra - spare)),
        tuple(sorted(wrong)),
        tuple(sorted(spare)),
    )


def count_parameters(slots: Iterable[ParameterSlot]) -> dict[str, int]:
    """Count the parameters of each part."""
    counts: dict[str, int] = {}
    for slot in slots:
        counts[slot.part] = counts.get(slot.part, 0) + torch.Size(slot.entry.shape).numel()
    return counts

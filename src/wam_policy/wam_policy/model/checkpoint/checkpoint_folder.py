"""Checkpoints to policies and back: strict, without pickles, shard by shard onto the device.

Every tensor of the files is used or known to be useless, every parameter is filled, or loading
fails and names them. Modules are built without memory and filled tensor by tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint import (
    normalization_stats,
    random_checkpoint,
    safetensors_shards,
    tensor_index,
    tensor_keymap,
)
from wam_policy.model.checkpoint.model_spec import Design
from wam_policy.model.checkpoint.normalization_stats import Tag
from wam_policy.model.checkpoint.safetensors_shards import Stored
from wam_policy.model.checkpoint.tensor_index import Networks, Slot
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.encoders.text_encoder import ByteTokenizer, SentenceTokenizer, Tokenizer
from wam_policy.model.network import lora
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.normalizer import Normaliser

METADATA = Path('experiment_cfg') / 'metadata.json'
PRESET = 'preset:'
_ADAPTED = ('state_encoder.', 'action_encoder.', 'action_decoder.')  # trained beside adapters


@dataclass(frozen=True, slots=True)
class Policy:
    """Hold a model that is ready to be asked: networks, statistics and how it was made."""

    design: Design
    dit: VideoActionDiT
    encoders: Encoders
    tags: Mapping[str, Tag]
    source: str

    @property
    def trained(self) -> bool:
        return self.design.trained

    @property
    def parameters(self) -> int:
        return sum(
            parameter.numel()
            for module in (self.dit, self.encoders)
            for parameter in module.parameters()
        )

    def normaliser(self, robot: Embodiment) -> Normaliser:
        """Give the normaliser of a robot; ValueError if the checkpoint has no statistics of it."""
        if robot.model_tag not in self.tags:
            has = ', '.join(self.tags) or 'none at all (no experiment_cfg/metadata.json)'
            raise ValueError(
                f'{self.source} has no statistics for tag {robot.model_tag!r} of {robot.name}; '
                f'it has {has}. Make them from recorded episodes of this robot and store them in '
                f'{METADATA}'
            )
        model = self.design.model
        return Normaliser.of(
            self.tags[robot.model_tag],
            robot,
            self.design.normalisation,
            model.state_dim,
            model.action_dim,
            self.design.row_spread,
        )


def load(
    source: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    base: Path | None = None,
    seed: int = 0,
) -> Policy:
    """Load a checkpoint folder, or make `preset:NAME` with random weights drawn from `seed`.

    A folder of adapters needs `base`, the complete checkpoint they were trained on. Raises
    ValueError or FileNotFoundError that names what is wrong and how to mend it.
    """
    if str(source).startswith(PRESET):
        return random(str(source).removeprefix(PRESET), seed, device, dtype)
    folder = Path(source)
    design = designs.read(folder)
    stock = gathered(folder, design, base)
    parts = tensor_index.networks(design, torch.device('meta'), tokenizer(design, folder, base))
    wanted = tensor_index.slots(parts)
    audit = tensor_index.audit(stock.tensors, wanted, tensor_index.unused(design))
    faults = '; '.join(filter(None, [audit.summary(), *misplaced(stock, wanted)]))
    if faults:
        raise ValueError(f'{folder} does not fit its config.json: {faults}')
    _fill(wanted, stock.tensors, _Deltas(design, stock, device), device, dtype)
    _finish(parts, device)
    return Policy(design, parts.dit, parts.encoders, tags(folder, base), str(folder))


def random(preset: str, seed: int, device: torch.device, dtype: torch.dtype) -> Policy:
    """Make a preset with random weights, drawn on the device; its `trained` is False.

    Prompts are read as bytes, whatever tokenizer the real model has: nothing was learned anyway.
    """
    design = designs.released(preset)
    parts = tensor_index.networks(
        design, torch.device('meta'), ByteTokenizer(design.model.text_len)
    )
    generator = torch.Generator(device).manual_seed(seed)
    wanted = tensor_index.slots(parts)
    fillers = _fillers(wanted)
    for name, slot in wanted.items():
        fillers[id(slot.module)].fill(
            slot, random_checkpoint.drawn(name, slot.entry.shape, dtype, generator), dtype
        )
    _finish(parts, device)
    made_up = {
        tag.name: tag
        for tag in random_checkpoint.tags([embodiment.load(name) for name in embodiment.names()])
    }
    return Policy(design, parts.dit, parts.encoders, made_up, PRESET + preset)


def save(policy: Policy, folder: Path, largest_shard: int = 5_000_000_000) -> None:
    """Write a policy in the released layout: config.json, safetensors, statistics.

    `largest_shard` is in bytes; more than one file gets an index.
    """
    (folder / METADATA.parent).mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps({'wam': policy.design.to_dict()}, indent=1))
    (folder / METADATA).write_text(
        json.dumps(normalization_stats.written(dict(policy.tags)), indent=1)
    )
    wanted = tensor_index.slots(Networks(policy.dit, policy.encoders))
    held = {key: filler.parameters for key, filler in _fillers(wanted).items()}
    sizes = {
        name: sum(held[id(slot.module)][target].nbytes for target in slot.entry.targets)
        for name, slot in wanted.items()
    }
    index = {}
    for file, names in safetensors_shards.grouped(sizes, largest_shard).items():
        content = {
            name: tensor_keymap.joined(wanted[name].entry, held[id(wanted[name].module)])
            for name in names
        }
        save_file(
            {name: tensor.detach().cpu() for name, tensor in content.items()},
            folder / file,
            metadata={'format': 'pt'},
        )
        index |= dict.fromkeys(names, file)
    safetensors_shards.write_index(folder, index, sum(sizes.values()))


def tags(folder: Path, base: Path | None = None) -> dict[str, Tag]:
    """Read the statistics of a checkpoint, else of its base; none if neither has any."""
    for place in (folder, base):
        if place is not None and (place / METADATA).is_file():
            return normalization_stats.read(place / METADATA)
    return {}


def tokenizer(design: Design, folder: Path, base: Path | None = None) -> Tokenizer:
    """Open the tokenizer of a checkpoint, from its own folder or its base's."""
    kind, length = design.encoders.tokenizer, design.model.text_len
    if kind == 'bytes':
        return ByteTokenizer(length)
    if base is not None and not (folder / kind).is_dir():
        folder = base
    return SentenceTokenizer(folder / kind, length)


@dataclass(frozen=True, slots=True)
class Stock:
    """Hold what the files offer, by plain name, before any of it is read.

    `pairs` maps a weight to the names of its adapter halves, which `halves` describes.
    """

    tensors: Mapping[str, Stored]
    pairs: Mapping[str, tuple[str, str]]
    halves: Mapping[str, Stored]


def gathered(folder: Path, design: Design, base: Path | None) -> Stock:
    """Gather the tensors of a checkpoint, an adapter folder on top of its base.

    ValueError if adapters lack their base, their other half or the modules trained with them.
    """
    found = _plainly_named(safetensors_shards.contents(folder))
    pairs = lora.adapters(found)
    halves = {half: found.pop(half) for pair in pairs.values() for half in pair}
    bare = not any(name.startswith(tensor_keymap.VAE) for name in found)
    if bare and (design.adapters or pairs):
        found = _on_base(folder, design, found, base)
    return Stock(found, pairs, halves)


def _plainly_named(found: Mapping[str, Stored]) -> dict[str, Stored]:
    plain: dict[str, Stored] = {}
    for name, stored in found.items():
        short = name if '.lora_' in name else lora.plain_name(name)
        if short in plain:
            raise ValueError(f'{name} and {plain[short].name} are the same tensor')
        plain[short] = stored
    return plain


def _on_base(
    folder: Path, design: Design, found: Mapping[str, Stored], base: Path | None
) -> dict[str, Stored]:
    """Lay the modules trained beside adapters over the complete base."""
    absent = [
        part
        for part in _ADAPTED
        if not any(name.startswith(tensor_keymap.DIT + part) for name in found)
    ]
    if absent:
        raise ValueError(
            f'{folder}: adapters without the modules trained with them: '
            f'{", ".join(part + "*" for part in absent)}'
        )
    if base is None:
        raise ValueError(
            f'{folder} holds adapters only: name the complete checkpoint they were trained on as '
            'the base (DreamZero-AgiBot for the released YAM and AgiBot scripts, not raw Wan)'
        )
    if designs.read(base).model != design.model:
        raise ValueError(
            f'{folder} and its base {base} describe different models; '
            'adapters fit only the model they were trained on'
        )
    ground = _plainly_named(safetensors_shards.contents(base))
    if lora.adapters(ground):
        raise ValueError(f'{base} has adapters of its own; the base must be a complete checkpoint')
    return {**ground, **found}


def misplaced(stock: Stock, wanted: Mapping[str, Slot]) -> list[str]:
    """Say which adapters change weights that were never trained with any."""
    lost = sorted(
        target
        for target in stock.pairs
        if target not in wanted
        or not target.startswith(tensor_keymap.DIT)
        or not lora.TARGETS.fullmatch(
            target.removeprefix(tensor_keymap.DIT).removesuffix('.weight')
        )
    )
    return [f'adapters for weights that take none: {", ".join(lost[:5])}'] if lost else []


class _Deltas:
    """Hold all adapters on the device; they are small beside the weights they change."""

    def __init__(self, design: Design, stock: Stock, device: torch.device) -> None:
        self.config = design.adapters or lora.RELEASED
        loaded = {
            stored.name: tensor.clone()
            for stored, tensor in safetensors_shards.tensors(stock.halves.values(), device)
        }
        self.pairs = {target: (loaded[a], loaded[b]) for target, (a, b) in stock.pairs.items()}

    def applied(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        if name not in self.pairs:
            return weight
        return lora.merged(weight, *self.pairs[name], self.config)


def _fill(
    wanted: Mapping[str, Slot],
    found: Mapping[str, Stored],
    deltas: _Deltas,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    plain = {(stored.file, stored.name): name for name, stored in found.items()}
    fillers = _fillers(wanted)
    needed = [found[name] for name in wanted]
    for stored, tensor in safetensors_shards.tensors(needed, device):
        name = plain[stored.file, stored.name]
        slot = wanted[name]
        fillers[id(slot.module)].fill(slot, deltas.applied(name, tensor), dtype)


class _Filler:
    """Put tensors in the place of a module's parameters; tied weights hang in several places."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = dict(module.named_parameters())
        self.places: dict[str, list[tuple[nn.Module, str]]] = {}
        first = {id(parameter): name for name, parameter in self.parameters.items()}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            owner, _, attribute = name.rpartition('.')
            self.places.setdefault(first[id(parameter)], []).append(
                (module.get_submodule(owner), attribute)
            )

    def fill(self, slot: Slot, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        parts = tensor_keymap.parts(tensor, slot.entry, self.parameters)
        for target, part in zip(slot.entry.targets, parts, strict=True):
            # On a CPU `part` is a view of the mapped file; where it was cut, of its neighbours.
            kept = part.to(dtype=dtype, copy=part.device.type == 'cpu' or len(parts) > 1)
            filled = nn.Parameter(kept.contiguous(), requires_grad=False)
            for owner, attribute in self.places[target]:
                setattr(owner, attribute, filled)


def _fillers(wanted: Mapping[str, Slot]) -> dict[int, _Filler]:
    modules = {id(slot.module): slot.module for slot in wanted.values()}
    return {key: _Filler(module) for key, module in modules.items()}


def _finish(parts: Networks, device: torch.device) -> None:
    if parts.encoders.image is not None:
        parts.encoders.image.materialise(device)
    for module in (parts.dit, parts.encoders):
        hollow = [
            name
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            if tensor.is_meta
        ]
        if hollow:
            raise ValueError(f'no file fills {", ".join(hollow)}')

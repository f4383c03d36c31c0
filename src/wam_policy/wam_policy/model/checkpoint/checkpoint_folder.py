"""Load and save checkpoint folders: strictly, without pickles, shard by shard onto the device.

Loading fails, with the names, if a tensor of the files is neither used nor known to be unused, or
if a parameter is not filled. Modules are built on `meta` and filled tensor by tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from wam_policy import robot_folders
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import (
    adapter_folder,
    normalization_stats,
    random_checkpoint,
    safetensors_shards,
    tensor_index,
    tensor_keymap,
)
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.adapter_folder import AdapterMerger
from wam_policy.model.checkpoint.load_errors import describe_error, is_out_of_memory, name_file
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata
from wam_policy.model.checkpoint.safetensors_shards import TensorInfo
from wam_policy.model.checkpoint.tensor_index import Networks, ParameterSlot
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.encoders.text_encoder import ByteTokenizer, PretrainedTokenizer, Tokenizer
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.normalizer import Normalizer

METADATA_PATH = Path('experiment_cfg') / 'metadata.json'
PRESET_PREFIX = 'preset:'


@dataclass(frozen=True, slots=True)
class WorldActionModel:
    """Hold a model ready for inference: networks, statistics and their source."""

    spec: ModelSpec
    dit: VideoActionDiT
    encoders: Encoders
    embodiments: Mapping[str, EmbodimentMetadata]
    source: str

    @property
    def is_trained(self) -> bool:
        return self.spec.trained

    @property
    def parameter_count(self) -> int:
        return sum(
            parameter.numel()
            for module in (self.dit, self.encoders)
            for parameter in module.parameters()
        )

    def make_normalizer(self, robot: Embodiment) -> Normalizer:
        """Return the normalizer of a robot; ValueError if the checkpoint lacks its statistics."""
        return make_normalizer(self.spec, self.embodiments, robot, self.source)


def make_normalizer(
    spec: ModelSpec,
    embodiments: Mapping[str, EmbodimentMetadata],
    robot: Embodiment,
    source: str,
) -> Normalizer:
    """Return the normalizer of a robot from the statistics of the checkpoint `source`.

    Raises ValueError with the robots it has if this one's are missing.
    """
    if robot.model_tag not in embodiments:
        has = ', '.join(embodiments) or 'none (no experiment_cfg/metadata.json)'
        raise ValueError(
            f'{source} has no statistics for tag {robot.model_tag!r} of {robot.name}; '
            f'it has {has}. Compute them from episodes of this robot and store them in '
            f'{METADATA_PATH}'
        )
    return Normalizer.from_metadata(
        embodiments[robot.model_tag],
        robot,
        spec.normalization,
        spec.model.state_dim,
        spec.model.action_dim,
        spec.row_std,
    )


def load(
    source: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    base: Path | None = None,
    seed: int = 0,
) -> WorldActionModel:
    """Load a checkpoint folder, or make `preset:NAME` with random weights drawn from `seed`.

    A folder of adapters needs `base`, the complete checkpoint they were trained on. Raises
    ValueError or FileNotFoundError that names the problem and the fix, whatever a library raised.
    """
    try:
        if not str(source).startswith(PRESET_PREFIX):
            return _load_folder(Path(source), device, dtype, base)
        if base is not None:
            raise ValueError(f'{source} has random weights and takes no base: leave out {base}')
        return make_random(str(source).removeprefix(PRESET_PREFIX), seed, device, dtype)
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ValueError(
                f'{source}: not enough memory on {device} for its weights in '
                f'{str(dtype).removeprefix("torch.")}: {describe_error(error)}; `./wam inspect` '
                'tells what it needs: free memory, use another device or --dtype bfloat16'
            ) from error
        raise ValueError(
            f'{source} cannot be loaded: {describe_error(error)}; see `./wam inspect`'
        ) from error


def _load_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, base: Path | None
) -> WorldActionModel:
    design = adapter_folder.read_spec(folder, base)
    stock = adapter_folder.collect_tensors(folder, design, base)
    parts = tensor_index.build_networks(
        design, torch.device('meta'), load_tokenizer(design, folder, base)
    )
    wanted = tensor_index.list_slots(parts)
    audit = tensor_index.compare_tensors(
        stock.tensors, wanted, tensor_index.unused_tensor_pattern(design)
    )
    misplaced = adapter_folder.find_misplaced_adapters(stock, wanted, design.adapters)
    faults = '; '.join(filter(None, [audit.format_summary(), *misplaced]))
    if faults:
        described = base if adapter_folder.is_peft_folder(folder) else folder
        raise ValueError(f'{folder} does not fit the config.json of {described}: {faults}')
    _load_parameters(wanted, stock.tensors, AdapterMerger(design, stock, device), device, dtype)
    _finalize(parts, device)
    return WorldActionModel(
        design, parts.dit, parts.encoders, read_metadata(folder, base), str(folder)
    )


def make_random(
    preset: str, seed: int, device: torch.device, dtype: torch.dtype
) -> WorldActionModel:
    """Make a preset with random weights, drawn on the device; its `trained` is False.

    Prompts are tokenized as bytes, whatever tokenizer the trained model has.
    """
    design = designs.make_preset_spec(preset)
    parts = tensor_index.build_networks(
        design, torch.device('meta'), ByteTokenizer(design.model.text_len)
    )
    generator = torch.Generator(device).manual_seed(seed)
    wanted = tensor_index.list_slots(parts)
    fillers = _make_loaders(wanted)
    for name, slot in wanted.items():
        fillers[id(slot.module)].load(
            slot, random_checkpoint.draw_weight(name, slot.entry.shape, dtype, generator), dtype
        )
    _finalize(parts, device)
    made_up = {
        tag.name: tag
        for tag in random_checkpoint.make_metadata(
            [robot_folders.load_robot(name) for name in robot_folders.list_robots()]
        )
    }
    return WorldActionModel(design, parts.dit, parts.encoders, made_up, PRESET_PREFIX + preset)


def save(model: WorldActionModel, folder: Path, max_shard_size: int = 5_000_000_000) -> None:
    """Write a model in the released layout: config.json, safetensors, statistics.

    `max_shard_size` is in bytes; more than one file gets an index.
    """
    (folder / METADATA_PATH.parent).mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps({'wam': model.spec.to_dict()}, indent=1))
    (folder / METADATA_PATH).write_text(
        json.dumps(normalization_stats.to_dict(dict(model.embodiments)), indent=1)
    )
    wanted = tensor_index.list_slots(Networks(model.dit, model.encoders))
    held = {key: filler.parameters for key, filler in _make_loaders(wanted).items()}
    sizes = {
        name: sum(held[id(slot.module)][target].nbytes for target in slot.entry.targets)
        for name, slot in wanted.items()
    }
    index = {}
    for file, names in safetensors_shards.split_into_shards(sizes, max_shard_size).items():
        content = {
            name: tensor_keymap.join_parameters(wanted[name].entry, held[id(wanted[name].module)])
            for name in names
        }
        save_file(
            {name: tensor.detach().cpu() for name, tensor in content.items()},
            folder / file,
            metadata={'format': 'pt'},
        )
        index |= dict.fromkeys(names, file)
    safetensors_shards.write_index(folder, index, sum(sizes.values()))


def read_metadata(folder: Path, base: Path | None = None) -> dict[str, EmbodimentMetadata]:
    """Read the statistics of a checkpoint, else of its base; empty if neither has any."""
    for place in (folder, base):
        if place is not None and (place / METADATA_PATH).is_file():
            with name_file(place / METADATA_PATH):
                return normalization_stats.read_metadata(place / METADATA_PATH)
    return {}


def load_tokenizer(spec: ModelSpec, folder: Path, base: Path | None = None) -> Tokenizer:
    """Load the tokenizer of a checkpoint from its own folder, else from its base."""
    kind, length = spec.encoders.tokenizer, spec.model.text_len
    if kind == 'bytes':
        return ByteTokenizer(length)
    if base is not None and not (folder / kind).is_dir():
        folder = base
    with name_file(folder / kind, 'copy the files of google/umt5-xxl into that folder again'):
        return PretrainedTokenizer(folder / kind, length)


def _load_parameters(
    slots: Mapping[str, ParameterSlot],
    found: Mapping[str, TensorInfo],
    adapters: AdapterMerger,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    plain = {(stored.file, stored.name): name for name, stored in found.items()}
    fillers = _make_loaders(slots)
    needed = [found[name] for name in slots]
    for stored, tensor in safetensors_shards.iter_tensors(needed, device):
        name = plain[stored.file, stored.name]
        slot = slots[name]
        fillers[id(slot.module)].load(slot, adapters.merge(name, tensor), dtype)


class _ParameterLoader:
    """Replace the parameters of a module by loaded tensors, tied weights at every location."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = dict(module.named_parameters())
        self.locations: dict[str, list[tuple[nn.Module, str]]] = {}
        first = {id(parameter): name for name, parameter in self.parameters.items()}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            owner, _, attribute = name.rpartition('.')
            self.locations.setdefault(first[id(parameter)], []).append(
                (module.get_submodule(owner), attribute)
            )

    def load(self, slot: ParameterSlot, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        parts = tensor_keymap.split_tensor(tensor, slot.entry, self.parameters)
        for target, part in zip(slot.entry.targets, parts, strict=True):
            kept = part.to(dtype=dtype, copy=len(parts) > 1)  # cut parts are views of the whole
            filled = nn.Parameter(kept.contiguous(), requires_grad=False)
            for owner, attribute in self.locations[target]:
                setattr(owner, attribute, filled)


def _make_loaders(slots: Mapping[str, ParameterSlot]) -> dict[int, _ParameterLoader]:
    modules = {id(slot.module): slot.module for slot in slots.values()}
    return {key: _ParameterLoader(module) for key, module in modules.items()}


def _finalize(networks: Networks, device: torch.device) -> None:
    if networks.encoders.image is not None:
        networks.encoders.image.init_position_ids(device)
    for module in (networks.dit, networks.encoders):
        unfilled = [
            name
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            if tensor.is_meta
        ]
        if unfilled:
            raise ValueError(f'no file fills {", ".join(unfilled)}')

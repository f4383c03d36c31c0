"""Read folders of low-rank adapters, in our layout or as peft writes them, over their base.

A folder of peft has no config.json: `adapter_config.json` states rank and scale, its base the
rest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint import safetensors_shards, tensor_keymap
from wam_policy.model.checkpoint.load_errors import name_file
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.checkpoint.safetensors_shards import PEFT_FILE, TensorInfo
from wam_policy.model.checkpoint.tensor_index import ParameterSlot
from wam_policy.model.network import lora
from wam_policy.model.network.lora import LoraConfig

PEFT_CONFIG = 'adapter_config.json'
# trained beside adapters, in the released layout
_MODULES_TO_SAVE = ('state_encoder', 'action_encoder', 'action_decoder')
_HEAD = 'action_head.'  # begins the name of every tensor of a complete checkpoint
# values of `init_lora_weights` that change the weights of the base, too
_CHANGES_BASE = ('pissa', 'olora', 'loftq', 'corda', 'lora_ga')
# settings under which peft computes something else than W + scale * B @ A, if they are not empty
_UNSUPPORTED = (
    'fan_in_fan_out',
    'layer_replication',
    'trainable_token_indices',
    'target_parameters',
    'alora_invocation_tokens',
    'arrow_config',
    'megatron_config',
    'lora_bias',
)
_DIGEST_VALUES = 64  # of each tensor of the transformer


@dataclass(frozen=True, slots=True)
class CheckpointTensors:
    """Describe the tensors of the files by plain name, before any is read.

    `adapter_names` maps a weight to the names of its two adapter tensors, which
    `adapter_tensors` describes.
    """

    tensors: Mapping[str, TensorInfo]
    adapter_names: Mapping[str, tuple[str, str]]
    adapter_tensors: Mapping[str, TensorInfo]


def is_peft_folder(folder: Path) -> bool:
    """Return whether a folder holds adapters as peft writes them."""
    return (folder / PEFT_FILE).is_file() and not safetensors_shards.has_own_weights(folder)


def read_spec(folder: Path, base: Path | None) -> ModelSpec:
    """Read the description of a checkpoint; of a folder of peft, that of its base.

    Raises ValueError or FileNotFoundError that names the file and the fix.
    """
    if not is_peft_folder(folder):
        return designs.read_spec(folder)
    settings = _read_peft_settings(folder)
    if base is None:
        raise ValueError(_describe_missing_base(folder, settings))
    return replace(designs.read_spec(base), adapters=_parse_peft_config(folder, settings))


def collect_tensors(folder: Path, spec: ModelSpec, base: Path | None) -> CheckpointTensors:
    """Collect the tensors of a checkpoint; those of an adapter folder replace its base's.

    Raises ValueError if adapters lack their base, their A or B tensor or the modules trained with
    them, or if a complete checkpoint is given a base.
    """
    is_peft = is_peft_folder(folder)
    found = safetensors_shards.read_tensor_infos(folder)
    if is_peft:
        found = {_qualify(name): stored for name, stored in found.items()}
    found = _strip_wrapper_names(found)
    try:
        pairs = lora.pair_adapters(found)
    except ValueError as error:
        raise ValueError(f'{folder}: {error}') from error
    halves = {half: found.pop(half) for pair in pairs.values() for half in pair}
    if not _is_complete(found) and (spec.adapters or pairs):
        wanted = _MODULES_TO_SAVE
        if is_peft:
            if not pairs:
                raise ValueError(f'{folder / PEFT_FILE}: no tensor is named ...lora_A.weight')
            wanted = tuple(_read_peft_settings(folder).get('modules_to_save') or ())
        found = _overlay_on_base(folder, spec, found, base, wanted)
    elif base is not None:
        raise ValueError(
            f'{folder} is complete, so the base {base} is of no use: leave out the base, or name '
            'the folder of adapters as the checkpoint'
        )
    return CheckpointTensors(found, pairs, halves)


def compute_digest(folder: Path) -> str:
    """Return a digest of a complete checkpoint's transformer, from samples of every tensor.

    Equal for copies in other shards or in bfloat16.
    """
    return _digest(_strip_wrapper_names(safetensors_shards.read_tensor_infos(folder)))


def _digest(tensors: Mapping[str, TensorInfo]) -> str:
    names = sorted(name for name in tensors if name.startswith(tensor_keymap.DIT_PREFIX))
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(tensors[name].file, []).append(name)
    samples: dict[str, bytes] = {}
    for path, group in by_file.items():
        with name_file(path), safe_open(str(path), framework='pt') as file:
            for name in group:
                part = file.get_slice(tensors[name].name)
                first = part[0:1] if tensors[name].shape else file.get_tensor(tensors[name].name)
                values = first.flatten()[:_DIGEST_VALUES].to(torch.bfloat16)
                samples[name] = values.view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + samples[name])
    return digest.hexdigest()


def _is_complete(names: Iterable[str]) -> bool:
    """Return whether tensors are those of a whole model, which has an autoencoder."""
    return any(name.startswith(tensor_keymap.VAE_PREFIX) for name in names)


def _qualify(name: str) -> str:
    """Return the full name of a tensor of peft, which may have wrapped the transformer alone."""
    plain = name.removeprefix('base_model.model.')
    return plain if plain.startswith(_HEAD) else tensor_keymap.DIT_PREFIX + plain


def _strip_wrapper_names(found: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    plain: dict[str, TensorInfo] = {}
    for name, stored in found.items():
        short = name if '.lora_' in name else lora.base_weight_name(name)
        if short in plain:
            raise ValueError(
                f'{stored.file}: {name} and {plain[short].name} are the same tensor; keep one'
            )
        plain[short] = stored
    return plain


def _read_peft_settings(folder: Path) -> dict[str, Any]:
    path = folder / PEFT_CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f'{folder}: {PEFT_FILE} without {PEFT_CONFIG}, which states rank and scale: copy it '
            'from where the adapters were trained'
        )
    with name_file(path):
        settings = json.loads(path.read_text())
        if not isinstance(settings, dict):
            raise ValueError(f'{path}: want an object, got {settings!r:.80}')
    return settings


def _parse_peft_config(folder: Path, settings: Mapping[str, Any]) -> LoraConfig:
    """Return rank and scale; ValueError for a kind of adapter that does not add B @ A."""
    path = folder / PEFT_CONFIG
    kind = settings.get('peft_type')
    if kind != 'LORA':
        raise ValueError(f'{path}: peft_type is {kind!r}, want LORA; merge the adapters with peft')
    init = str(settings.get('init_lora_weights', '')).lower()
    unfit = [
        key
        for key, value in settings.items()
        if value and (key in _UNSUPPORTED or key.startswith('use_') and key != 'use_rslora')
    ]
    if init.startswith(_CHANGES_BASE):
        unfit.append('init_lora_weights')
    if unfit:
        raise ValueError(
            f'{path}: {", ".join(f"{key}={settings[key]!r}" for key in unfit)} cannot be merged '
            'here; merge the adapters with peft (merge_and_unload) and give the whole checkpoint'
        )
    with name_file(path, 'want r and lora_alpha as peft writes them'):
        config = LoraConfig(
            int(settings['r']),
            float(settings['lora_alpha']),
            bool(settings.get('use_rslora')),
            {key: int(value) for key, value in (settings.get('rank_pattern') or {}).items()},
            {key: float(value) for key, value in (settings.get('alpha_pattern') or {}).items()},
        )
        if min([config.rank, *config.rank_pattern.values()]) < 1:
            raise ValueError(f'r is {config.rank}, want ranks of 1 or more')
    return config


def _describe_missing_base(folder: Path, settings: Mapping[str, Any] | None = None) -> str:
    recorded = (settings or {}).get('base_model_name_or_path')
    return (
        f'{folder} holds adapters only: name the complete checkpoint they were trained on as '
        'the base '
        + (
            f'(recorded in {PEFT_CONFIG}: {recorded})'
            if recorded
            else '(DreamZero-AgiBot for the released YAM and AgiBot scripts, not raw Wan)'
        )
        + ': base:=DIR, or --base DIR'
    )


def _overlay_on_base(
    folder: Path,
    spec: ModelSpec,
    found: Mapping[str, TensorInfo],
    base: Path | None,
    trained_modules: Iterable[str],
) -> dict[str, TensorInfo]:
    """Replace the modules trained with the adapters in the tensors of the complete base."""
    absent = [part for part in trained_modules if not any(f'.{part}.' in name for name in found)]
    if absent:
        raise ValueError(
            f'{folder}: adapters without the modules trained with them: '
            f'{", ".join(part + ".*" for part in absent)}; copy the whole folder'
        )
    if base is None:
        raise ValueError(_describe_missing_base(folder))
    if designs.read_spec(base).model != spec.model:
        raise ValueError(
            f'{folder} and its base {base} describe different models; '
            'adapters fit only the model they were trained on'
        )
    ground = _strip_wrapper_names(safetensors_shards.read_tensor_infos(base))
    if lora.pair_adapters(ground) or not _is_complete(ground):
        raise ValueError(
            f'{base} holds adapters or a part of a model; the base must be a complete checkpoint'
        )
    recorded = spec.adapters.base_digest if spec.adapters else ''
    if recorded and recorded != _digest(ground):
        raise ValueError(
            f'{base} is not the checkpoint that the adapters of {folder} were trained on: digest '
            f'{_digest(ground):.12}, want {recorded:.12}; give the --init of their training as '
            'the base'
        )
    return {**ground, **found}


def find_misplaced_adapters(
    tensors: CheckpointTensors, slots: Mapping[str, ParameterSlot], config: LoraConfig | None
) -> list[str]:
    """Return error texts if adapters do not target linear layers, or are of another size."""
    lost, misshaped = [], []
    for target, (a, b) in sorted(tensors.adapter_names.items()):
        if target not in slots or not _is_linear(slots[target]):
            lost.append(target)
            continue
        rank = (config or lora.RELEASED_LORA).for_module(target.removesuffix('.weight')).rank
        rows, columns = slots[target].entry.shape
        shapes = tuple(tensors.adapter_tensors[half].shape for half in (a, b))
        if shapes != ((rank, columns), (rows, rank)):
            misshaped.append(
                f'{target} has A {list(shapes[0])} and B {list(shapes[1])}, want A '
                f'{[rank, columns]} and B {[rows, rank]} at rank {rank}'
            )
    errors = []
    if lost:
        errors.append(
            f'adapters for weights that take none: {", ".join(lost[:5])}; want linear layers of '
            'the transformer'
        )
    if misshaped:
        more = f' and {len(misshaped) - 1} more' if len(misshaped) > 1 else ''
        errors.append(
            f'{misshaped[0]}{more}; the adapters are of another base, or their config states '
            'another rank'
        )
    return errors


def _is_linear(slot: ParameterSlot) -> bool:
    owner, _, attribute = slot.entry.targets[0].rpartition('.')
    return attribute == 'weight' and isinstance(slot.module.get_submodule(owner), nn.Linear)


class AdapterMerger:
    """Merge adapters, all held on the device: they are small compared with the weights."""

    def __init__(self, spec: ModelSpec, tensors: CheckpointTensors, device: torch.device) -> None:
        self._config = spec.adapters or lora.RELEASED_LORA
        names = {(info.file, info.name): half for half, info in tensors.adapter_tensors.items()}
        loaded = {
            names[stored.file, stored.name]: tensor
            for stored, tensor in safetensors_shards.iter_tensors(
                tensors.adapter_tensors.values(), device
            )
        }
        self._pairs = {
            target: (loaded[a], loaded[b]) for target, (a, b) in tensors.adapter_names.items()
        }

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight with its adapter, if it has one."""
        if name not in self._pairs:
            return weight
        config = self._config.for_module(name.removesuffix('.weight'))
        return lora.merge_adapter(weight, *self._pairs[name], config)

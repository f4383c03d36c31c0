"""Write folders that hold adapters only, for tests of their loading."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from wam_policy.model.checkpoint import safetensors_shards, tensor_keymap
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.checkpoint.random_checkpoint import (
    draw_weight,
    make_config,
    tensor_shapes,
)
from wam_policy.model.network.lora import TARGET_MODULES


def write_adapters(spec: ModelSpec, folder: Path, *, dtype: torch.dtype, seed: int = 0) -> None:
    """Write adapters only, as a fine-tuned release does: low-rank pairs and trained modules."""
    if spec.adapters is None:
        raise ValueError(f'{spec.name} has no adapters; set them in the spec')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(make_config(spec), indent=1))
    generator = torch.Generator().manual_seed(seed)
    wrapped = tensor_keymap.DIT_PREFIX + 'base_model.model.'
    content = {}
    for name, shape in tensor_shapes(spec).items():
        inner = name.removeprefix(tensor_keymap.DIT_PREFIX)
        if name == inner:
            continue
        if inner.startswith(('state_encoder.', 'action_encoder.', 'action_decoder.')):
            content[wrapped + inner] = draw_weight(name, shape, dtype, generator)
        elif _takes_adapter(inner):
            layer, rank = wrapped + inner.removesuffix('.weight'), spec.adapters.rank
            content[f'{layer}.lora_A.default.weight'] = draw_weight(
                name, (rank, shape[1]), dtype, generator
            )
            content[f'{layer}.lora_B.default.weight'] = draw_weight(
                name, (shape[0], rank), dtype, generator
            )
    save_file(content, folder / safetensors_shards.SINGLE_FILE, metadata={'format': 'pt'})


def _takes_adapter(name: str) -> bool:
    return name.endswith('.weight') and bool(
        TARGET_MODULES.fullmatch(name.removesuffix('.weight'))
    )

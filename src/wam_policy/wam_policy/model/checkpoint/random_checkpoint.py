"""Checkpoints of random weights in the released layout: its tensor names, shapes and files.

For tests, speed measurements and dry runs without the real weights. Everything is marked as
untrained (`trained` false, statistics `synthetic`).
"""

import json
import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors.torch import save_file

from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot.embodiment import Embodiment, ModelKey
from wam_policy.model.checkpoint import (
    normalization_stats,
    safetensors_shards,
    tensor_index,
    tensor_keymap,
)
from wam_policy.model.checkpoint.model_spec import ModelSpec, make_preset_spec
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata, Statistics
from wam_policy.model.encoders.wan_vae import VaeConfig

_DTYPE_NAMES = {dtype: name for name, dtype in safetensors_shards.DTYPES.items()}
DEFAULT_MAX_SHARD_SIZE = 5_000_000_000  # bytes
DEPRECATED_OPTIONS = {'--hollow': '--sparse', '--largest-shard': '--max-shard-size'}
# Largest offset from the current position that an untrained model may command. Its output is
# about its input noise: one model unit is one standard deviation, and 3 cover 99.7 % of it.
MAX_OFFSET_RAD = 0.15
OFFSET_STD_RAD = MAX_OFFSET_RAD / 3


# ---- statistics


def _make_statistics(low: np.ndarray, high: np.ndarray) -> Statistics:
    return Statistics(
        q01=low, q99=high, min=low, max=high, mean=(low + high) / 2, std=(high - low) / 4
    )


def _make_state_statistics(robot: Embodiment, key: ModelKey) -> Statistics:
    """Scale joint positions by pi and gripper openings by 1, for every joint."""
    kinds = [robot.joint(name).kind for name in key.joints]
    high = np.array([1.0 if kind == 'gripper' else math.pi for kind in kinds])
    return _make_statistics(-high, high)


def _make_action_statistics(robot: Embodiment, key: ModelKey) -> Statistics:
    """Limit relative actions to small offsets; absolute ones cover the range of the joint."""
    if key.relative or not key.joints:
        high = np.full(key.size, OFFSET_STD_RAD)
        return _make_statistics(-high, high)
    joints = [robot.joint(name) for name in key.joints]
    return _make_statistics(
        np.array([joint.lower for joint in joints]), np.array([joint.upper for joint in joints])
    )


def make_metadata(robots: Sequence[Embodiment]) -> list[EmbodimentMetadata]:
    """Make synthetic statistics with which random weights move an arm by small offsets only."""
    return [
        EmbodimentMetadata(
            robot.model_tag,
            MappingProxyType(
                {part.key: _make_state_statistics(robot, part) for part in robot.state_keys}
            ),
            MappingProxyType(
                {part.key: _make_action_statistics(robot, part) for part in robot.action_keys}
            ),
            MappingProxyType({camera.key: camera.size for camera in robot.cameras}),
            synthetic=True,
        )
        for robot in robots
    ]


# ---- config.json


def make_config(spec: ModelSpec) -> dict[str, object]:
    """Return config.json in the released schema, with a `wam` section for what that lacks.

    Prompts are tokenized as bytes: random weights need no copy of a tokenizer.
    """
    model = spec.model
    plain = replace(spec, trained=False, encoders=replace(spec.encoders, tokenizer='bytes'))
    own = plain.to_dict()
    del own['model']
    network = {
        'model_type': 'i2v' if model.condition_channels else 'ti2v',
        'dim': model.dim,
        'num_heads': model.heads,
        'num_layers': model.layers,
        'ffn_dim': model.ffn_dim,
        'freq_dim': model.freq_dim,
        'eps': model.eps,
        'in_dim': model.latent_channels + model.condition_channels,
        'out_dim': model.latent_channels,
        'text_dim': model.text_dim,
        'text_len': model.text_len,
        'concat_first_frame_latent': bool(model.condition_channels),
        'frame_seqlen': model.frame_tokens,
        'num_frame_per_block': model.frames_per_block,
        'num_action_per_block': model.actions_per_block,
        'num_state_per_block': model.states_per_block,
        'max_chunk_size': model.window_blocks,
        'hidden_size': model.action_hidden,
    }
    head = {
        'action_horizon': model.actions_per_block,
        'action_dim': model.action_dim,
        'max_action_dim': model.action_dim,
        'max_state_dim': model.state_dim,
        'num_frame_per_block': model.frames_per_block,
        'train_architecture': 'lora' if spec.adapters else 'full',
        'diffusion_model_cfg': network,
    }
    return {
        'model_type': 'vla',
        'architectures': ['VLA'],
        'action_horizon': model.actions_per_block,
        'action_dim': model.action_dim,
        'action_head_cfg': {'config': head},
        'wam': own,
    }


def make_toy_spec(spec: ModelSpec, tile: tuple[int, int] = (32, 32)) -> ModelSpec:
    """Shrink a released spec to a few megabytes, keeping every kind of tensor it has."""
    old, parts = spec.model, spec.encoders
    if not isinstance(parts.vae, VaeConfig):
        raise ValueError(f'{spec.name} is not a released model: make_toy_spec shrinks those only')
    pixels = replace(
        parts.vae, channels=4, base_dim=8, decoder_base_dim=8, mean=(0.0,) * 4, std=(1.0,) * 4
    )
    words = replace(parts.text, vocabulary=259, dim=48, heads=4, head_dim=12, ffn_dim=64, layers=2)
    frame = parts.image and replace(
        parts.image, dim=32, heads=2, layers=2, mlp_dim=64, patch=8, size=32
    )
    box = replace(
        spec.canvas,
        arrangement=spec.canvas.arrangement or 'quadrants',
        tile=tile,
        size=spec.canvas.size and tile,
    )
    height, width = box.image_size
    rows, columns = height // pixels.stride, width // pixels.stride
    model = replace(
        old,
        dim=64,
        heads=2,
        layers=3,
        ffn_dim=96,
        freq_dim=32,
        text_dim=48,
        text_len=64,
        image_dim=32 if old.image_context else 0,
        action_hidden=32,
        latent_channels=4,
        latent_size=(rows // 2 * 2, columns // 2 * 2),
        condition_channels=8 if old.condition_channels else 0,
    )
    parts = replace(parts, vae=pixels, text=words, image=frame, tokenizer='bytes')
    return replace(
        spec, name=f'{spec.name}_toy', model=model, canvas=box, trained=False, encoders=parts
    )


# ---- weights


def unused_tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of the tensors in released files that inference never reads."""
    frame = spec.encoders.image
    if frame is None:
        return {}
    prefix = f'{tensor_keymap.IMAGE_PREFIX}visual.'
    block = {
        name: slot.entry.shape
        for name, slot in _list_slots(spec).items()
        if name.startswith(f'{prefix}transformer.0.')
    }
    last = {
        name.replace('transformer.0.', f'transformer.{frame.layers}.'): shape
        for name, shape in block.items()
    }
    return last | {
        f'{prefix}post_norm.weight': (frame.dim,),
        f'{prefix}post_norm.bias': (frame.dim,),
        f'{prefix}head': (frame.dim, frame.dim * 4 // 5),
        f'{tensor_keymap.IMAGE_PREFIX}log_scale': (),
    }


def _list_slots(spec: ModelSpec) -> dict[str, tensor_index.ParameterSlot]:
    return tensor_index.list_slots(tensor_index.build_networks(spec, torch.device('meta'), None))


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a complete released checkpoint of this spec."""
    return {
        name: slot.entry.shape for name, slot in _list_slots(spec).items()
    } | unused_tensor_shapes(spec)


def draw_weight(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Draw a weight that keeps activations at unit scale: 1 for norms, std 1/sqrt(in) for maps."""
    if len(shape) < 2 or name.endswith(('gamma', '.b')):
        ones = name.endswith(('gamma', 'weight'))
        return torch.full(shape, 1.0 if ones else 0.0, dtype=dtype, device=generator.device)
    inputs = shape[1] if name.endswith('.W') else torch.Size(shape[1:]).numel()
    numbers = torch.randn(shape, generator=generator, device=generator.device)
    return (numbers * inputs**-0.5).to(dtype)


def write_checkpoint(
    spec: ModelSpec,
    robots: Sequence[Embodiment],
    folder: Path,
    *,
    dtype: torch.dtype,
    seed: int = 0,
    max_shard_size: int = DEFAULT_MAX_SHARD_SIZE,
) -> None:
    """Write a checkpoint of random weights of `dtype` in the released layout."""
    _write_json_files(spec, robots, folder)
    wanted = tensor_shapes(spec)
    groups = safetensors_shards.split_into_shards(
        {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in wanted.items()},
        max_shard_size,
    )
    generator = torch.Generator().manual_seed(seed)
    files = {}
    for file, names in groups.items():
        save_file(
            {name: draw_weight(name, wanted[name], dtype, generator) for name in names},
            folder / file,
            metadata={'format': 'pt'},
        )
        files |= dict.fromkeys(names, file)
    safetensors_shards.write_index(
        folder, files, sum(torch.Size(s).numel() for s in wanted.values()) * dtype.itemsize
    )


def write_sparse_checkpoint(
    spec: ModelSpec,
    robots: Sequence[Embodiment],
    folder: Path,
    *,
    dtype: torch.dtype,
    max_shard_size: int = DEFAULT_MAX_SHARD_SIZE,
) -> None:
    """Write sparse files with valid headers and full sizes; all weights read as 0."""
    _write_json_files(spec, robots, folder)
    wanted = tensor_shapes(spec)
    sizes = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in wanted.items()}
    files = {}
    for file, names in safetensors_shards.split_into_shards(sizes, max_shard_size).items():
        header, end = {}, 0
        for name in names:
            header[name] = {
                'dtype': _DTYPE_NAMES[dtype],
                'shape': list(wanted[name]),
                'data_offsets': [end, end + sizes[name]],
            }
            end += sizes[name]
        text = json.dumps(header).encode()
        text += b' ' * (-len(text) % 8)
        with (folder / file).open('wb') as out:
            out.write(struct.pack('<Q', len(text)) + text)
            out.truncate(8 + len(text) + end)
        files |= dict.fromkeys(names, file)
    safetensors_shards.write_index(folder, files, sum(sizes.values()))


def _write_json_files(spec: ModelSpec, robots: Sequence[Embodiment], folder: Path) -> None:
    (folder / 'experiment_cfg').mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(make_config(spec), indent=1))
    content = normalization_stats.to_dict({tag.name: tag for tag in make_metadata(robots)})
    (folder / 'experiment_cfg' / 'metadata.json').write_text(json.dumps(content, indent=1))


# ---- command


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a checkpoint of random weights, in the layout of the released ones."""
    parser = CommandParser(
        'python -m wam_policy.model.checkpoint.random_checkpoint', main.__doc__, DEPRECATED_OPTIONS
    )
    parser.add_argument('folder', type=Path)
    parser.add_argument(
        '--preset', choices=('dreamzero_14b', 'dreamzero_5b'), default='dreamzero_14b'
    )
    parser.add_argument('--toy', action='store_true', help='a few megabytes, every kind of tensor')
    parser.add_argument(
        '--sparse',
        action='store_true',
        help='full-size files that take no disk space: headers, and weights read as zero',
    )
    parser.add_argument('--seed', type=int, default=0)
    add_value(parser, '--max-shard-size', DEFAULT_MAX_SHARD_SIZE, 'of one file', 'BYTES')
    chosen = parser.parse(arguments)
    spec = make_preset_spec(chosen.preset)
    robots = [robot_folders.load_robot(name) for name in robot_folders.list_robots()]
    if chosen.toy:
        spec = make_toy_spec(spec)
    write = (
        write_sparse_checkpoint if chosen.sparse else partial(write_checkpoint, seed=chosen.seed)
    )
    write(
        spec,
        robots,
        chosen.folder,
        dtype=torch.bfloat16,
        max_shard_size=chosen.max_shard_size,
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""The reference's numbers for encoders, normaliser, prompts and images, at toy size.

Cases are found, not listed: any folder of WAM_PARITY_DIR with a matching name is run.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wam_policy.core.observation import view_tiles
from wam_policy.model import normalizer
from wam_policy.model.checkpoint import tensor_keymap
from wam_policy.model.checkpoint.normalization_stats import Statistics
from wam_policy.model.encoders import image_encoder, prompts, text_encoder, view_layout, wan_vae

ROOT = Path(
    os.environ.get('WAM_PARITY_DIR', Path(__file__).resolve().parents[4] / 'shared' / 'parity')
)
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f'no parity numbers at {ROOT}; set WAM_PARITY_DIR'
)


def cases(prefix: str) -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob(f'{prefix}*/case.json'))


def read(case: str) -> dict[str, Any]:
    """Read a case, with tensors in place of {"tensor": key}."""

    def filled(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
        if isinstance(node, dict) and set(node) == {'tensor'}:
            return tensors[node['tensor']]
        if isinstance(node, dict):
            return {key: filled(value, tensors) for key, value in node.items()}
        return node

    content = json.loads((ROOT / case / 'case.json').read_text())
    return {
        part: filled(
            tree, load_file(path) if (path := ROOT / case / f'{part}.safetensors').exists() else {}
        )
        for part, tree in content.items()
    }


@pytest.mark.parametrize('case', cases('images_'))
def test_images(case: str) -> None:
    data = read(case)['data']
    views = tuple(data['order'])
    height, width = next(iter(data['per_cam'].values())).shape[1:3]
    for view in views:
        ours = view_layout.crop_and_resize(data['raw'][view], height, width)
        assert torch.equal(ours, data['per_cam'][view])
    tag = case.removeprefix('images_').rsplit('_', 1)[0]
    plan = view_tiles.make_layout(
        view_tiles.released_layout_name(tag, len(views)), views, height, width
    )
    stitched = view_layout.compose_views(data['raw'], plan)
    assert torch.equal(stitched, data['canvas'])
    video = view_layout.to_model_input(stitched[None], torch.bfloat16)
    assert torch.equal(video, data['model_bf16'])


@pytest.mark.parametrize('case', cases('prompts'))
def test_prompts(case: str) -> None:
    for row in read(case)['data']:
        assert prompts.make_prompt(row['tag'], row['instruction']) == row['prompt']


@pytest.mark.parametrize('case', cases('normaliser'))
def test_normaliser(case: str) -> None:
    data = read(case)['data']
    statistics = Statistics(**{key: np.array(row) for key, row in data['stats'].items()})
    for mode, expected in data['out'].items():
        there = normalizer.normalize(data['x'].numpy(), statistics, mode)
        np.testing.assert_allclose(there, expected['y'].numpy(), rtol=0, atol=2e-6)
        back = normalizer.denormalize(expected['y'].numpy(), statistics, mode)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, expected['inv'].numpy(), rtol=1e-6, atol=0)


TOLERANCE = 5e-5  # of fp32 results, relative to the largest number of the output


def filled(
    net: torch.nn.Module,
    entries: list[tensor_keymap.TensorMapping],
    weights: dict[str, torch.Tensor],
    unused: re.Pattern[str] | None = None,
) -> None:
    """Fill a module from reference-named tensors; every one is used or known to be unused."""
    parameters = dict(net.named_parameters())
    for entry in entries:
        for target, part in zip(
            entry.targets,
            tensor_keymap.split_tensor(weights[entry.name], entry, parameters),
            strict=True,
        ):
            parameters[target].data.copy_(part)
    spare = set(weights) - {entry.name for entry in entries}
    assert all(unused and unused.fullmatch(f'visual.{name}') for name in spare), spare


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def report(case: str, errors: dict[str, float]) -> None:
    for name, value in errors.items():
        print(f'{case:8s} {name:12s} {value:.1e}')
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.parametrize('case', cases('vae'))
@torch.no_grad()
def test_vae(case: str) -> None:
    content = read(case)
    weights, data = content['weights'], content['data']
    residual = any('.downsamples.0.downsamples.' in name for name in weights)
    place = 'downsamples.0.downsamples' if residual else 'downsamples'
    blocks = next(i for i in range(9) if f'encoder.{place}.{i}.residual.2.weight' not in weights)
    net = wan_vae.Vae(
        wan_vae.VaeConfig(
            channels=len(weights['conv2.bias']),
            base_dim=len(weights['encoder.conv1.bias']),
            decoder_base_dim=weights['decoder.head.2.weight'].shape[1],
            res_blocks=blocks,
            residual=residual,
            patch=math.isqrt(weights['encoder.conv1.weight'].shape[1] // 3),
            mean=tuple(data['mean'].tolist()),
            std=tuple(data['std'].tolist()),
        )
    )
    filled(net.net, tensor_keymap.map_vae(net.net, residual=residual, res_blocks=blocks), weights)
    errors = {
        f'encode {n}': error(net.encode(row['x']), row['z']) for n, row in data['enc'].items()
    }
    errors |= {
        f'decode {n}': error(net.decode(row['z']), row['x']) for n, row in data['dec'].items()
    }
    report(case, errors)


@pytest.mark.parametrize('case', cases('t5'))
@torch.no_grad()
def test_text(case: str) -> None:
    content = read(case)
    weights, data = content['weights'], content['data']
    vocabulary, dim = weights['token_embedding.weight'].shape
    buckets, heads = weights['blocks.0.pos_embedding.embedding.weight'].shape
    layers = len([name for name in weights if name.endswith('attn.q.weight')])
    net = text_encoder.TextEncoder(
        text_encoder.TextConfig(
            vocabulary,
            dim,
            heads,
            len(weights['blocks.0.attn.q.weight']) // heads,
            len(weights['blocks.0.ffn.fc1.weight']),
            layers,
            buckets,
        )
    )
    filled(net.net, tensor_keymap.map_text_encoder(net.net), weights)
    ours = net(data['ids'], data['mask'])
    kept = data['mask'].bool()
    report(
        case, {'zeroed': error(ours, data['zeroed']), 'raw': error(ours[kept], data['raw'][kept])}
    )


@pytest.mark.parametrize('case', cases('clip'))
@torch.no_grad()
def test_image_tower(case: str) -> None:
    content = read(case)
    weights, data = content['weights'], content['data']
    dim, _, patch, _ = weights['patch_embedding.weight'].shape
    size = patch * math.isqrt(weights['pos_embedding'].shape[1] - 1)
    layers = len([name for name in weights if name.endswith('to_qkv.weight')]) - 1
    mlp = len(weights['transformer.0.mlp.0.bias'])
    frame = data['img'][:, 0]
    # The case does not say how many heads it has; at most one count can give its numbers.
    errors = {}
    for heads in (heads for heads in range(1, dim + 1) if dim % heads == 0):
        net = image_encoder.ImageEncoder(
            image_encoder.ImageConfig(dim, heads, layers, mlp, patch, size)
        )
        filled(
            net.net,
            tensor_keymap.map_image_encoder(net.net),
            weights,
            tensor_keymap.unused_image_pattern(layers),
        )
        errors[f'{heads} heads'] = error(net(frame), data['out'])
    best = min(errors, key=errors.__getitem__)
    report(case, {best: errors[best]})

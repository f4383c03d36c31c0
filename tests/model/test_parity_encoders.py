"""The reference's numbers for encoders, normaliser, prompts and images, at toy size.

Cases are found, not listed: any folder of WAM_PARITY_DIR with a matching name is run.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wam_policy.model import canvas, normaliser, prompts
from wam_policy.model.metadata import Statistics

ROOT = Path(os.environ.get(
    'WAM_PARITY_DIR', Path(__file__).parents[2].parent / 'shared' / 'parity'))
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f'no parity numbers at {ROOT}; set WAM_PARITY_DIR')


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
        part: filled(tree, load_file(path) if (path := ROOT / case / f'{part}.safetensors')
                     .exists() else {})
        for part, tree in content.items()}


@pytest.mark.parametrize('case', cases('images_'))
def test_images(case: str) -> None:
    data = read(case)['data']
    views = tuple(data['order'])
    height, width = next(iter(data['per_cam'].values())).shape[1:3]
    for view in views:
        ours = canvas.tile_pixels(data['raw'][view], height, width)
        assert torch.equal(ours, data['per_cam'][view])
    tag = case.removeprefix('images_').rsplit('_', 1)[0]
    plan = canvas.layout(canvas.released_arrangement(tag, len(views)), views, height, width)
    stitched = canvas.stitched(data['raw'], plan)
    assert torch.equal(stitched, data['canvas'])
    video = canvas.model_input(stitched[None], torch.bfloat16)
    assert torch.equal(video, data['model_bf16'])


@pytest.mark.parametrize('case', cases('prompts'))
def test_prompts(case: str) -> None:
    for row in read(case)['data']:
        assert prompts.prompt(row['tag'], row['instruction']) == row['prompt']


@pytest.mark.parametrize('case', cases('normaliser'))
def test_normaliser(case: str) -> None:
    data = read(case)['data']
    statistics = Statistics(**{key: np.array(row) for key, row in data['stats'].items()})
    for mode, expected in data['out'].items():
        there = normaliser.normalised(data['x'].numpy(), statistics, mode)
        np.testing.assert_allclose(there, expected['y'].numpy(), rtol=0, atol=2e-6)
        back = normaliser.restored(expected['y'].numpy(), statistics, mode)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, expected['inv'].numpy(), rtol=1e-6, atol=0)

"""Fine-tuning a released layout at toy size: adapters only, and everything."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.learning import played
from wam_learning.training import lora_training, train
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import (
    adapter_folder,
    checkpoint_folder,
    inspect_checkpoint,
    random_checkpoint,
)
from wam_policy.model.checkpoint.model_spec import make_preset_spec
from wam_policy.model.network import lora
from wam_policy.model.network.video_action_dit import VideoActionDiT

ROBOT = embodiment.load_embodiment('agibot_g1')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return played.write_dataset(tmp_path_factory.mktemp('data') / 'a', 3, rows=60, labels=False)


@pytest.fixture(scope='module', params=['dreamzero_14b', 'dreamzero_5b'])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / 'base'
    design = random_checkpoint.make_toy_spec(
        make_preset_spec(request.param), (16, 16) if '14b' in request.param else (32, 32)
    )
    design = replace(design, model=replace(design.model, layers=2, window_blocks=2))
    random_checkpoint.write_checkpoint(design, [ROBOT], folder, dtype=torch.float32)
    return folder


def run_training(data, out, base, *more):
    words = [
        data,
        '--out',
        out,
        '--init',
        base,
        '--stage',
        'joint',
        '--steps',
        2,
        '--batch-size',
        2,
        '--device',
        'cpu',
        '--no-bf16',
        '--ema-decay',
        0.0,
        *more,
    ]
    return train.main([str(word) for word in words])


def test_adapters_are_written_as_released_ones_and_fit_their_base(data, base, tmp_path):
    out = tmp_path / 'out'
    assert run_training(data, out, base, '--lora-rank', 2, '--gradient-checkpointing') == 0
    stored = load_file(out / 'model.safetensors')
    prefix = 'action_head.model.base_model.model.'
    assert all(name.startswith(prefix) for name in stored)
    trained = {name.removeprefix(prefix).split('.lora_')[0] for name in stored}
    blocks = {name for name in trained if name.startswith('blocks.')}
    assert blocks and all(lora.TARGET_MODULES.fullmatch(name) for name in blocks)
    assert {name.split('.')[0] for name in trained - blocks} == set(
        lora_training.FULLY_TRAINED_MODULES
    )
    assert any(t.any() for name, t in stored.items() if '.lora_B.' in name)
    report = inspect_checkpoint.inspect_checkpoint(out, base)
    assert report.is_loadable, report.problems
    tuned = checkpoint_folder.load(out, torch.device('cpu'), torch.float32, base)
    before = checkpoint_folder.load(base, torch.device('cpu'), torch.float32)
    digest = adapter_folder.compute_digest(base)
    assert tuned.is_trained
    assert tuned.spec.adapters == lora.LoraConfig(2, 2.0, base_digest=digest)
    assert not tuned.embodiments['agibot'].synthetic
    moved = {
        name
        for (name, new), old in zip(
            tuned.dit.named_parameters(), before.dit.parameters(), strict=True
        )
        if not torch.equal(new, old)
    }
    assert moved and all(
        name.startswith(lora_training.FULLY_TRAINED_MODULES)
        or lora.TARGET_MODULES.fullmatch(name.removesuffix('.weight'))
        for name in moved
    )
    frozen = zip(tuned.encoders.parameters(), before.encoders.parameters(), strict=True)
    assert all(torch.equal(new, old) for new, old in frozen)


def test_everything_can_be_trained_instead(data, base, tmp_path):
    out = tmp_path / 'out'
    assert run_training(data, out, base) == 0
    tuned = checkpoint_folder.load(out, torch.device('cpu'), torch.float32)
    before = checkpoint_folder.load(base, torch.device('cpu'), torch.float32)
    assert not torch.equal(tuned.dit.head.head.weight, before.dit.head.head.weight)
    assert tuned.spec.adapters is None
    assert json.loads((out / 'config.json').read_text())['wam']['trained']


def test_what_adapters_cannot_do_is_said(data, base, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run_training(data, out, base, '--lora-rank', 0) == 0  # 0: none
    assert run_training(data, tmp_path / 'l', base, '--lora-rank', -1) == 1
    assert 'want at least 1' in capsys.readouterr().err
    assert train.main([str(data), '--out', str(out), '--lora-rank', '2', '--device', 'cpu']) == 1
    assert 'name it with --init' in capsys.readouterr().err
    assert run_training(data, tmp_path / 'c', base, '--stage', 'bc') == 1
    assert 'fine-tune with --stage joint or flash' in capsys.readouterr().err
    assert run_training(data, tmp_path / 'ae', base, '--stage', 'autoencoder') == 1
    assert 'its autoencoder is trained already' in capsys.readouterr().err


def test_recomputing_activations_changes_no_gradient():
    torch.manual_seed(0)
    config = played.make_tiny_policy().spec.model
    model = VideoActionDiT(config)
    frames, n = 1, config.actions_per_block
    inputs = (
        torch.randn(2, config.latent_channels, frames, *config.latent_size),
        None,
        torch.full((2, 1), 500.0),
        torch.randn(2, n, config.action_dim),
        torch.full((2, n), 500.0),
        torch.randn(2, 1, config.state_dim),
    )
    words = make_text_context(config)
    found = []
    for recompute in (False, True):
        model.zero_grad()
        model(
            *inputs, words, skip_unused_tokens=True, gradient_checkpointing=recompute
        ).action.square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def make_text_context(config):
    from wam_policy.model.network.layers import ContextEmbeddings

    return ContextEmbeddings(torch.randn(2, config.text_len, config.text_dim), None)

"""The checkpoint report: full-size files without their numbers, and broken ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import (
    checkpoint_folder,
    inspect_checkpoint,
    model_spec,
    random_checkpoint,
    safetensors_shards,
)
from wam_policy.model.network.lora import RELEASED

ROBOTS = [embodiment.load(name) for name in embodiment.names()]


@pytest.fixture(scope='module')
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write full-size checkpoints whose files are all hole."""
    root = tmp_path_factory.mktemp('full')
    for name in ('dreamzero_14b', 'dreamzero_5b'):
        random_checkpoint.main([str(root / name), '--preset', name, '--hollow'])
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    random_checkpoint.main([str(tmp_path / 'toy'), '--toy'])
    return tmp_path / 'toy'


def test_a_full_size_checkpoint_is_checked_without_its_numbers(full) -> None:
    folder = full['dreamzero_14b']
    on_disk = sum(path.stat().st_blocks * 512 for path in safetensors_shards.files(folder))
    assert on_disk < 20e6
    found = inspect_checkpoint.report(folder)
    assert found.loadable
    assert dict(found.sizes)['transformer'] == 16_484_292_448
    assert len(found.audit.unused) == 16
    assert [verdict.obstacles for verdict in found.verdicts] == [()] * len(ROBOTS)


def test_the_sizes_are_those_of_the_release(full) -> None:
    tensors = {name: len(safetensors_shards.contents(path)) for name, path in full.items()}
    assert tensors == {'dreamzero_14b': 2146, 'dreamzero_5b': 997 + 242 + 393 + 196}
    stored = {
        name: sum(entry.nbytes for entry in safetensors_shards.contents(path).values())
        for name, path in full.items()
    }
    numbers = 5_680_910_336 + 632_076_801  # text and image encoder
    assert stored == {
        'dreamzero_14b': 2 * (16_484_292_448 + numbers + 126_892_531),
        'dreamzero_5b': 2 * (5_606_692_832 + numbers + 704_688_668),
    }


def test_memory_is_counted_per_device(full) -> None:
    need = inspect_checkpoint.report(full['dreamzero_14b']).need
    assert need.cache == 7920 * 2 * 40 * 5120 * 2  # 6.49 GB a branch at nine frames
    assert need.total(2) - need.total(1) == need.cache + need.context
    assert 45.7e9 < need.weights < 45.9e9
    assert need.encoder > 1e8


def test_the_words_name_everything_a_lab_asks(full, capsys) -> None:
    assert inspect_checkpoint.main([str(full['dreamzero_5b'])]) == 0
    text = capsys.readouterr().out
    for words in (
        'dreamzero_5b, UNTRAINED',
        '30 layers, width 3072',
        'latents 10x20x48',
        '50 tokens a frame',
        'per device',
        'embodiment     yam (made up',
        'left_arm_joint_position',
        'all accounted for',
        'yam: yes',
        'video at 10 Hz',
        'verdict        complete',
    ):
        assert words in text


def test_a_broken_checkpoint_lists_every_wrong_name(toy, capsys) -> None:
    content = load_file(toy / safetensors_shards.SINGLE)
    gone = 'action_head.model.blocks.0.ffn.0.weight'
    bent = 'action_head.vae.model.conv1.bias'
    del content[gone]
    content[bent] = content[bent][:2].clone()
    content['action_head.model.stranger'] = torch.zeros(3)
    save_file(content, toy / safetensors_shards.SINGLE)
    assert inspect_checkpoint.main([str(toy)]) == 1
    text = capsys.readouterr().out
    assert f'MISSING        {gone}' in text
    assert 'UNEXPECTED     action_head.model.stranger' in text
    assert f'MISSHAPED      {bent}: [2], want [8]' in text
    assert 'yam: NO' in text and 'DOES NOT LOAD' in text


def test_no_statistics_load_but_drive_nothing(toy) -> None:
    (toy / checkpoint_folder.METADATA).unlink()
    found = inspect_checkpoint.report(toy)
    assert found.loadable
    assert all('no statistics for tag' in verdict.obstacles[0] for verdict in found.verdicts)
    assert any('Make statistics from episodes' in line for line in inspect_checkpoint.lines(found))


def test_a_robot_whose_keys_differ_is_told_which(toy) -> None:
    content = json.loads((toy / checkpoint_folder.METADATA).read_text())
    del content['yam']['statistics']['state']['left_gripper_pos']
    (toy / checkpoint_folder.METADATA).write_text(json.dumps(content))
    verdicts = {verdict.robot: verdict for verdict in inspect_checkpoint.report(toy).verdicts}
    assert 'left_gripper_pos' in verdicts['yam'].obstacles[0]
    assert not verdicts['agibot_g1'].obstacles


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda folder: (folder / 'config.json').unlink(), 'no config.json'),
        (lambda folder: (folder / 'config.json').write_text('{'), 'not JSON'),
        (
            lambda folder: (folder / 'config.json').write_text('{"model_type": "vla"}'),
            'neither action_head_cfg.config',
        ),
        (
            lambda folder: (folder / safetensors_shards.SINGLE).unlink(),
            'neither model.safetensors nor',
        ),
        (
            lambda folder: (folder / safetensors_shards.SINGLE).write_bytes(b'junk'),
            'not a safetensors file',
        ),
        (lambda folder: (folder / checkpoint_folder.METADATA).write_text('['), 'not JSON'),
    ],
)
def test_nothing_wrong_inside_a_folder_raises(toy, spoil, words) -> None:
    spoil(toy)
    found = inspect_checkpoint.report(toy)
    assert not found.loadable
    assert any(words in line for line in inspect_checkpoint.lines(found))


def test_a_missing_tokenizer_is_a_problem_of_its_own(toy) -> None:
    content = json.loads((toy / 'config.json').read_text())
    content['wam']['encoders']['tokenizer'] = 'tokenizer'
    (toy / 'config.json').write_text(json.dumps(content))
    assert any('google/umt5-xxl' in problem for problem in inspect_checkpoint.report(toy).problems)


def test_adapters_are_checked_with_their_base(toy, tmp_path, capsys) -> None:
    small = replace(random_checkpoint.toy(model_spec.released('dreamzero_14b')), adapters=RELEASED)
    random_checkpoint.write_adapters(small, tmp_path / 'lora', dtype=torch.bfloat16)
    assert inspect_checkpoint.main([str(tmp_path / 'lora')]) == 1
    assert 'name the complete checkpoint' in capsys.readouterr().out
    assert inspect_checkpoint.main([str(tmp_path / 'lora'), '--base', str(toy), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['robots']['yam'] == []

"""The checkpoint report: full-size files without their numbers, and broken ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.checkpoint.adapter_fixtures import write_adapters
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import (
    checkpoint_folder,
    inspect_checkpoint,
    model_spec,
    random_checkpoint,
    safetensors_shards,
)
from wam_policy.model.network.lora import RELEASED_LORA

ROBOTS = [embodiment.load_embodiment(name) for name in embodiment.list_robots()]


@pytest.fixture(scope='module')
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write full-size checkpoints whose files are all hole."""
    root = tmp_path_factory.mktemp('full')
    for name in ('dreamzero_14b', 'dreamzero_5b'):
        random_checkpoint.main([str(root / name), '--preset', name, '--sparse'])
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    random_checkpoint.main([str(tmp_path / 'toy'), '--toy'])
    return tmp_path / 'toy'


def test_a_full_size_checkpoint_is_checked_without_its_numbers(full) -> None:
    folder = full['dreamzero_14b']
    on_disk = sum(
        path.stat().st_blocks * 512 for path in safetensors_shards.find_weight_files(folder)
    )
    assert on_disk < 20e6
    found = inspect_checkpoint.inspect_checkpoint(folder)
    assert found.is_loadable
    assert dict(found.parameter_counts)['transformer'] == 16_484_292_448
    assert len(found.tensor_diff.unused) == 16
    assert [verdict.errors for verdict in found.robots] == [()] * len(ROBOTS)


def test_the_sizes_are_those_of_the_release(full) -> None:
    tensors = {
        name: len(safetensors_shards.read_tensor_infos(path)) for name, path in full.items()
    }
    assert tensors == {'dreamzero_14b': 2146, 'dreamzero_5b': 997 + 242 + 393 + 196}
    stored = {
        name: sum(entry.nbytes for entry in safetensors_shards.read_tensor_infos(path).values())
        for name, path in full.items()
    }
    numbers = 5_680_910_336 + 632_076_801  # text and image encoder
    assert stored == {
        'dreamzero_14b': 2 * (16_484_292_448 + numbers + 126_892_531),
        'dreamzero_5b': 2 * (5_606_692_832 + numbers + 704_688_668),
    }


def test_memory_is_counted_per_device(full) -> None:
    need = inspect_checkpoint.inspect_checkpoint(full['dreamzero_14b']).memory
    assert need.cache_bytes == 7920 * 2 * 40 * 5120 * 2  # 6.49 GB a branch at nine frames
    assert need.total_bytes(2) - need.total_bytes(1) == need.cache_bytes + need.context_bytes
    assert 45.7e9 < need.weights_bytes < 45.9e9
    assert need.encoder_bytes > 1e8


def test_the_words_name_everything_a_lab_asks(full, capsys) -> None:
    assert inspect_checkpoint.main([str(full['dreamzero_5b'])]) == 0
    text = capsys.readouterr().out
    for words in (
        'dreamzero_5b, UNTRAINED',
        '30 layers, width 3072',
        'latents 10x20x48',
        '50 tokens a frame',
        'per device',
        'embodiment     yam (synthetic',
        'left_arm_joint_position',
        'all accounted for',
        'yam: yes',
        'video at 10 Hz',
        'verdict        complete',
    ):
        assert words in text


def test_a_broken_checkpoint_lists_every_wrong_name(toy, capsys) -> None:
    content = load_file(toy / safetensors_shards.SINGLE_FILE)
    gone = 'action_head.model.blocks.0.ffn.0.weight'
    bent = 'action_head.vae.model.conv1.bias'
    del content[gone]
    content[bent] = content[bent][:2].clone()
    content['action_head.model.stranger'] = torch.zeros(3)
    save_file(content, toy / safetensors_shards.SINGLE_FILE)
    assert inspect_checkpoint.main([str(toy)]) == 1
    text = capsys.readouterr().out
    assert f'MISSING        {gone}' in text
    assert 'UNEXPECTED     action_head.model.stranger' in text
    assert f'MISSHAPED      {bent}: [2], want [8]' in text
    assert 'yam: NO' in text and 'DOES NOT LOAD' in text


def test_no_statistics_load_but_drive_nothing(toy) -> None:
    (toy / checkpoint_folder.METADATA_PATH).unlink()
    found = inspect_checkpoint.inspect_checkpoint(toy)
    assert found.is_loadable
    assert all('no statistics for tag' in verdict.errors[0] for verdict in found.robots)
    assert any(
        'Compute statistics from episodes' in line
        for line in inspect_checkpoint.format_report(found)
    )


def test_a_robot_whose_keys_differ_is_told_which(toy) -> None:
    content = json.loads((toy / checkpoint_folder.METADATA_PATH).read_text())
    del content['yam']['statistics']['state']['left_gripper_pos']
    (toy / checkpoint_folder.METADATA_PATH).write_text(json.dumps(content))
    verdicts = {
        verdict.robot: verdict for verdict in inspect_checkpoint.inspect_checkpoint(toy).robots
    }
    assert 'left_gripper_pos' in verdicts['yam'].errors[0]
    assert not verdicts['agibot_g1'].errors


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
            lambda folder: (folder / safetensors_shards.SINGLE_FILE).unlink(),
            'neither model.safetensors nor',
        ),
        (
            lambda folder: (folder / safetensors_shards.SINGLE_FILE).write_bytes(b'junk'),
            'not a safetensors file',
        ),
        (lambda folder: (folder / checkpoint_folder.METADATA_PATH).write_text('['), 'not JSON'),
    ],
)
def test_nothing_wrong_inside_a_folder_raises(toy, spoil, words) -> None:
    spoil(toy)
    found = inspect_checkpoint.inspect_checkpoint(toy)
    assert not found.is_loadable
    assert any(words in line for line in inspect_checkpoint.format_report(found))


def test_a_missing_tokenizer_is_a_problem_of_its_own(toy) -> None:
    content = json.loads((toy / 'config.json').read_text())
    content['wam']['encoders']['tokenizer'] = 'tokenizer'
    (toy / 'config.json').write_text(json.dumps(content))
    assert any(
        'google/umt5-xxl' in problem
        for problem in inspect_checkpoint.inspect_checkpoint(toy).problems
    )


def test_adapters_are_checked_with_their_base(toy, tmp_path, capsys) -> None:
    small = replace(
        random_checkpoint.make_toy_spec(model_spec.make_preset_spec('dreamzero_14b')),
        adapters=RELEASED_LORA,
    )
    write_adapters(small, tmp_path / 'lora', dtype=torch.bfloat16)
    assert inspect_checkpoint.main([str(tmp_path / 'lora')]) == 1
    assert 'name the complete checkpoint' in capsys.readouterr().out
    assert inspect_checkpoint.main([str(tmp_path / 'lora'), '--base', str(toy), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['robots']['yam'] == []


def test_old_options_of_random_checkpoints_still_work(tmp_path, capsys) -> None:
    folder = tmp_path / 'toy'
    arguments = [str(folder), '--toy', '--hollow', '--largest-shard', '600000']
    assert random_checkpoint.main(arguments) == 0
    warnings = capsys.readouterr().err
    assert 'use --sparse' in warnings and 'use --max-shard-size' in warnings
    assert len(list(folder.glob('*.safetensors'))) > 1

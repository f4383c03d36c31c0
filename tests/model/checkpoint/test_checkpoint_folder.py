"""Checkpoints: written, read back, composed with adapters, refused with a reason."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.checkpoint.adapter_fixtures import write_adapters
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import (
    checkpoint_folder,
    model_spec,
    random_checkpoint,
    safetensors_shards,
    tensor_keymap,
)
from wam_policy.model.encoders import view_layout
from wam_policy.model.network import lora

CPU = torch.device('cpu')
ROBOTS = [embodiment.load_embodiment(name) for name in embodiment.list_robots()]


def weights(policy: checkpoint_folder.WorldActionModel) -> dict[str, torch.Tensor]:
    return {
        **{f'dit.{name}': value for name, value in policy.dit.named_parameters()},
        **{f'encoders.{name}': value for name, value in policy.encoders.named_parameters()},
    }


def same(
    one: checkpoint_folder.WorldActionModel, other: checkpoint_folder.WorldActionModel
) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def toy(family: str) -> model_spec.ModelSpec:
    return random_checkpoint.make_toy_spec(model_spec.make_preset_spec(family))


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp('checkpoints')
    for family in ('dreamzero_14b', 'dreamzero_5b'):
        random_checkpoint.write_checkpoint(
            toy(family), ROBOTS, root / family, dtype=torch.float32, max_shard_size=600_000
        )
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders['dreamzero_14b'], tmp_path / 'broken')


def edited(folder: Path, name: str, change: str, value: torch.Tensor | None = None) -> None:
    """Drop, add or replace one tensor in the shard that holds (or shall hold) it."""
    index = json.loads((folder / safetensors_shards.INDEX_FILE).read_text())
    file = index['weight_map'].get(name, sorted(set(index['weight_map'].values()))[0])
    content = load_file(folder / file)
    if change == 'drop':
        del content[name], index['weight_map'][name]
    else:
        content[name] = value
        index['weight_map'][name] = file
    save_file(content, folder / file)
    (folder / safetensors_shards.INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize('family', ['dreamzero_14b', 'dreamzero_5b'])
def test_a_sharded_checkpoint_in_the_released_layout_is_read_completely(folders, family) -> None:
    folder = folders[family]
    policy = checkpoint_folder.load(folder, CPU, torch.float32)
    assert len(safetensors_shards.find_weight_files(folder)) > 3
    assert policy.spec == toy(family) and not policy.is_trained
    stored = {
        name: tensor
        for path in safetensors_shards.find_weight_files(folder)
        for name, tensor in load_file(path).items()
    }
    name = tensor_keymap.DIT_PREFIX + 'blocks.1.self_attn.q.weight'
    assert torch.equal(policy.dit.blocks[1].self_attn.q.weight, stored[name])
    fused = stored[tensor_keymap.IMAGE_PREFIX + 'visual.transformer.1.attn.to_qkv.weight']
    key = policy.encoders.image.net.encoder.layers[1].self_attn.k_proj.weight
    assert torch.equal(key, fused.chunk(3)[1])
    text = policy.encoders.text.net
    assert not text.shared.weight.is_meta
    assert not any(p.requires_grad or p.is_meta for p in weights(policy).values())


@pytest.mark.parametrize('family', ['dreamzero_14b', 'dreamzero_5b'])
def test_a_loaded_policy_encodes_and_predicts(folders, family) -> None:
    policy = checkpoint_folder.load(folders[family], CPU, torch.bfloat16)
    frames = torch.randint(0, 256, (1, 5, 64, 64, 3), dtype=torch.uint8)
    video = view_layout.to_model_input(frames, policy.dit.dtype, policy.spec.canvas.size)
    latents = policy.encoders.encode_frames(video)
    model = policy.spec.model
    assert latents.shape == (1, model.latent_channels, 2, *model.latent_size)
    assert latents.dtype == torch.bfloat16 and latents.isfinite().all()
    context = policy.dit.embed_context(
        policy.encoders.encode_prompts([policy.spec.make_prompt('agibot', 'wave')]),
        policy.encoders.encode_image(video[:, :, 0]),
    )
    assert all(memory.text[0].isfinite().all() for memory in context)


@pytest.mark.parametrize('source', ['preset:tiny', 'dreamzero_14b'])
def test_saving_inverts_loading(folders, source, tmp_path) -> None:
    policy = checkpoint_folder.load(folders.get(source, source), CPU, torch.float32)
    checkpoint_folder.save(policy, tmp_path / 'saved', max_shard_size=700_000)
    again = checkpoint_folder.load(tmp_path / 'saved', CPU, torch.float32)
    assert same(policy, again)
    assert again.spec == policy.spec and again.embodiments.keys() == policy.embodiments.keys()


def test_saving_over_a_sharded_checkpoint_leaves_no_stale_index(tmp_path) -> None:
    policy = checkpoint_folder.make_random('tiny', 0, CPU, torch.float32)
    checkpoint_folder.save(policy, tmp_path, max_shard_size=700_000)
    checkpoint_folder.save(checkpoint_folder.make_random('tiny', 1, CPU, torch.float32), tmp_path)
    assert not same(checkpoint_folder.load(tmp_path, CPU, torch.float32), policy)


def test_a_seed_is_a_model_and_random_weights_say_so() -> None:
    one, two, other = (
        checkpoint_folder.load('preset:tiny', CPU, torch.float32, seed=seed) for seed in (3, 3, 4)
    )
    assert same(one, two) and not same(one, other)
    assert not one.is_trained and all(tag.synthetic for tag in one.embodiments.values())


@pytest.mark.parametrize('robot', ROBOTS, ids=lambda robot: robot.name)
def test_random_weights_move_every_shipped_robot_gently(robot) -> None:
    policy = checkpoint_folder.load('preset:tiny', CPU, torch.float32)
    parts = policy.make_normalizer(robot)
    state = {part.key: robot.home_positions(part.joints) for part in robot.state_keys}
    for deviations in (-3.0, 3.0):
        targets = parts.denormalize_actions(torch.full((24, 32), deviations).numpy(), state)
        for part in robot.action_keys:
            if part.relative and not part.masked:
                moved = abs(targets[part.key] - state[part.key]).max()
                assert moved <= random_checkpoint.MAX_OFFSET_RAD + 1e-5
    assert abs(parts.normalize_state(state)).max() <= 1


@pytest.mark.parametrize(
    ('name', 'change', 'value', 'words'),
    [
        (
            'action_head.model.head.head.bias',
            'drop',
            None,
            '1 missing: action_head.model.head.head.bias',
        ),
        (
            'action_head.model.blocks.7.norm3.bias',
            'add',
            torch.zeros(4),
            '1 unexpected: action_head.model.blocks.7.norm3.bias',
        ),
        (
            'action_head.text_encoder.norm.weight',
            'replace',
            torch.zeros(7),
            r'1 misshaped: action_head.text_encoder.norm.weight: \[7\], want \[48\]',
        ),
    ],
)
def test_every_tensor_is_accounted_for(broken, name, change, value, words) -> None:
    edited(broken, name, change, value)
    with pytest.raises(ValueError, match=words):
        checkpoint_folder.load(broken, CPU, torch.float32)


def test_what_inference_never_reads_may_be_absent(broken) -> None:
    edited(broken, 'action_head.image_encoder.model.visual.head', 'drop')
    checkpoint_folder.load(broken, CPU, torch.float32)


def test_a_shard_that_is_gone_or_cut_short_is_named(broken) -> None:
    last = safetensors_shards.find_weight_files(broken)[-1]
    with last.open('r+b') as file:
        file.truncate(last.stat().st_size - 100)
    with pytest.raises(ValueError, match=f'{last.name}: truncated'):
        checkpoint_folder.load(broken, CPU, torch.float32)
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f'missing files: {last.name}'):
        checkpoint_folder.load(broken, CPU, torch.float32)
    last.write_bytes(b'PK\x03\x04 not this')
    with pytest.raises(ValueError, match='not a safetensors file'):
        checkpoint_folder.load(broken, CPU, torch.float32)


def test_an_index_that_lies_is_refused(broken) -> None:
    index = json.loads((broken / safetensors_shards.INDEX_FILE).read_text())
    index['weight_map']['action_head.model.ghost'] = safetensors_shards.find_weight_files(broken)[
        0
    ].name
    (broken / safetensors_shards.INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r'disagree about 1 tensors: action_head\.model\.ghost'):
        checkpoint_folder.load(broken, CPU, torch.float32)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pth', 'model.pt', 'weights.ckpt'])
def test_pickles_are_refused_with_the_way_out(tmp_path, folders, name) -> None:
    shutil.copy(folders['dreamzero_14b'] / 'config.json', tmp_path)
    (tmp_path / name).write_bytes(b'x')
    with pytest.raises(ValueError, match=f'{name}.*run code.*save_file'):
        checkpoint_folder.load(tmp_path, CPU, torch.float32)


def test_empty_places_say_what_is_wanted(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='no config.json'):
        checkpoint_folder.load(tmp_path, CPU, torch.float32)
    with pytest.raises(FileNotFoundError, match=r'neither model\.safetensors nor'):
        safetensors_shards.find_weight_files(tmp_path)
    with pytest.raises(FileNotFoundError, match='no such checkpoint folder'):
        safetensors_shards.find_weight_files(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='known: dreamzero_14b'):
        checkpoint_folder.load('preset:huge', CPU, torch.float32)


def test_a_checkpoint_without_statistics_loads_but_drives_no_robot(broken) -> None:
    (broken / checkpoint_folder.METADATA_PATH).unlink()
    policy = checkpoint_folder.load(broken, CPU, torch.float32)
    with pytest.raises(ValueError, match="no statistics for tag 'yam'.*it has none \\(no"):
        policy.make_normalizer(embodiment.load_embodiment('yam'))


# ---- adapters

LORA = lora.LoraConfig(rank=2, alpha=3.0)


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    write_adapters(
        replace(toy('dreamzero_14b'), adapters=LORA),
        tmp_path / 'adapters',
        dtype=torch.float32,
        seed=9,
    )
    return tmp_path / 'adapters'


def test_adapters_are_merged_onto_their_base_in_fp32(folders, adapted) -> None:
    base = checkpoint_folder.load(folders['dreamzero_14b'], CPU, torch.float32)
    policy = checkpoint_folder.load(adapted, CPU, torch.float32, base=folders['dreamzero_14b'])
    content = load_file(adapted / safetensors_shards.SINGLE_FILE)
    stem = tensor_keymap.DIT_PREFIX + 'base_model.model.'
    before, after = dict(base.dit.named_parameters()), dict(policy.dit.named_parameters())
    for name in after:
        layer = name.removesuffix('.weight')
        if name.startswith(('state_encoder', 'action_encoder', 'action_decoder')):
            expected = content[stem + name]
        elif f'{stem}{layer}.lora_A.default.weight' in content:
            a, b = (content[f'{stem}{layer}.lora_{side}.default.weight'] for side in 'AB')
            expected = before[name] + 1.5 * (b @ a)
            assert not torch.equal(before[name], after[name])
        else:
            expected = before[name]
        assert torch.allclose(after[name], expected, atol=1e-6), name
    untouched = weights(base)
    assert all(
        torch.equal(value, untouched[name])
        for name, value in weights(policy).items()
        if name.startswith('encoders.')
    )
    assert policy.embodiments.keys() == base.embodiments.keys()
    changed = {name for name in after if f'{stem}{name[:-7]}.lora_A.default.weight' in content}
    assert 'blocks.0.cross_attn.k_img.weight' not in changed and len(changed) == 3 * 10


def test_a_checkpoint_saved_with_wrappers_and_base_inside_is_merged_too(
    folders, adapted, tmp_path
) -> None:
    whole = tmp_path / 'whole'
    content = {
        name: tensor
        for path in safetensors_shards.find_weight_files(folders['dreamzero_14b'])
        for name, tensor in load_file(path).items()
    }
    extra = load_file(adapted / safetensors_shards.SINGLE_FILE)
    wrapped = {}
    for name, tensor in content.items():
        inner = name.removeprefix(tensor_keymap.DIT_PREFIX)
        if inner == name:
            wrapped[name] = tensor
            continue
        long = f'{tensor_keymap.DIT_PREFIX}base_model.model.{inner}'
        layer = long.removesuffix('.weight')
        if f'{layer}.lora_A.default.weight' in extra:
            wrapped[f'{layer}.base_layer.weight'] = tensor
        elif long.removesuffix('.bias') + '.lora_A.default.weight' in extra:
            wrapped[f'{long.removesuffix(".bias")}.base_layer.bias'] = tensor
        else:
            wrapped[long] = tensor
    whole.mkdir()
    save_file(wrapped | extra, whole / safetensors_shards.SINGLE_FILE)
    shutil.copy(adapted / 'config.json', whole)
    merged = checkpoint_folder.load(whole, CPU, torch.float32)
    assert same(
        merged, checkpoint_folder.load(adapted, CPU, torch.float32, base=folders['dreamzero_14b'])
    )


def test_bf16_adapters_are_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, a, b = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((6, 5), (2, 5), (6, 2))
    )
    exact = weight.double() + 1.5 * b.double() @ a.double()
    assert torch.allclose(lora.merge_adapter(weight, a, b, LORA).double(), exact, atol=1e-5)


def test_adapters_ask_for_their_base_and_check_it(folders, adapted, tmp_path) -> None:
    with pytest.raises(ValueError, match='name the complete checkpoint they were trained on'):
        checkpoint_folder.load(adapted, CPU, torch.float32)
    with pytest.raises(ValueError, match='describe different models'):
        checkpoint_folder.load(adapted, CPU, torch.float32, base=folders['dreamzero_5b'])
    content = load_file(adapted / safetensors_shards.SINGLE_FILE)
    half = next(name for name in content if '.lora_B.' in name)
    save_file(
        {name: value for name, value in content.items() if name != half},
        adapted / safetensors_shards.SINGLE_FILE,
    )
    with pytest.raises(ValueError, match='without their other half'):
        checkpoint_folder.load(adapted, CPU, torch.float32, base=folders['dreamzero_14b'])
    lean = {name: value for name, value in content.items() if 'state_encoder' not in name}
    save_file(lean, adapted / safetensors_shards.SINGLE_FILE)
    with pytest.raises(ValueError, match=r'without the modules.*state_encoder\.\*'):
        checkpoint_folder.load(adapted, CPU, torch.float32, base=folders['dreamzero_14b'])


def test_adapters_where_none_belong_are_refused(folders, adapted) -> None:
    content = load_file(adapted / safetensors_shards.SINGLE_FILE)
    stem = tensor_keymap.DIT_PREFIX + 'base_model.model.blocks.0.norm3'
    content |= {
        f'{stem}.lora_A.default.weight': torch.zeros(2, 64),
        f'{stem}.lora_B.default.weight': torch.zeros(64, 2),
    }
    save_file(content, adapted / safetensors_shards.SINGLE_FILE)
    with pytest.raises(ValueError, match='take none: action_head.model.blocks.0.norm3.weight'):
        checkpoint_folder.load(adapted, CPU, torch.float32, base=folders['dreamzero_14b'])

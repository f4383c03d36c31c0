"""Checkpoints as they are: adapters of peft and of our own, damaged files, errors of libraries."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.model.checkpoint.adapter_fixtures import write_adapters
from wam_learning.evaluation import evaluate
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import (
    adapter_folder,
    checkpoint_folder,
    inspect_checkpoint,
    model_spec,
    random_checkpoint,
    safetensors_shards,
)
from wam_policy.model.network import lora
from wam_policy.workers import model_options, protocol, run_worker

CPU = torch.device('cpu')
SPEC = random_checkpoint.make_toy_spec(model_spec.make_preset_spec('dreamzero_14b'))
ROBOT_ARGUMENTS = ('--embodiment', 'yam', '--guidance-scale', '1.0', '--steps', '1')


def load_weights(folder, base=None):
    loaded = checkpoint_folder.load(folder, CPU, torch.float32, base)
    return dict(loaded.dit.named_parameters())


def wrap_with_peft(base, **changes):
    """Return the transformer of a base, wrapped by peft with random adapters."""
    settings = {'r': 2, 'lora_alpha': 6, 'target_modules': lora.TARGET_MODULES.pattern}
    torch.manual_seed(3)
    wrapped = get_peft_model(
        checkpoint_folder.load(base, CPU, torch.float32).dit, LoraConfig(**{**settings, **changes})
    )
    for name, parameter in wrapped.named_parameters():
        if 'lora_B' in name or 'modules_to_save' in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return wrapped


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp('base') / 'complete'
    robots = [embodiment.load_embodiment(name) for name in embodiment.list_robots()]
    random_checkpoint.write_checkpoint(SPEC, robots, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope='module')
def peft_folder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp('peft') / 'adapters'
    wrap_with_peft(base).save_pretrained(str(folder))
    return folder


@pytest.fixture
def edited(peft_folder, tmp_path):
    return Path(shutil.copytree(peft_folder, tmp_path / 'edited'))


def edit_config(folder, **changes):
    path = folder / 'adapter_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'use_rslora': True},
        {'modules_to_save': ['state_encoder', 'action_decoder']},
        {'rank_pattern': {'self_attn.q': 3}, 'alpha_pattern': {r'ffn\.0': 11}},
        {'target_modules': ['k_img', 'head.head', 'q'], 'bias': 'lora_only'},
    ],
    ids=str,
)
def test_a_folder_of_peft_gives_the_weights_that_peft_merges(base, tmp_path, changes):
    wrapped = wrap_with_peft(base, **changes)
    wrapped.save_pretrained(str(tmp_path))
    assert not (tmp_path / 'config.json').exists()
    found = load_weights(tmp_path, base)
    expected = dict(wrapped.merge_and_unload().named_parameters())
    before = load_weights(base)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    assert sum(not torch.equal(found[name], before[name]) for name in found) > 5
    assert inspect_checkpoint.inspect_checkpoint(tmp_path, base).is_loadable


def test_names_of_a_wrapped_policy_are_those_of_a_wrapped_transformer(peft_folder, base, edited):
    path = edited / 'adapter_model.safetensors'
    prefix = 'base_model.model.'
    content = {
        name.replace(prefix, f'{prefix}action_head.model.'): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(content, path)
    one, other = load_weights(edited, base), load_weights(peft_folder, base)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.ros
@pytest.mark.parametrize('layout', ['peft', 'released'])
def test_adapters_go_from_the_launch_argument_to_the_loaded_weights(
    base, peft_folder, tmp_path, layout
):
    pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
    from tests.bringup.test_bringup import load_parameters
    from wam_policy.nodes.parameters import PolicyParams
    from wam_policy.nodes.policy import worker_backend

    folder = peft_folder
    if layout == 'released':
        folder = tmp_path / 'lora'
        write_adapters(
            replace(SPEC, adapters=lora.LoraConfig(2, 3.0)), folder, dtype=torch.float32
        )
    values = load_parameters(robot='yam', checkpoint=str(folder), base=str(base))['/**/policy']
    params = PolicyParams(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    )
    spec = worker_backend.build_worker_spec(params, params.checkpoint, params.base)
    policy = run_worker.build_policy(run_worker.parse_settings(spec.arguments))
    expected = load_weights(folder, base)
    for name, value in policy.model.dit.named_parameters():
        assert torch.equal(value, expected[name])
    # the command line of ./wam serve, and ./wam eval, find the same base
    options = run_worker.make_parser().parse_args(
        ['--checkpoint', str(folder), '--base', str(base), *ROBOT_ARGUMENTS]
    )
    model_options.resolve_defaults(options)
    assert ('--base', str(base)) == model_options.to_argv(options)[2:4]
    chosen = evaluate.parse_arguments(
        ['--robot', 'yam', '--checkpoint', str(folder), '--base', str(base), '--no-ros']
    )
    assert evaluate.resolve_checkpoints(chosen).model == SPEC.model and chosen.base == str(base)


def test_a_worker_answers_with_adapters(base, peft_folder, capsys):
    arguments = ['--checkpoint', str(peft_folder), '--base', str(base), *ROBOT_ARGUMENTS]
    assert run_worker.main([*arguments, '--benchmark-queries', '1']) == protocol.EXIT_OK
    assert 'queries: median' in capsys.readouterr().out


REFUSED = {
    'no base': (lambda folder, base: None, 'holds adapters only: name the complete checkpoint'),
    'no adapter_config.json': (
        lambda folder, base: os.remove(folder / 'adapter_config.json'),
        'without adapter_config.json, which states rank and scale',
    ),
    'another rank': (
        lambda folder, base: edit_config(folder, r=3),
        'cross_attn.k.weight has A [2, 64] and B [64, 2], want A [3, 64] and B [64, 3] at rank 3',
    ),
    'a module that is not saved': (
        lambda folder, base: edit_config(folder, modules_to_save=['action_decoder']),
        'without the modules trained with them: action_decoder.*',
    ),
    'weights that are no linear layer': (
        lambda folder, base: save_file(
            {
                f'base_model.model.blocks.0.{name}.weight': torch.zeros(2, 64).reshape(shape)
                for name, shape in (('norm3.lora_A', (2, 64)), ('norm3.lora_B', (64, 2)))
            },
            folder / 'adapter_model.safetensors',
        ),
        'adapters for weights that take none: action_head.model.blocks.0.norm3.weight',
    ),
    'another kind of adapter': (
        lambda folder, base: edit_config(folder, peft_type='LOKR'),
        "peft_type is 'LOKR', want LORA",
    ),
    'DoRA': (lambda folder, base: edit_config(folder, use_dora=True), 'use_dora=True cannot be'),
    'PiSSA': (
        lambda folder, base: edit_config(folder, init_lora_weights='pissa'),
        "init_lora_weights='pissa' cannot be merged",
    ),
    'rank without a number': (
        lambda folder, base: edit_config(folder, r='four'),
        'adapter_config.json: invalid literal',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_adapters_that_do_not_fit_are_one_sentence(case, base, edited, capsys):
    change, words = REFUSED[case]
    change(edited, base)
    given = [] if case == 'no base' else ['--base', str(base)]
    status = run_worker.main(['--checkpoint', str(edited), *given, *ROBOT_ARGUMENTS])
    lines = capsys.readouterr().err.splitlines()
    assert status == protocol.EXIT_PERMANENT_FAILURE
    assert len(lines) == 1 and words in lines[0] and str(edited) in lines[0], lines


def test_a_base_that_is_not_the_adapters_own_is_refused(base, peft_folder, tmp_path):
    """Random weights of another seed: the same sizes, so that only the digest tells them apart."""
    other = tmp_path / 'other'
    random_checkpoint.write_checkpoint(SPEC, [], other, dtype=torch.float32, seed=1)
    digest = adapter_folder.compute_digest(base)
    assert digest != adapter_folder.compute_digest(other)
    adapters = lora.LoraConfig(2, 3.0, base_digest=digest)
    write_adapters(replace(SPEC, adapters=adapters), tmp_path / 'lora', dtype=torch.float32)
    (tmp_path / 'lora' / 'config.json').write_text(
        json.dumps({'wam': replace(SPEC, adapters=adapters).to_dict()})
    )
    load_weights(tmp_path / 'lora', base)
    with pytest.raises(ValueError, match=r'other is not the checkpoint that .* were trained on'):
        load_weights(tmp_path / 'lora', other)
    with pytest.raises(ValueError, match='is complete, so the base .* is of no use'):
        load_weights(base, other)
    with pytest.raises(ValueError, match='the base must be a complete checkpoint'):
        load_weights(peft_folder, tmp_path / 'lora')


def write_text(name, text):
    return lambda folder: (folder / name).write_text(text)


def change_config(**changes):
    def change(folder):
        content = json.loads((folder / 'config.json').read_text())
        content['wam'] |= changes
        (folder / 'config.json').write_text(json.dumps(content))

    return change


DAMAGED = {
    'config.json, a list': (write_text('config.json', '[1, 2]'), 'config.json: AttributeError'),
    'config.json, another type': (change_config(model='large'), 'config.json: '),
    'config.json, half': (write_text('config.json', '{"wam": {'), 'config.json: not JSON'),
    'config.json, adapters': (change_config(adapters={'r': 4}), 'config.json: wam.adapters: '),
    'statistics': (write_text('experiment_cfg/metadata.json', '[3]'), 'metadata.json: '),
    'an index': (write_text('model.safetensors.index.json', '{"weight_map": 3}'), 'index.json: '),
    'a tokenizer': (
        lambda folder: (
            change_config(encoders={**SPEC.to_dict()['encoders'], 'tokenizer': 'words'})(folder),
            (folder / 'words').mkdir(),
            (folder / 'words' / 'tokenizer.json').write_text('{"model": 5}'),
        ),
        'words: ',
    ),
}


@pytest.mark.parametrize('case', DAMAGED)
def test_a_damaged_file_is_one_final_sentence_with_its_name(case, base, tmp_path, capsys):
    folder = Path(shutil.copytree(base, tmp_path / 'damaged'))
    change, words = DAMAGED[case]
    change(folder)
    status = run_worker.main(['--checkpoint', str(folder), *ROBOT_ARGUMENTS])
    lines = capsys.readouterr().err.splitlines()
    assert status == protocol.EXIT_PERMANENT_FAILURE and len(lines) == 1, lines
    assert str(folder) in lines[0] and words in lines[0]
    assert not inspect_checkpoint.inspect_checkpoint(folder).is_loadable


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (SafetensorError('InvalidHeaderDeserialization'), 'model.safetensors: SafetensorError'),
        (OSError(5, 'Input/output error'), 'on a healthy disk'),
        (MemoryError(), 'not enough memory on cpu'),
        (torch.OutOfMemoryError('CUDA out of memory'), 'not enough memory on cpu'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'not enough memory on cpu'),
        (RuntimeError('unexpected pos 64 vs 128'), 'model.safetensors: RuntimeError: unexpected'),
    ],
    ids=repr,
)
def test_an_error_of_a_library_is_one_final_sentence(base, monkeypatch, capsys, error, words):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(safetensors_shards, '_read_tensor', fail)
    status = run_worker.main(['--checkpoint', str(base), *ROBOT_ARGUMENTS])
    lines = capsys.readouterr().err.splitlines()
    assert status == protocol.EXIT_PERMANENT_FAILURE and len(lines) == 1, lines
    assert str(base) in lines[0] and words in lines[0]


@pytest.mark.parametrize(
    'arguments', [('--precision', '/no/calibration'), ('--engine', 'tensorrt:/no/engine')]
)
def test_an_engine_that_is_not_there_is_final(base, arguments, capsys):
    status = run_worker.main(['--checkpoint', str(base), *ROBOT_ARGUMENTS, *arguments])
    assert status == protocol.EXIT_PERMANENT_FAILURE
    assert arguments[1].removeprefix('tensorrt:') in capsys.readouterr().err.splitlines()[-1]

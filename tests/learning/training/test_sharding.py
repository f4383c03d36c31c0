"""Several processes: the file for accelerate, and that shards learn what whole weights learn."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch import nn

from tests.learning import played
from wam_learning.training import train
from wam_learning.training.training_model import TrainingModel
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import random_checkpoint
from wam_policy.model.checkpoint.model_spec import make_preset_spec
from wam_policy.model.network import layers
from wam_policy.model.network.model_config import get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT

FSDP_CONFIG_FILE = Path(train.__file__).with_name('fsdp.yaml')
PROGRAM = Path(__file__).with_name('sharded.py')


@pytest.fixture
def fsdp_environment(monkeypatch):
    """Set what `accelerate launch` hands to each process."""
    for name in [name for name in os.environ if name.startswith(('FSDP_', 'ACCELERATE_'))]:
        monkeypatch.delenv(name)
    given = launch_command_parser().parse_args(['--config_file', str(FSDP_CONFIG_FILE), 'x.py'])
    found = prepare_multi_gpu_env(_validate_launch_command(given)[0])
    found = {name: value for name, value in found.items() if name.startswith('FSDP_')}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def test_accelerate_reads_the_file_and_wraps_our_block(fsdp_environment):
    assert load_config_from_file(str(FSDP_CONFIG_FILE)).distributed_type == 'FSDP'
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.transformer_cls_names_to_wrap == [layers.TransformerBlock.__name__]
    with torch.device('meta'):
        learner = TrainingModel(
            VideoActionDiT(replace(get_preset('dreamzero_14b'), layers=2)), None, None
        )
    plugin.set_auto_wrap_policy(learner)  # refuses names of classes that are not there
    wraps = plugin.auto_wrap_policy
    assert callable(wraps)
    wrapped = [name for name, module in learner.named_modules() if wraps(module, False, 0)]
    assert wrapped == ['dit.blocks.0', 'dit.blocks.1']
    with pytest.raises(ValueError, match='Block'):
        FullyShardedDataParallelPlugin().set_auto_wrap_policy(nn.Linear(1, 1))


def run_two_processes(arguments: list[object], port: int) -> None:
    """Run a program in two processes; AssertionError with its words if it fails."""
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nproc_per_node',
            '2',
            '--master_port',
            str(port),
            *map(str, arguments),
        ],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_with_shards_learn_what_two_with_whole_weights_do(
    tmp_path, fsdp_environment
):
    data, base = (
        played.write_dataset(tmp_path / 'data', 3, rows=60, labels=False),
        tmp_path / 'base',
    )
    design = random_checkpoint.make_toy_spec(make_preset_spec('dreamzero_14b'), (16, 16))
    design = replace(design, model=replace(design.model, layers=2, window_blocks=2))
    random_checkpoint.write_checkpoint(
        design, [embodiment.load_embodiment('agibot_g1')], base, dtype=torch.float32
    )
    words = [
        data,
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
        '--lora-rank',
        2,
        '--gradient-checkpointing',
    ]
    port = 29600 + os.getpid() % 2000
    run_two_processes(
        ['-m', 'wam_learning.training.train', *words, '--out', tmp_path / 'whole'], port
    )
    run_two_processes([PROGRAM, *words, '--out', tmp_path / 'shards'], port + 1)
    whole, shards = (
        load_file(tmp_path / name / 'model.safetensors') for name in ('whole', 'shards')
    )
    assert whole.keys() == shards.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(shards[name], tensor, atol=1e-4, rtol=0.0)

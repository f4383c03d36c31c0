"""Write a checkpoint of a training in the released layout.

Files are written to a temporary folder and moved one by one, so a reader never sees an incomplete
file.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from wam_learning.training import lora_training
from wam_learning.training.trainer import Trainer
from wam_learning.training.training_model import TrainingModel
from wam_learning.training.training_setup import HEADS_FILE
from wam_policy.model.checkpoint import checkpoint_folder, normalization_stats, safetensors_shards
from wam_policy.model.checkpoint.checkpoint_folder import METADATA_PATH, WorldActionModel
from wam_policy.model.network.video_action_dit import VideoActionDiT

SNAPSHOTS_DIR = Path('kept')  # in a checkpoint: snapshots during training, by step


def write_checkpoint(policy: WorldActionModel, trainer: Trainer[TrainingModel], out: Path) -> None:
    """Write the checkpoint with averaged weights; every process of a training must call this."""
    leads = trainer.accelerator is None or trainer.accelerator.is_main_process
    part = out.with_name(out.name + '.part')
    if leads:
        shutil.rmtree(part, ignore_errors=True)
    with trainer.use_ema_weights():
        state = {name: _gather_tensor(p.detach()) for name, p in trainer.trainable_parameters}
        if policy.spec.adapters:
            if leads:
                _write_adapters(policy, state, part)
        else:
            whole = _gather_policy(policy)
            if leads:
                checkpoint_folder.save(whole, part)
    if not leads:
        return
    heads = {
        name.removeprefix('heads.'): tensor.cpu().contiguous()
        for name, tensor in state.items()
        if name.startswith('heads.')
    }
    if heads:
        (part / HEADS_FILE).parent.mkdir(parents=True, exist_ok=True)
        save_file(heads, part / HEADS_FILE)
    move_into_place(part, out)


def move_into_place(part: Path, out: Path) -> None:
    """Replace the files of `out` one by one, config.json last."""
    files = sorted(
        (path for path in part.rglob('*') if path.is_file()),
        key=lambda path: path.name == 'config.json',
    )
    for path in files:
        goal = out / path.relative_to(part)
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)  # safetensors writes with 0600
        os.replace(path, goal)
    shutil.rmtree(part)


def _gather_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of one that is sharded over processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gather_policy(policy: WorldActionModel) -> WorldActionModel:
    """Return the policy with an unsharded transformer."""
    held = policy.dit.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in held.values()):
        return policy
    with torch.device('meta'):
        dit = VideoActionDiT(policy.spec.model)
    dit.load_state_dict(
        {name: _gather_tensor(tensor) for name, tensor in held.items()}, assign=True
    )
    return replace(policy, dit=dit)


def _write_adapters(policy: WorldActionModel, state: dict[str, Tensor], part: Path) -> None:
    (part / METADATA_PATH.parent).mkdir(parents=True)
    save_file(
        lora_training.to_released_names(
            {name.removeprefix('dit.'): tensor for name, tensor in state.items()}
        ),
        part / safetensors_shards.SINGLE_FILE,
        metadata={'format': 'pt'},
    )
    (part / METADATA_PATH).write_text(
        json.dumps(normalization_stats.to_dict(dict(policy.embodiments)), indent=1)
    )
    (part / 'config.json').write_text(json.dumps({'wam': policy.spec.to_dict()}, indent=1))

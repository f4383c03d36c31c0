"""All that a continued training needs, in one file that is replaced whole."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wam_learning.training.trainer import Trainer

_OPTIMIZER_STATE_KEYS = ('exp_avg', 'exp_avg_sq', 'step')


def write_state(path: Path, trainer: Trainer, elapsed_s: float, settings: dict[str, Any]) -> None:
    """Write the state; `settings` must be the same for a run that continues it."""
    tensors: dict[str, Tensor] = {'generator': trainer.generator.get_state()}
    for (name, parameter), average in zip(
        trainer.trainable_parameters, trainer.ema_weights, strict=True
    ):
        tensors[f'weight.{name}'], tensors[f'average.{name}'] = parameter.detach(), average
        held = trainer.optimizer.state.get(parameter, {})
        tensors |= {
            f'{moment}.{name}': held[moment] for moment in _OPTIMIZER_STATE_KEYS if moment in held
        }
    words = {
        'step': trainer.step,
        'elapsed_s': elapsed_s,
        'settings': settings,
        'rng': trainer.rng.bit_generator.state,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        part,
        metadata={'state': json.dumps(words)},
    )
    os.replace(part, path)


def load_state(path: Path, trainer: Trainer, settings: dict[str, Any]) -> float:
    """Put a written state into a trainer; return the seconds it had trained.

    ValueError if the file is damaged or was written by a run with other settings.
    """
    try:
        with safe_open(path, 'pt') as file:
            words = json.loads(file.metadata()['state'])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: damaged ({error}); remove it to begin anew, or put back a copy'
        ) from error
    other = sorted(
        key
        for key in settings.keys() | words['settings'].keys()
        if settings.get(key) != words['settings'].get(key)
    )
    if other:
        told = ', '.join(
            f'{key} was {words["settings"].get(key)}, is {settings.get(key)}' for key in other
        )
        raise ValueError(
            f'{path}: written by a run with other settings ({told}); give the same '
            'ones, another --out, or --fresh to begin anew'
        )
    wanted = {f'weight.{name}' for name, _ in trainer.trainable_parameters}
    if not wanted <= tensors.keys():
        raise ValueError(
            f'{path}: lacks {", ".join(sorted(wanted - tensors.keys())[:3])}; it '
            'belongs to another model: give another --out, or --fresh'
        )
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trainer.trainable_parameters):
            parameter.copy_(tensors[f'weight.{name}'])
            trainer.ema_weights[i].copy_(tensors[f'average.{name}'])
            held = {
                moment: tensors[f'{moment}.{name}']
                for moment in _OPTIMIZER_STATE_KEYS
                if f'{moment}.{name}' in tensors
            }
            if held:
                trainer.optimizer.state[parameter] = {
                    key: value.to(parameter.device) for key, value in held.items()
                }
    trainer.generator.set_state(tensors['generator'])
    trainer.rng.bit_generator.state = words['rng']
    trainer.step = words['step']
    return float(words['elapsed_s'])

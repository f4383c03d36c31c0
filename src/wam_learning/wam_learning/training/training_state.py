"""Save and load the complete state of a training in one file that is replaced atomically."""

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


def write_state(
    path: Path, trainer: Trainer[Any], elapsed_s: float, settings: dict[str, Any]
) -> None:
    """Write the state; a run that resumes it must have the same `settings`."""
    tensors: dict[str, Tensor] = {'generator': trainer.generator.get_state()}
    for (name, parameter), average in zip(
        trainer.trainable_parameters, trainer.ema_weights, strict=True
    ):
        tensors[f'weight.{name}'], tensors[f'average.{name}'] = parameter.detach(), average
        moments = trainer.optimizer.state.get(parameter, {})
        tensors |= {
            f'{moment}.{name}': moments[moment]
            for moment in _OPTIMIZER_STATE_KEYS
            if moment in moments
        }
    header = {
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
        metadata={'state': json.dumps(header)},
    )
    os.replace(part, path)


def load_state(path: Path, trainer: Trainer[Any], settings: dict[str, Any]) -> float:
    """Restore the state of a trainer; return the seconds it had trained.

    Raise ValueError if the file is damaged or was written by a run with other settings.
    """
    try:
        with safe_open(path, 'pt') as file:
            header = json.loads(file.metadata()['state'])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: damaged ({error}); remove it to start again, or restore a copy'
        ) from error
    if header['settings'].get('stage') == 'clone':  # as it was called before `bc`
        header['settings']['stage'] = 'bc'
    header['settings'].setdefault('delays', {'committed': 0, 'late': 0})  # as before these options
    if 'clean_video' in settings.get('objective', {}):
        header['settings'].get('objective', {}).setdefault('clean_video', 0.0)
    other = sorted(
        key
        for key in settings.keys() | header['settings'].keys()
        if settings.get(key) != header['settings'].get(key)
    )
    if other:
        changes = ', '.join(
            f'{key} was {header["settings"].get(key)}, is {settings.get(key)}' for key in other
        )
        raise ValueError(
            f'{path}: written by a run with other settings ({changes}); give the same '
            'ones, another --out, or --no-resume to start again'
        )
    wanted = {f'weight.{name}' for name, _ in trainer.trainable_parameters}
    if not wanted <= tensors.keys():
        raise ValueError(
            f'{path}: no tensors {", ".join(sorted(wanted - tensors.keys())[:3])}; it '
            'belongs to another model; give another --out, or --no-resume'
        )
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trainer.trainable_parameters):
            parameter.copy_(tensors[f'weight.{name}'])
            trainer.ema_weights[i].copy_(tensors[f'average.{name}'])
            moments = {
                moment: tensors[f'{moment}.{name}']
                for moment in _OPTIMIZER_STATE_KEYS
                if f'{moment}.{name}' in tensors
            }
            if moments:
                trainer.optimizer.state[parameter] = {
                    key: value.to(parameter.device) for key, value in moments.items()
                }
    trainer.generator.set_state(tensors['generator'])
    trainer.rng.bit_generator.state = header['rng']
    trainer.step = header['step']
    return float(header['elapsed_s'])

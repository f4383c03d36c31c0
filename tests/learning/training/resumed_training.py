"""Whether a training that was interrupted and continued equals one that was not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wam_learning.training import train


def check_resumed_equals_whole(
    run: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Train once whole and once in two halves with `run(out, steps=N)`; compare all weights."""
    assert run(folder / 'whole', steps=steps) == 0
    taken, learn = [], train.Trainer.train_step

    def interrupted(self, batch, share):
        if len(taken) == steps // 2:
            raise KeyboardInterrupt
        taken.append(share)
        return learn(self, batch, share)

    monkeypatch.setattr(train.Trainer, 'train_step', interrupted)
    monkeypatch.setattr(train, 'SAVE_EVERY_S', 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(folder / 'parts', steps=steps)
    monkeypatch.setattr(train.Trainer, 'train_step', learn)
    assert run(folder / 'parts', steps=steps) == 0
    whole, parts = (load_file(folder / name / 'model.safetensors') for name in ('whole', 'parts'))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

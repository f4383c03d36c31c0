"""One training step after another: optimiser, averaged weights, random numbers.

Knows neither files nor clocks: `share` says how much of the training is done, and everything that
a continued run needs is in `state`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from wam_learning.data.sequence_sampler import Batch
from wam_learning.training.losses import Losses, Objective
from wam_learning.training.training_model import Learner, Prompts

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, slots=True)
class Settings:
    """Say how weights are moved."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warm_up: int = 60  # steps
    decay_share: float = 0.4  # of the training at its end, in which the rate falls to 0
    clip: float = 1.0
    average: float = 0.998  # of the weights that are kept
    bf16: bool = True
    text_dropout: float = 0.0  # share of windows without their text, for guidance

    def rate_at(self, step: int, share: float) -> float:
        falling = min(1.0, (1.0 - share) / self.decay_share) if self.decay_share else 1.0
        return self.rate * min(1.0, (step + 1) / self.warm_up) * max(falling, 0.0)


@dataclass(slots=True)
class Trainer:
    """Move the parameters of a learner that ask for gradients; `accelerator` spreads the work."""

    learner: Learner
    prompts: Prompts
    columns: Tensor  # bool [action_dim]: which carry data
    objective: Objective
    settings: Settings
    seed: int
    accelerator: Accelerator | None = None
    step: int = 0
    trained: list[tuple[str, nn.Parameter]] = field(init=False)
    optimiser: torch.optim.Optimizer = field(init=False)
    averages: list[Tensor] = field(init=False)
    generator: torch.Generator = field(init=False)
    rng: np.random.Generator = field(init=False)
    _wrapped: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        moving = [p for p in self.learner.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {
                    'params': [p for p in moving if p.ndim > 1],
                    'weight_decay': self.settings.weight_decay,
                },
                {'params': [p for p in moving if p.ndim < 2], 'weight_decay': 0.0},
            ],
            lr=self.settings.rate,
            betas=self.settings.betas,
            fused=True,
        )
        self._wrapped, rank = self.learner, 0
        if self.accelerator is not None:
            self._wrapped, self.optimiser = self.accelerator.prepare(self.learner, self.optimiser)
            rank = self.accelerator.process_index
        if isinstance(self._wrapped, FSDPModule):
            # judging enters here and not by `forward`: shards must come together for it, too
            register_fsdp_forward_method(self.learner, 'predict')
        # read after `prepare`, which may put sharded parameters in the place of whole ones
        self.trained = [
            (name, p) for name, p in self.learner.named_parameters() if p.requires_grad
        ]
        self.averages = [p.detach().clone() for _, p in self.trained]
        self.generator = torch.Generator().manual_seed(self.seed + rank)
        self.rng = np.random.default_rng([self.seed, rank])

    def learn(self, batch: Batch, share: float) -> Losses:
        """Take one step; give the losses before it, detached."""
        for group in self.optimiser.param_groups:
            group['lr'] = self.settings.rate_at(self.step, share)
        texts = batch.texts
        if self.settings.text_dropout:
            dice = self.rng.random(len(texts))
            texts = [
                '' if roll < self.settings.text_dropout else text
                for roll, text in zip(dice, texts, strict=True)
            ]
        batch = batch.to(self.device)
        with self.autocast():
            found: Losses = self._wrapped(
                batch,
                self.prompts(texts).to(self.device),
                self.objective,
                self.columns.to(self.device),
                self.generator,
            )
        self.optimiser.zero_grad(set_to_none=True)
        moved = [p for _, p in self.trained]
        if self.accelerator is not None:
            self.accelerator.backward(found.total)
            norm = self.accelerator.clip_grad_norm_(moved, self.settings.clip)
        else:
            found.total.backward()
            norm = nn.utils.clip_grad_norm_(moved, self.settings.clip)
        if norm is not None and not torch.isfinite(norm):
            raise FloatingPointError(
                f'step {self.step}: the gradient is not finite; lower --rate '
                'or look for broken rows in the data'
            )
        self.optimiser.step()
        self.step += 1
        self._average()
        return Losses(*(part.detach() for part in found))

    @property
    def device(self) -> torch.device:
        return self.learner.dit.device

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.settings.bf16)

    def _average(self) -> None:
        # young averages would remember the random start
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, (_, parameter) in zip(self.averages, self.trained, strict=True):
                average.lerp_(parameter, 1 - keep)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the model for a while."""
        raw = [p.detach().clone() for _, p in self.trained]
        with torch.no_grad():
            self._put(self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                self._put(raw)

    def _put(self, values: list[Tensor]) -> None:
        for (_, parameter), value in zip(self.trained, values, strict=True):
            parameter.copy_(value)

"""Training steps: optimizer, exponential moving average of the weights, random numbers.

Uses neither files nor clocks: `fraction_done` is an argument, `training_state` saves the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from wam_learning.training.training_model import PromptEncoder

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainableBatch(Protocol):
    """Describe what a model is trained on: tensors, and the instruction of each window."""

    @property
    def texts(self) -> tuple[str, ...]: ...
    def to(self, device: torch.device) -> Self: ...


class StepLosses(Protocol):
    """Describe the losses of a step, a named tuple: their weighted sum and its parts."""

    @property
    def total(self) -> Tensor: ...
    def _asdict(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """Settings of the optimizer."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warm_up: int = 60  # steps
    decay_share: float = 0.4  # last fraction of the training, in which the rate decays to 0
    clip: float = 1.0
    average: float = 0.998  # decay of the exponential moving average, per step
    bf16: bool = True
    text_dropout: float = 0.0  # share of windows without their text, for guidance

    def learning_rate_at(self, step: int, fraction_done: float) -> float:
        falling = min(1.0, (1.0 - fraction_done) / self.decay_share) if self.decay_share else 1.0
        return self.rate * min(1.0, (step + 1) / self.warm_up) * max(falling, 0.0)


@dataclass(slots=True)
class Trainer[Model: nn.Module]:
    """Update the parameters of a model that require gradients, on one or several processes.

    The model maps a batch, its texts, `objective`, `action_columns` and a random generator to
    StepLosses.
    """

    model: Model
    prompt_encoder: PromptEncoder
    action_columns: Tensor  # bool [action_dim]: columns with data
    objective: Any  # a dataclass: weights of the losses of `model`
    config: TrainerConfig
    seed: int
    accelerator: Accelerator | None = None
    step: int = 0
    trainable_parameters: list[tuple[str, nn.Parameter]] = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    ema_weights: list[Tensor] = field(init=False)
    generator: torch.Generator = field(init=False)
    rng: np.random.Generator = field(init=False)
    _wrapped_model: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        moving = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    'params': [p for p in moving if p.ndim > 1],
                    'weight_decay': self.config.weight_decay,
                },
                {'params': [p for p in moving if p.ndim < 2], 'weight_decay': 0.0},
            ],
            lr=self.config.rate,
            betas=self.config.betas,
            fused=True,
        )
        self._wrapped_model, rank = self.model, 0
        if self.accelerator is not None:
            self._wrapped_model, self.optimizer = self.accelerator.prepare(
                self.model, self.optimizer
            )
            rank = self.accelerator.process_index
        if isinstance(self._wrapped_model, FSDPModule):
            # validation calls `predict` instead of `forward`, which must gather the shards too
            register_fsdp_forward_method(self.model, 'predict')
        # after `prepare`, which may replace parameters by sharded ones
        self.trainable_parameters = [
            (name, p) for name, p in self.model.named_parameters() if p.requires_grad
        ]
        self.ema_weights = [p.detach().clone() for _, p in self.trainable_parameters]
        self.generator = torch.Generator().manual_seed(self.seed + rank)
        self.rng = np.random.default_rng([self.seed, rank])

    def train_step(self, batch: TrainableBatch, fraction_done: float) -> StepLosses:
        """Run one step; return the losses before it, detached."""
        for group in self.optimizer.param_groups:
            group['lr'] = self.config.learning_rate_at(self.step, fraction_done)
        texts = batch.texts
        if self.config.text_dropout:
            draws = self.rng.random(len(texts))
            texts = [
                '' if draw < self.config.text_dropout else text
                for draw, text in zip(draws, texts, strict=True)
            ]
        batch = batch.to(self.device)
        with self.autocast():
            found: StepLosses = self._wrapped_model(
                batch,
                self.prompt_encoder(texts).to(self.device),
                self.objective,
                self.action_columns.to(self.device),
                self.generator,
            )
        self.optimizer.zero_grad(set_to_none=True)
        moved = [p for _, p in self.trainable_parameters]
        if self.accelerator is not None:
            self.accelerator.backward(found.total)
            norm = self.accelerator.clip_grad_norm_(moved, self.config.clip)
        else:
            found.total.backward()
            norm = nn.utils.clip_grad_norm_(moved, self.config.clip)
        if norm is not None and not torch.isfinite(norm):
            raise FloatingPointError(
                f'step {self.step}: the gradient is not finite; lower --lr '
                'or check the data for invalid rows'
            )
        self.optimizer.step()
        self.step += 1
        self._update_ema()
        return type(found)(**{name: part.detach() for name, part in found._asdict().items()})

    @property
    def device(self) -> torch.device:
        return self.trainable_parameters[0][1].device

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.config.bf16)

    def _update_ema(self) -> None:
        # a smaller decay at first, so that the average forgets the random start
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, (_, parameter) in zip(
                self.ema_weights, self.trainable_parameters, strict=True
            ):
                average.lerp_(parameter, 1 - keep)

    @contextmanager
    def use_ema_weights(self) -> Iterator[None]:
        """Use the averaged weights in the model within the context."""
        raw = [p.detach().clone() for _, p in self.trainable_parameters]
        with torch.no_grad():
            self._copy_weights(self.ema_weights)
        try:
            yield
        finally:
            with torch.no_grad():
                self._copy_weights(raw)

    def _copy_weights(self, values: list[Tensor]) -> None:
        for (_, parameter), value in zip(self.trainable_parameters, values, strict=True):
            parameter.copy_(value)

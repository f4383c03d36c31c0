"""One training step after another: optimiser, averaged weights, random numbers.

Knows neither files nor clocks: `share` says how much of the training is done, and everything that
a continued run needs is in `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from wam_policy.learn.grounding import Heads
from wam_policy.learn.losses import Losses, Objective, losses
from wam_policy.learn.windows import Batch
from wam_policy.model.dit import VideoActionDiT
from wam_policy.model.encoders import Encoders
from wam_policy.model.layers import ContextMemory


@dataclass(frozen=True, slots=True)
class Settings:
    """Say how weights are moved."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warm_up: int = 60               # steps
    decay_share: float = 0.4        # of the training at its end, in which the rate falls to 0
    clip: float = 1.0
    average: float = 0.998          # of the weights that are kept
    bf16: bool = True
    text_dropout: float = 0.0       # share of windows without their text, for guidance

    def rate_at(self, step: int, share: float) -> float:
        falling = min(1.0, (1.0 - share) / self.decay_share) if self.decay_share else 1.0
        return self.rate * min(1.0, (step + 1) / self.warm_up) * max(falling, 0.0)


class Prompts:
    """Give the embedding of instructions: computed anew while it is learned, else once."""

    def __init__(self, encoders: Encoders, prompt: Callable[[str], str], learned: bool) -> None:
        self._encoders, self._prompt, self._learned = encoders, prompt, learned
        self._known: dict[str, tuple[Tensor, Tensor]] = {}
        self._embedded: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed instructions: [texts text_len dim]."""
        if not self._learned:
            for text in set(texts) - self._embedded.keys():
                self._embedded[text] = self._encoders.encode_prompts([self._filled(text)])[0]
            return torch.stack([self._embedded[text] for text in texts])
        assert self._encoders.tokenizer is not None
        for text in set(texts) - self._known.keys():
            ids, mask = self._encoders.tokenizer([self._filled(text)])
            self._known[text] = ids[0], mask[0]
        distinct = sorted(set(texts))
        ids, mask = (torch.stack([self._known[text][i] for text in distinct]) for i in (0, 1))
        longest = int(mask.sum(1).max())
        device = next(self._encoders.text.parameters()).device
        short = self._encoders.text(ids[:, :longest].to(device), mask[:, :longest].to(device))
        # rows of padding come out as zeros, so they need not be computed
        rest = short.new_zeros(len(distinct), ids.shape[1] - longest, short.shape[2])
        return torch.cat([short, rest], 1)[[distinct.index(text) for text in texts]]

    def _filled(self, text: str) -> str:
        return self._prompt(text) if text else ''


@dataclass(slots=True)
class Trainer:
    """Train a model's parameters on batches."""

    model: VideoActionDiT
    heads: Heads | None
    prompts: Prompts
    trained: list[tuple[str, nn.Parameter]]     # name, parameter: what moves
    columns: Tensor                             # bool [action_dim]: which carry data
    objective: Objective
    settings: Settings
    seed: int
    step: int = 0
    optimiser: torch.optim.Optimizer = field(init=False)
    averages: list[Tensor] = field(init=False)
    generator: torch.Generator = field(init=False)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        matrices = [p for _, p in self.trained if p.ndim > 1]
        others = [p for _, p in self.trained if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{'params': matrices, 'weight_decay': self.settings.weight_decay},
             {'params': others, 'weight_decay': 0.0}],
            lr=self.settings.rate, betas=self.settings.betas, fused=True)
        self.averages = [p.detach().clone() for _, p in self.trained]
        self.generator = torch.Generator().manual_seed(self.seed)
        self.rng = np.random.default_rng(self.seed)

    def context(self, texts: Sequence[str]) -> list[ContextMemory]:
        return self.model.context(self.prompts(texts))

    def learn(self, batch: Batch, share: float, condition: Tensor | None = None) -> Losses:
        """Take one step; give the losses before it, detached."""
        for group in self.optimiser.param_groups:
            group['lr'] = self.settings.rate_at(self.step, share)
        texts = batch.texts
        if self.settings.text_dropout:
            dice = self.rng.random(len(texts))
            texts = ['' if roll < self.settings.text_dropout else text
                     for roll, text in zip(dice, texts, strict=True)]
        with self.autocast():
            found = losses(self.model, self.heads, batch, self.context(texts), self.objective,
                           self.columns, self.generator, condition)
        self.optimiser.zero_grad(set_to_none=True)
        found.total.backward()
        norm = nn.utils.clip_grad_norm_([p for _, p in self.trained], self.settings.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f'step {self.step}: the gradient is not finite; lower --rate '
                                     'or look for broken rows in the data')
        self.optimiser.step()
        self.step += 1
        self._average()
        return Losses(*(part.detach() for part in found))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, self.settings.bf16)

    def _average(self) -> None:
        # young averages would remember the random start
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [p.detach() for _, p in self.trained], 1 - keep)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the model for a while."""
        raw = [p.detach().clone() for _, p in self.trained]
        with torch.no_grad():
            torch._foreach_copy_([p for _, p in self.trained], self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([p for _, p in self.trained], raw)

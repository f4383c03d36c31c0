"""The recurrent state-space model of DreamerV3 (Hafner et al. 2023, arXiv 2301.04104), small.

A GRU carries the deterministic state; the stochastic state is a vector of categorical variables
with straight-through gradients and 1 % uniform probability. The prior sees the deterministic
state, the posterior also an embedding of the observation. Uses neither files nor robots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNIFORM_SHARE = 0.01  # of every categorical distribution: no probability is ever 0
FREE_NATS = 1.0  # KL below this has no gradient
UPDATE_BIAS = -1.0  # of the update gate: the state is kept at first


@dataclass(frozen=True, slots=True)
class RssmConfig:
    """Size a recurrent state-space model."""

    hidden: int  # width of the deterministic state
    groups: int  # categorical variables
    classes: int  # of each
    layer_width: int  # of the networks around the state

    def __post_init__(self) -> None:
        """Raise ValueError for a size below 1, or a variable with a single class."""
        if min(self.hidden, self.groups, self.layer_width) < 1 or self.classes < 2:
            raise ValueError(
                f'rssm: want sizes from 1 and 2 classes or more, got hidden {self.hidden}, groups '
                f'{self.groups}, classes {self.classes}, layer_width {self.layer_width}'
            )

    @property
    def stochastic(self) -> int:
        """Return the width of the stochastic state."""
        return self.groups * self.classes

    @property
    def features(self) -> int:
        """Return the width of both states together."""
        return self.hidden + self.stochastic


class RssmState(NamedTuple):
    """Hold the state of a batch."""

    hidden: Tensor  # [batch hidden]
    stochastic: Tensor  # [batch groups*classes], one-hot by group

    def features(self) -> Tensor:
        """Return both parts, float32 [batch features]."""
        return torch.cat([self.hidden.float(), self.stochastic], -1)


def make_mlp(inputs: int, width: int, outputs: int, layers: int = 1) -> nn.Sequential:
    """Return a network with `layers` normalized hidden layers."""
    hidden: list[nn.Module] = []
    for _ in range(layers):
        hidden += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU()]
        inputs = width
    return nn.Sequential(*hidden, nn.Linear(inputs, outputs))


class NormalizedGru(nn.Module):
    """Update a recurrent state with gates whose inputs are normalized together."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + hidden, 3 * hidden, bias=False)
        self.norm = nn.LayerNorm(3 * hidden)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the next state [batch hidden] for the inputs [batch inputs]."""
        reset, candidate, update = self.norm(self.gates(torch.cat([x, hidden], -1))).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update + UPDATE_BIAS)
        return update * candidate + (1 - update) * hidden


class RecurrentStateSpaceModel(nn.Module):
    """Advance the state by an action; predict its stochastic part with and without an image."""

    def __init__(self, config: RssmConfig, action_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.layer_width
        self.input = nn.Sequential(
            nn.Linear(config.stochastic + action_dim, width), nn.LayerNorm(width), nn.SiLU()
        )
        self.gru = NormalizedGru(width, config.hidden)
        self.prior = make_mlp(config.hidden, width, config.stochastic)
        self.posterior = make_mlp(config.hidden + embedding_dim, width, config.stochastic)

    def make_initial_state(self, batch: int, like: Tensor) -> RssmState:
        """Return the state before the first observation: zeros, as `like` in type and device."""
        c = self.config
        return RssmState(like.new_zeros(batch, c.hidden), like.new_zeros(batch, c.stochastic))

    def advance(self, state: RssmState, action: Tensor) -> Tensor:
        """Return the next deterministic state for the action [batch action_dim]."""
        x = self.input(torch.cat([state.stochastic.to(action), action], -1))
        return self.gru(x, state.hidden.to(x))

    def predict_prior(self, hidden: Tensor) -> Tensor:
        """Return log probabilities [... groups classes] before the observation."""
        return self._normalize(self.prior(hidden))

    def infer_posterior(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Return log probabilities [... groups classes] with the observation."""
        return self._normalize(self.posterior(torch.cat([hidden, embedding.to(hidden)], -1)))

    def _normalize(self, logits: Tensor) -> Tensor:
        return mix_uniform(logits.float().unflatten(-1, (self.config.groups, -1)))


def mix_uniform(logits: Tensor, share: float = UNIFORM_SHARE) -> Tensor:
    """Return log probabilities of the softmax over the last axis, mixed with the uniform one."""
    return ((1 - share) * logits.softmax(-1) + share / logits.shape[-1]).log()


def sample_straight_through(log_probs: Tensor, uniform: Tensor | None) -> Tensor:
    """Return one-hot samples [... groups*classes]; gradients pass to the probabilities.

    `uniform` [... groups classes] are random numbers in (0, 1); None takes the likeliest class.
    """
    scores = log_probs
    if uniform is not None:
        scores = log_probs - (-uniform.clamp(1e-20, 1 - 1e-7).log()).log()  # Gumbel's trick
    one_hot = F.one_hot(scores.argmax(-1), log_probs.shape[-1]).to(log_probs)
    probs = log_probs.exp()
    return (one_hot + probs - probs.detach()).flatten(-2)


class KlLosses(NamedTuple):
    """Hold both parts of the balanced KL divergence [...], in nats."""

    dynamics: Tensor  # moves the prior towards the posterior
    representation: Tensor  # moves the posterior towards the prior


def compute_kl_losses(posterior: Tensor, prior: Tensor, free_nats: float = FREE_NATS) -> KlLosses:
    """Return the KL divergences of log probabilities [... groups classes].

    Both have one value; each has a gradient for one of the distributions only, and none below
    `free_nats`.
    """

    def compute_kl(left: Tensor, right: Tensor) -> Tensor:
        return (left.exp() * (left - right)).sum((-2, -1)).clamp(min=free_nats)

    return KlLosses(compute_kl(posterior.detach(), prior), compute_kl(posterior, prior.detach()))


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|), which compresses large values."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Return the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()

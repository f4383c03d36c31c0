"""Training losses: chunk-wise flow matching with teacher forcing.

Every block of a window has a noise level; the network receives data mixed with noise and predicts
noise - data, for the video and for the actions of the block.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wam_policy.model.network.video_action_dit import CLEAN_TIME, TrainingPrediction
from wam_policy.model.sampling.noise_schedule import (
    NUM_TRAIN_TIMESTEPS,
    make_training_sigmas,
    make_training_weights,
)

NEARLY_CLEAN_LEVEL = 850  # of 1000; noise 0.35 at shift 3, and less from there on
# of windows without text, where a training has nearly clean video at all: without an instruction
# the actions can follow from that video only
CLEAN_WITHOUT_TEXT = 0.75
PADDING_WEIGHT = 0.1  # of action columns without a joint; multi-step sampling denoises them too


@dataclass(frozen=True, slots=True)
class Objective:
    """Distribution of noise levels and weights of the losses; `video` 0: no video loss."""

    shift: float
    pure: float  # share of blocks at pure noise, the input of one-step inference
    bell: bool  # weights by level as for the released models; pure noise then has weight 0
    decoupled: bool  # video near pure noise, independent of the actions' level (Flash)
    video: float
    action: float
    grounding: float
    # share of blocks with actions at pure noise and nearly clean video: inverse dynamics
    clean_video: float = 0.0


BEHAVIOR_CLONING = Objective(3.0, 1.0, False, False, 0.0, 1.0, 0.5)
JOINT = Objective(3.0, 0.4, False, False, 0.5, 1.0, 0.5)
FLASH = Objective(3.0, 0.3, False, True, 0.5, 1.0, 0.5)
RELEASED = Objective(5.0, 0.0, True, False, 1.0, 1.0, 0.0)


class NoiseLevels(NamedTuple):
    """Indices into the table of noise levels; 0 is pure noise."""

    video: Tensor  # int64 [batch blocks]
    action: Tensor  # int64 [batch blocks actions]


class Losses(NamedTuple):
    """Weighted sum and its parts; accuracy is that of the patch head."""

    total: Tensor
    action: Tensor
    video: Tensor
    patch: Tensor
    place: Tensor
    accuracy: Tensor


def sample_noise_levels(
    objective: Objective,
    has_text: Tensor,
    blocks: int,
    actions: int,
    generator: torch.Generator,
) -> NoiseLevels:
    """Sample noise levels: one per block for video and actions.

    Decoupled: Beta(3, 1) towards noise per block for video, one level per action token.
    In a share `clean_video` of the blocks the actions can follow from the video; in most windows
    without text, by has_text bool [batch], they must.
    """
    batch = len(has_text)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    pure = uniform(batch, blocks) < objective.pure
    if objective.decoupled:
        ratio = uniform(batch, blocks) ** (1 / 3)  # Beta(3, 1)
        video = ((1 - ratio) * NUM_TRAIN_TIMESTEPS).long()
        action = (uniform(batch, blocks, actions) * NUM_TRAIN_TIMESTEPS).long()
        action = action.masked_fill(pure[..., None], 0)
    else:
        video = (uniform(batch, blocks) * NUM_TRAIN_TIMESTEPS).long().masked_fill(pure, 0)
        action = video[..., None].expand(-1, -1, actions)
    if objective.clean_video:
        share = torch.where(has_text, objective.clean_video, CLEAN_WITHOUT_TEXT)
        clean = uniform(batch, blocks) < share[:, None]
        level = torch.randint(
            NEARLY_CLEAN_LEVEL, NUM_TRAIN_TIMESTEPS, (batch, blocks), generator=generator
        )
        video, action = torch.where(clean, level, video), action.masked_fill(clean[..., None], 0)
    return NoiseLevels(video, action)


class NoisedSample(NamedTuple):
    """Input and target of the network."""

    noised: Tensor
    velocity: Tensor
    timestep: Tensor  # of the level, as at inference
    weight: Tensor


def add_noise(data: Tensor, noise: Tensor, level: Tensor, objective: Objective) -> NoisedSample:
    """Mix data with noise at `level`, whose axes are the first axes of `data`."""
    table = make_training_sigmas(objective.shift)
    weights = make_training_weights(table) if objective.bell else torch.ones_like(table)
    sigma, weight = table[level], weights[level]
    t = (NUM_TRAIN_TIMESTEPS * sigma).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1).float()
    share = sigma.reshape(*sigma.shape, *[1] * (data.ndim - sigma.ndim)).to(data)
    return NoisedSample(
        (1 - share) * data + share * noise, noise - data, t.to(data.device), weight.to(data.device)
    )


def give_committed_rows(action: NoisedSample, data: Tensor, committed: Tensor) -> NoisedSample:
    """Return the sample with clean rows at time 0 where `committed` [batch blocks actions]."""
    return action._replace(
        noised=torch.where(committed[..., None], data, action.noised),
        timestep=action.timestep.masked_fill(committed, CLEAN_TIME),
    )


def action_loss(
    prediction: TrainingPrediction, target: NoisedSample, mask: Tensor, columns: Tensor
) -> Tensor:
    """Return the mean squared velocity error over the rows of `mask` [batch blocks actions]."""
    wrong = (prediction.action.float().view_as(target.velocity) - target.velocity).square()
    weight = columns.float() + PADDING_WEIGHT * (~columns).float()
    per_row = (wrong * weight).sum(-1) / weight.sum() * target.weight
    return (per_row * mask).sum() / mask.sum().clamp(min=1)


def video_loss(velocity: Tensor, target: NoisedSample, mask: Tensor) -> Tensor:
    """Return the mean squared velocity error over the blocks of `mask` [batch blocks]."""
    per_frame = (velocity.float() - target.velocity).square().mean((2, 3, 4)) * target.weight
    kept = mask.repeat_interleave(per_frame.shape[1] // mask.shape[1], 1)
    return (per_frame * kept).sum() / kept.sum().clamp(min=1)


def sample_noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Sample noise on the CPU, so that it is equal for every device."""
    return torch.randn(like.shape, generator=generator).to(like)

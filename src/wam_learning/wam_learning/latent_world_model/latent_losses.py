"""Losses of the latent world model: DreamerV3's, imitation and grounding.

World model: reconstruction and the balanced KL divergence, weighted as published. The actor
imitates the demonstrations from posterior states; there is no reward, so nothing is trained on
imagined returns. Grounding as in the other trainings: which patch, and where on the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_learning.latent_world_model.latent_data import LatentBatch
from wam_learning.latent_world_model.latent_network import (
    Encoded,
    LatentNetwork,
    compute_reconstruction_losses,
)
from wam_learning.latent_world_model.rssm import compute_kl_losses
from wam_learning.training.training_model import TextBatch
from wam_policy.model.encoders.text_encoder import TextEncoder

# of steps without their motion: arms that rest while the first answer is computed would else look
# like arms that have arrived
MOTION_DROPOUT = 0.5


@dataclass(frozen=True, slots=True)
class LatentObjective:
    """Weigh the losses; `world` scales reconstruction and KL against the imitation."""

    world: float = 0.01
    dynamics: float = 1.0
    representation: float = 0.1
    action: float = 1.0
    grounding: float = 0.5


class LatentLosses(NamedTuple):
    """Weighted sum and its parts; accuracy is that of the patch attention."""

    total: Tensor
    action: Tensor
    image: Tensor
    joints: Tensor
    dynamics: Tensor
    representation: Tensor
    patch: Tensor
    place: Tensor
    accuracy: Tensor


class LatentTrainingModel(nn.Module):
    """The trainable modules, networks and text encoder, with one forward pass."""

    def __init__(self, network: LatentNetwork, text: TextEncoder) -> None:
        super().__init__()
        self.network, self.text = network, text

    def encode(self, batch: LatentBatch, text_batch: TextBatch) -> Encoded:
        """Encode the images of windows and their texts."""
        assert text_batch.token_ids is not None and text_batch.mask is not None
        text = self.text(text_batch.token_ids, text_batch.mask)[text_batch.text_index]
        mask = text_batch.mask[text_batch.text_index] > 0
        return self.network.encode(batch.image, text, mask)

    def forward(
        self,
        batch: LatentBatch,
        text_batch: TextBatch,
        objective: LatentObjective,
        action_columns: Tensor,
        generator: torch.Generator,
    ) -> LatentLosses:
        """Return the losses of a batch; `action_columns` bool [action_dim]: columns with data."""
        c = self.network.config.rssm
        uniform = torch.rand(*batch.seen.shape, c.groups, c.classes, generator=generator)
        network, seen, device = self.network, batch.seen, batch.image.device
        kept = torch.rand(*seen.shape, 1, generator=generator) >= MOTION_DROPOUT
        encoded = self.encode(batch, text_batch)
        found = network.observe(
            encoded, batch.joints, batch.motion * kept.to(device), uniform=uniform.to(device)
        )

        def average(values: Tensor) -> Tensor:
            return (values * seen).sum() / seen.sum()

        kl = compute_kl_losses(found.posterior, found.prior)
        image, joints = map(
            average,
            compute_reconstruction_losses(
                network.decode(found.features), batch.image, batch.joints
            ),
        )
        dynamics, representation = average(kl.dynamics), average(kl.representation)
        acting = network.act(found.features, batch.joints, batch.query_joints, encoded.instruction)
        wrong = (acting - batch.action).square()[..., action_columns].mean(-1)
        mask = batch.action_mask
        action = (wrong * mask).sum() / mask.sum().clamp(min=1)
        patch, accuracy = compute_patch_loss(found.patch_logits, batch.patch_target)
        place = compute_place_loss(network.place(found.features), batch.place)
        world = image + joints + objective.dynamics * dynamics
        world = world + objective.representation * representation
        total = objective.world * world + objective.action * action
        total = total + objective.grounding * (patch + place)
        return LatentLosses(
            total, action, image, joints, dynamics, representation, patch, place, accuracy
        )


def compute_patch_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross entropy and accuracy of logits [... patches] where a target is known."""
    known = target.sum(-1) > 0
    if not known.any():
        return logits.sum() * 0, logits.sum().detach() * 0
    wanted, given = target[known], logits[known]
    # for an object on a border either patch is correct
    guess = wanted.gather(1, given.argmax(-1, keepdim=True))
    accuracy = (guess > wanted.amax(-1, keepdim=True) / 2).float().mean()
    return F.cross_entropy(given, wanted), accuracy


def compute_place_loss(predicted: Tensor, place: Tensor) -> Tensor:
    """Return the mean squared error of positions [... 2] where `place` is finite."""
    known = torch.isfinite(place).all(-1)
    if not known.any():
        return predicted.sum() * 0
    return (predicted.float()[known] - place[known]).square().mean()

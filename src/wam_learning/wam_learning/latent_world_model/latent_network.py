"""The networks of the latent world model: encoder, recurrent state, decoder, actor.

Images are latents of the convolutional autoencoder, cut into patches that attend to the
instruction. The deterministic state selects among the patches (a shown goal can be out of sight
again), the posterior reads the selection, all patches and the joint positions. The decoder
reconstructs latents and joint positions from the state, the actor predicts a chunk of actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_learning.latent_world_model.rssm import (
    RecurrentStateSpaceModel,
    RssmConfig,
    RssmState,
    make_mlp,
    sample_straight_through,
    symlog,
)
from wam_policy.model.network.model_config import ModelConfig

PATCH_SUMMARY = 16  # numbers per patch that the posterior reads


@dataclass(frozen=True, slots=True)
class LatentNetworkConfig:
    """Size the networks of a latent world model."""

    rssm: RssmConfig
    token_width: int
    heads: int
    blocks: int  # of attention among patches and to the instruction

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that do not fit together."""
        if min(self.token_width, self.heads, self.blocks) < 1 or self.token_width % self.heads:
            raise ValueError(
                f'latent network: token_width {self.token_width} does not split into '
                f'{self.heads} heads, or blocks {self.blocks} is below 1'
            )


DEFAULT_CONFIG = LatentNetworkConfig(RssmConfig(384, 32, 16, 384), 128, 4, 2)


class TokenBlock(nn.Module):
    """Let the patches of an image attend to each other, and to the instruction."""

    def __init__(self, width: int, heads: int, text_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.query = nn.Linear(width, width)
        self.text = nn.Linear(text_dim, 2 * width)
        self.outputs = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return patches [batch steps patches width]; text [batch length dim], mask bool."""
        q, k, v = map(self._split, self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.outputs[0](self._join(_attend(q, k, v)))
        q = self._split(self.query(self.norms[1](x)).flatten(1, 2))
        k, v = map(self._split, self.text(text).chunk(2, -1))
        found = self._join(_attend(q, k, v, text_mask[:, None, None]))
        x = x + self.outputs[1](found).unflatten(1, x.shape[1:3])
        return x + self.mlp(self.norms[2](x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    @staticmethod
    def _join(x: Tensor) -> Tensor:
        return x.transpose(-2, -3).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend [... tokens width]; two products are faster than the fused kernel on a CPU."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1) @ v


class ImageTokens(nn.Module):
    """Turn latent images and the instruction into patches."""

    def __init__(self, config: LatentNetworkConfig, model: ModelConfig) -> None:
        super().__init__()
        width = config.token_width
        self.stem = nn.Sequential(
            nn.Conv2d(model.latent_channels, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, model.patch, stride=model.patch),
        )
        self.places = nn.Parameter(0.02 * torch.randn(model.frame_tokens, width))
        self.blocks = nn.ModuleList(
            TokenBlock(width, config.heads, model.text_dim) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return [batch steps patches width] of images [batch steps channels rows columns]."""
        x = self.stem(image.flatten(0, 1)).flatten(2).transpose(1, 2) + self.places
        x = x.unflatten(0, image.shape[:2])
        for block in self.blocks:
            x = block(x, text, text_mask)
        return self.norm(x)


class Encoded(NamedTuple):
    """Hold what the network reads of images and an instruction."""

    tokens: Tensor  # [batch steps patches width]
    instruction: Tensor  # [batch text_dim], mean of the embeddings


class Observed(NamedTuple):
    """Hold the states of a sequence; posterior and prior are log probabilities."""

    features: Tensor  # [batch steps features]
    posterior: Tensor  # [batch steps groups classes]
    prior: Tensor  # [batch steps groups classes]
    patch_logits: Tensor  # [batch steps patches]: where the deterministic state looks
    last: RssmState


class Reconstruction(NamedTuple):
    """Hold decoded observations, in symlog units."""

    image: Tensor  # [... channels rows columns]
    joints: Tensor  # [... state_dim]


class LatentNetwork(nn.Module):
    """Follow observations with a recurrent state; decode it, and act from it."""

    def __init__(self, config: LatentNetworkConfig, model: ModelConfig) -> None:
        super().__init__()
        self.config, self.model = config, model
        r, width = config.rssm, config.token_width
        self.tokens = ImageTokens(config, model)
        self.summary = nn.Linear(width, PATCH_SUMMARY)
        self.look = nn.Linear(r.hidden, width)
        self.salience = nn.Linear(width, 1)
        embedding = model.frame_tokens * (PATCH_SUMMARY + 1) + width
        embedding += model.state_dim + model.text_dim
        self.rssm = RecurrentStateSpaceModel(r, model.state_dim, embedding)
        rows, columns = model.latent_size
        self.image_shape = model.latent_channels, rows, columns
        pixels = model.latent_channels * rows * columns
        self.decoder = make_mlp(r.features, r.layer_width, pixels + model.state_dim)
        self.place = nn.Linear(r.features, 2)
        self.actor = make_mlp(
            r.features + 2 * model.state_dim + model.text_dim,
            r.layer_width,
            model.actions_per_block * model.action_dim,
            layers=2,
        )

    def encode(self, image: Tensor, text: Tensor, text_mask: Tensor) -> Encoded:
        """Encode images [batch steps channels rows columns] and texts [batch length dim].

        `text_mask` bool [batch length] is True where there is a token.
        """
        mean = (text * text_mask[..., None]).sum(1) / text_mask.sum(1, keepdim=True).clamp(min=1)
        return Encoded(self.tokens(image, text, text_mask), mean)

    def observe(
        self,
        encoded: Encoded,
        joints: Tensor,
        motion: Tensor,
        state: RssmState | None = None,
        uniform: Tensor | None = None,
    ) -> Observed:
        """Follow a sequence from `state`, None: its beginning.

        `joints` [batch steps state_dim] are normalized positions, `motion` their change since the
        step before (the action of the dynamics), `uniform` [batch steps groups classes] random
        numbers; None: the likeliest classes.
        """
        tokens = encoded.tokens
        if state is None:
            state = self.rssm.make_initial_state(len(tokens), tokens)
        summary = self.summary(tokens).flatten(2)
        salience = self.salience(tokens)[..., 0]
        features, posteriors, hiddens, logits = [], [], [], []
        for step in range(tokens.shape[1]):
            hidden = self.rssm.advance(state, motion[:, step])
            seen = tokens[:, step]
            score = (seen @ self.look(hidden)[..., None])[..., 0] * seen.shape[-1] ** -0.5
            score = score + salience[:, step]
            share = score.softmax(-1)
            chosen = (share[:, None] @ seen)[:, 0]
            measured, instruction = joints[:, step].to(chosen), encoded.instruction.to(chosen)
            embedding = torch.cat([summary[:, step], share, chosen, measured, instruction], -1)
            posterior = self.rssm.infer_posterior(hidden, embedding)
            sample = sample_straight_through(
                posterior, None if uniform is None else uniform[:, step]
            )
            state = RssmState(hidden, sample)
            features.append(state.features())
            posteriors.append(posterior)
            hiddens.append(hidden)
            logits.append(score)
        prior = self.rssm.predict_prior(torch.stack(hiddens, 1))
        return Observed(
            torch.stack(features, 1),
            torch.stack(posteriors, 1),
            prior,
            torch.stack(logits, 1).float(),
            state,
        )

    def imagine(self, state: RssmState, motion: Tensor) -> Tensor:
        """Return features [batch steps features] of a future with `motion`, without images."""
        features = []
        for step in range(motion.shape[1]):
            hidden = self.rssm.advance(state, motion[:, step])
            state = RssmState(
                hidden, sample_straight_through(self.rssm.predict_prior(hidden), None)
            )
            features.append(state.features())
        return torch.stack(features, 1)

    def decode(self, features: Tensor) -> Reconstruction:
        """Return the observations that states [... features] stand for, in symlog units."""
        found = self.decoder(features).float()
        pixels = found[..., : -self.model.state_dim]
        return Reconstruction(
            pixels.unflatten(-1, self.image_shape), found[..., -self.model.state_dim :]
        )

    def act(
        self, features: Tensor, joints: Tensor, query_joints: Tensor, instruction: Tensor
    ) -> Tensor:
        """Return normalized actions [batch steps actions action_dim].

        `joints` [batch steps state_dim] are those of the observations, `query_joints` the newest;
        `instruction` [batch text_dim].
        """
        joints, query_joints = joints.to(features), query_joints.to(features)
        steps = features.shape[1]
        instruction = instruction.to(features)[:, None].expand(-1, steps, -1)
        found = self.actor(
            torch.cat([features, query_joints, query_joints - joints, instruction], -1)
        )
        return found.float().unflatten(-1, (self.model.actions_per_block, -1))


def compute_reconstruction_losses(
    found: Reconstruction, image: Tensor, joints: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the summed squared symlog errors of images and joint positions, [...] each."""
    return (
        F.mse_loss(found.image, symlog(image.float()), reduction='none').sum((-3, -2, -1)),
        F.mse_loss(found.joints, symlog(joints.float()), reduction='none').sum(-1),
    )

"""Define the causal video-action transformer: a Wan backbone with KV cache, actions and state.

Three passes share the same blocks: `append_kv` (clean frames into the cache), `denoise` (one
flow-matching step on top of the cache) and `forward` (teacher-forced training).
Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wam_policy.model.network.attention import group_teacher_forcing
from wam_policy.model.network.kv_cache import BatchedKVCache, KVCache
from wam_policy.model.network.layers import (
    ActionEncoder,
    CategoryMLP,
    ContextEmbeddings,
    ContextKV,
    ImageEmbedding,
    OutputHead,
    PatchEmbedding,
    TransformerBlock,
    fold_padding,
    make_normal_parameter,
)
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.rope import Rotation, line_angles, video_angles

CLEAN_TIME = 0.0  # flow time of real frames


class FlowTimeEmbedding(NamedTuple):
    """Hold the embedding of flow times; axis `times` is 1 (broadcasts) or the number of tokens."""

    embedding: Tensor  # [batch times dim]
    modulation: Tensor  # [batch times 6 dim]
    timestep_features: Tensor  # [batch times dim], for the action encoder

    def repeat_tokens(self, repeats: int) -> FlowTimeEmbedding:
        """Repeat each time for `repeats` tokens in a row."""
        return FlowTimeEmbedding(*(x.repeat_interleave(repeats, dim=1) for x in self))

    def subsample(self, step: int) -> FlowTimeEmbedding:
        """Keep every `step`-th time."""
        return FlowTimeEmbedding(*(x[:, ::step] for x in self))


class TrainingPrediction(NamedTuple):
    """Hold the velocities of a training forward pass, and hidden tokens for auxiliary losses."""

    video: Tensor | None  # [batch channels frames rows columns]
    action: Tensor  # [batch actions action_dim]
    clean_tokens: Tensor  # [batch frames*frame_tokens dim], after `hidden_layer`
    action_tokens: Tensor  # [batch actions dim], after the last layer


class VideoActionDiT(nn.Module):
    """Predict the velocities of a block of future video and of the actions that lead there."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = PatchEmbedding(
            config.latent_channels + config.condition_channels, dim, config.patch
        )
        if config.learned_places:
            self.place_embedding = make_normal_parameter((1, config.frame_tokens, dim), 0.02)
            self.row_embedding = make_normal_parameter((1, config.actions_per_block, dim), 0.02)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate='tanh'), nn.Linear(dim, dim)
        )
        if config.image_context:
            self.img_emb = ImageEmbedding(config.image_dim, dim)
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        self.head = OutputHead(config)
        self.state_encoder = CategoryMLP(config.state_dim, config.action_hidden, dim)
        self.action_encoder = ActionEncoder(config.action_dim, dim)
        self.action_decoder = CategoryMLP(dim, config.action_hidden, config.action_dim)
        self.folds_text_padding = False  # set by engines whose kernels take a bias of any length

    @property
    def layers(self) -> list[TransformerBlock]:
        return cast('list[TransformerBlock]', list(self.blocks))

    @property
    def dtype(self) -> torch.dtype:
        return self.head.head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.head.head.weight.device

    # ---- computed once, used by many passes

    def embed_flow_time(self, t: Tensor) -> FlowTimeEmbedding:
        """Embed flow times t [batch times] in 0..1000; one per distinct value is enough."""
        angles = line_angles(t.flatten(), self.config.freq_dim).unflatten(0, t.shape)
        embedding = self.time_embedding(torch.cat([angles.cos(), angles.sin()], -1).to(self.dtype))
        modulation = self.time_projection(embedding).unflatten(-1, (6, -1))
        return FlowTimeEmbedding(
            embedding, modulation, compute_timestep_features(t, self.config.dim).to(self.dtype)
        )

    def embed_context(self, text: Tensor, image: Tensor | None = None) -> list[ContextKV]:
        """Embed text [batch text_len text_dim], image [batch tokens image_dim] for every layer."""
        context = self.embed_text(text)
        if not self.config.image_context:
            return context
        if image is None:
            raise ValueError('this model needs image tokens beside the text')
        return self.with_image(image, context)

    def embed_text(self, text: Tensor) -> list[ContextKV]:
        """Embed text alone; a model with image context needs `with_image` before any pass."""
        text, bias = fold_padding(text) if self.folds_text_padding else (text, None)
        text = self.text_embedding(text)
        return [
            ContextKV(block.cross_attn.compute_text_kv(text), None, bias) for block in self.layers
        ]

    def with_image(self, image: Tensor, context: list[ContextKV]) -> list[ContextKV]:
        """Return a context with another image and the same text."""
        image = self.img_emb(image)
        return [
            seen._replace(image=block.cross_attn.compute_image_kv(image))
            for block, seen in zip(self.layers, context, strict=True)
        ]

    def compute_video_rotation(self, start_frame: int, frames: int) -> Rotation:
        c = self.config
        return Rotation.from_angles(
            video_angles(start_frame, frames, c.grid, c.head_dim, self.device)
        )

    def compute_block_rotation(self, start_frame: int) -> Rotation:
        """Return the rotation of a block [video | actions | states] at `start_frame`."""
        c = self.config
        k, frames = c.block_index(start_frame), c.frames_per_block if c.predicts_video else 0
        return Rotation.from_angles(
            torch.cat(
                [
                    video_angles(start_frame, frames, c.grid, c.head_dim, self.device),
                    self._sequence_angles(k * c.actions_per_block, c.actions_per_block),
                    self._sequence_angles(k * c.states_per_block, c.states_per_block),
                ]
            )
        )

    # ---- the two passes of inference

    def append_kv(
        self,
        video: Tensor,
        clean: FlowTimeEmbedding,
        rotation: Rotation,
        context: list[ContextKV],
        cache: KVCache,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Write the keys and values of real latents behind the cache; the caller commits them.

        video [batch channels frames rows columns]. Returns the hidden tokens before the last
        layer, which inference discards; of that layer only keys and values are computed.
        """
        x = self._embed_video(video, condition)
        memories = cache.open_layers(video.shape[2])
        last = self.layers[-1]
        for block, seen, memory in zip(self.layers, context, memories, strict=True):
            x = block(x, clean.modulation, rotation, seen, memory, keys_only=block is last)
        return x

    def denoise(
        self,
        video: Tensor,
        action: Tensor,
        state: Tensor,
        video_time: FlowTimeEmbedding,
        action_time: FlowTimeEmbedding,
        rotation: Rotation,
        context: list[ContextKV],
        cache: KVCache | BatchedKVCache,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict velocities of a noisy block on top of the cache, which keeps what it held.

        video [batch channels frames_per_block rows columns], action [batch actions action_dim],
        state [batch states state_dim]; one flow time for all video tokens, one for all action
        tokens or one for each. Returns velocities shaped as video and action.
        """
        seeing = self.config.predicts_video
        tokens = self._embed_video(video if seeing else video[:, :, :0], condition)
        actions, count = self._embed_actions(action, action_time), tokens.shape[1]
        x = torch.cat([tokens, actions, self.state_encoder(state)], dim=1)
        register_time = _with_state_time(action_time, action.shape[1], state.shape[1])
        modulation = concat_modulation(video_time, register_time, count, x.shape[1] - count)
        memories = cache.open_layers(video.shape[2])
        for block, seen, memory in zip(self.layers, context, memories, strict=True):
            x = block(x, modulation, rotation, seen, memory)
        acted = x[:, count : count + action.shape[1]]
        velocity = (
            self.decode_video_velocity(x[:, :count], video_time.embedding)
            if seeing
            else torch.zeros_like(video)
        )
        return velocity, self.action_decoder(acted)

    # ---- teacher forcing

    def forward(
        self,
        clean: Tensor,
        noisy: Tensor | None,
        video_t: Tensor,
        action: Tensor,
        action_t: Tensor,
        state: Tensor,
        context: list[ContextKV] | ContextEmbeddings,
        condition: Tensor | None = None,
        hidden_layer: int = -1,
        skip_unused_tokens: bool = False,
        gradient_checkpointing: bool = False,
    ) -> TrainingPrediction:
        """Predict every block of a clip at once, each from the clean frames before it.

        clean and noisy [batch channels frames rows columns], frames = 1 + blocks *
        frames_per_block; action [batch blocks*actions action_dim], state [batch blocks*states
        state_dim]; flow times video_t [batch frames], action_t [batch blocks*actions]. Without
        `noisy` the video stream is omitted. `hidden_layer` is the layer whose clean tokens are
        returned. `skip_unused_tokens` omits tokens that no later one reads: `clean` then lacks the
        last block, `noisy` and video_t lack frame 0, and so do the results. `context` is what
        `embed_context` returns, or the raw embeddings.
        """
        c = self.config
        seen = clean.shape[2]
        frames = seen + c.frames_per_block if skip_unused_tokens else seen
        grouped = group_teacher_forcing(c, frames, noisy is not None, skip_unused_tokens)
        angle = video_angles(0, frames, c.grid, c.head_dim, clean.device)
        clean_time = self.embed_flow_time(torch.full_like(video_t[:, :1], CLEAN_TIME))
        clean_time = clean_time.repeat_tokens(seen * c.frame_tokens)
        action_time = self.embed_flow_time(action_t)
        state_time = action_time.subsample(c.actions_per_block // c.states_per_block)
        tokens, times = [self._embed_video(clean, _slice_frames(condition, 0, seen))], [clean_time]
        angles = [angle[: seen * c.frame_tokens]]
        if noisy is not None:
            noisy_time = self.embed_flow_time(video_t).repeat_tokens(c.frame_tokens)
            first = frames - noisy.shape[2]
            tokens.append(self._embed_video(noisy, _slice_frames(condition, first, frames)))
            angles.append(angle[first * c.frame_tokens :])
            times.append(noisy_time)
        tokens += [self._embed_actions(action, action_time), self.state_encoder(state)]
        angles += [
            self._sequence_angles(0, action.shape[1]),
            self._sequence_angles(0, state.shape[1]),
        ]
        times += [action_time, state_time]

        x = torch.cat(tokens, dim=1)
        modulation = torch.cat([t.modulation for t in times], dim=1)
        rotation = Rotation.from_angles(torch.cat(angles))
        clean_tokens, tapped = tokens[0], self.layers[hidden_layer]
        contexts = (
            [self._embed_raw_context(context)] * c.layers
            if isinstance(context, ContextEmbeddings)
            else context
        )
        for block, own in zip(self.layers, contexts, strict=True):
            x = (
                checkpoint(block, x, modulation, rotation, own, None, grouped, use_reentrant=False)
                if gradient_checkpointing
                else block(x, modulation, rotation, own, grouped=grouped)
            )
            if block is tapped:
                clean_tokens = x[:, : clean_tokens.shape[1]]
        *_, hidden, acted, _ = x.split([part.shape[1] for part in tokens], dim=1)
        video = None if noisy is None else self.decode_video_velocity(hidden, noisy_time.embedding)
        return TrainingPrediction(video, self.action_decoder(acted), clean_tokens, acted)

    def decode_video_velocity(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Decode hidden video tokens to velocities [batch channels frames rows columns]."""
        p, (rows, columns) = self.config.patch, self.config.grid
        x = self.head(hidden, embedding)
        x = x.unflatten(-1, (p, p, -1)).unflatten(1, (-1, rows, columns))  # b f r q p p c
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)

    def _embed_raw_context(self, raw: ContextEmbeddings) -> ContextEmbeddings:
        if self.config.image_context and raw.image is None:
            raise ValueError('this model needs image tokens beside the text')
        image = self.img_emb(raw.image) if self.config.image_context else None
        return ContextEmbeddings(self.text_embedding(raw.text), image)

    def _embed_video(self, video: Tensor, condition: Tensor | None) -> Tensor:
        if self.config.condition_channels:
            if condition is None:
                raise ValueError('this model needs an image condition with its video')
            video = torch.cat([video, condition], dim=1)
        tokens = self.patch_embedding(video)
        if self.config.learned_places:
            tokens = tokens + self.place_embedding.repeat(1, video.shape[2], 1)
        return tokens

    def _embed_actions(self, action: Tensor, time: FlowTimeEmbedding) -> Tensor:
        tokens = self.action_encoder(action, time.timestep_features)
        if self.config.learned_places:
            blocks = action.shape[1] // self.config.actions_per_block
            tokens = tokens + self.row_embedding.repeat(1, blocks, 1)
        return tokens

    def _sequence_angles(self, first: int, count: int) -> Tensor:
        positions = torch.arange(first, first + count, device=self.device)
        return line_angles(positions, self.config.head_dim)


def _slice_frames(condition: Tensor | None, first: int, stop: int) -> Tensor | None:
    return None if condition is None else condition[:, :, first:stop]


def concat_modulation(
    video: FlowTimeEmbedding, action: FlowTimeEmbedding, video_tokens: int, register_tokens: int
) -> Tensor:
    """Return the modulation of [video | register]: one for all tokens if both share a time."""
    if video is action:
        return video.modulation
    batch = max(len(video.modulation), len(action.modulation))
    return torch.cat(
        [
            video.modulation.expand(batch, video_tokens, -1, -1),
            action.modulation.expand(-1, register_tokens, -1, -1),
        ],
        dim=1,
    )


def _with_state_time(time: FlowTimeEmbedding, actions: int, states: int) -> FlowTimeEmbedding:
    """Return times of [actions | states], where each action has its own, as in training."""
    if time.modulation.shape[1] == 1:
        return time
    pairs = zip(time, time.subsample(actions // states), strict=True)
    return FlowTimeEmbedding(*(torch.cat(pair, dim=1) for pair in pairs))


def compute_timestep_features(t: Tensor, dim: int) -> Tensor:
    """Return the sinusoid [... dim] of raw flow times, sines first, in float32."""
    steps = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t.float()[..., None] * torch.exp(-steps * (math.log(10000.0) / (dim // 2)))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)

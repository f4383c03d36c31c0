"""The trainable modules: transformer, trainable text encoder if there is one, grounding heads.

They are one module with one forward pass, as libraries for distributed training require.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wam_learning.data.sequence_sampler import Batch
from wam_learning.training.grounding_loss import GroundingHeads
from wam_learning.training.losses import (
    Losses,
    NoisedSample,
    Objective,
    action_loss,
    add_noise,
    give_committed_rows,
    sample_noise_levels,
    sample_noise_like,
    video_loss,
)
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.encoders.text_encoder import TextEncoder
from wam_policy.model.network.layers import ContextEmbeddings
from wam_policy.model.network.video_action_dit import TrainingPrediction, VideoActionDiT


class TextBatch(NamedTuple):
    """Distinct texts of a batch, as token ids or as embeddings."""

    text_index: Tensor  # int64 [batch], text of each window
    has_text: Tensor  # bool [batch], False for the empty text
    token_ids: Tensor | None  # int64 [texts length], cut to the longest text
    mask: Tensor | None
    embeddings: Tensor | None  # [texts text_len text_dim]

    def to(self, device: torch.device) -> TextBatch:
        ids, mask, embedded = (
            x if x is None else x.to(device) for x in (self.token_ids, self.mask, self.embeddings)
        )
        return TextBatch(self.text_index.to(device), self.has_text, ids, mask, embedded)


class PromptEncoder:
    """Convert instructions to a TextBatch, with a cache."""

    def __init__(
        self, encoders: Encoders, format_prompt: Callable[[str], str], trainable_encoder: bool
    ) -> None:
        """Create; with `trainable_encoder` texts stay token ids, else they are embedded."""
        self._encoders, self._format_prompt, self._trainable_encoder = (
            encoders,
            format_prompt,
            trainable_encoder,
        )
        self._token_cache: dict[str, tuple[Tensor, Tensor]] = {}
        self._embedding_cache: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> TextBatch:
        distinct = sorted(set(texts))
        rows = torch.tensor([distinct.index(text) for text in texts])
        has_text = torch.tensor([bool(text) for text in texts])
        if not self._trainable_encoder:
            for text in set(texts) - self._embedding_cache.keys():
                self._embedding_cache[text] = self._encoders.encode_prompts(
                    [self._fill_template(text)]
                )[0]
            return TextBatch(
                rows,
                has_text,
                None,
                None,
                torch.stack([self._embedding_cache[t] for t in distinct]),
            )
        if self._encoders.tokenizer is None:
            raise ValueError('these encoders were built without a tokenizer')
        for text in set(texts) - self._token_cache.keys():
            ids, mask = self._encoders.tokenizer([self._fill_template(text)])
            self._token_cache[text] = ids[0], mask[0]
        ids, mask = (
            torch.stack([self._token_cache[text][i] for text in distinct]) for i in (0, 1)
        )
        longest = int(mask.sum(1).max())
        return TextBatch(rows, has_text, ids[:, :longest], mask[:, :longest], None)

    def _fill_template(self, text: str) -> str:
        return self._format_prompt(text) if text else ''


class TrainingModel(nn.Module):
    """Predict velocities of windows and compute the losses."""

    def __init__(
        self,
        dit: VideoActionDiT,
        text: TextEncoder | None,
        heads: GroundingHeads | None,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Create; without `text` or `heads` these parts are not trained."""
        super().__init__()
        self.dit, self.text, self.heads, self.gradient_checkpointing = (
            dit,
            text,
            heads,
            gradient_checkpointing,
        )

    def embed_text(self, text_batch: TextBatch) -> Tensor:
        """Return the embeddings of the texts, [batch text_len text_dim]."""
        if text_batch.embeddings is not None:
            return text_batch.embeddings[text_batch.text_index]
        assert (
            self.text is not None
            and text_batch.token_ids is not None
            and text_batch.mask is not None
        )
        short = self.text(text_batch.token_ids, text_batch.mask)
        # embeddings of padding are zero and need not be computed
        missing = self.dit.config.text_len - short.shape[1]
        whole = torch.cat([short, short.new_zeros(len(short), missing, short.shape[2])], 1)
        return whole[text_batch.text_index]

    def predict(
        self, batch: Batch, text_batch: TextBatch, action: NoisedSample, video: NoisedSample | None
    ) -> TrainingPrediction:
        """Predict the velocities; `video` is [batch frames channels h w]."""
        c, seen = self.dit.config, batch.visual
        noisy = None if video is None else video.noised.transpose(1, 2)
        video_t = (
            action.timestep[..., 0].repeat_interleave(c.frames_per_block, 1)
            if video is None
            else video.timestep
        )
        return self.dit(
            seen.clean,
            noisy,
            video_t,
            action.noised.flatten(1, 2),
            action.timestep.flatten(1),
            batch.state,
            ContextEmbeddings(self.embed_text(text_batch), seen.image),
            condition=seen.condition,
            hidden_layer=max(0, c.layers // 2 - 1),
            skip_unused_tokens=True,
            gradient_checkpointing=self.gradient_checkpointing,
        )

    def forward(
        self,
        batch: Batch,
        text_batch: TextBatch,
        objective: Objective,
        action_columns: Tensor,
        generator: torch.Generator,
    ) -> Losses:
        """Return the losses of a batch; `action_columns` bool [action_dim]: columns with data."""
        c = self.dit.config
        drawn = sample_noise_levels(
            objective, text_batch.has_text, batch.blocks, c.actions_per_block, generator
        )
        action = add_noise(
            batch.action, sample_noise_like(batch.action, generator), drawn.action, objective
        )
        action = give_committed_rows(action, batch.action, batch.committed)
        video = None
        if objective.video:
            future = batch.visual.future.transpose(1, 2)
            index = drawn.video.repeat_interleave(c.frames_per_block, 1)
            video = add_noise(future, sample_noise_like(future, generator), index, objective)
        found = self.predict(batch, text_batch, action, video)
        acting = action_loss(found, action, batch.action_mask, action_columns)
        filming = patch = place = accuracy = acting * 0
        if video is not None and found.video is not None:
            filming = video_loss(found.video.transpose(1, 2), video, batch.future_mask)
        if self.heads is not None and objective.grounding:
            patch, place, accuracy = self.heads(
                found.clean_tokens,
                found.action_tokens,
                c.frame_tokens,
                batch.patch_target,
                batch.place,
            )
        total = (
            objective.action * acting
            + objective.video * filming
            + objective.grounding * (patch + place)
        )
        return Losses(total, acting, filming, patch, place, accuracy)

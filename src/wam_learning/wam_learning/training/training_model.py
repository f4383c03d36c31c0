"""The network in training: transformer, text encoder where it is learned, grounding heads.

One module with one forward pass, so that libraries which spread training over devices have one
thing to wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wam_learning.data.sequence_sampler import Batch
from wam_learning.training.grounding_loss import Heads
from wam_learning.training.losses import (
    Losses,
    Mixed,
    Objective,
    action_loss,
    levels,
    mixed,
    noise_like,
    video_loss,
)
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.encoders.text_encoder import TextEncoder
from wam_policy.model.network.layers import Words
from wam_policy.model.network.video_action_dit import Prediction, VideoActionDiT


class Speech(NamedTuple):
    """Hold the texts of a batch once each: as token ids to encode, or embedded already."""

    rows: Tensor  # int64 [batch], which text each window has
    ids: Tensor | None  # int64 [texts length], no longer than the longest
    mask: Tensor | None
    embedded: Tensor | None  # [texts text_len text_dim]

    def to(self, device: torch.device) -> Speech:
        ids, mask, embedded = (
            x if x is None else x.to(device) for x in (self.ids, self.mask, self.embedded)
        )
        return Speech(self.rows.to(device), ids, mask, embedded)


class Prompts:
    """Turn instructions into what the learner reads."""

    def __init__(self, encoders: Encoders, prompt: Callable[[str], str], learned: bool) -> None:
        """With `learned` texts stay ids, for an encoder that changes; `prompt` fills templates."""
        self._encoders, self._prompt, self._learned = encoders, prompt, learned
        self._known: dict[str, tuple[Tensor, Tensor]] = {}
        self._embedded: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Speech:
        distinct = sorted(set(texts))
        rows = torch.tensor([distinct.index(text) for text in texts])
        if not self._learned:
            for text in set(texts) - self._embedded.keys():
                self._embedded[text] = self._encoders.encode_prompts([self._filled(text)])[0]
            return Speech(rows, None, None, torch.stack([self._embedded[t] for t in distinct]))
        if self._encoders.tokenizer is None:
            raise ValueError('these encoders were built without a tokenizer')
        for text in set(texts) - self._known.keys():
            ids, mask = self._encoders.tokenizer([self._filled(text)])
            self._known[text] = ids[0], mask[0]
        ids, mask = (torch.stack([self._known[text][i] for text in distinct]) for i in (0, 1))
        longest = int(mask.sum(1).max())
        return Speech(rows, ids[:, :longest], mask[:, :longest], None)

    def _filled(self, text: str) -> str:
        return self._prompt(text) if text else ''


class Learner(nn.Module):
    """Predict velocities of windows and say how wrong they are."""

    def __init__(
        self,
        dit: VideoActionDiT,
        text: TextEncoder | None,
        heads: Heads | None,
        recompute: bool = False,
    ) -> None:
        """Learn the text encoder and ground only where they are given."""
        super().__init__()
        self.dit, self.text, self.heads, self.recompute = dit, text, heads, recompute

    def words(self, speech: Speech) -> Tensor:
        """Embed the texts of a batch: [batch text_len text_dim]."""
        if speech.embedded is not None:
            return speech.embedded[speech.rows]
        assert self.text is not None and speech.ids is not None and speech.mask is not None
        short = self.text(speech.ids, speech.mask)
        # rows of padding come out as zeros, so they need not be computed
        missing = self.dit.config.text_len - short.shape[1]
        whole = torch.cat([short, short.new_zeros(len(short), missing, short.shape[2])], 1)
        return whole[speech.rows]

    def predict(
        self, batch: Batch, speech: Speech, action: Mixed, video: Mixed | None
    ) -> Prediction:
        """Run the training pass; `video` [batch frames channels h w] leads with frames."""
        c, seen = self.dit.config, batch.seen
        noisy = None if video is None else video.seen.transpose(1, 2)
        video_t = (
            action.t[..., 0].repeat_interleave(c.frames_per_block, 1) if video is None else video.t
        )
        return self.dit(
            seen.clean,
            noisy,
            video_t,
            action.seen.flatten(1, 2),
            action.t.flatten(1),
            batch.state,
            Words(self.words(speech), seen.image),
            condition=seen.condition,
            tap=max(0, c.layers // 2 - 1),
            lean=True,
            recompute=self.recompute,
        )

    def forward(
        self,
        batch: Batch,
        speech: Speech,
        objective: Objective,
        columns: Tensor,
        generator: torch.Generator,
    ) -> Losses:
        """Evaluate the objective on a batch; `columns` bool [action_dim] carry data."""
        c = self.dit.config
        drawn = levels(objective, len(batch.texts), batch.blocks, c.actions_per_block, generator)
        action = mixed(batch.action, noise_like(batch.action, generator), drawn.action, objective)
        video = None
        if objective.video:
            future = batch.seen.future.transpose(1, 2)
            index = drawn.video.repeat_interleave(c.frames_per_block, 1)
            video = mixed(future, noise_like(future, generator), index, objective)
        found = self.predict(batch, speech, action, video)
        acting = action_loss(found, action, batch.action_mask, columns)
        filming = patch = place = accuracy = acting * 0
        if video is not None and found.video is not None:
            filming = video_loss(found.video.transpose(1, 2), video, batch.future_mask)
        if self.heads is not None and objective.grounding:
            patch, place, accuracy = self.heads(
                found.clean_tokens,
                found.action_tokens,
                c.frame_tokens,
                batch.target_share,
                batch.place,
            )
        total = (
            objective.action * acting
            + objective.video * filming
            + objective.grounding * (patch + place)
        )
        return Losses(total, acting, filming, patch, place, accuracy)

"""Validation metrics on held-out episodes, which measure the use of the instruction.

The metric is the error of the first chunk of an episode, because later chunks can be inferred from
the motion so far. It must be many times larger if the color or side words are exchanged.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from wam_learning.data.sequence_sampler import Batch, SequenceSampler
from wam_learning.training.losses import NoisedSample, add_noise, sample_noise_like, video_loss
from wam_learning.training.trainer import Trainer
from wam_learning.training.training_model import TrainingModel
from wam_policy.model.network.video_action_dit import TrainingPrediction

COLORS = ('red', 'green', 'blue', 'yellow', 'orange', 'purple', 'white', 'black')
SIDES = ('left', 'right')
MAX_WINDOWS = 128  # windows per metric
MEMORY_BLOCKS = 3  # with a goal shown at the start, the hands start by the third block


class HeldOutEvaluator:
    """Evaluate a trainer on fixed windows with fixed noise."""

    def __init__(self, sampler: SequenceSampler, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        self.batches: dict[str, Batch] = {}
        episodes: dict[str, list[int]] = {}
        at = 0
        for span in sampler.data.episodes:
            episodes.setdefault(span.family or 'all', []).append(at)
            at += span.frame_count
        self._seed = seed
        for family, frames in sorted(episodes.items()):
            longest = min(MEMORY_BLOCKS if family == 'recall' else 1, max(sampler.block_counts()))
            for blocks in range(longest, 0, -1):
                fit = np.array([f for f in frames if f in sampler.valid_starts(blocks)], int)
                if len(fit):
                    chosen = rng.permutation(fit)[:MAX_WINDOWS]
                    self.batches[family] = sampler.build_batch(
                        chosen, blocks, np.zeros_like(chosen)
                    )
                    break
        if not self.batches:
            raise ValueError(
                'no held-out episode has a valid first window: use more episodes or another --seed'
            )

    # not inference_mode: shards gathered in it could not be trained afterwards
    @torch.no_grad()
    def compute_metrics(self, trainer: Trainer[TrainingModel]) -> dict[str, float]:
        """Return the named metrics with the trainer's present weights."""
        found: dict[str, float] = {}
        errors, color, side, counts = [], [], [], []
        for family, batch in self.batches.items():
            plain, grounded = self._compute_action_error(trainer, batch, batch.texts)
            found[f'{family}/action'] = plain
            if grounded is not None:
                found[f'{family}/grounded'] = grounded
            errors.append(plain)
            color.append(
                self._compute_action_error(trainer, batch, swap_words(batch.texts, COLORS))[0]
            )
            side.append(
                self._compute_action_error(trainer, batch, swap_words(batch.texts, SIDES))[0]
            )
            counts.append(len(batch.texts))
            if trainer.objective.video:
                found[f'{family}/video'] = self._compute_video_loss(trainer, batch)
        for name, values in (
            ('action', errors),
            ('action_other_colour', color),
            ('action_other_side', side),
        ):
            found[name] = float(np.average(values, weights=counts))
        for name in ('grounded', 'video'):
            values = [value for key, value in found.items() if key.endswith(f'/{name}')]
            if values:
                found[name] = float(np.mean(values))
        return found

    def _compute_action_error(
        self, trainer: Trainer[TrainingModel], batch: Batch, texts: Sequence[str]
    ) -> tuple[float, float | None]:
        """Return the squared error of one-step actions in the last block (1: their variance)."""
        noise = torch.Generator().manual_seed(self._seed)
        index = torch.zeros(len(texts), batch.blocks, dtype=torch.long)
        draw = sample_noise_like(batch.action, noise)
        found, _ = self._predict(trainer, batch, texts, index, draw, noise)
        clean = draw - found.action.float().cpu().view_as(draw)
        wrong = (clean - batch.action)[:, -1].square()[..., trainer.action_columns].mean(-1)
        mask = batch.action_mask[:, -1]
        error = float((wrong * mask).sum() / mask.sum().clamp(min=1))
        heads, device = trainer.model.heads, trainer.device
        if heads is None or not (batch.patch_target > 0).any():
            return error, None
        grounded = heads(
            found.clean_tokens,
            found.action_tokens,
            trainer.model.dit.config.frame_tokens,
            batch.patch_target.to(device),
            batch.place.to(device),
        )
        return error, float(grounded.accuracy)

    def _compute_video_loss(self, trainer: Trainer[TrainingModel], batch: Batch) -> float:
        """Return the video loss at even noise levels."""
        noise = torch.Generator().manual_seed(self._seed)
        index = torch.linspace(50, 950, len(batch.texts)).long()[:, None].expand(-1, batch.blocks)
        draw = sample_noise_like(batch.action, noise)
        found, video = self._predict(trainer, batch, batch.texts, index, draw, noise)
        assert found.video is not None and video is not None
        return float(
            video_loss(found.video.transpose(1, 2), video, batch.future_mask.to(trainer.device))
        )

    @staticmethod
    def _predict(
        trainer: Trainer[TrainingModel],
        batch: Batch,
        texts: Sequence[str],
        noise_level: torch.Tensor,
        action_noise: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[TrainingPrediction, NoisedSample | None]:
        """Predict at noise levels [batch blocks] with the given action noise."""
        objective, device = trainer.objective, trainer.device
        batch, video = batch.to(device), None
        action = add_noise(
            batch.action,
            action_noise.to(device),
            noise_level[..., None].expand(-1, -1, batch.action.shape[2]),
            objective,
        )
        if objective.video:
            future = batch.visual.future.transpose(1, 2)
            repeats = future.shape[1] // batch.blocks
            video = add_noise(
                future,
                sample_noise_like(future, generator),
                noise_level.repeat_interleave(repeats, 1),
                objective,
            )
        with trainer.autocast():
            found = trainer.model.predict(
                batch, trainer.prompt_encoder(texts).to(device), action, video
            )
        return found, video


def swap_words(texts: Sequence[str], words: Sequence[str]) -> list[str]:
    """Replace each of `words` in every text by another of `words` that occurs in the texts."""
    used = [word for word in words if any(re.search(rf'\b{word}\b', text) for text in texts)]
    if len(used) < 2:
        return list(texts)
    other: Mapping[str, str] = dict(zip(used, [*used[1:], used[0]], strict=True))
    pattern = re.compile(rf'\b({"|".join(used)})\b')
    return [pattern.sub(lambda match: other[match[1]], text) for text in texts]


def format_summary(metrics: Mapping[str, float]) -> str:
    """Return the main metrics as one line."""
    parts = [
        f'first chunk {metrics["action"]:.3f}',
        f'(other color {metrics["action_other_colour"]:.2f}, '
        f'other side {metrics["action_other_side"]:.2f})',
    ]
    if 'grounded' in metrics:
        parts.append(f'grounded {metrics["grounded"]:.0%}')
    if 'video' in metrics:
        parts.append(f'video {metrics["video"]:.3f}')
    parts += [
        f'{key.removesuffix("/action")} {value:.3f}'
        for key, value in metrics.items()
        if key.endswith('/action')
    ]
    return ', '.join(parts)

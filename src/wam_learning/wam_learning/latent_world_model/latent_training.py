"""Training of the latent world model: the stage `latent` of `./wam train`.

Starts from a checkpoint with a trained autoencoder, whose latents are the images. Validation
reports the imitation error at the start of episodes, the same with exchanged words, and how well
the state predicts images that it has not seen.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wam_learning.data import latent_cache
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_learning.data.sequence_sampler import MEMORY_FAMILIES
from wam_learning.latent_world_model import latent_checkpoint
from wam_learning.latent_world_model.latent_checkpoint import LatentWorldModel
from wam_learning.latent_world_model.latent_data import LatentBatch, LatentSampler
from wam_learning.latent_world_model.latent_losses import (
    LatentObjective,
    LatentTrainingModel,
    compute_patch_loss,
)
from wam_learning.latent_world_model.latent_network import DEFAULT_CONFIG, LatentNetwork
from wam_learning.latent_world_model.rssm import RssmState, symexp
from wam_learning.training import checkpoint_writer, training_setup
from wam_learning.training.grounding_loss import GroundingTargets
from wam_learning.training.trainer import Trainer, TrainerConfig
from wam_learning.training.training_setup import TrainingStage
from wam_learning.training.validation import (
    COLORS,
    MAX_WINDOWS,
    SIDES,
    format_summary,
    swap_words,
)
from wam_policy.model.checkpoint.checkpoint_folder import WorldActionModel
from wam_policy.model.encoders.conv_vae import ConvVae

STEPS = 16  # images of a training sequence: 3.2 s
MEMORY_IMAGE = 8  # at which episodes with a shown goal are judged: the mark has gone
IMAGINED_STEPS = 4  # images that the state predicts without seeing them


def make_latent_stage(
    policy: WorldActionModel,
    data: EpisodeArrays,
    config: TrainerConfig,
    seed: int,
    batch_size: int,
) -> TrainingStage:
    """Return the training of a latent world model on the latents of `policy`'s autoencoder."""
    spec, encoders = policy.spec, policy.encoders
    if not isinstance(encoders.vae, ConvVae):
        raise ValueError(
            f'{spec.name}: stage latent needs the convolutional autoencoder of the small models: '
            'train it with --stage autoencoder and give its folder as --init'
        )
    normalizer = policy.make_normalizer(data.robot)
    layout = spec.canvas.make_layout(
        data.robot.model_tag, tuple(camera.key for camera in data.robot.cameras)
    )
    places = GroundingTargets.from_data(data, layout, spec.model)
    latents = latent_cache.load_or_encode(data, encoders.vae)
    split = training_setup.split_episodes(data, seed)
    windows, aside = (
        LatentSampler(part, latents, normalizer, spec.model, places) for part in split
    )
    torch.manual_seed(seed)
    encoders.requires_grad_(False)
    encoders.text.requires_grad_(True)
    model = LatentTrainingModel(LatentNetwork(DEFAULT_CONFIG, spec.model), encoders.text)
    trainer = Trainer(
        model,
        training_setup.make_prompt_encoder(policy, data, True),
        torch.from_numpy(normalizer.action_mask()),
        LatentObjective(),
        config,
        seed,
    )
    evaluator = LatentEvaluator(aside, seed)
    whole = LatentWorldModel(spec, model.network, encoders, policy.embodiments, policy.source)

    def compute_metrics() -> tuple[dict[str, float], str]:
        found = evaluator.compute_metrics(trainer)
        return found, _format_metrics(found)

    return TrainingStage(
        trainer,
        lambda: windows.sample(batch_size, STEPS, trainer.rng),
        compute_metrics,
        lambda out: _write_checkpoint(whole, trainer, out),
        f'{len(split[0].episodes)} episodes, {len(split[1].episodes)} held out',
    )


def _write_checkpoint(
    model: LatentWorldModel, trainer: Trainer[LatentTrainingModel], out: Path
) -> None:
    part = out.with_name(out.name + '.part')
    with trainer.use_ema_weights():
        latent_checkpoint.save(model, part)
    checkpoint_writer.move_into_place(part, out)


class LatentEvaluator:
    """Evaluate a trainer on the beginnings of held-out episodes, without random delays."""

    def __init__(self, sampler: LatentSampler, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        starts = rng.permutation(sampler.find_episode_starts())[:MAX_WINDOWS]
        now = np.zeros((len(starts), STEPS), int)
        self.batch = sampler.build_batch(starts, STEPS, now, now)

    @torch.no_grad()
    def compute_metrics(self, trainer: Trainer[LatentTrainingModel]) -> dict[str, float]:
        """Return the named metrics with the trainer's present weights."""
        batch = self.batch.to(trainer.device)
        features, error, accuracy = self._observe(trainer, batch, batch.texts)
        found = {
            f'{family}/action': float(error[[f == family for f in batch.families]].nanmean())
            for family in sorted(set(batch.families))
        }
        found |= {'action': float(error.nanmean()), 'grounded': accuracy}
        for name, words in (('colour', COLORS), ('side', SIDES)):
            texts = swap_words(batch.texts, words)
            found[f'action_other_{name}'] = float(
                self._observe(trainer, batch, texts)[1].nanmean()
            )
        return found | self._compare_imagined(trainer, batch, features)

    @staticmethod
    def _observe(
        trainer: Trainer[LatentTrainingModel], batch: LatentBatch, texts: Sequence[str]
    ) -> tuple[Tensor, Tensor, float]:
        """Return features, the action error per window (1: variance; NaN: none), accuracy."""
        model = trainer.model
        with trainer.autocast():
            encoded = model.encode(batch, trainer.prompt_encoder(texts).to(trainer.device))
            seen = model.network.observe(encoded, batch.joints, batch.motion)
            acting = model.network.act(
                seen.features, batch.joints, batch.query_joints, encoded.instruction
            )
        wrong = (acting.float() - batch.action).square()[..., trainer.action_columns].mean(-1)
        mask = batch.action_mask
        per_image = torch.where(mask, wrong, 0).sum(-1) / mask.sum(-1)  # 0 / 0: NaN
        judged = torch.tensor(
            [MEMORY_IMAGE if family in MEMORY_FAMILIES else 0 for family in batch.families]
        ).to(per_image.device)
        error = per_image.gather(1, judged[:, None])[:, 0]
        accuracy = compute_patch_loss(seen.patch_logits, batch.patch_target)[1]
        return seen.features, error, float(accuracy)

    @staticmethod
    def _compare_imagined(
        trainer: Trainer[LatentTrainingModel], batch: LatentBatch, features: Tensor
    ) -> dict[str, float]:
        """Return squared errors of images: decoded, imagined, and the last one seen repeated.

        The future is imagined from the fifth image on, with the motion that happened; 1 is the
        variance of the latents.
        """
        network, at, steps = trainer.model.network, STEPS // 4, IMAGINED_STEPS
        hidden = network.config.rssm.hidden
        last = RssmState(features[:, at, :hidden], features[:, at, hidden:])
        with trainer.autocast():
            ahead = network.imagine(last, batch.motion[:, at + 1 : at + 1 + steps])
            decoded, future = network.decode(features), network.decode(ahead)
        whole = batch.seen[:, at + steps]  # the window reaches so far
        target = batch.image[:, at + steps]
        if not whole.any():
            return {}

        def compare(image: Tensor) -> float:
            return float((image - target)[whole].square().mean())

        return {
            'image': compare(symexp(decoded.image[:, at + steps])),
            'image_imagined': compare(symexp(future.image[:, -1])),
            'image_repeated': compare(batch.image[:, at]),
        }


def _format_metrics(found: dict[str, float]) -> str:
    parts = [format_summary(found)]
    if 'image' in found:
        parts.append(
            f'image {found["image"]:.3f}, imagined {IMAGINED_STEPS} ahead '
            f'{found["image_imagined"]:.3f} (last one repeated {found["image_repeated"]:.3f})'
        )
    return ', '.join(parts)

"""Set up a training: the initial policy for its stage, the data, the parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from wam_learning.data import episode_arrays, latent_cache, normalization
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_learning.data.sequence_sampler import NO_DELAYS, QueryDelays, SequenceSampler
from wam_learning.data.visual_inputs import CachedLatents, OnlineEncoder, VisualInputs
from wam_learning.training import lora_training
from wam_learning.training.grounding_loss import GroundingHeads, GroundingTargets
from wam_learning.training.losses import BEHAVIOR_CLONING, FLASH, JOINT, RELEASED, Objective
from wam_learning.training.trainer import TrainableBatch, Trainer
from wam_learning.training.training_model import PromptEncoder, TrainingModel
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.checkpoint_folder import WorldActionModel
from wam_policy.model.checkpoint.model_spec import ModelInferenceDefaults, ModelSpec
from wam_policy.model.encoders.conv_vae import ConvVae
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.network.video_action_dit import VideoActionDiT

STAGES = ('autoencoder', 'bc', 'joint', 'flash', 'latent')
BC_SUFFIX = '_cloned'  # of the name of a model trained with stage bc, in its config.json
# noise 0: several steps return the mean, as one does; resetting the cache loses shown goals
DEFAULT_INFERENCE = ModelInferenceDefaults('full16', 1, 1.0, 'slide', noise_scale=0.0)
FLASH_VIDEO_NOISE = 0.8  # noise left in the video after one step, as in the released models
HELD_OUT_FRACTION, HELD_OUT_MAX_EPISODES = 0.1, 200  # of episodes
HEADS_FILE = Path('training') / 'heads.safetensors'


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """Hold what a training runs: its trainer, its data, how it is judged and written."""

    trainer: Trainer[Any]
    sample: Callable[[], TrainableBatch]
    compute_metrics: Callable[[], tuple[Mapping[str, float], str]]  # and a line that sums them up
    write_checkpoint: Callable[[Path], None]
    description: str


@dataclass(frozen=True, slots=True)
class InitConfig:
    """Select the initial weights."""

    preset: str
    init: Path | None  # a checkpoint, instead of the preset
    base: Path | None  # below `init`, if that has only adapters
    lora: int | None  # rank: train adapters instead of everything
    seed: int
    device: torch.device
    dtype: torch.dtype  # of a loaded checkpoint; trainable parameters are always float32


def load_initial(init_config: InitConfig) -> WorldActionModel:
    """Return the initial policy: a checkpoint, or a preset with random weights."""
    if init_config.init is not None:
        policy = checkpoint_folder.load(
            init_config.init, init_config.device, init_config.dtype, init_config.base
        )
        if policy.spec.adapters and init_config.lora:
            raise ValueError(
                f'{init_config.init} has adapters: new adapters need a complete '
                'checkpoint. To resume an interrupted run, repeat its --init and --out'
            )
        return policy
    if init_config.lora:
        raise ValueError('--lora-rank needs a checkpoint to adapt: name it with --init')
    torch.manual_seed(init_config.seed)
    design = designs.make_preset_spec(init_config.preset)
    tokenizer = checkpoint_folder.load_tokenizer(design, Path())
    return WorldActionModel(
        design,
        VideoActionDiT(design.model).to(init_config.device),
        Encoders(design.encoders, design.model.latent_size, tokenizer).to(init_config.device),
        {},
        'fresh',
    )


def with_autoencoder(policy: WorldActionModel, source: Path) -> WorldActionModel:
    """Return the policy with the trained autoencoder of another checkpoint of its sizes."""
    vae = checkpoint_folder.load(source, policy.dit.device, torch.float32).encoders.vae
    own = policy.encoders.vae
    if not isinstance(vae, ConvVae) or not isinstance(own, ConvVae):
        raise ValueError(f'--autoencoder {source}: want two of the small models of this project')
    if (vae.config.channels, vae.config.stride) != (own.config.channels, own.config.stride):
        raise ValueError(
            f'--autoencoder {source}: it has {vae.config.channels} channels and stride '
            f'{vae.config.stride}, {policy.spec.name} wants {own.config.channels} and '
            f'{own.config.stride}'
        )
    policy.encoders.vae = vae
    policy.encoders.config = replace(policy.spec.encoders, vae=vae.config)
    return replace(policy, spec=replace(policy.spec, encoders=policy.encoders.config))


def configure_stage(
    policy: WorldActionModel, stage: str, committed_rows: int = 0
) -> WorldActionModel:
    """Return the policy configured for a stage; `bc` uses one image and predicts no video.

    It will be able to continue up to `committed_rows`.
    """
    design, model = policy.spec, policy.spec.model
    design = replace(design, max_committed_rows=committed_rows)
    if stage == 'bc':
        model = replace(model, window_blocks=1, predicts_video=False)
        design = replace(
            design,
            name=design.name.removesuffix(BC_SUFFIX) + BC_SUFFIX,
            inference=ModelInferenceDefaults('full16', 1, 1.0),
        )
    elif not model.predicts_video:
        whole = designs.make_preset_spec(design.name.removesuffix(BC_SUFFIX))
        model = replace(model, window_blocks=whole.model.window_blocks, predicts_video=True)
        design = replace(design, name=whole.name, inference=DEFAULT_INFERENCE)
    if stage == 'flash':
        design = replace(
            design,
            video_final_noise=FLASH_VIDEO_NOISE,
            inference=ModelInferenceDefaults('one_step', None, 1.0, 'slide'),
        )
    policy.dit.config = model
    return replace(policy, spec=replace(design, model=model, trained=True))


def choose_objective(stage: str, policy: WorldActionModel) -> Objective:
    """Return the objective of a stage; released models keep the one they were trained with."""
    if isinstance(policy.encoders.vae, ConvVae):
        return {'bc': BEHAVIOR_CLONING, 'joint': JOINT, 'flash': FLASH}[stage]
    if stage == 'bc':
        raise ValueError(
            f'{policy.spec.name}: stage bc supports only the small models of this project; '
            'fine-tune with --stage joint or flash'
        )
    return replace(RELEASED, decoupled=stage == 'flash')


def with_statistics(
    policy: WorldActionModel, data: EpisodeArrays, rng: np.random.Generator
) -> WorldActionModel:
    """Add the statistics of the data, unless the policy has trained statistics of this robot."""
    tag = policy.embodiments.get(data.robot.model_tag)
    if tag is not None and not tag.synthetic:
        return policy
    horizon = policy.spec.model.actions_per_block
    found = normalization.compute_statistics(data, horizon, rng)
    kept = {name: own for name, own in policy.embodiments.items() if not own.synthetic}
    policy = replace(policy, embodiments={**kept, found.name: found})
    if kept or policy.spec.normalization != 'mean_std':
        return policy
    spread = normalization.compute_row_spread(
        data, policy.make_normalizer(data.robot), horizon, rng
    )
    return replace(policy, spec=replace(policy.spec, row_std=spread))


def split_episodes(data: EpisodeArrays, seed: int) -> tuple[EpisodeArrays, EpisodeArrays]:
    """Return training and held-out episodes (10 %, at most 200)."""
    order = np.random.default_rng([seed, 1]).permutation(len(data.episodes))
    if len(order) < 2:
        raise ValueError('want at least two episodes: one is held out for validation')
    aside = min(HELD_OUT_MAX_EPISODES, max(1, int(HELD_OUT_FRACTION * len(order))))
    return episode_arrays.select_episodes(
        data, sorted(order[aside:])
    ), episode_arrays.select_episodes(data, sorted(order[:aside]))


def make_samplers(
    policy: WorldActionModel, data: EpisodeArrays, seed: int, delays: QueryDelays = NO_DELAYS
) -> tuple[SequenceSampler, SequenceSampler]:
    """Return the samplers of training and held-out windows; both simulate `delays`."""
    whole = make_sampler(policy, data, delays)
    train, aside = (
        SequenceSampler(
            part,
            whole.visual_inputs,
            whole.normalizer,
            whole.config,
            whole.grounding_targets,
            delays,
        )
        for part in split_episodes(data, seed)
    )
    return train, aside


def make_sampler(
    policy: WorldActionModel, data: EpisodeArrays, delays: QueryDelays = NO_DELAYS
) -> SequenceSampler:
    """Return the sampler of windows of all episodes."""
    design = policy.spec
    layout = design.canvas.make_layout(
        data.robot.model_tag, tuple(camera.key for camera in data.robot.cameras)
    )
    return SequenceSampler(
        data,
        make_visual_inputs(policy, data, design),
        policy.make_normalizer(data.robot),
        design.model,
        GroundingTargets.from_data(data, layout, design.model),
        delays,
    )


def make_visual_inputs(
    policy: WorldActionModel, data: EpisodeArrays, design: ModelSpec
) -> VisualInputs:
    if isinstance(policy.encoders.vae, ConvVae):
        return CachedLatents(latent_cache.load_or_encode(data, policy.encoders.vae), design.model)
    return OnlineEncoder(data.frame_store, policy.encoders, design.model, design.canvas.size)


def make_training_model(
    policy: WorldActionModel,
    data: EpisodeArrays,
    init_config: InitConfig,
    gradient_checkpointing: bool,
) -> TrainingModel:
    """Return the trainable modules: transformer or its adapters, byte text encoder, heads."""
    torch.manual_seed(init_config.seed)  # of heads and adapters
    policy.dit.requires_grad_(False)
    policy.encoders.requires_grad_(False)
    if init_config.lora:
        lora_training.inject(policy.dit, lora_training.make_lora_config(init_config.lora))
        return TrainingModel(policy.dit, None, None, gradient_checkpointing)
    policy.dit.requires_grad_(True)
    heads = (
        GroundingHeads(policy.spec.model.dim).to(init_config.device)
        if data.has_grounding
        else None
    )
    if (
        heads is not None
        and init_config.init is not None
        and (init_config.init / HEADS_FILE).is_file()
    ):
        heads.load_state_dict(load_file(init_config.init / HEADS_FILE))
    if not trains_text_encoder(policy):
        return TrainingModel(policy.dit, None, heads, gradient_checkpointing)
    policy.encoders.text.requires_grad_(True)
    return TrainingModel(policy.dit, policy.encoders.text, heads, gradient_checkpointing)


def trains_text_encoder(policy: WorldActionModel) -> bool:
    """Return whether the text encoder is the small one, which has no pretrained weights."""
    return isinstance(policy.encoders.vae, ConvVae)


def make_prompt_encoder(
    policy: WorldActionModel, data: EpisodeArrays, trainable_encoder: bool
) -> PromptEncoder:
    """Return the encoder of instructions, which fills the prompt template of the robot.

    Raise PromptTooLong if the model would not read an instruction of the data to its end.
    """
    tag = data.robot.model_tag
    tokenizer = policy.encoders.tokenizer
    if tokenizer is not None:
        for text in data.texts:
            tokenizer.check_length(policy.spec.make_prompt_head(tag, text))
    return PromptEncoder(
        policy.encoders, lambda text: policy.spec.make_prompt(tag, text), trainable_encoder
    )

"""What a training starts from: a policy in the form of its stage, data, and what of it moves."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from wam_learning.data import episode_arrays, latent_cache, normalization
from wam_learning.data.episode_arrays import Clips
from wam_learning.data.sequence_sampler import Windows
from wam_learning.data.visual_inputs import Filmed, Pictures, Stored
from wam_learning.training import lora_training
from wam_learning.training.grounding_loss import Heads, Places
from wam_learning.training.losses import CLONE, FLASH, JOINT, RELEASED, Objective
from wam_learning.training.training_model import Learner, Prompts
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.checkpoint_folder import Policy
from wam_policy.model.checkpoint.model_spec import Advice, Design
from wam_policy.model.encoders.conv_vae import ConvVae
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.network.video_action_dit import VideoActionDiT

STAGES = ('autoencoder', 'clone', 'joint', 'flash')
CLONED = '_cloned'  # behind the name of a design
# More steps read the model's own blurred video; a memory that restarts forgets what it was shown
ADVISED = Advice('full16', 1, 1.0, 'slide')
FLASH_NOISE = 0.8  # at which one step leaves the video, as the released models do
HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 200  # of episodes
HEADS = Path('training') / 'heads.safetensors'


@dataclass(frozen=True, slots=True)
class Origin:
    """Say where weights come from."""

    preset: str
    init: Path | None  # a checkpoint instead of the preset
    base: Path | None  # under `init`, if that holds adapters only
    lora: int | None  # rank: train adapters instead of everything
    seed: int
    device: torch.device
    dtype: torch.dtype  # of a loaded checkpoint; what moves is float32 in any case


def begun(origin: Origin) -> Policy:
    """Give the policy that training starts from: a checkpoint, or a preset with fresh weights."""
    if origin.init is not None:
        policy = checkpoint_folder.load(origin.init, origin.device, origin.dtype, origin.base)
        if policy.design.adapters and origin.lora:
            raise ValueError(
                f'{origin.init} holds adapters already: adapters are trained on a complete '
                'checkpoint. An interrupted run goes on with the same --init and --out'
            )
        return policy
    if origin.lora:
        raise ValueError('--lora wants a checkpoint to adapt: name it with --init')
    torch.manual_seed(origin.seed)
    design = designs.released(origin.preset)
    words = checkpoint_folder.tokenizer(design, Path())
    return Policy(
        design,
        VideoActionDiT(design.model).to(origin.device),
        Encoders(design.encoders, design.model.latent_size, words).to(origin.device),
        {},
        'fresh',
    )


def shaped(policy: Policy, stage: str) -> Policy:
    """Give the policy the form of a stage: cloning sees the newest picture and predicts none."""
    design, model = policy.design, policy.design.model
    if stage == 'clone':
        model = replace(model, window_blocks=1, predicts_video=False)
        design = replace(
            design,
            name=design.name.removesuffix(CLONED) + CLONED,
            inference=Advice('full16', 1, 1.0),
        )
    elif not model.predicts_video:
        whole = designs.released(design.name.removesuffix(CLONED))
        model = replace(model, window_blocks=whole.model.window_blocks, predicts_video=True)
        design = replace(design, name=whole.name, inference=ADVISED)
    if stage == 'flash':
        design = replace(
            design, video_final_noise=FLASH_NOISE, inference=Advice('one_step', None, 1.0, 'slide')
        )
    policy.dit.config = model
    return replace(policy, design=replace(design, model=model, trained=True))


def objective(stage: str, policy: Policy) -> Objective:
    """Choose the objective: our own models are trained by our recipe, released ones by theirs."""
    if isinstance(policy.encoders.vae, ConvVae):
        return {'clone': CLONE, 'joint': JOINT, 'flash': FLASH}[stage]
    if stage == 'clone':
        raise ValueError(
            f'{policy.design.name}: cloning is a stage of our own small models; '
            'fine-tune with --stage joint or flash'
        )
    return replace(RELEASED, decoupled=stage == 'flash')


def with_statistics(policy: Policy, data: Clips, rng: np.random.Generator) -> Policy:
    """Add the statistics of the data, unless the policy was trained with some of this robot."""
    tag = policy.tags.get(data.robot.model_tag)
    if tag is not None and not tag.synthetic:
        return policy
    horizon = policy.design.model.actions_per_block
    found = normalization.statistics(data, horizon, rng)
    kept = {name: own for name, own in policy.tags.items() if not own.synthetic}
    policy = replace(policy, tags={**kept, found.name: found})
    if kept or policy.design.normalisation != 'mean_std':
        return policy
    spread = normalization.row_spread(data, policy.normaliser(data.robot), horizon, rng)
    return replace(policy, design=replace(policy.design, row_spread=spread))


def split(data: Clips, seed: int) -> tuple[Clips, Clips]:
    """Set some episodes aside."""
    order = np.random.default_rng([seed, 1]).permutation(len(data.spans))
    if len(order) < 2:
        raise ValueError('want at least two episodes: one is held out to judge the training')
    aside = min(HELD_OUT_MOST, max(1, int(HELD_OUT_SHARE * len(order))))
    return episode_arrays.subset(data, sorted(order[aside:])), episode_arrays.subset(
        data, sorted(order[:aside])
    )


def windows(policy: Policy, data: Clips, seed: int) -> tuple[Windows, Windows]:
    """Give the windows to train on and those held out."""
    normaliser, design = policy.normaliser(data.robot), policy.design
    layout = design.canvas.layout(
        data.robot.model_tag, tuple(camera.key for camera in data.robot.cameras)
    )
    places, shown = Places.of(data, layout, design.model), pictures(policy, data, design)
    train, aside = (
        Windows(part, shown, normaliser, design.model, places) for part in split(data, seed)
    )
    return train, aside


def pictures(policy: Policy, data: Clips, design: Design) -> Pictures:
    if isinstance(policy.encoders.vae, ConvVae):
        return Stored(latent_cache.encoded(data, policy.encoders.vae), design.model)
    return Filmed(data.film, policy.encoders, design.model, design.canvas.size)


def learner(policy: Policy, data: Clips, origin: Origin, recompute: bool) -> Learner:
    """Gather what learns: the transformer or adapters in it, a text encoder of bytes, heads."""
    torch.manual_seed(origin.seed)  # of heads and adapters
    policy.dit.requires_grad_(False)
    policy.encoders.requires_grad_(False)
    if origin.lora:
        lora_training.injected(policy.dit, lora_training.config(origin.lora))
        return Learner(policy.dit, None, None, recompute)
    policy.dit.requires_grad_(True)
    heads = Heads(policy.design.model.dim).to(origin.device) if data.grounded else None
    if heads is not None and origin.init is not None and (origin.init / HEADS).is_file():
        heads.load_state_dict(load_file(origin.init / HEADS))
    if not learns_text(policy):
        return Learner(policy.dit, None, heads, recompute)
    policy.encoders.text.requires_grad_(True)
    return Learner(policy.dit, policy.encoders.text, heads, recompute)


def learns_text(policy: Policy) -> bool:
    """Tell whether the text encoder is our own, which only training makes one."""
    return isinstance(policy.encoders.vae, ConvVae)


def prompts(policy: Policy, data: Clips, learned: bool) -> Prompts:
    """Give what turns instructions into the learner's input, by the robot's template."""
    tag = data.robot.model_tag
    return Prompts(policy.encoders, lambda text: policy.design.prompt(tag, text), learned)

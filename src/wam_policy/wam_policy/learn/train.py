"""`./wam train`: data sets to a checkpoint that nodes load, from nothing or from another one.

Stages: `autoencoder` (pictures only), `clone` (actions from the newest picture, no video), `joint`
(a world action model), `flash` (joint, with noise levels for one-step inference).
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wam_policy.learn import autoencoder, clips, latents, resume, scaling
from wam_policy.learn.clips import Clips
from wam_policy.learn.grounding import Heads, Places
from wam_policy.learn.heldout import HeldOut, summary
from wam_policy.learn.journal import Journal
from wam_policy.learn.losses import CLONE, FLASH, JOINT, Losses, Objective
from wam_policy.learn.trainer import Prompts, Settings, Trainer
from wam_policy.learn.windows import Windows
from wam_policy.model import checkpoint
from wam_policy.model import design as designs
from wam_policy.model.checkpoint import Policy
from wam_policy.model.conv_vae import ConvVae
from wam_policy.model.design import Advice
from wam_policy.model.dit import VideoActionDiT
from wam_policy.model.encoders import Encoders

STAGES: dict[str, Objective | None] = {
    'autoencoder': None, 'clone': CLONE, 'joint': JOINT, 'flash': FLASH}
MIX = {1: 0.5, 2: 0.25, 3: 0.15, 4: 0.1}        # share of windows by blocks
HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 200        # of episodes
SAVE_S, SAY_S, FIGURES_S = 60.0, 15.0, 60.0
CLONED = '_cloned'      # behind the name of a design
FLASH_NOISE = 0.8       # at which one step leaves the video, as the released models do
RESUME = Path('training') / 'resume.safetensors'
HEADS = Path('training') / 'heads.safetensors'


# ---- what is trained

def begun(options: argparse.Namespace) -> Policy:
    """Give the policy that training starts from: a checkpoint, or a preset with fresh weights."""
    if options.init is not None:
        return checkpoint.load(options.init, torch.device('cpu'), torch.float32)
    torch.manual_seed(options.seed)
    design = designs.released(options.preset)
    words = checkpoint.tokenizer(design, Path())
    return Policy(design, VideoActionDiT(design.model),
                  Encoders(design.encoders, design.model.latent_size, words), {}, 'fresh')


def with_statistics(policy: Policy, data: Clips, rng: np.random.Generator) -> Policy:
    """Add the statistics of the data, unless the policy was trained with some of this robot."""
    tag = policy.tags.get(data.robot.model_tag)
    if tag is not None and not tag.synthetic:
        return policy
    horizon = policy.design.model.actions_per_block
    found = scaling.statistics(data, horizon, rng)
    kept = {name: own for name, own in policy.tags.items() if not own.synthetic}
    policy = replace(policy, tags={**kept, found.name: found})
    if kept or policy.design.normalisation != 'mean_std':
        return policy
    spread = scaling.row_spread(data, policy.normaliser(data.robot), horizon, rng)
    return replace(policy, design=replace(policy.design, row_spread=spread))


def split(data: Clips, seed: int) -> tuple[Clips, Clips]:
    """Set some episodes aside."""
    order = np.random.default_rng([seed, 1]).permutation(len(data.spans))
    aside = min(HELD_OUT_MOST, max(1, int(HELD_OUT_SHARE * len(order))))
    if len(order) < 2:
        raise ValueError('want at least two episodes: one is held out to judge the training')
    return clips.subset(data, sorted(order[aside:])), clips.subset(data, sorted(order[:aside]))


def shaped(policy: Policy, stage: str) -> Policy:
    """Give the policy the form of a stage: cloning sees the newest picture and predicts none."""
    design, model = policy.design, policy.design.model
    if stage == 'clone':
        model = replace(model, window_blocks=1, predicts_video=False)
        design = replace(design, name=design.name.removesuffix(CLONED) + CLONED,
                         inference=Advice('full16', 1, 1.0))
    elif not model.predicts_video:
        whole = designs.released(design.name.removesuffix(CLONED))
        model = replace(model, window_blocks=whole.model.window_blocks, predicts_video=True)
        design = replace(design, name=whole.name, inference=whole.inference)
    if stage == 'flash':
        design = replace(design, video_final_noise=FLASH_NOISE,
                         inference=Advice('one_step', None, 1.0))
    policy.dit.config = model
    return replace(policy, design=replace(design, model=model))


# ---- how long

@dataclass(slots=True)
class Budget:
    """Tell how much of a training is done, by steps or by the clock."""

    steps: int | None
    seconds: float
    before_s: float = 0.0       # of earlier runs that this one continues
    began_s: float = 0.0

    def start(self, before_s: float = 0.0) -> None:
        self.before_s, self.began_s = before_s, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.before_s + time.monotonic() - self.began_s

    def share(self, step: int) -> float:
        return step / self.steps if self.steps else self.elapsed_s / self.seconds

    def left_s(self, step: int) -> float:
        share = self.share(step)
        return self.elapsed_s * (1 - share) / share if share else float('nan')


# ---- stages

def train_autoencoder(policy: Policy, data: Clips, options: argparse.Namespace,
                      journal: Journal) -> Policy:
    """Train the convolutional autoencoder of a policy and put its statistics into the design."""
    budget = Budget(options.autoencoder_steps, 60 * options.autoencoder_minutes)
    budget.start()
    said_s = budget.elapsed_s

    def report(now: autoencoder.Progress) -> None:
        nonlocal said_s
        if budget.elapsed_s - said_s > SAY_S:
            said_s = budget.elapsed_s
            journal.note(f'autoencoder: step {now.step}, loss {now.loss:.5f}, '
                         f'{budget.left_s(now.step):.0f} s to go')

    vae = policy.encoders.vae
    if not isinstance(vae, ConvVae):
        raise ValueError(f'{policy.design.name}: its autoencoder comes trained; leave out '
                         '--stage autoencoder')
    rng = np.random.default_rng([options.seed, 3])
    torch.manual_seed(options.seed)
    found = autoencoder.trained(vae, data, rng, budget.share, report)
    whole, heavy = autoencoder.fidelity_db(found, data, rng)
    journal.note(f'autoencoder: {whole:.1f} dB, {heavy:.1f} dB where coloured or moving')
    policy.encoders.vae = found
    encoders = replace(policy.design.encoders, vae=found.config)
    policy.encoders.config = encoders
    return replace(policy, design=replace(policy.design, encoders=encoders))


def trainer_of(policy: Policy, data: Clips, objective: Objective, settings: Settings,
               options: argparse.Namespace) -> Trainer:
    """Gather what moves in a stage: the transformer, a text encoder of bytes, the heads."""
    learned_text = policy.design.encoders.tokenizer == 'bytes'
    heads = Heads(policy.design.model.dim) if data.grounded else None
    if heads is not None and options.init is not None and (options.init / HEADS).is_file():
        checkpoint_heads(options.init / HEADS, heads)
    parts = {'dit': policy.dit, 'text': policy.encoders.text if learned_text else None,
             'heads': heads}
    moving = []
    for part, module in parts.items():
        if module is not None:
            module.requires_grad_(True)
            moving += [(f'{part}.{name}', p) for name, p in module.named_parameters()]
    tag = data.robot.model_tag
    prompts = Prompts(policy.encoders, lambda text: policy.design.prompt(tag, text), learned_text)
    columns = torch.from_numpy(policy.normaliser(data.robot).action_mask())
    return Trainer(policy.dit, heads, prompts, moving, columns, objective, settings, options.seed)


def checkpoint_heads(path: Path, heads: Heads) -> None:
    from safetensors.torch import load_file
    heads.load_state_dict(load_file(path))


def saved(policy: Policy, trainer: Trainer, out: Path) -> None:
    """Write the checkpoint with averaged weights, so that a reader never sees half of it."""
    from safetensors.torch import save_file
    part = out.with_name(out.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    with trainer.averaged():
        checkpoint.save(replace(policy, design=replace(policy.design, trained=True)), part)
        if trainer.heads is not None:
            (part / HEADS).parent.mkdir(parents=True, exist_ok=True)
            save_file(trainer.heads.state_dict(), part / HEADS)
    placed(part, out)


def placed(part: Path, out: Path) -> None:
    """Move files over those of `out` one by one, the description last."""
    files = sorted((path for path in part.rglob('*') if path.is_file()),
                   key=lambda path: path.name == 'config.json')
    for path in files:
        goal = out / path.relative_to(part)
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, goal)
    shutil.rmtree(part)


def train_stage(policy: Policy, data: Clips, options: argparse.Namespace,
                journal: Journal) -> None:
    """Train the transformer by one objective until the budget is spent."""
    objective = STAGES[options.stage]
    assert objective is not None
    settings = Settings(rate=options.rate, average=options.average, bf16=options.bf16,
                        text_dropout=options.text_dropout)
    train, aside = split(data, options.seed)
    normaliser, config = policy.normaliser(data.robot), policy.design.model
    assert isinstance(policy.encoders.vae, ConvVae)
    seen = latents.encoded(data, policy.encoders.vae)
    layout = policy.design.canvas.layout(
        data.robot.model_tag, tuple(camera.key for camera in data.robot.cameras))
    places = Places.of(data, layout, config)
    windows = Windows(train, seen, normaliser, config, places)
    heldout = HeldOut(Windows(aside, seen, normaliser, config, places), options.seed)
    trainer = trainer_of(policy, data, objective, settings, options)
    budget = Budget(options.steps, 60 * options.minutes)
    same = {'stage': options.stage, 'seed': options.seed, 'batch': options.batch,
            'objective': asdict(objective), 'settings': asdict(settings)}
    same['settings']['betas'] = list(settings.betas)
    path = options.out / RESUME
    continued = path.is_file() and not options.fresh
    budget.start(resume.read(path, trainer, same) if continued else 0.0)
    journal.note(f'{options.stage}: {len(train.spans)} episodes, {len(aside.spans)} held out, '
                 f'{sum(p.numel() for _, p in trainer.trained):,} parameters'
                 + (f', continued at step {trainer.step}' if continued else ''))
    mix = {n: share for n, share in ({1: 1.0} if options.stage == 'clone' else MIX).items()
           if n in windows.lengths()}
    lengths, shares = np.array(list(mix)), np.array(list(mix.values()))
    said_s = saved_s = figures_s = budget.elapsed_s

    def judge() -> None:
        with trainer.averaged():
            found = heldout.figures(trainer)
        journal.figures(trainer.step, budget.elapsed_s, found, summary(found))

    while (share := budget.share(trainer.step)) < 1:
        blocks = int(trainer.rng.choice(lengths, p=shares / shares.sum()))
        losses = trainer.learn(windows.drawn(options.batch, blocks, trainer.rng), share)
        journal.add(_named(losses))
        now_s = budget.elapsed_s
        if now_s - said_s > SAY_S:
            journal.say(trainer.step, now_s, budget.left_s(trainer.step))
            said_s = now_s
        if now_s - figures_s > FIGURES_S:
            judge()
            figures_s = budget.elapsed_s
        if now_s - saved_s > SAVE_S:
            saved(policy, trainer, options.out)
            resume.written(path, trainer, budget.elapsed_s, same)
            saved_s = budget.elapsed_s
    journal.say(trainer.step, budget.elapsed_s, 0.0)
    judge()
    saved(policy, trainer, options.out)
    resume.written(path, trainer, budget.elapsed_s, same)


def _named(losses: Losses) -> dict[str, float]:
    return {name: float(value) for name, value in losses._asdict().items()}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(prog='wam train', description=__doc__)
    found.add_argument('data', nargs='+', type=Path, help='data set folders of one robot')
    found.add_argument('--out', type=Path, required=True, help='checkpoint folder to write')
    found.add_argument('--preset', default='mini', help='model to begin, without --init')
    found.add_argument('--init', type=Path, help='checkpoint to begin from')
    found.add_argument('--stage', choices=STAGES, default='joint')
    found.add_argument('--minutes', type=float, default=30.0)
    found.add_argument('--steps', type=int, help='instead of minutes')
    found.add_argument('--autoencoder-minutes', type=float, default=5.0)
    found.add_argument('--autoencoder-steps', type=int, help='instead of minutes')
    found.add_argument('--seed', type=int, default=0)
    found.add_argument('--batch', type=int, default=32)
    found.add_argument('--rate', type=float, default=1e-3)
    found.add_argument('--average', type=float, default=0.998, help='share of averaged weights '
                       'kept at a step')
    found.add_argument('--text-dropout', type=float, default=0.0)
    found.add_argument('--bf16', action=argparse.BooleanOptionalAction, default=True)
    found.add_argument('--threads', type=int, default=1)
    found.add_argument('--fresh', action='store_true', help='forget an interrupted run in --out')
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 0 when the checkpoint is complete, 1 with a sentence on what is wrong."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        return run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f'train: {error}\n')
        return 1


def run(options: argparse.Namespace) -> int:
    policy = begun(options)
    data = clips.read(options.data, policy.design)
    journal = Journal(options.out / 'training')
    policy = with_statistics(policy, data, np.random.default_rng([options.seed, 4]))
    if options.stage == 'autoencoder' or options.init is None:
        policy = train_autoencoder(policy, data, options, journal)
        part = options.out.with_name(options.out.name + '.part')
        checkpoint.save(policy, part)
        placed(part, options.out)
    if options.stage != 'autoencoder':
        train_stage(shaped(policy, options.stage), data, options, journal)
    journal.note(f'checkpoint: {options.out}')
    journal.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())

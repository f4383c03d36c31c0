"""`./wam train`: data sets to a checkpoint that nodes load, from nothing or from another one.

Stages: `autoencoder` (pictures only), `clone` (actions from the newest picture, no video), `joint`
(a world action model), `flash` (joint, with noise levels for one-step inference). An interrupted
training goes on when the same command is given again.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wam_learning.data import episode_arrays
from wam_learning.data.episode_arrays import Clips
from wam_learning.data.sequence_sampler import Windows
from wam_learning.training import (
    autoencoder_training,
    checkpoint_writer,
    lora_training,
    training_setup,
    training_state,
)
from wam_learning.training.precision import native_bf16
from wam_learning.training.trainer import Settings, Trainer
from wam_learning.training.training_logger import Journal
from wam_learning.training.training_setup import STAGES, Origin
from wam_learning.training.validation import HeldOut, summary
from wam_policy.core.robot.checkpoints import located
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint.checkpoint_folder import Policy
from wam_policy.model.encoders.conv_vae import ConvVae

if TYPE_CHECKING:
    from accelerate import Accelerator

MIX = {1: 0.5, 2: 0.25, 3: 0.15, 4: 0.1}  # share of windows by blocks
SAVE_S, SAY_S, FIGURES_S = 60.0, 15.0, 60.0
RESUME = Path('training') / 'resume.safetensors'


# ---- how long


@dataclass(slots=True)
class Budget:
    """Tell how much of a training is done, by steps or by the clock."""

    steps: int | None
    seconds: float
    before_s: float = 0.0  # of earlier runs that this one continues
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
        return self.elapsed_s * max(0.0, 1 - share) / share if share else float('nan')


@dataclass(slots=True)
class Due:
    """Tell when something that repeats is due: by the clock, or by steps where processes agree."""

    every_s: float
    every_steps: int | None
    last: float = 0.0

    def now(self, step: int, elapsed_s: float) -> bool:
        place = step if self.every_steps else elapsed_s
        if place - self.last < (self.every_steps or self.every_s):
            return False
        self.last = place
        return True


# ---- stages


def train_autoencoder(
    policy: Policy, data: Clips, options: argparse.Namespace, journal: Journal
) -> Policy:
    """Train the convolutional autoencoder of a policy and put its statistics into the design."""
    vae = policy.encoders.vae
    if not isinstance(vae, ConvVae):
        raise ValueError(
            f'{policy.design.name}: its autoencoder comes trained; leave out --stage autoencoder'
        )
    budget = Budget(options.autoencoder_steps, 60 * options.autoencoder_minutes)
    budget.start()
    say = Due(SAY_S, None)

    def report(now: autoencoder_training.Progress) -> None:
        if say.now(now.step, budget.elapsed_s):
            journal.note(
                f'autoencoder: step {now.step}, loss {now.loss:.5f}, '
                f'{budget.left_s(now.step):.0f} s to go'
            )

    rng = np.random.default_rng([options.seed, 3])
    torch.manual_seed(options.seed)
    vae.requires_grad_(True)
    found = autoencoder_training.trained(vae, data, rng, budget.share, report, options.bf16)
    whole, heavy = autoencoder_training.fidelity_db(found, data, rng)
    journal.note(f'autoencoder: {whole:.1f} dB, {heavy:.1f} dB where coloured or moving')
    policy.encoders.vae = found
    policy.encoders.config = replace(policy.design.encoders, vae=found.config)
    policy = replace(policy, design=replace(policy.design, encoders=policy.encoders.config))
    part = options.out.with_name(options.out.name + '.part')
    checkpoint_folder.save(policy, part)
    checkpoint_writer.placed(part, options.out)
    return policy


def train_stage(
    policy: Policy,
    data: Clips,
    origin: Origin,
    options: argparse.Namespace,
    journal: Journal,
    accelerator: 'Accelerator | None' = None,
) -> None:
    """Train the transformer by one objective until the budget is spent."""
    policy = training_setup.shaped(policy, options.stage)
    if options.lora:
        policy = replace(
            policy, design=replace(policy.design, adapters=lora_training.config(options.lora))
        )
    objective = training_setup.objective(options.stage, policy)
    settings = Settings(
        rate=options.rate,
        average=options.average,
        bf16=options.bf16,
        text_dropout=options.text_dropout,
    )
    windows, aside = training_setup.windows(policy, data, options.seed)
    learner = training_setup.learner(policy, data, origin, options.recompute)
    columns = torch.from_numpy(policy.normaliser(data.robot).action_mask())
    trainer = Trainer(
        learner,
        training_setup.prompts(policy, data, learner.text is not None),
        columns,
        objective,
        settings,
        options.seed,
        accelerator,
    )
    run = _Run(policy, trainer, HeldOut(aside, options.seed), options, journal)
    journal.note(
        f'{options.stage}: {len(windows.clips.spans)} episodes, '
        f'{len(aside.clips.spans)} held out, '
        f'{sum(p.numel() for _, p in trainer.trained):,} parameters'
    )
    run.resume()
    run.until_done(windows, {1: 1.0} if options.stage == 'clone' else MIX)


class _Run:
    """Step, say, judge and save."""

    def __init__(
        self,
        policy: Policy,
        trainer: Trainer,
        heldout: HeldOut,
        options: argparse.Namespace,
        journal: Journal,
    ) -> None:
        self.policy, self.trainer, self.heldout = policy, trainer, heldout
        self.out, self.batch, self.fresh = options.out, options.batch, options.fresh
        self.keep, self.kept = options.keep, 0
        self.journal, self.budget = journal, Budget(options.steps, 60 * options.minutes)
        self.settings: dict[str, Any] = {
            'stage': options.stage,
            'seed': options.seed,
            'batch': options.batch,
            'objective': asdict(trainer.objective),
            'settings': {**asdict(trainer.settings), 'betas': list(trainer.settings.betas)},
        }
        self.alone = trainer.accelerator is None

    def resume(self) -> None:
        path, before_s = self.out / RESUME, 0.0
        if self.alone and path.is_file() and not self.fresh:
            before_s = training_state.read(path, self.trainer, self.settings)
            self.journal.note(f'continued at step {self.trainer.step}')
        self.budget.start(before_s)

    def until_done(self, windows: Windows, mix: dict[int, float]) -> None:
        trainer, budget = self.trainer, self.budget
        lengths = [n for n in windows.lengths() if n in mix]
        shares = np.array([mix[n] for n in lengths])
        steps = None if self.alone else max(1, (budget.steps or 1) // 20)
        say, judge, save = (
            Due(seconds, steps, trainer.step if steps else budget.elapsed_s)
            for seconds in (SAY_S, FIGURES_S, SAVE_S)
        )
        while (share := budget.share(trainer.step)) < 1:
            blocks = int(trainer.rng.choice(lengths, p=shares / shares.sum()))
            losses = trainer.learn(windows.drawn(self.batch, blocks, trainer.rng), share)
            self.journal.add({name: float(value) for name, value in losses._asdict().items()})
            place = trainer.step, budget.elapsed_s
            if say.now(*place):
                self.journal.say(*place, budget.left_s(trainer.step))
            if judge.now(*place):
                self.judge()
            if save.now(*place):
                self.save()
            self.put_by(budget.share(trainer.step))
        self.journal.say(trainer.step, budget.elapsed_s, 0.0)
        self.judge()
        self.save()

    def put_by(self, share: float) -> None:
        """Keep a copy of the checkpoint at even shares of the budget, where that is wanted."""
        due = int(share * (self.keep + 1))
        if self.kept < due <= self.keep:
            self.kept = due
            checkpoint_writer.written(
                self.policy,
                self.trainer,
                self.out / checkpoint_writer.KEPT / f'{self.trainer.step:06d}',
            )

    def judge(self) -> None:
        with self.trainer.averaged():
            found = self.heldout.figures(self.trainer)
        self.journal.figures(self.trainer.step, self.budget.elapsed_s, found, summary(found))

    def save(self) -> None:
        checkpoint_writer.written(self.policy, self.trainer, self.out)
        if self.alone:
            training_state.written(
                self.out / RESUME, self.trainer, self.budget.elapsed_s, self.settings
            )


# ---- command


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(prog='wam train', description=__doc__)
    add = found.add_argument
    add('data', nargs='+', type=Path, help='data set folders of one robot')
    add('--out', type=Path, required=True, help='checkpoint folder to write')
    add('--preset', default='mini', help='model to begin, without --init')
    add('--init', help='checkpoint to begin from: a folder, or the name of a shipped model')
    add('--base', type=Path, help='complete checkpoint under --init, if that holds adapters only')
    add('--lora', type=int, metavar='RANK', help='train adapters on --init, and write only them')
    add('--stage', choices=STAGES, default='joint')
    add('--minutes', type=float, default=30.0)
    add('--steps', type=int, help='instead of minutes')
    add('--autoencoder-minutes', type=float, default=5.0)
    add('--autoencoder-steps', type=int, help='instead of minutes')
    add('--seed', type=int, default=0)
    add('--batch', type=int, default=32, help='windows in a step (of each process)')
    add('--rate', type=float, default=1e-3)
    add('--average', type=float, default=0.998, help='share of averaged weights kept at a step')
    add(
        '--text-dropout',
        type=float,
        default=0.0,
        metavar='SHARE',
        help='of windows without their text, for guidance',
    )
    add(
        '--bf16',
        action=argparse.BooleanOptionalAction,
        help='half precision where it does no harm (default: where the device computes in it)',
    )
    add('--recompute', action='store_true', help='gradient checkpointing: less memory, more time')
    add(
        '--keep',
        type=int,
        default=0,
        metavar='N',
        help='copies of the checkpoint on the way, in kept/STEP, for ./wam curves',
    )
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--threads', type=int, default=1, help='of this process, on a CPU')
    add('--fresh', action='store_true', help='forget an interrupted run in --out')
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 0 when the checkpoint is complete, 1 with a sentence on what is wrong."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.bf16 is None:
        options.bf16 = native_bf16(torch.device(options.device))
    try:
        return _trained(options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f'train: {error}\n')
        return 1


def _accelerator(options: argparse.Namespace) -> 'Accelerator | None':
    """Give what spreads the work, where `accelerate launch` started several processes."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return None
    if options.steps is None:
        raise ValueError('several processes agree on steps, not on minutes: give --steps')
    from accelerate import Accelerator

    return Accelerator(cpu=options.device == 'cpu')


def _trained(options: argparse.Namespace) -> int:
    accelerator = _accelerator(options)
    device = torch.device(options.device)
    if accelerator is not None and device.type != 'cpu':
        device = accelerator.device  # of this process; on a CPU it numbers what has none
    half = options.lora and options.bf16 and device.type == 'cuda'
    init = options.init and Path(located(options.init))
    origin = Origin(
        options.preset,
        init,
        options.base,
        options.lora,
        options.seed,
        device,
        torch.bfloat16 if half else torch.float32,
    )
    policy = training_setup.begun(origin)
    if accelerator is None:
        data = episode_arrays.read(options.data, policy.design)
    else:
        with accelerator.main_process_first():  # which decodes for all
            data = episode_arrays.read(options.data, policy.design)
    leads = accelerator is None or accelerator.is_main_process
    journal = Journal(options.out / 'training', silent=not leads)
    policy = training_setup.with_statistics(policy, data, np.random.default_rng([options.seed, 4]))
    own = isinstance(policy.encoders.vae, ConvVae)
    if options.stage == 'autoencoder' or (options.init is None and own):
        if accelerator is not None:
            raise ValueError(
                'the autoencoder is trained by one process: do it first, with '
                '--stage autoencoder, and name its folder with --init'
            )
        policy = train_autoencoder(policy, data, options, journal)
    if options.stage != 'autoencoder':
        train_stage(policy, data, origin, options, journal, accelerator)
    journal.note(f'checkpoint: {options.out}')
    journal.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())

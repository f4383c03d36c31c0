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
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_learning.data.sequence_sampler import SequenceSampler
from wam_learning.training import (
    autoencoder_training,
    checkpoint_writer,
    lora_training,
    training_setup,
    training_state,
)
from wam_learning.training.precision import has_native_bf16
from wam_learning.training.trainer import Trainer, TrainerConfig
from wam_learning.training.training_logger import TrainingLogger
from wam_learning.training.training_setup import STAGES, InitConfig
from wam_learning.training.validation import HeldOutEvaluator, format_summary
from wam_policy.core.robot.checkpoints import resolve_checkpoint
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint.checkpoint_folder import WorldActionModel
from wam_policy.model.encoders.conv_vae import ConvVae

if TYPE_CHECKING:
    from accelerate import Accelerator

BLOCK_COUNT_PROBS = {1: 0.5, 2: 0.25, 3: 0.15, 4: 0.1}  # share of windows by blocks
SAVE_EVERY_S, LOG_EVERY_S, EVALUATE_EVERY_S = 60.0, 15.0, 60.0
RESUME_FILE = Path('training') / 'resume.safetensors'


# ---- how long


@dataclass(slots=True)
class TrainingBudget:
    """Tell how much of a training is done, by steps or by the clock."""

    steps: int | None
    seconds: float
    previous_s: float = 0.0  # of earlier runs that this one continues
    began_s: float = 0.0

    def start(self, previous_s: float = 0.0) -> None:
        self.previous_s, self.began_s = previous_s, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.previous_s + time.monotonic() - self.began_s

    def fraction_done(self, step: int) -> float:
        return step / self.steps if self.steps else self.elapsed_s / self.seconds

    def remaining_s(self, step: int) -> float:
        share = self.fraction_done(step)
        return self.elapsed_s * max(0.0, 1 - share) / share if share else float('nan')


@dataclass(slots=True)
class PeriodicTrigger:
    """Tell when something that repeats is due: by the clock, or by steps where processes agree."""

    every_s: float
    every_steps: int | None
    last: float = 0.0

    def is_due(self, step: int, elapsed_s: float) -> bool:
        place = step if self.every_steps else elapsed_s
        if place - self.last < (self.every_steps or self.every_s):
            return False
        self.last = place
        return True


# ---- stages


def train_autoencoder(
    policy: WorldActionModel,
    data: EpisodeArrays,
    options: argparse.Namespace,
    logger: TrainingLogger,
) -> WorldActionModel:
    """Train the convolutional autoencoder of a policy and put its statistics into the design."""
    vae = policy.encoders.vae
    if not isinstance(vae, ConvVae):
        raise ValueError(
            f'{policy.spec.name}: its autoencoder comes trained; leave out --stage autoencoder'
        )
    budget = TrainingBudget(options.autoencoder_steps, 60 * options.autoencoder_minutes)
    budget.start()
    say = PeriodicTrigger(LOG_EVERY_S, None)

    def report(now: autoencoder_training.AutoencoderProgress) -> None:
        if say.is_due(now.step, budget.elapsed_s):
            logger.log_message(
                f'autoencoder: step {now.step}, loss {now.loss:.5f}, '
                f'{budget.remaining_s(now.step):.0f} s to go'
            )

    rng = np.random.default_rng([options.seed, 3])
    torch.manual_seed(options.seed)
    vae.requires_grad_(True)
    found = autoencoder_training.train(vae, data, rng, budget.fraction_done, report, options.bf16)
    whole, heavy = autoencoder_training.compute_psnr_db(found, data, rng)
    logger.log_message(f'autoencoder: {whole:.1f} dB, {heavy:.1f} dB where coloured or moving')
    policy.encoders.vae = found
    policy.encoders.config = replace(policy.spec.encoders, vae=found.config)
    policy = replace(policy, spec=replace(policy.spec, encoders=policy.encoders.config))
    part = options.out.with_name(options.out.name + '.part')
    checkpoint_folder.save(policy, part)
    checkpoint_writer.move_into_place(part, options.out)
    return policy


def train_stage(
    policy: WorldActionModel,
    data: EpisodeArrays,
    init_config: InitConfig,
    options: argparse.Namespace,
    logger: TrainingLogger,
    accelerator: 'Accelerator | None' = None,
) -> None:
    """Train the transformer by one objective until the budget is spent."""
    policy = training_setup.configure_stage(policy, options.stage)
    if options.lora:
        policy = replace(
            policy,
            spec=replace(policy.spec, adapters=lora_training.make_lora_config(options.lora)),
        )
    objective = training_setup.choose_objective(options.stage, policy)
    settings = TrainerConfig(
        rate=options.rate,
        average=options.average,
        bf16=options.bf16,
        text_dropout=options.text_dropout,
    )
    windows, aside = training_setup.make_samplers(policy, data, options.seed)
    learner = training_setup.make_training_model(policy, data, init_config, options.recompute)
    columns = torch.from_numpy(policy.make_normalizer(data.robot).action_mask())
    trainer = Trainer(
        learner,
        training_setup.make_prompt_encoder(policy, data, learner.text is not None),
        columns,
        objective,
        settings,
        options.seed,
        accelerator,
    )
    run = _TrainingRun(policy, trainer, HeldOutEvaluator(aside, options.seed), options, logger)
    logger.log_message(
        f'{options.stage}: {len(windows.data.episodes)} episodes, '
        f'{len(aside.data.episodes)} held out, '
        f'{sum(p.numel() for _, p in trainer.trainable_parameters):,} parameters'
    )
    run.resume_if_saved()
    run.run(windows, {1: 1.0} if options.stage == 'clone' else BLOCK_COUNT_PROBS)


class _TrainingRun:
    """Step, say, judge and save."""

    def __init__(
        self,
        policy: WorldActionModel,
        trainer: Trainer,
        evaluator: HeldOutEvaluator,
        options: argparse.Namespace,
        logger: TrainingLogger,
    ) -> None:
        self.policy, self.trainer, self.evaluator = policy, trainer, evaluator
        self.out, self.batch_size, self.no_resume = options.out, options.batch, options.fresh
        self.num_snapshots, self.snapshots_written = options.keep, 0
        self.logger, self.budget = logger, TrainingBudget(options.steps, 60 * options.minutes)
        self.settings: dict[str, Any] = {
            'stage': options.stage,
            'seed': options.seed,
            'batch': options.batch,
            'objective': asdict(trainer.objective),
            'settings': {**asdict(trainer.config), 'betas': list(trainer.config.betas)},
        }
        self.is_single_process = trainer.accelerator is None

    def resume_if_saved(self) -> None:
        path, before_s = self.out / RESUME_FILE, 0.0
        if self.is_single_process and path.is_file() and not self.no_resume:
            before_s = training_state.load_state(path, self.trainer, self.settings)
            self.logger.log_message(f'continued at step {self.trainer.step}')
        self.budget.start(before_s)

    def run(self, sampler: SequenceSampler, block_count_probs: dict[int, float]) -> None:
        trainer, budget = self.trainer, self.budget
        lengths = [n for n in sampler.block_counts() if n in block_count_probs]
        shares = np.array([block_count_probs[n] for n in lengths])
        steps = None if self.is_single_process else max(1, (budget.steps or 1) // 20)
        say, judge, save = (
            PeriodicTrigger(seconds, steps, trainer.step if steps else budget.elapsed_s)
            for seconds in (LOG_EVERY_S, EVALUATE_EVERY_S, SAVE_EVERY_S)
        )
        while (share := budget.fraction_done(trainer.step)) < 1:
            blocks = int(trainer.rng.choice(lengths, p=shares / shares.sum()))
            losses = trainer.train_step(
                sampler.sample(self.batch_size, blocks, trainer.rng), share
            )
            self.logger.add_losses(
                {name: float(value) for name, value in losses._asdict().items()}
            )
            place = trainer.step, budget.elapsed_s
            if say.is_due(*place):
                self.logger.log_losses(*place, budget.remaining_s(trainer.step))
            if judge.is_due(*place):
                self.evaluate()
            if save.is_due(*place):
                self.save()
            self.write_snapshot_if_due(budget.fraction_done(trainer.step))
        self.logger.log_losses(trainer.step, budget.elapsed_s, 0.0)
        self.evaluate()
        self.save()

    def write_snapshot_if_due(self, fraction_done: float) -> None:
        """Keep a copy of the checkpoint at even shares of the budget, where that is wanted."""
        due = int(fraction_done * (self.num_snapshots + 1))
        if self.snapshots_written < due <= self.num_snapshots:
            self.snapshots_written = due
            checkpoint_writer.write_checkpoint(
                self.policy,
                self.trainer,
                self.out / checkpoint_writer.SNAPSHOTS_DIR / f'{self.trainer.step:06d}',
            )

    def evaluate(self) -> None:
        with self.trainer.use_ema_weights():
            found = self.evaluator.compute_metrics(self.trainer)
        self.logger.log_metrics(
            self.trainer.step, self.budget.elapsed_s, found, format_summary(found)
        )

    def save(self) -> None:
        checkpoint_writer.write_checkpoint(self.policy, self.trainer, self.out)
        if self.is_single_process:
            training_state.write_state(
                self.out / RESUME_FILE, self.trainer, self.budget.elapsed_s, self.settings
            )


# ---- command


def make_parser() -> argparse.ArgumentParser:
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
    options = make_parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.bf16 is None:
        options.bf16 = has_native_bf16(torch.device(options.device))
    try:
        return _train(options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f'train: {error}\n')
        return 1


def _make_accelerator(options: argparse.Namespace) -> 'Accelerator | None':
    """Give what spreads the work, where `accelerate launch` started several processes."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return None
    if options.steps is None:
        raise ValueError('several processes agree on steps, not on minutes: give --steps')
    from accelerate import Accelerator

    return Accelerator(cpu=options.device == 'cpu')


def _train(options: argparse.Namespace) -> int:
    accelerator = _make_accelerator(options)
    device = torch.device(options.device)
    if accelerator is not None and device.type != 'cpu':
        device = accelerator.device  # of this process; on a CPU it numbers what has none
    half = options.lora and options.bf16 and device.type == 'cuda'
    init = options.init and Path(resolve_checkpoint(options.init))
    origin = InitConfig(
        options.preset,
        init,
        options.base,
        options.lora,
        options.seed,
        device,
        torch.bfloat16 if half else torch.float32,
    )
    policy = training_setup.load_initial(origin)
    if accelerator is None:
        data = episode_arrays.read_datasets(options.data, policy.spec)
    else:
        with accelerator.main_process_first():  # which decodes for all
            data = episode_arrays.read_datasets(options.data, policy.spec)
    leads = accelerator is None or accelerator.is_main_process
    journal = TrainingLogger(options.out / 'training', disabled=not leads)
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
    journal.log_message(f'checkpoint: {options.out}')
    journal.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())

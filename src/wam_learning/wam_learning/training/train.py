"""`./wam train`: train a checkpoint on data sets, from scratch or from another checkpoint.

Stages: `autoencoder` (images only), `bc` (behavior cloning: actions from the newest image, no
video), `joint` (a world action model), `flash` (joint, with noise levels for one-step inference),
`latent` (a latent world model of DreamerV3's kind, for comparison; only `./wam eval` runs it).
Repeat the same command to resume an interrupted training.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wam_learning.data import episode_arrays
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_learning.data.sequence_sampler import Batch, QueryDelays
from wam_learning.latent_world_model import latent_training
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
from wam_learning.training.training_setup import STAGES, InitConfig, TrainingStage
from wam_learning.training.validation import HeldOutEvaluator, format_summary
from wam_policy import robot_folders
from wam_policy.command_line import CommandParser
from wam_policy.core.robot.checkpoints import resolve_base, resolve_checkpoint
from wam_policy.model.checkpoint import adapter_folder, checkpoint_folder
from wam_policy.model.checkpoint.checkpoint_folder import WorldActionModel
from wam_policy.model.encoders.conv_vae import ConvVae

if TYPE_CHECKING:
    from accelerate import Accelerator

BLOCK_COUNT_PROBS = {1: 0.5, 2: 0.25, 3: 0.15, 4: 0.1}  # of windows, by number of blocks
SAVE_EVERY_S, LOG_EVERY_S, EVALUATE_EVERY_S = 60.0, 15.0, 60.0
MAX_EVALUATION_SHARE = 0.05  # of the time; it takes 7 s on a busy core
RESUME_FILE = Path('training') / 'resume.safetensors'
DEPRECATED_FLAGS = {
    '--rate': '--lr',
    '--average': '--ema-decay',
    '--batch': '--batch-size',
    '--recompute': '--gradient-checkpointing',
    '--fresh': '--no-resume',
    '--keep': '--num-snapshots',
    '--lora': '--lora-rank',
}


# ---- budget


@dataclass(slots=True)
class TrainingBudget:
    """Measure the progress of a training, in steps or in time."""

    steps: int | None
    seconds: float
    previous_s: float = 0.0  # of the interrupted runs that this one resumes
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
    """Trigger periodically: in time, or in steps where several processes must agree."""

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
    """Train the convolutional autoencoder; store its latent statistics in the specification."""
    vae = policy.encoders.vae
    if not isinstance(vae, ConvVae):
        raise ValueError(
            f'{policy.spec.name}: its autoencoder is trained already; omit --stage autoencoder'
        )
    budget = TrainingBudget(options.autoencoder_steps, 60 * options.autoencoder_minutes)
    budget.start()
    log_trigger = PeriodicTrigger(LOG_EVERY_S, None)

    def report(now: autoencoder_training.AutoencoderProgress) -> None:
        if log_trigger.is_due(now.step, budget.elapsed_s):
            logger.log_message(
                f'autoencoder: step {now.step}, loss {now.loss:.5f}, '
                f'{budget.remaining_s(now.step):.0f} s left'
            )

    rng = np.random.default_rng([options.seed, 3])
    torch.manual_seed(options.seed)
    vae.requires_grad_(True)
    found = autoencoder_training.train(vae, data, rng, budget.fraction_done, report, options.bf16)
    whole, heavy = autoencoder_training.compute_psnr_db(found, data, rng)
    logger.log_message(f'autoencoder: {whole:.1f} dB, {heavy:.1f} dB where colored or moving')
    policy.encoders.vae = found
    policy.encoders.config = replace(policy.spec.encoders, vae=found.config)
    policy = replace(policy, spec=replace(policy.spec, encoders=policy.encoders.config))
    part = options.out.with_name(options.out.name + '.part')
    checkpoint_folder.save(policy, part)
    checkpoint_writer.move_into_place(part, options.out)
    return policy


def make_flow_stage(
    policy: WorldActionModel,
    data: EpisodeArrays,
    init_config: InitConfig,
    options: argparse.Namespace,
    accelerator: 'Accelerator | None' = None,
) -> TrainingStage:
    """Return the training of the transformer with the objective of a stage."""
    policy = training_setup.configure_stage(policy, options.stage, options.committed_rows)
    if options.lora_rank:
        assert init_config.init is not None  # load_initial refuses adapters without a checkpoint
        adapters = lora_training.make_lora_config(
            options.lora_rank, adapter_folder.compute_digest(init_config.init)
        )
        policy = replace(policy, spec=replace(policy.spec, adapters=adapters))
    objective = replace(
        training_setup.choose_objective(options.stage, policy), clean_video=options.clean_video
    )
    delays = QueryDelays(options.committed_rows, options.late_rows)
    windows, aside = training_setup.make_samplers(policy, data, options.seed, delays)
    learner = training_setup.make_training_model(
        policy, data, init_config, options.gradient_checkpointing
    )
    trainer = Trainer(
        learner,
        training_setup.make_prompt_encoder(policy, data, learner.text is not None),
        torch.from_numpy(policy.make_normalizer(data.robot).action_mask()),
        objective,
        _make_trainer_config(options),
        options.seed,
        accelerator,
    )
    evaluator = HeldOutEvaluator(aside, options.seed)
    probs = {1: 1.0} if options.stage == 'bc' else BLOCK_COUNT_PROBS
    lengths = [n for n in windows.block_counts() if n in probs]
    shares = np.array([probs[n] for n in lengths])

    def sample() -> Batch:
        blocks = int(trainer.rng.choice(lengths, p=shares / shares.sum()))
        return windows.sample(options.batch_size, blocks, trainer.rng)

    def compute_metrics() -> tuple[dict[str, float], str]:
        found = evaluator.compute_metrics(trainer)
        return found, format_summary(found)

    return TrainingStage(
        trainer,
        sample,
        compute_metrics,
        lambda out: checkpoint_writer.write_checkpoint(policy, trainer, out),
        f'{len(windows.data.episodes)} episodes, {len(aside.data.episodes)} held out',
    )


def _make_trainer_config(options: argparse.Namespace) -> TrainerConfig:
    return TrainerConfig(
        rate=options.lr,
        average=options.ema_decay,
        bf16=options.bf16,
        text_dropout=options.text_dropout,
    )


def train_stage(
    policy: WorldActionModel,
    data: EpisodeArrays,
    init_config: InitConfig,
    options: argparse.Namespace,
    logger: TrainingLogger,
    accelerator: 'Accelerator | None' = None,
) -> None:
    """Train with one objective until the time or step budget is used up."""
    if options.stage == 'latent':
        if accelerator is not None or options.lora_rank:
            raise ValueError(
                '--stage latent trains complete weights in one process: leave out --lora-rank '
                'and accelerate'
            )
        if options.committed_rows or options.late_rows or options.clean_video:
            raise ValueError(
                '--stage latent: leave out --committed-rows, --late-rows and --clean-video'
            )
        stage = latent_training.make_latent_stage(
            policy, data, _make_trainer_config(options), options.seed, options.batch_size
        )
    else:
        stage = make_flow_stage(policy, data, init_config, options, accelerator)
    run = _TrainingRun(stage, options, logger)
    parameters = sum(p.numel() for _, p in stage.trainer.trainable_parameters)
    logger.log_message(f'{options.stage}: {stage.description}, {parameters:,} parameters')
    run.resume_if_saved()
    run.run()


class _TrainingRun:
    """Run training steps, log, evaluate and save."""

    def __init__(
        self, stage: TrainingStage, options: argparse.Namespace, logger: TrainingLogger
    ) -> None:
        self.stage, self.trainer = stage, stage.trainer
        self.out, self.no_resume = options.out, options.no_resume
        self.num_snapshots, self.snapshots_written = options.num_snapshots, 0
        self.logger, self.budget = logger, TrainingBudget(options.steps, 60 * options.minutes)
        self.settings: dict[str, Any] = {
            'stage': options.stage,
            'seed': options.seed,
            'batch': options.batch_size,
            'objective': asdict(self.trainer.objective),
            'delays': {'committed': options.committed_rows, 'late': options.late_rows},
            'settings': {**asdict(self.trainer.config), 'betas': list(self.trainer.config.betas)},
        }
        self.is_single_process = self.trainer.accelerator is None

    def resume_if_saved(self) -> None:
        path, before_s = self.out / RESUME_FILE, 0.0
        if self.is_single_process and path.is_file() and not self.no_resume:
            before_s = training_state.load_state(path, self.trainer, self.settings)
            self.logger.log_message(f'resumed at step {self.trainer.step}')
        self.budget.start(before_s)

    def run(self) -> None:
        trainer, budget = self.trainer, self.budget
        steps = None if self.is_single_process else max(1, (budget.steps or 1) // 20)
        log, evaluate, save = (
            PeriodicTrigger(seconds, steps, trainer.step if steps else budget.elapsed_s)
            for seconds in (LOG_EVERY_S, EVALUATE_EVERY_S, SAVE_EVERY_S)
        )
        batches_s, began_s = 0.0, time.monotonic()
        while (share := budget.fraction_done(trainer.step)) < 1:
            batch_began_s = time.monotonic()
            batch = self.stage.sample()
            batches_s += time.monotonic() - batch_began_s
            losses = trainer.train_step(batch, share)
            self.logger.add_losses(
                {name: float(value) for name, value in losses._asdict().items()}
            )
            place = trainer.step, budget.elapsed_s
            if log.is_due(*place):
                self.logger.log_losses(*place, budget.remaining_s(trainer.step))
            if evaluate.is_due(*place):
                self.evaluate()
                took_s = budget.elapsed_s - place[1]
                evaluate.every_s = max(EVALUATE_EVERY_S, took_s / MAX_EVALUATION_SHARE)
            if save.is_due(*place):
                self.save()
            self.write_snapshot_if_due(budget.fraction_done(trainer.step))
        self.logger.log_losses(trainer.step, budget.elapsed_s, 0.0)
        batches_share = batches_s / max(time.monotonic() - began_s, 1e-9)
        self.logger.log_message(f'assembling batches took {batches_share:.1%} of the time')
        self.evaluate()
        self.save()

    def write_snapshot_if_due(self, fraction_done: float) -> None:
        """Write --num-snapshots copies of the checkpoint at equal fractions of the budget."""
        due = int(fraction_done * (self.num_snapshots + 1))
        if self.snapshots_written < due <= self.num_snapshots:
            self.snapshots_written = due
            folder = self.out / checkpoint_writer.SNAPSHOTS_DIR
            self.stage.write_checkpoint(folder / f'{self.trainer.step:06d}')

    def evaluate(self) -> None:
        with self.trainer.use_ema_weights():
            found, summary = self.stage.compute_metrics()
        self.logger.log_metrics(self.trainer.step, self.budget.elapsed_s, found, summary)

    def save(self) -> None:
        self.stage.write_checkpoint(self.out)
        if self.is_single_process:
            training_state.write_state(
                self.out / RESUME_FILE, self.trainer, self.budget.elapsed_s, self.settings
            )


# ---- command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = CommandParser('./wam train', __doc__, DEPRECATED_FLAGS)
    add = parser.add_argument
    add('data', nargs='+', type=Path, help='data set folders of one robot')
    add('--out', type=Path, required=True, help='checkpoint folder to write')
    add('--preset', default='mini', help='model to initialize, without --init')
    add('--init', help='checkpoint to start from: a folder, or the name of a shipped model')
    add(
        '--autoencoder',
        metavar='CHECKPOINT',
        help='without --init: take its autoencoder instead of training one',
    )
    add('--base', default='', help='complete checkpoint under --init, if that has only adapters')
    add('--lora-rank', type=int, metavar='RANK', help='train and write only adapters of --init')
    add('--stage', choices=STAGES, default='joint')
    add('--minutes', type=float, default=30.0)
    add('--steps', type=int, help='instead of minutes')
    add('--autoencoder-minutes', type=float, default=5.0)
    add('--autoencoder-steps', type=int, help='instead of minutes')
    add('--seed', type=int, default=0)
    add('--batch-size', type=int, default=32, help='windows per step (and process)')
    add('--lr', type=float, default=1e-3, help='learning rate (default: %(default)s)')
    add(
        '--ema-decay',
        type=float,
        default=0.998,
        help='decay of the exponential moving average of the weights, per step',
    )
    add(
        '--text-dropout',
        type=float,
        default=0.0,
        metavar='FRACTION',
        help='of windows without their text, for guidance',
    )
    _add_delay_arguments(add)
    add(
        '--bf16',
        action=argparse.BooleanOptionalAction,
        help='use bfloat16 (default: if the hardware supports it)',
    )
    add('--gradient-checkpointing', action='store_true', help='use less memory and more time')
    add(
        '--num-snapshots',
        type=int,
        default=0,
        metavar='N',
        help='copies of the checkpoint during training, in kept/STEP, for ./wam plot-training',
    )
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--threads', type=int, default=1, help='of this process, on a CPU')
    add('--no-resume', action='store_true', help='ignore an interrupted run in --out')
    given = _replace_deprecated_stage(sys.argv[1:] if arguments is None else arguments)
    return parser.parse(given)


def _add_delay_arguments(add: Callable[..., Any]) -> None:
    add(
        '--committed-rows',
        type=int,
        default=0,
        metavar='N',
        help='train to continue up to N rows that are executed while a query is computed: half of '
        'the blocks begin with 1 to N rows that are given, without loss (real-time chunking)',
    )
    add(
        '--late-rows',
        type=int,
        default=0,
        metavar='N',
        help='joint positions may be N rows more than a block newer than the images, as in '
        'queries that are rolled forward over a long latency',
    )
    add(
        '--clean-video',
        type=float,
        default=0.0,
        metavar='FRACTION',
        help='of blocks whose actions are learned from nearly clean video (inverse dynamics); '
        'of windows without text (--text-dropout) it is three in four',
    )


def _replace_deprecated_stage(arguments: Sequence[str]) -> list[str]:
    """Replace the stage name `clone`, which is now `bc`."""
    result = list(arguments)
    for i, argument in enumerate(result):
        if argument == '--stage=clone' or (argument == 'clone' and result[i - 1] == '--stage'):
            sys.stderr.write('warning: --stage clone is deprecated: use --stage bc\n')
            result[i] = argument.replace('clone', 'bc')
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return 0 if the checkpoint is complete, 1 after printing an error."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    if options.bf16 is None:
        options.bf16 = has_native_bf16(torch.device(options.device))
    try:
        return _train(options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f'train: {error}\n')
        return 1


def _make_accelerator(options: argparse.Namespace) -> 'Accelerator | None':
    """Return an Accelerator if `accelerate launch` started several processes, else None."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return None
    if options.steps is None:
        raise ValueError('several processes cannot synchronize on minutes: give --steps')
    from accelerate import Accelerator

    return Accelerator(cpu=options.device == 'cpu')


def _read_tag(folders: Sequence[Path]) -> str:
    """Return the model tag of the data sets' robot, for which a shipped model is selected."""
    metadata = episode_arrays.read_dataset_metadata(episode_arrays.find_shards(folders[0])[0])
    return robot_folders.load_robot(metadata.robot_type).model_tag


def _train(options: argparse.Namespace) -> int:
    accelerator = _make_accelerator(options)
    device = torch.device(options.device)
    if accelerator is not None and device.type != 'cpu':
        device = accelerator.device  # of this process; CPU devices have no number
    half = options.lora_rank and options.bf16 and device.type == 'cuda'
    init = options.init and Path(resolve_checkpoint(options.init, _read_tag(options.data)))
    init_config = InitConfig(
        options.preset,
        init,
        Path(resolve_base(options.base)) if options.base else None,
        options.lora_rank,
        options.seed,
        device,
        torch.bfloat16 if half else torch.float32,
    )
    if options.autoencoder and (init or options.stage == 'autoencoder'):
        raise ValueError(
            '--autoencoder: leave it out with --init, which has one, and with --stage autoencoder'
        )
    policy = training_setup.load_initial(init_config)
    if options.autoencoder:
        source = Path(resolve_checkpoint(options.autoencoder))
        policy = training_setup.with_autoencoder(policy, source)
    if accelerator is None:
        data = episode_arrays.read_datasets(options.data, policy.spec)
    else:
        with accelerator.main_process_first():  # decodes the videos for all
            data = episode_arrays.read_datasets(options.data, policy.spec)
    is_main = accelerator is None or accelerator.is_main_process
    logger = TrainingLogger(options.out / 'training', disabled=not is_main)
    policy = training_setup.with_statistics(policy, data, np.random.default_rng([options.seed, 4]))
    own = isinstance(policy.encoders.vae, ConvVae)
    given = options.init or options.autoencoder
    if options.stage == 'autoencoder' or (given is None and own):
        if accelerator is not None:
            raise ValueError(
                'the autoencoder is trained by a single process: train it first with '
                '--stage autoencoder, then pass its folder as --init'
            )
        policy = train_autoencoder(policy, data, options, logger)
    if options.stage != 'autoencoder':
        train_stage(policy, data, init_config, options, logger, accelerator)
    logger.log_message(f'checkpoint: {options.out}')
    logger.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())

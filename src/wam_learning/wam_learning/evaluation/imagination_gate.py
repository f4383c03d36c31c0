"""`./wam eval-imagination`: measure whether the actions of a checkpoint follow its imagination.

On windows of data sets that it was not trained on, actions are predicted in one step from pure
noise, given different videos of the coming block: the true one, the model's own prediction, noise
(what a one-step query sees), the true one of another window, and none. Actions that follow the
imagined video have a much smaller error with the true one than with noise.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wam_learning.data import episode_arrays
from wam_learning.data.sequence_sampler import Batch
from wam_learning.training import training_setup
from wam_learning.training.losses import NoisedSample
from wam_learning.training.training_model import PromptEncoder, TextBatch, TrainingModel
from wam_learning.training.training_setup import InitConfig
from wam_policy.command_line import CommandParser
from wam_policy.core.robot.checkpoints import resolve_base, resolve_checkpoint
from wam_policy.model.network.video_action_dit import CLEAN_TIME
from wam_policy.model.robot_policy import InferenceOptions
from wam_policy.model.sampling import sampler
from wam_policy.model.sampling.noise_schedule import make_unipc_schedule
from wam_policy.provenance import collect_provenance

VIDEOS = ('true_future', 'own_imagination', 'noise', 'other_future', 'none')
GATE = 0.5  # largest ratio of the errors with the true future and with noise
BATCH = 32  # windows
RESAMPLES = 2000  # of the windows, for intervals


class ImaginationGate:
    """Predict the actions of windows, given one of VIDEOS."""

    def __init__(
        self, model: TrainingModel, prompts: PromptEncoder, columns: Tensor, steps: int, seed: int
    ) -> None:
        """Take the action columns with data [action_dim]; the video is imagined in `steps`."""
        self._model, self._prompts, self._columns = model, prompts, columns
        self._sampling = replace(
            InferenceOptions('full16', steps, 1.0).make_sampling_config(None), noise_scale=1.0
        )
        self._noise_time = float(make_unipc_schedule(1, self._sampling.shift).timesteps[0])
        self._generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def compute_errors(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared error of the actions for each of VIDEOS, [batch]; 1: their variance.

        Of the last block, over its rows with a loss; NaN where it has none.
        """
        texts = self._prompts(batch.texts)
        future, clean = batch.visual.future, torch.tensor(CLEAN_TIME)
        noise = torch.randn(future.shape, generator=self._generator)
        videos = {
            'true_future': (future, clean),
            'own_imagination': (self._imagine(batch, texts, noise), clean),
            'noise': (noise, torch.tensor(self._noise_time)),
            'other_future': (future.roll(1, 0), clean),
            'none': None,
        }
        return {name: self._measure(batch, texts, video) for name, video in videos.items()}

    def _imagine(self, batch: Batch, texts: TextBatch, noise: Tensor) -> Tensor:
        """Return the video of all blocks, sampled together with their actions."""

        def velocity(
            video: Tensor, action: Tensor, t_video: int, t_action: int
        ) -> sampler.Velocities:
            found = self._predict(batch, texts, action, t_action, (video, torch.tensor(t_video)))
            assert found[0] is not None
            return found[0], found[1]

        drawn = torch.randn(batch.action.shape, generator=self._generator)
        return sampler.sample(
            self._sampling,
            noise,
            drawn,
            sampler.make_unguided_velocity_fn(velocity),
            guided_video=False,
        ).video

    def _measure(
        self, batch: Batch, texts: TextBatch, video: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        start = torch.zeros_like(batch.action)  # of several draws the mean answer
        _, velocity = self._predict(batch, texts, start, int(self._noise_time), video)
        wrong = (start - velocity - batch.action)[:, -1, :, self._columns].square().mean(-1)
        mask = batch.action_mask[:, -1]
        return (wrong * mask).sum(1) / mask.sum(1)

    def _predict(
        self,
        batch: Batch,
        texts: TextBatch,
        action: Tensor,
        t_action: int,
        video: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor | None, Tensor]:
        """Return velocities of video, if there is one, and actions [batch blocks rows dim]."""
        nothing = torch.empty(0)  # targets, which prediction does not read
        times = torch.full(action.shape[:3], float(t_action))
        noisy = None
        if video is not None:
            shown, t_video = video
            frames = shown.transpose(1, 2)
            noisy = NoisedSample(
                frames, nothing, t_video.float().expand(frames.shape[:2]), nothing
            )
        found = self._model.predict(
            batch, texts, NoisedSample(action, nothing, times, nothing), noisy
        )
        return found.video, found.action.view_as(action)


def summarize(errors: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Return means [windows] with 95 % bootstrap intervals, and their ratios to noise.

    The same windows are drawn for all videos, so ratios are of paired errors.
    """
    rng, count = np.random.default_rng(seed), len(errors['noise'])
    draws = rng.integers(0, count, (RESAMPLES, count))
    resampled = {name: values[draws].mean(1) for name, values in errors.items()}

    def describe(value: float, drawn: np.ndarray) -> dict[str, float]:
        low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
        return {'mean': value, 'low': low, 'high': high}

    found: dict[str, Any] = {'windows': count}
    for name, values in errors.items():
        noise = errors['noise'].mean()
        found[name] = describe(float(values.mean()), resampled[name])
        found[f'{name}_ratio'] = describe(
            float(values.mean() / noise), resampled[name] / resampled['noise']
        )
    found['passes'] = bool(found['true_future_ratio']['high'] <= GATE)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the gate; return the report."""
    init = InitConfig(
        '',
        Path(resolve_checkpoint(options.checkpoint)),
        Path(resolve_base(options.base)) if options.base else None,
        None,
        options.seed,
        torch.device('cpu'),
        torch.float32,
    )
    policy = training_setup.load_initial(init)
    if not policy.spec.model.predicts_video:
        raise ValueError(f'{options.checkpoint} predicts no video: there is nothing to follow')
    data = episode_arrays.read_datasets(options.data, policy.spec)
    windows = training_setup.make_sampler(policy, data)
    if options.blocks not in windows.block_counts():
        raise ValueError(
            f'--blocks {options.blocks}: the episodes allow '
            f'{", ".join(map(str, windows.block_counts()))}'
        )
    trainable = training_setup.trains_text_encoder(policy)
    gate = ImaginationGate(
        TrainingModel(policy.dit, policy.encoders.text if trainable else None, None),
        training_setup.make_prompt_encoder(policy, data, trainable),
        torch.from_numpy(policy.make_normalizer(data.robot).action_mask()),
        options.steps,
        options.seed,
    )
    rng, found = np.random.default_rng(options.seed), []
    for first in range(0, options.windows, BATCH):
        batch = windows.sample(min(BATCH, options.windows - first), options.blocks, rng)
        found.append(gate.compute_errors(batch))
    errors = {name: torch.cat([part[name] for part in found]).numpy() for name in VIDEOS}
    known = np.isfinite(errors['noise'])
    return {
        'robot': data.robot.name,
        'checkpoint': Path(options.checkpoint).name,
        'seed': options.seed,
        'blocks': options.blocks,
        'steps': options.steps,
        **summarize({name: values[known] for name, values in errors.items()}, options.seed),
        **collect_provenance(),
    }


def format_table(report: Mapping[str, Any]) -> str:
    """Return the report as a Markdown table."""
    lines = [
        f'| video given ({report["windows"]} windows) | action error | of that with noise |',
        '|---|---|---|',
    ]
    for name in VIDEOS:
        cells = [
            '{mean:.4f} ({low:.4f}–{high:.4f})'.format(**report[name]),
            '{mean:.2f} ({low:.2f}–{high:.2f})'.format(**report[f'{name}_ratio']),
        ]
        lines.append(f'| {name.replace("_", " ")} | {" | ".join(cells)} |')
    verdict = 'follow' if report['passes'] else 'do not follow'
    return '\n'.join(
        [*lines, '', f'The actions {verdict} the video (want a ratio of at most {GATE:g}).']
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = CommandParser('./wam eval-imagination', __doc__)
    add = parser.add_argument
    add('data', nargs='+', type=Path, help='data sets that the checkpoint was not trained on')
    add('--checkpoint', default='mini', help='folder or name of a shipped model')
    add('--base', default='', help='complete checkpoint under adapters')
    add('--windows', type=int, default=512, metavar='N')
    add('--blocks', type=int, default=2, metavar='N', help='of a window; the last is predicted')
    add('--steps', type=int, default=16, metavar='N', help='denoising steps of the imagined video')
    add('--seed', type=int, default=0)
    add('--report', type=Path, metavar='FILE', help='write the result as JSON')
    options = parser.parse(arguments)
    parser.require_positive(options, 'windows', 'blocks', 'steps')
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 after printing an error."""
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    try:
        report = measure(options)
        if options.report:
            options.report.write_text(json.dumps(report, indent=1) + '\n')
    except (ValueError, OSError) as error:
        sys.stderr.write(f'eval-imagination: {error}\n')
        return 1
    print(format_table(report), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())

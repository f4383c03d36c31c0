"""Report what a checkpoint folder holds and lacks, its memory needs and the robots it supports.

Reads headers and JSON only: a full-size checkpoint is inspected in seconds.
`python -m wam_policy.model.checkpoint.inspect_checkpoint DIR` prints it.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from wam_policy import robot_folders
from wam_policy.core.robot import checkpoints
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import adapter_folder, checkpoint_folder, tensor_index
from wam_policy.model.checkpoint.load_errors import name_file
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata
from wam_policy.model.checkpoint.tensor_index import TensorDiff
from wam_policy.model.normalizer import Normalizer

INFERENCE_DTYPE = torch.bfloat16  # what the released models run in


@dataclass(frozen=True, slots=True)
class RobotCompatibility:
    """State whether a robot can run with the checkpoint: any error prevents it, notes do not."""

    robot: str
    errors: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryRequirement:
    """Count the bytes needed on a device in the inference dtype, without activations."""

    weights_bytes: int
    cache_bytes: int  # keys and values of a full window, per branch
    context_bytes: int  # keys and values of text and image, per branch
    encoder_bytes: int  # state that the autoencoder keeps between blocks

    def total_bytes(self, branches: int) -> int:
        return (
            self.weights_bytes
            + self.encoder_bytes
            + branches * (self.cache_bytes + self.context_bytes)
        )


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """Hold the findings of an inspection; each of `problems` names the cause and the fix."""

    folder: Path
    problems: tuple[str, ...]
    spec: ModelSpec | None = None
    parameter_counts: tuple[tuple[str, int], ...] = ()  # part, numbers in it
    stored_bytes: tuple[tuple[str, int], ...] = ()  # dtype, bytes on disk
    tensor_diff: TensorDiff | None = None
    embodiments: tuple[EmbodimentMetadata, ...] = ()
    memory: MemoryRequirement | None = None
    robots: tuple[RobotCompatibility, ...] = ()

    @property
    def is_loadable(self) -> bool:
        return not self.problems and self.tensor_diff is not None and self.tensor_diff.is_complete


def inspect_checkpoint(folder: Path, base: Path | None = None) -> CheckpointReport:
    """Inspect a checkpoint folder; problems inside it are reported, not raised."""
    try:
        design = adapter_folder.read_spec(folder, base)
    except (OSError, ValueError) as error:
        return CheckpointReport(folder, (str(error),))
    problems = []
    try:
        tags = checkpoint_folder.read_metadata(folder, base)
    except (OSError, ValueError) as error:
        tags = {}
        problems.append(str(error))
    try:
        checkpoint_folder.load_tokenizer(design, folder, base)
    except (OSError, ValueError) as error:
        problems.append(str(error))
    try:
        with name_file(folder / 'config.json', 'want sizes that fit each other'):
            parts = tensor_index.build_networks(design, torch.device('meta'), None)
            memory = _estimate_memory(design, parts)
    except ValueError as error:
        return CheckpointReport(folder, (*problems, str(error)), design)
    wanted = tensor_index.list_slots(parts)
    found = CheckpointReport(
        folder,
        (),
        design,
        tuple(tensor_index.count_parameters(wanted.values()).items()),
        embodiments=tuple(tags.values()),
        memory=memory,
    )
    try:
        stock = adapter_folder.collect_tensors(folder, design, base)
    except (OSError, ValueError) as error:
        problems.append(str(error))
    else:
        audit = tensor_index.compare_tensors(
            stock.tensors, wanted, tensor_index.unused_tensor_pattern(design)
        )
        problems += adapter_folder.find_misplaced_adapters(stock, wanted, design.adapters)
        bytes_by_dtype: Counter[str] = Counter()
        for stored in (*stock.tensors.values(), *stock.adapter_tensors.values()):
            bytes_by_dtype[str(stored.dtype).removeprefix('torch.')] += stored.nbytes
        found = replace(found, tensor_diff=audit, stored_bytes=tuple(bytes_by_dtype.items()))
    found = replace(found, problems=tuple(problems))
    robots = [robot_folders.load_robot(name) for name in robot_folders.list_robots()]
    return replace(found, robots=tuple(_check_robot(robot, found) for robot in robots))


def _estimate_memory(spec: ModelSpec, parts: tensor_index.Networks) -> MemoryRequirement:
    model, width = spec.model, INFERENCE_DTYPE.itemsize
    per_token = 2 * model.layers * model.dim * width
    image = parts.encoders.image
    context = model.text_len + (image.config.tokens if image else 0)
    numbers = sum(
        parameter.numel()
        for module in (parts.dit, parts.encoders)
        for parameter in module.parameters()
    )
    height, width_px = spec.canvas.image_size
    vae = parts.encoders.vae.to(INFERENCE_DTYPE)
    clip = torch.empty(
        1,
        3,
        1 + model.pixel_frames_per_latent,
        height,
        width_px,
        dtype=INFERENCE_DTYPE,
        device='meta',
    )
    with torch.no_grad():
        _, first = vae.encode_first_frame(clip[:, :, :1])
        _, memory = vae.encode_next_frames(first, clip[:, :, 1:])
    return MemoryRequirement(
        weights_bytes=numbers * width,
        cache_bytes=per_token * model.frame_tokens * model.window_frames,
        context_bytes=per_token * context,
        encoder_bytes=sum(feature.nbytes for feature in memory.features if feature is not None),
    )


def _check_robot(robot: Embodiment, report: CheckpointReport) -> RobotCompatibility:
    obstacles, notes = [], []
    design = report.spec
    assert design is not None  # a report without a spec returns early
    if not report.is_loadable:
        obstacles.append('the checkpoint does not load: see above')
    tag = next((tag for tag in report.embodiments if tag.name == robot.model_tag), None)
    if tag is None:
        has = ', '.join(tag.name for tag in report.embodiments) or 'none'
        obstacles.append(
            f'no statistics for tag {robot.model_tag} (has: {has}); make them from '
            f'episodes of this robot into {checkpoint_folder.METADATA_PATH}'
        )
    else:
        obstacles += _find_statistics_errors(robot, design, tag)
        notes += _find_metadata_warnings(robot, tag)
    try:
        design.prompt_template(robot.model_tag)
        design.canvas.make_layout(robot.model_tag, tuple(camera.key for camera in robot.cameras))
    except ValueError as error:
        obstacles.append(str(error))
    timed = design.with_control_rate(robot.step_dt_s).model
    notes.append(
        f'{timed.actions_per_block} actions in {timed.block_period_s:.2g} s, '
        f'video at {timed.video_hz:.3g} Hz'
    )
    if timed.actions_per_block != robot.horizon:
        notes.append(
            f'the checkpoint gives {timed.actions_per_block} rows, '
            f'embodiment.yaml expects {robot.horizon}'
        )
    return RobotCompatibility(robot.name, tuple(obstacles), tuple(notes))


def _find_statistics_errors(
    robot: Embodiment, spec: ModelSpec, metadata: EmbodimentMetadata
) -> list[str]:
    try:
        Normalizer.from_metadata(
            metadata, robot, spec.normalization, spec.model.state_dim, spec.model.action_dim
        )
    except ValueError as error:
        return [str(error)]
    return []


def _find_metadata_warnings(robot: Embodiment, metadata: EmbodimentMetadata) -> list[str]:
    notes = [
        f'{camera.key}: trained on {metadata.resolution[camera.key]}, camera gives {camera.size}'
        for camera in robot.cameras
        if camera.key in metadata.resolution and metadata.resolution[camera.key] != camera.size
    ]
    if metadata.synthetic:
        notes.append('statistics are synthetic')
    return notes


# ---- text


def _format_bytes(count: int) -> str:
    return f'{count / 1e9:.2f} GB' if count >= 1e8 else f'{count / 1e6:.2f} MB'


def format_report(report: CheckpointReport) -> list[str]:
    """Format a report as lines of text."""
    text = [f'checkpoint     {report.folder}']
    if report.spec is not None:
        text += _format_spec(report.spec)
        text += [
            f'  {part:14s} {count:>17,d} parameters' for part, count in report.parameter_counts
        ]
        text += [
            f'stored         {_format_bytes(count)} in {dtype}'
            for dtype, count in report.stored_bytes
        ]
        text += _format_memory(report.memory)
        text += _format_embodiments(report.embodiments)
    if report.tensor_diff is not None:
        text += _format_tensor_diff(report.tensor_diff)
    text += [f'PROBLEM        {problem}' for problem in report.problems]
    for verdict in report.robots:
        text.append(f'robot          {verdict.robot}: {"NO" if verdict.errors else "yes"}')
        text += [f'                 because {reason}' for reason in verdict.errors]
        text += [f'                 note: {note}' for note in verdict.notes]
    text.append(f'verdict        {"complete" if report.is_loadable else "DOES NOT LOAD"}')
    return text


def _format_spec(spec: ModelSpec) -> list[str]:
    model = spec.model
    trained = 'trained' if spec.trained else 'UNTRAINED (random weights)'
    canvas = spec.canvas
    return [
        f'family         {spec.name}, {trained}',
        f'transformer    {model.layers} layers, width {model.dim}, {model.heads} heads, '
        f'feed-forward {model.ffn_dim}',
        f'geometry       tile {canvas.tile[0]}x{canvas.tile[1]} '
        f'({canvas.arrangement or "as released for the tag"}), latents {model.latent_size[0]}x'
        f'{model.latent_size[1]}x{model.latent_channels}, {model.frame_tokens} tokens a frame',
        f'block          {model.frames_per_block} latent frames, '
        f'{model.actions_per_block} actions, window {model.window_frames} latent frames',
        f'adapters       rank {spec.adapters.rank}, alpha {spec.adapters.alpha:g}'
        if spec.adapters
        else 'adapters       none',
        f'noise          video ends at {spec.video_final_noise}'
        if spec.video_final_noise is not None
        else 'noise          coupled',
    ]


def _format_memory(memory: MemoryRequirement | None) -> list[str]:
    if memory is None:
        return []
    return [
        f'memory (bf16)  weights {_format_bytes(memory.weights_bytes)}; per branch: full cache '
        f'{_format_bytes(memory.cache_bytes)}, context '
        f'{_format_bytes(memory.context_bytes)}; autoencoder memory '
        f'{_format_bytes(memory.encoder_bytes)}',
        f'per device     {_format_bytes(memory.total_bytes(1))} with one branch on it, '
        f'{_format_bytes(memory.total_bytes(2))} with both; activations come on top',
    ]


def _format_embodiments(embodiments: Sequence[EmbodimentMetadata]) -> list[str]:
    if not embodiments:
        return [
            f'embodiments    none: no {checkpoint_folder.METADATA_PATH}, so no robot can '
            'run. Compute statistics from episodes of your robot'
        ]
    text = []
    for tag in embodiments:
        origin = ' (synthetic, not measured)' if tag.synthetic else ''
        text.append(f'embodiment     {tag.name}{origin}')
        for kind, group in (('state', tag.state), ('action', tag.action)):
            text += [
                f'  {kind:6s} {key:28s} {values.width:2d} values in '
                f'[{values.q01.min():.3g}, {values.q99.max():.3g}]'
                for key, values in group.items()
            ]
    return text


def _format_tensor_diff(tensor_diff: TensorDiff) -> list[str]:
    text = [
        f'{title.upper():14s} {name}'
        for title in ('missing', 'unexpected', 'misshaped')
        for name in getattr(tensor_diff, title)
    ]
    text.append(
        f'tensors        {"all accounted for" if tensor_diff.is_complete else "see above"}, '
        f'{len(tensor_diff.unused)} stored but never read at inference'
    )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of a checkpoint folder; exit with 0 if it loads, else with 1."""
    parser = argparse.ArgumentParser(prog='wam inspect', description=main.__doc__)
    parser.add_argument('folder', help='checkpoint folder, or the name of a shipped model')
    parser.add_argument(
        '--embodiment', metavar='NAME', help='robot whose shipped model the name mini means'
    )
    parser.add_argument(
        '--base', type=Path, help='complete checkpoint that the adapters were trained on'
    )
    parser.add_argument('--json', action='store_true', help='print the report as JSON')
    chosen = parser.parse_args(arguments)
    try:
        tag = chosen.embodiment and robot_folders.load_robot(chosen.embodiment).model_tag
        place = chosen.folder
        if place in (checkpoints.DEFAULT_CHECKPOINT, *checkpoints.list_shipped_models()):
            place = checkpoints.resolve_checkpoint(place, tag or '')
    except ValueError as error:
        parser.error(str(error))
    found = inspect_checkpoint(Path(place), chosen.base)
    if chosen.json:
        text = json.dumps(
            {
                'folder': str(found.folder),
                'loadable': found.is_loadable,
                'problems': found.problems,
                'audit': asdict(found.tensor_diff) if found.tensor_diff else None,
                'robots': {verdict.robot: verdict.errors for verdict in found.robots},
            }
        )
    else:
        text = '\n'.join(format_report(found))
    sys.stdout.write(text + '\n')
    return 0 if found.is_loadable else 1


if __name__ == '__main__':
    sys.exit(main())

"""What a checkpoint folder is, what it lacks, what it needs and which robots it can drive.

Reads headers and JSON only: a full-size checkpoint is checked in seconds, without its numbers.
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

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import checkpoint_folder, tensor_index
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.model_spec import Design
from wam_policy.model.checkpoint.normalization_stats import Tag
from wam_policy.model.checkpoint.tensor_index import Audit
from wam_policy.model.normalizer import Normaliser

SERVED = torch.bfloat16  # what the released models run in


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say whether one robot can run with the checkpoint, and why not; notes do not forbid it."""

    robot: str
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """Count bytes on a device in the served dtype; activations are not in it."""

    weights: int
    cache: int  # keys and values of a full window, per branch
    context: int  # keys and values of text and image, per branch
    encoder: int  # what the autoencoder remembers between blocks

    def total(self, branches: int) -> int:
        return self.weights + self.encoder + branches * (self.cache + self.context)


@dataclass(frozen=True, slots=True)
class Report:
    """Gather what a check found; `problems` each name the thing and the fix."""

    folder: Path
    problems: tuple[str, ...]
    design: Design | None = None
    sizes: tuple[tuple[str, int], ...] = ()  # part, numbers in it
    stored: tuple[tuple[str, int], ...] = ()  # dtype, bytes on disk
    audit: Audit | None = None
    tags: tuple[Tag, ...] = ()
    need: Need | None = None
    verdicts: tuple[Verdict, ...] = ()

    @property
    def loadable(self) -> bool:
        return not self.problems and self.audit is not None and self.audit.complete


def report(folder: Path, base: Path | None = None) -> Report:
    """Check a folder; never raises for what is wrong inside it."""
    try:
        design = designs.read(folder)
    except (OSError, ValueError) as error:
        return Report(folder, (str(error),))
    problems = []
    try:
        tags = checkpoint_folder.tags(folder, base)
    except (OSError, ValueError) as error:
        tags = {}
        problems.append(str(error))
    try:
        checkpoint_folder.tokenizer(design, folder, base)
    except (OSError, ValueError) as error:
        problems.append(str(error))
    parts = tensor_index.networks(design, torch.device('meta'), None)
    wanted = tensor_index.slots(parts)
    found = Report(
        folder,
        (),
        design,
        tuple(tensor_index.sizes(wanted.values()).items()),
        tags=tuple(tags.values()),
        need=_need(design, parts),
    )
    try:
        stock = checkpoint_folder.gathered(folder, design, base)
    except (OSError, ValueError) as error:
        problems.append(str(error))
    else:
        audit = tensor_index.audit(stock.tensors, wanted, tensor_index.unused(design))
        problems += checkpoint_folder.misplaced(stock, wanted)
        bytes_by_dtype: Counter[str] = Counter()
        for stored in (*stock.tensors.values(), *stock.halves.values()):
            bytes_by_dtype[str(stored.dtype).removeprefix('torch.')] += stored.nbytes
        found = replace(found, audit=audit, stored=tuple(bytes_by_dtype.items()))
    found = replace(found, problems=tuple(problems))
    robots = [embodiment.load(name) for name in embodiment.names()]
    return replace(found, verdicts=tuple(_verdict(robot, found) for robot in robots))


def _need(design: Design, parts: tensor_index.Networks) -> Need:
    model, width = design.model, SERVED.itemsize
    per_token = 2 * model.layers * model.dim * width
    image = parts.encoders.image
    context = model.text_len + (image.config.tokens if image else 0)
    numbers = sum(
        parameter.numel()
        for module in (parts.dit, parts.encoders)
        for parameter in module.parameters()
    )
    height, width_px = design.canvas.pixels
    vae = parts.encoders.vae.to(SERVED)
    clip = torch.empty(
        1, 3, 1 + model.pixel_frames_per_latent, height, width_px, dtype=SERVED, device='meta'
    )
    with torch.no_grad():
        _, first = vae.begin(clip[:, :, :1])
        _, memory = vae.extend(first, clip[:, :, 1:])
    return Need(
        weights=numbers * width,
        cache=per_token * model.frame_tokens * model.window_frames,
        context=per_token * context,
        encoder=sum(feature.nbytes for feature in memory.features if feature is not None),
    )


def _verdict(robot: Embodiment, found: Report) -> Verdict:
    obstacles, notes = [], []
    design = found.design
    assert design is not None  # a report without a design never gets here
    if not found.loadable:
        obstacles.append('the checkpoint does not load, see above')
    tag = next((tag for tag in found.tags if tag.name == robot.model_tag), None)
    if tag is None:
        has = ', '.join(tag.name for tag in found.tags) or 'none'
        obstacles.append(
            f'no statistics for tag {robot.model_tag} (has: {has}); make them from '
            f'episodes of this robot into {checkpoint_folder.METADATA}'
        )
    else:
        obstacles += _misfits(robot, design, tag)
        notes += _differences(robot, tag)
    try:
        design.template(robot.model_tag)
        design.canvas.layout(robot.model_tag, tuple(camera.key for camera in robot.cameras))
    except ValueError as error:
        obstacles.append(str(error))
    timed = design.timed(robot.step_dt_s).model
    notes.append(
        f'{timed.actions_per_block} actions in {timed.block_period_s:.2g} s, '
        f'video at {timed.video_hz:.3g} Hz'
    )
    if timed.actions_per_block != robot.horizon:
        notes.append(
            f'the checkpoint gives {timed.actions_per_block} rows, '
            f'embodiment.yaml expects {robot.horizon}'
        )
    return Verdict(robot.name, tuple(obstacles), tuple(notes))


def _misfits(robot: Embodiment, design: Design, tag: Tag) -> list[str]:
    try:
        Normaliser.of(
            tag, robot, design.normalisation, design.model.state_dim, design.model.action_dim
        )
    except ValueError as error:
        return [str(error)]
    return []


def _differences(robot: Embodiment, tag: Tag) -> list[str]:
    notes = [
        f'{camera.key}: trained on {tag.resolution[camera.key]}, camera gives {camera.size}'
        for camera in robot.cameras
        if camera.key in tag.resolution and tag.resolution[camera.key] != camera.size
    ]
    if tag.synthetic:
        notes.append('statistics are made up')
    return notes


# ---- words


def _gigabytes(count: int) -> str:
    return f'{count / 1e9:.2f} GB' if count >= 1e8 else f'{count / 1e6:.2f} MB'


def lines(found: Report) -> list[str]:
    """Put a report into words, one statement per line."""
    text = [f'checkpoint     {found.folder}']
    if found.design is not None:
        text += _design_lines(found.design)
        text += [f'  {part:14s} {count:>17,d} parameters' for part, count in found.sizes]
        text += [f'stored         {_gigabytes(count)} in {dtype}' for dtype, count in found.stored]
        text += _need_lines(found.need)
        text += _tag_lines(found.tags)
    if found.audit is not None:
        text += _audit_lines(found.audit)
    text += [f'PROBLEM        {problem}' for problem in found.problems]
    for verdict in found.verdicts:
        text.append(f'robot          {verdict.robot}: {"NO" if verdict.obstacles else "yes"}')
        text += [f'                 because {reason}' for reason in verdict.obstacles]
        text += [f'                 note: {note}' for note in verdict.notes]
    text.append(f'verdict        {"complete" if found.loadable else "DOES NOT LOAD"}')
    return text


def _design_lines(design: Design) -> list[str]:
    model = design.model
    trained = 'trained' if design.trained else 'UNTRAINED (random weights)'
    canvas = design.canvas
    return [
        f'family         {design.name}, {trained}',
        f'transformer    {model.layers} layers, width {model.dim}, {model.heads} heads, '
        f'feed-forward {model.ffn_dim}',
        f'geometry       tile {canvas.tile[0]}x{canvas.tile[1]} '
        f'({canvas.arrangement or "as released for the tag"}), latents {model.latent_size[0]}x'
        f'{model.latent_size[1]}x{model.latent_channels}, {model.frame_tokens} tokens a frame',
        f'block          {model.frames_per_block} latent frames, '
        f'{model.actions_per_block} actions, window {model.window_frames} latent frames',
        f'adapters       rank {design.adapters.rank}, alpha {design.adapters.alpha:g}'
        if design.adapters
        else 'adapters       none',
        f'noise          video ends at {design.video_final_noise}'
        if design.video_final_noise is not None
        else 'noise          coupled',
    ]


def _need_lines(need: Need | None) -> list[str]:
    if need is None:
        return []
    return [
        f'memory (bf16)  weights {_gigabytes(need.weights)}; per branch: full cache '
        f'{_gigabytes(need.cache)}, context {_gigabytes(need.context)}; autoencoder memory '
        f'{_gigabytes(need.encoder)}',
        f'per device     {_gigabytes(need.total(1))} with one branch on it, '
        f'{_gigabytes(need.total(2))} with both; activations come on top',
    ]


def _tag_lines(tags: Sequence[Tag]) -> list[str]:
    if not tags:
        return [
            f'embodiments    none: no {checkpoint_folder.METADATA}, so no robot can run. Make '
            'statistics from episodes of your robot'
        ]
    text = []
    for tag in tags:
        origin = ' (made up, not measured)' if tag.synthetic else ''
        text.append(f'embodiment     {tag.name}{origin}')
        for kind, group in (('state', tag.state), ('action', tag.action)):
            text += [
                f'  {kind:6s} {key:28s} {values.width:2d} values in '
                f'[{values.q01.min():.3g}, {values.q99.max():.3g}]'
                for key, values in group.items()
            ]
    return text


def _audit_lines(audit: Audit) -> list[str]:
    text = [
        f'{title.upper():14s} {name}'
        for title in ('missing', 'unexpected', 'misshaped')
        for name in getattr(audit, title)
    ]
    text.append(
        f'tensors        {"all accounted for" if audit.complete else "see above"}, '
        f'{len(audit.unused)} stored in vain (never read at inference)'
    )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of a folder; 0 if it loads, 1 if not."""
    parser = argparse.ArgumentParser(prog='wam check', description=main.__doc__)
    parser.add_argument('folder', type=Path, help='checkpoint folder')
    parser.add_argument('--base', type=Path, help='complete checkpoint under an adapter folder')
    parser.add_argument('--json', action='store_true', help='print the verdicts as JSON')
    chosen = parser.parse_args(arguments)
    found = report(chosen.folder, chosen.base)
    if chosen.json:
        text = json.dumps(
            {
                'folder': str(found.folder),
                'loadable': found.loadable,
                'problems': found.problems,
                'audit': asdict(found.audit) if found.audit else None,
                'robots': {verdict.robot: verdict.obstacles for verdict in found.verdicts},
            }
        )
    else:
        text = '\n'.join(lines(found))
    sys.stdout.write(text + '\n')
    return 0 if found.loadable else 1


if __name__ == '__main__':
    sys.exit(main())

"""Say which robots and shipped models can train on a data set, and why the others cannot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wam_learning.data.lerobot.column_mapping import KeySource, map_cameras, map_vectors
from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata
from wam_policy import robot_folders
from wam_policy.core.robot import checkpoints
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.model_spec import ModelSpec

MIN_EPISODES = 2  # one is held out for validation
IMAGE_DTYPE = 'image'


@dataclass(frozen=True, slots=True)
class TrainingFit:
    """State whether something can be trained on a data set; any reason prevents it."""

    name: str
    reasons: tuple[str, ...]
    note: str = ''

    def __str__(self) -> str:
        if self.reasons:
            return f'{self.name}: no: {"; ".join(self.reasons)}'
        return f'{self.name}: yes{f" ({self.note})" if self.note else ""}'


def check_robots(metadata: DatasetMetadata) -> list[TrainingFit]:
    """Return for every known robot whether the columns and cameras of the data set fit."""
    return [
        TrainingFit(name, tuple(_find_robot_reasons(metadata, robot_folders.load_robot(name))))
        for name in robot_folders.list_robots()
    ]


def check_models(metadata: DatasetMetadata, robot: Embodiment | None) -> list[TrainingFit]:
    """Return for every shipped model whether `./wam train --init` can continue it on this data."""
    return [
        _check_model(metadata, robot, Path(checkpoints.resolve_checkpoint(name)))
        for name in checkpoints.list_shipped_models()
    ]


def choose_robot(metadata: DatasetMetadata, fits: Sequence[TrainingFit]) -> Embodiment | None:
    """Return the robot that the data set names, or the only one that fits it but for the name."""
    if metadata.robot_type in robot_folders.list_robots():
        return robot_folders.load_robot(metadata.robot_type)
    fitting = [
        fit.name
        for fit in fits
        if not list(_find_column_reasons(metadata, robot_folders.load_robot(fit.name)))
    ]
    return robot_folders.load_robot(fitting[0]) if len(fitting) == 1 else None


def map_robot(
    metadata: DatasetMetadata, robot: Embodiment
) -> tuple[tuple[KeySource, ...], tuple[KeySource, ...]] | None:
    """Return where the model's keys are; None if they cannot be found."""
    try:
        return map_vectors(metadata, robot)
    except (ValueError, KeyError, TypeError):
        return None


def _find_robot_reasons(metadata: DatasetMetadata, robot: Embodiment) -> Iterator[str]:
    reasons = list(_find_column_reasons(metadata, robot))
    if metadata.robot_type != robot.name:
        fix = '' if reasons else f'; if it is one, set robot_type to "{robot.name}" there'
        yield f'robot_type in meta/info.json is "{metadata.robot_type}"{fix}'
    yield from reasons
    if len(metadata.episodes) < MIN_EPISODES:
        yield f'{len(metadata.episodes)} episode, want at least {MIN_EPISODES} (one is held out)'


def _find_column_reasons(metadata: DatasetMetadata, robot: Embodiment) -> Iterator[str]:
    for find in (map_vectors, map_cameras):
        try:
            find(metadata, robot)
        except ValueError as error:
            yield str(error).removeprefix(f'{metadata.folder}').lstrip('/: ')
        except (KeyError, TypeError, AttributeError) as error:
            yield f'meta/modality.json or meta/info.json is malformed: {error!r}'
    images = [n for n, f in metadata.features.items() if f['dtype'] == IMAGE_DTYPE]
    if images and not metadata.video_features:
        yield f'cameras are single images ({", ".join(images)}); convert them to videos'


def _check_model(metadata: DatasetMetadata, robot: Embodiment | None, folder: Path) -> TrainingFit:
    try:
        design = designs.read_spec(folder)
    except (OSError, ValueError) as error:
        return TrainingFit(folder.name, (str(error),))
    if robot is None:
        return TrainingFit(folder.name, ('no known robot fits the data set',))
    reasons = (*_find_robot_reasons(metadata, robot), *_find_model_reasons(design, robot, folder))
    texts = _find_long_text(metadata, design, robot, folder)
    trained = checkpoints.supports_robot(folder.name, robot.model_tag)
    note = '' if trained else f'was trained on another robot; statistics of {robot.name} are added'
    return TrainingFit(folder.name, (*reasons, *texts), note)


def _find_model_reasons(design: ModelSpec, robot: Embodiment, folder: Path) -> Iterator[str]:
    model = design.model
    for what, keys, width in (
        ('state', robot.state_keys, model.state_dim),
        ('action', robot.action_keys, model.action_dim),
    ):
        needed = sum(key.size for key in keys)
        if needed > width:
            yield f'{robot.name} has {needed} {what} values, the model takes {width}'
    if model.actions_per_block % model.block_pixel_frames:
        yield f'{model.actions_per_block} actions are no multiple of {model.block_pixel_frames}'
    try:
        design.prompt_template(robot.model_tag)
        design.canvas.make_layout(robot.model_tag, tuple(c.key for c in robot.cameras))
    except ValueError as error:
        yield str(error)


def _find_long_text(
    metadata: DatasetMetadata, design: ModelSpec, robot: Embodiment, folder: Path
) -> Iterator[str]:
    """Yield the first instruction of which the model would read only the beginning."""
    try:
        tokenizer = checkpoint_folder.load_tokenizer(design, folder)
        for text in metadata.tasks:
            if tokenizer is not None:
                tokenizer.check_length(design.make_prompt_head(robot.model_tag, text))
    except (OSError, ValueError) as error:
        yield str(error)

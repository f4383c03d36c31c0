"""Validate a complete data set on disk against its metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from wam_learning.data import gear_metadata
from wam_learning.data.lerobot.column_mapping import map_cameras
from wam_learning.data.lerobot.dataset_metadata import VideoSegment, read_dataset_metadata
from wam_learning.data.video_files import read_frame_times
from wam_policy.core.robot.embodiment import Embodiment

MIN_GRIPPER_RANGE = 1e-6  # a smaller range means that the gripper has not moved
MAX_TIME_ERROR_S = 1e-3  # between a row and its image


@dataclass(frozen=True, slots=True)
class DatasetIssue:
    """Describe one error, or a suspicious property (a warning)."""

    location: str
    message: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f'{"warning" if self.is_warning else "error"}: {self.location}: {self.message}'


def find_issues(folder: Path, robot: Embodiment) -> Iterator[DatasetIssue]:
    """Yield the issues of a data set; without errors it can be used for training."""
    metadata = read_dataset_metadata(folder)
    info = metadata.info
    episodes, features = metadata.episodes, map_cameras(metadata, robot)
    if (
        len(episodes) != info['total_episodes']
        or sum(episode.length for episode in episodes) != info['total_frames']
    ):
        yield DatasetIssue('meta', 'episodes and info.json disagree about their totals')
    actions = []
    for episode in episodes:
        try:
            table = metadata.read_rows(episode)
        except ValueError as error:
            yield DatasetIssue(f'episode {episode.index}', str(error))
            continue
        yield from _check_table(f'episode {episode.index}', table, info, len(metadata.tasks))
        for feature in features.values():
            video = episode.videos[feature]
            location = video.path.relative_to(folder).as_posix()
            yield from _check_video(location, video, table)
        actions.append(np.stack(table[gear_metadata.ACTION].to_numpy()))
    if actions:
        yield from _check_grippers(robot, np.concatenate(actions))


def _check_table(
    location: str,
    table: pyarrow.Table,
    info: Mapping[str, Any],
    task_count: int,
) -> Iterator[DatasetIssue]:
    missing = [
        name
        for name, feature in info['features'].items()
        if feature['dtype'] != 'video' and name not in table.column_names
    ]
    if missing:
        yield DatasetIssue(location, f'no column {", ".join(missing)}')
    times_s = table['timestamp'].to_numpy().astype(np.float64)
    steps_s = np.diff(times_s)
    if (np.abs(steps_s - 1.0 / info['fps']) > MAX_TIME_ERROR_S).any():
        yield DatasetIssue(
            location,
            f'time steps from {steps_s.min():.4f} to {steps_s.max():.4f} s, want '
            f'{1.0 / info["fps"]:.4f}',
        )
    for name in (gear_metadata.OBS_STATE, gear_metadata.ACTION):
        values = np.stack(table[name].to_numpy())
        if values.shape[1:] != tuple(info['features'][name]['shape']):
            yield DatasetIssue(location, f'{name} has shape {list(values.shape[1:])}')
        if not np.isfinite(values).all():
            yield DatasetIssue(location, f'{name} is not finite')
    chosen = table['task_index'].to_numpy()
    if not 0 <= chosen.min() <= chosen.max() < task_count:
        yield DatasetIssue(location, 'task_index points outside tasks.jsonl')


def _check_video(
    location: str, video: VideoSegment, table: pyarrow.Table
) -> Iterator[DatasetIssue]:
    if not video.path.exists():
        yield DatasetIssue(location, 'is missing')
        return
    count, times_s = read_frame_times(video.path)
    if count != len(table):
        yield DatasetIssue(location, f'{count} frames for {len(table)} rows')
    elif (np.abs(np.array(times_s) - table['timestamp'].to_numpy()) > MAX_TIME_ERROR_S).any():
        yield DatasetIssue(location, 'frames are not at the times of their rows')


def _check_grippers(robot: Embodiment, actions: np.ndarray) -> Iterator[DatasetIssue]:
    columns = gear_metadata.value_names(robot.action_keys)
    for gripper in robot.grippers:
        values = actions[:, columns.index(gripper.name)]
        if np.ptp(values) < MIN_GRIPPER_RANGE:
            yield DatasetIssue(
                gripper.name,
                f'never moves, it stays at {values[0]:.3f}; was it commanded at all?',
                is_warning=True,
            )

"""Validate a complete data set on disk against its metadata."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from wam_learning.data import gear_metadata
from wam_learning.data.finding import ERROR, WARNING, Finding
from wam_learning.data.lerobot.column_mapping import map_cameras
from wam_learning.data.lerobot.dataset_metadata import VideoSegment, read_dataset_metadata
from wam_learning.data.video_files import read_frame_times
from wam_policy.core.robot.embodiment import Embodiment

MIN_GRIPPER_RANGE = 1e-6  # a smaller range means that the gripper has not moved
MAX_TIME_ERROR_S = 1e-3  # between a row and its image


def find_issues(folder: Path, robot: Embodiment) -> Iterator[Finding]:
    """Yield the issues of a data set; without errors it can be used for training."""
    metadata = read_dataset_metadata(folder)
    info = metadata.info
    episodes, features = metadata.episodes, map_cameras(metadata, robot)
    if (
        len(episodes) != info['total_episodes']
        or sum(episode.length for episode in episodes) != info['total_frames']
    ):
        yield Finding(ERROR, 'meta', 'episodes and info.json disagree about their totals')
    actions = []
    for episode in episodes:
        try:
            table = metadata.read_rows(episode)
        except ValueError as error:
            yield Finding(ERROR, f'episode {episode.index}', str(error))
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
) -> Iterator[Finding]:
    missing = [
        name
        for name, feature in info['features'].items()
        if feature['dtype'] != 'video' and name not in table.column_names
    ]
    if missing:
        yield Finding(ERROR, location, f'no column {", ".join(missing)}')
    times_s = table['timestamp'].to_numpy().astype(np.float64)
    steps_s = np.diff(times_s)
    if (np.abs(steps_s - 1.0 / info['fps']) > MAX_TIME_ERROR_S).any():
        yield Finding(
            ERROR,
            location,
            f'time steps from {steps_s.min():.4f} to {steps_s.max():.4f} s, want '
            f'{1.0 / info["fps"]:.4f}',
        )
    for name in (gear_metadata.OBS_STATE, gear_metadata.ACTION):
        values = np.stack(table[name].to_numpy())
        if values.shape[1:] != tuple(info['features'][name]['shape']):
            yield Finding(ERROR, location, f'{name} has shape {list(values.shape[1:])}')
        if not np.isfinite(values).all():
            yield Finding(ERROR, location, f'{name} is not finite')
    chosen = table['task_index'].to_numpy()
    if not 0 <= chosen.min() <= chosen.max() < task_count:
        yield Finding(ERROR, location, 'task_index points outside tasks.jsonl')


def _check_video(location: str, video: VideoSegment, table: pyarrow.Table) -> Iterator[Finding]:
    if not video.path.exists():
        yield Finding(ERROR, location, 'is missing')
        return
    count, times_s = read_frame_times(video.path)
    if count != len(table):
        yield Finding(ERROR, location, f'{count} frames for {len(table)} rows')
    elif (np.abs(np.array(times_s) - table['timestamp'].to_numpy()) > MAX_TIME_ERROR_S).any():
        yield Finding(ERROR, location, 'frames are not at the times of their rows')


def _check_grippers(robot: Embodiment, actions: np.ndarray) -> Iterator[Finding]:
    columns = gear_metadata.value_names(robot.action_keys)
    for gripper in robot.grippers:
        values = actions[:, columns.index(gripper.name)]
        if np.ptp(values) < MIN_GRIPPER_RANGE:
            yield Finding(
                WARNING,
                gripper.name,
                f'never moves, it stays at {values[0]:.3f}; was it commanded at all?',
            )

"""Write a data set in the LeRobot v2.1 layout with GEAR's metadata, whole or not at all.

Everything is written beside the goal and takes its name at the end. One episode is a stretch of
consecutive rows: time within it never jumps.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wam_learning.data import column_stats, gear_metadata
from wam_learning.data.time_sync import Row
from wam_learning.data.video_files import CODEC, PIXELS, Video
from wam_policy.core.robot.embodiment import Embodiment

VERSION = 'v2.1'
CHUNK = 1000  # episodes per folder
DATA_PATH = 'data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet'
VIDEO_PATH = 'videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4'
PICTURES_PER_EPISODE = 30  # that enter LeRobot's statistics
NO_LABELS: Mapping[str, Any] = {}


@dataclass(slots=True, eq=False)
class _Open:
    """Hold the episode that is being written."""

    videos: dict[str, Video]
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)
    labels: dict[str, list[Any]] = field(default_factory=dict)


class Dataset:
    """Write episodes of one robot, row by row; `close` puts the folder where it was asked for."""

    def __init__(self, folder: Path, robot: Embodiment) -> None:
        """Begin; FileExistsError where the folder is there already."""
        if folder.exists():
            raise FileExistsError(f'{folder} is there already; name another folder or remove it')
        self.folder, self.robot = folder, robot
        self.fps = 1.0 / robot.step_dt_s
        self._part = folder.with_name(folder.name + '.part')
        if self._part.is_symlink():
            raise FileExistsError(f'{self._part} is a link and would lead elsewhere; remove it')
        shutil.rmtree(self._part, ignore_errors=True)  # of an export that was interrupted
        (self._part / 'meta').mkdir(parents=True)
        self._size: tuple[int, int] | None = None  # of every picture
        self._open: _Open | None = None
        self._labels: dict[str, int] | None = None  # extra columns: numbers per row
        self._tasks: dict[str, int] = {}
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._episodes: list[dict[str, Any]] = []
        self._statistics: list[dict[str, Any]] = []

    @property
    def episodes(self) -> int:
        return len(self._states)

    @property
    def rows(self) -> int:
        """Return how many rows the present episode has; 0 without one."""
        return len(self._open.states) if self._open else 0

    def add(self, row: Row, labels: Mapping[str, Any] = NO_LABELS) -> None:
        """Append a row to the present episode, or begin one with it.

        `labels` become columns of their own: truths, or float vectors in which NaN is unknown.
        ValueError where a row has others than the first.
        """
        self._check(labels)
        if self._open is None:
            self._open = _Open(self._videos(row))
        now = self._open
        task = self._tasks.setdefault(row.instruction, len(self._tasks))
        now.states.append(gear_metadata.state(self.robot, row.observation))
        now.actions.append(gear_metadata.action(self.robot, row.targets, row.observation))
        now.tasks.append(task)
        for name, value in labels.items():
            now.labels.setdefault(name, []).append(value)
        for frame in row.observation.frames:
            now.videos[frame.camera].add(frame.rgb)
            if len(now.states) % 10 == 1:
                kept = now.pictures.setdefault(frame.camera, [])
                if len(kept) < PICTURES_PER_EPISODE:
                    kept.append(frame.rgb)

    def end(self, about: Mapping[str, Any] = NO_LABELS) -> int:
        """Finish the present episode and return its number; `about` goes beside its length."""
        now, number = self._taken(), self.episodes
        for video in now.videos.values():
            video.close()
        states, actions = np.stack(now.states), np.stack(now.actions)
        table = self._table(states, actions, now.tasks, number) | {
            name: _column(values) for name, values in now.labels.items()
        }
        path = self._path(DATA_PATH, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
        self._states.append(states)
        self._actions.append(actions)
        texts = {index: text for text, index in self._tasks.items()}
        self._episodes.append(
            {
                'episode_index': number,
                'length': len(states),
                'tasks': [texts[i] for i in dict.fromkeys(now.tasks)],
                **about,
            }
        )
        figures_of = {
            name: self._counted(
                np.asarray(
                    values.to_pylist() if isinstance(values, pa.Array) else values,
                    dtype=np.float64,
                )
            )
            for name, values in table.items()
            if name not in now.labels
        }
        self._statistics.append(
            {
                'episode_index': number,
                'stats': {
                    **figures_of,
                    **{
                        gear_metadata.VIDEO + camera: column_stats.sampled_pictures(frames)
                        for camera, frames in now.pictures.items()
                    },
                },
            }
        )
        return number

    def drop(self) -> None:
        """Forget the present episode and remove what was written of it."""
        now, self._open = self._open, None
        if now is not None:
            for camera, video in now.videos.items():
                video.close()
                self._path(VIDEO_PATH, self.episodes, camera).unlink()

    def close(self, provenance: Mapping[str, Any]) -> Path:
        """Write the metadata and give the folder its name; ValueError without an episode."""
        self.drop()
        if not self._states:
            raise ValueError('no row was good enough for a data set; see what was dropped')
        meta = self._part / 'meta'
        contents = {
            'info': self._info(),
            'modality': gear_metadata.modality(self.robot),
            'embodiment': gear_metadata.embodiment(self.robot),
            'stats': gear_metadata.statistics(self._states, self._actions, self.robot.step_dt_s),
            'relative_stats_dreamzero': gear_metadata.relative_statistics(
                self.robot, self._states, self._actions
            ),
            'provenance': dict(provenance),
        }
        for name, content in contents.items():
            (meta / f'{name}.json').write_text(json.dumps(content, indent=2) + '\n')
        lines = {
            'tasks': [{'task_index': i, 'task': text} for text, i in self._tasks.items()],
            'episodes': self._episodes,
            'episodes_stats': self._statistics,
        }
        for name, entries in lines.items():
            (meta / f'{name}.jsonl').write_text(
                ''.join(json.dumps(entry) + '\n' for entry in entries)
            )
        os.rename(self._part, self.folder)
        return self.folder

    def abandon(self) -> None:
        """Remove everything."""
        if self._open is not None:
            for video in self._open.videos.values():
                video.close()
        shutil.rmtree(self._part, ignore_errors=True)

    def _check(self, labels: Mapping[str, Any]) -> None:
        sizes = {
            name: 0 if isinstance(value, bool) else len(value) for name, value in labels.items()
        }
        if self._labels is None:
            self._labels = sizes
        if sizes != self._labels:
            raise ValueError(
                f'labels {sizes or "none"}, the first row had '
                f'{self._labels or "none"}; all rows of a data set have the same'
            )

    def _videos(self, row: Row) -> dict[str, Video]:
        sizes = {frame.camera: frame.rgb.shape[1::-1] for frame in row.observation.frames}
        wanted = self._size or next(iter(sizes.values()))
        wrong = [
            f'{camera} {size[0]}x{size[1]}' for camera, size in sizes.items() if size != wanted
        ]
        if wrong:
            raise ValueError(
                f'{", ".join(wrong)}: want {wanted[0]}x{wanted[1]}; all pictures of '
                'a data set have one size'
            )
        self._size = wanted
        return {
            camera: Video(self._path(VIDEO_PATH, self.episodes, camera), wanted, self.fps)
            for camera in sizes
        }

    def _table(
        self, states: np.ndarray, actions: np.ndarray, tasks: Sequence[int], number: int
    ) -> dict[str, Any]:
        rows, before = len(states), sum(map(len, self._states))
        whole = np.arange(rows, dtype=np.int64)
        return {
            gear_metadata.STATE: _vectors(states),
            gear_metadata.ACTION: _vectors(actions),
            'timestamp': (whole / self.fps).astype(np.float32),
            'frame_index': whole,
            'episode_index': np.full(rows, number),
            'index': whole + before,
            'task_index': np.array(tasks, dtype=np.int64),
            self.robot.language_key: np.array(tasks, dtype=np.int64),
        }

    def _taken(self) -> '_Open':
        """Take the present episode out of our hands."""
        now, self._open = self._open, None
        if now is None:
            raise ValueError('no episode has begun: add a row first')
        return now

    def _counted(self, values: np.ndarray) -> dict[str, list]:
        values = values.reshape(len(values), -1)
        found = column_stats.six(values)
        return {name: found[name] for name in ('min', 'max', 'mean', 'std')} | {
            'count': [len(values)]
        }

    def _path(self, pattern: str, number: int, camera: str = '') -> Path:
        return self._part / pattern.format(
            episode_chunk=number // CHUNK,
            episode_index=number,
            video_key=gear_metadata.VIDEO + camera,
        )

    def _info(self) -> dict[str, Any]:
        assert self._size is not None  # close() wants an episode
        width, height = self._size
        fps = round(self.fps, 3)
        whole = int(fps) if fps == int(fps) else fps
        seen = {
            'video.fps': whole,
            'video.height': height,
            'video.width': width,
            'video.channels': 3,
            'video.codec': CODEC,
            'video.pix_fmt': PIXELS,
            'video.is_depth_map': False,
            'has_audio': False,
        }
        videos = {
            gear_metadata.VIDEO + camera.key: {
                'dtype': 'video',
                'shape': [height, width, 3],
                'names': ['height', 'width', 'channel'],
                'info': seen,
                'video_info': seen,
            }
            for camera in self.robot.cameras
        }
        vectors = {
            gear_metadata.STATE: self.robot.state_keys,
            gear_metadata.ACTION: self.robot.action_keys,
        }
        numbers = {
            'timestamp': 'float32',
            'frame_index': 'int64',
            'episode_index': 'int64',
            'index': 'int64',
            'task_index': 'int64',
            self.robot.language_key: 'int64',
        }
        return {
            'codebase_version': VERSION,
            'robot_type': self.robot.name,
            'total_episodes': self.episodes,
            'total_frames': sum(map(len, self._states)),
            'total_tasks': len(self._tasks),
            'total_videos': self.episodes * len(self.robot.cameras),
            'total_chunks': (self.episodes - 1) // CHUNK + 1,
            'chunks_size': CHUNK,
            'fps': whole,
            'splits': {'train': f'0:{self.episodes}'},
            'data_path': DATA_PATH,
            'video_path': VIDEO_PATH,
            'features': {
                **{
                    name: {
                        'dtype': 'float32',
                        'shape': [len(gear_metadata.names(keys))],
                        'names': gear_metadata.names(keys),
                    }
                    for name, keys in vectors.items()
                },
                **videos,
                **{
                    name: {'dtype': kind, 'shape': [1], 'names': None}
                    for name, kind in numbers.items()
                },
                **{
                    name: {
                        'dtype': 'float32' if size else 'bool',
                        'shape': [size or 1],
                        'names': None,
                    }
                    for name, size in (self._labels or {}).items()
                },
            },
        }


def _column(values: Sequence[Any]) -> pa.Array:
    """Return one label of every row: truths, or vectors."""
    if isinstance(values[0], bool):
        return pa.array(values, type=pa.bool_())
    return _vectors(np.stack(values).astype(np.float32))


def _vectors(values: np.ndarray) -> pa.Array:
    """Return [rows n] as a column of float32 lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

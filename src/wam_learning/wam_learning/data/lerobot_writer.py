"""Write a data set in the LeRobot layout, v2.1 or v3.0, with GEAR's metadata, atomically.

Everything is written to `NAME.part`, which is renamed at the end. One episode is a sequence of
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
from wam_learning.data.lerobot.convert_v30 import convert_to_v30
from wam_learning.data.time_sync import SynchronizedSample
from wam_learning.data.video_files import CODEC, PIXEL_FORMAT, VideoWriter
from wam_policy.core.robot.embodiment import Embodiment

CODEBASE_VERSION = 'v2.1'
VERSIONS = ('v2.1', 'v3.0')
EPISODES_PER_CHUNK = 1000  # episodes per folder
DATA_PATH = 'data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet'
VIDEO_PATH = 'videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4'
STATS_IMAGES_PER_EPISODE = 30  # that enter LeRobot's statistics
VALID_SUFFIX = '_valid'  # of the boolean column beside a label column: false where it is unknown
NO_LABELS: Mapping[str, Any] = {}


@dataclass(slots=True, eq=False)
class _EpisodeBuffer:
    """Hold the data of the current episode."""

    videos: dict[str, VideoWriter]
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    images: dict[str, list[np.ndarray]] = field(default_factory=dict)
    labels: dict[str, list[Any]] = field(default_factory=dict)


class LeRobotWriter:
    """Write episodes of one robot, row by row; `finalize` renames the folder to its final name."""

    def __init__(self, folder: Path, robot: Embodiment, version: str = 'v2.1') -> None:
        """Create `NAME.part`; raise FileExistsError if the folder exists.

        `version` is one of VERSIONS. v2.1 is what DreamZero's and GR00T's trainers read.
        """
        if version not in VERSIONS:
            raise ValueError(f'version {version!r}: want one of {", ".join(VERSIONS)}')
        if folder.exists():
            raise FileExistsError(f'{folder} exists already; name another folder or remove it')
        self.folder, self.robot, self._version = folder, robot, version
        self.fps = 1.0 / robot.step_dt_s
        self._partial_folder = folder.with_name(folder.name + '.part')
        if self._partial_folder.is_symlink():
            raise FileExistsError(f'{self._partial_folder} is a link to another place; remove it')
        shutil.rmtree(self._partial_folder, ignore_errors=True)  # of an interrupted export
        (self._partial_folder / 'meta').mkdir(parents=True)
        self._image_sizes: dict[str, tuple[int, int]] = {}  # (width, height) by camera
        self._current: _EpisodeBuffer | None = None
        self._label_widths: dict[str, int] | None = None  # extra columns: values per row
        self._tasks: dict[str, int] = {}
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._episodes: list[dict[str, Any]] = []
        self._episode_stats: list[dict[str, Any]] = []

    @property
    def episode_count(self) -> int:
        return len(self._states)

    @property
    def current_length(self) -> int:
        """Return the number of rows of the current episode; 0 without one."""
        return len(self._current.states) if self._current else 0

    def add_sample(
        self, sample: SynchronizedSample, labels: Mapping[str, Any] = NO_LABELS
    ) -> None:
        """Append a row to the current episode, or start one.

        `labels` become extra columns: booleans, or float vectors in which NaN means unknown. An
        unknown vector is written as zeros, and as false in a boolean column `<name>_valid`:
        trainers reject NaN. Raise ValueError if a row has other labels than the first one, or an
        image another size than the camera's first.
        """
        self._check_labels(labels)
        if self._current is None:
            self._current = _EpisodeBuffer(self._open_videos(sample))
        now = self._current
        task = self._tasks.setdefault(sample.instruction, len(self._tasks))
        now.states.append(gear_metadata.pack_state(self.robot, sample.observation))
        now.actions.append(
            gear_metadata.pack_action(self.robot, sample.targets, sample.observation)
        )
        now.tasks.append(task)
        for name, value in labels.items():
            now.labels.setdefault(name, []).append(value)
        for frame in sample.observation.frames:
            rgb = crop_to_even(frame.rgb)
            now.videos[frame.camera].add(rgb)
            if len(now.states) % 10 == 1:
                kept = now.images.setdefault(frame.camera, [])
                if len(kept) < STATS_IMAGES_PER_EPISODE:
                    kept.append(rgb)

    def end_episode(self, metadata: Mapping[str, Any] = NO_LABELS) -> int:
        """Finish the current episode, add `metadata` to episodes.jsonl; return its number."""
        now, number = self._take_current(), self.episode_count
        for video in now.videos.values():
            video.close()
        states, actions = np.stack(now.states), np.stack(now.actions)
        table = self._build_table(states, actions, now.tasks, number) | {
            column: values
            for name, labels in now.labels.items()
            for column, values in _label_columns(name, labels).items()
        }
        path = self._episode_path(DATA_PATH, number)
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
                **metadata,
            }
        )
        stats_by_column = {
            name: self._compute_stats(
                np.asarray(
                    values.to_pylist() if isinstance(values, pa.Array) else values,
                    dtype=np.float64,
                )
            )
            for name, values in table.items()
            if name.removesuffix(VALID_SUFFIX) not in now.labels
        }
        self._episode_stats.append(
            {
                'episode_index': number,
                'stats': {
                    **stats_by_column,
                    **{
                        gear_metadata.OBS_IMAGES_PREFIX + camera: column_stats.compute_image_stats(
                            frames
                        )
                        for camera, frames in now.images.items()
                    },
                },
            }
        )
        return number

    def discard_episode(self) -> None:
        """Discard the current episode and its files."""
        now, self._current = self._current, None
        if now is not None:
            for camera, video in now.videos.items():
                video.close()
                self._episode_path(VIDEO_PATH, self.episode_count, camera).unlink()

    def finalize(self, provenance: Mapping[str, Any]) -> Path:
        """Write the metadata and rename the folder; raise ValueError without an episode."""
        self.discard_episode()
        if not self._states:
            raise ValueError('no episode to write; see the reasons for dropped rows')
        meta = self._partial_folder / 'meta'
        contents = {
            'info': self._build_info(),
            'modality': gear_metadata.build_modality(self.robot),
            'embodiment': gear_metadata.build_embodiment(self.robot),
            'stats': gear_metadata.build_stats(self._states, self._actions, self.robot.step_dt_s),
            'relative_stats_dreamzero': gear_metadata.build_relative_stats(
                self.robot, self._states, self._actions
            ),
            'provenance': dict(provenance),
        }
        for name, content in contents.items():
            (meta / f'{name}.json').write_text(json.dumps(content, indent=2) + '\n')
        lines = {
            'tasks': [{'task_index': i, 'task': text} for text, i in self._tasks.items()],
            'episodes': self._episodes,
            'episodes_stats': self._episode_stats,
        }
        for name, entries in lines.items():
            (meta / f'{name}.jsonl').write_text(
                ''.join(json.dumps(entry) + '\n' for entry in entries)
            )
        if self._version == 'v3.0':
            convert_to_v30(self._partial_folder)
        os.rename(self._partial_folder, self.folder)
        return self.folder

    def abort(self) -> None:
        """Remove all files written so far."""
        if self._current is not None:
            for video in self._current.videos.values():
                video.close()
        shutil.rmtree(self._partial_folder, ignore_errors=True)

    def _check_labels(self, labels: Mapping[str, Any]) -> None:
        sizes = {
            name: 0 if isinstance(value, bool) else len(value) for name, value in labels.items()
        }
        if self._label_widths is None:
            self._label_widths = sizes
        if sizes != self._label_widths:
            raise ValueError(
                f'labels {sizes or "none"}, the first row had '
                f'{self._label_widths or "none"}; all rows of a data set must have the same'
            )

    def _open_videos(self, sample: SynchronizedSample) -> dict[str, VideoWriter]:
        sizes = {f.camera: crop_to_even(f.rgb).shape[1::-1] for f in sample.observation.frames}
        wanted = self._image_sizes or sizes
        wrong = [
            f'{camera} {width}x{height}, want {wanted[camera][0]}x{wanted[camera][1]}'
            for camera, (width, height) in sizes.items()
            if (width, height) != wanted[camera]
        ]
        if wrong:
            raise ValueError(
                f'{"; ".join(wrong)}: all images of a camera must have one size in a data set'
            )
        self._image_sizes = wanted
        return {
            camera: VideoWriter(
                self._episode_path(VIDEO_PATH, self.episode_count, camera), size, self.fps
            )
            for camera, size in sizes.items()
        }

    def _build_table(
        self, states: np.ndarray, actions: np.ndarray, tasks: Sequence[int], number: int
    ) -> dict[str, Any]:
        rows, before = len(states), sum(map(len, self._states))
        whole = np.arange(rows, dtype=np.int64)
        return {
            gear_metadata.OBS_STATE: _vector_column(states),
            gear_metadata.ACTION: _vector_column(actions),
            'timestamp': (whole / self.fps).astype(np.float32),
            'frame_index': whole,
            'episode_index': np.full(rows, number),
            'index': whole + before,
            'task_index': np.array(tasks, dtype=np.int64),
            self.robot.language_key: np.array(tasks, dtype=np.int64),
        }

    def _take_current(self) -> '_EpisodeBuffer':
        """Return the current episode and clear it; raise ValueError without one."""
        now, self._current = self._current, None
        if now is None:
            raise ValueError('no current episode: add a row first')
        return now

    def _compute_stats(self, values: np.ndarray) -> dict[str, list]:
        values = values.reshape(len(values), -1)
        found = column_stats.compute_stats(values)
        return {name: found[name] for name in ('min', 'max', 'mean', 'std')} | {
            'count': [len(values)]
        }

    def _episode_path(self, pattern: str, number: int, camera: str = '') -> Path:
        return self._partial_folder / pattern.format(
            episode_chunk=number // EPISODES_PER_CHUNK,
            episode_index=number,
            video_key=gear_metadata.OBS_IMAGES_PREFIX + camera,
        )

    def _build_info(self) -> dict[str, Any]:
        fps = round(self.fps, 3)
        whole = int(fps) if fps == int(fps) else fps
        videos = {
            gear_metadata.OBS_IMAGES_PREFIX + camera: _describe_video(size, whole)
            for camera, size in self._image_sizes.items()
        }
        vectors = {
            gear_metadata.OBS_STATE: self.robot.state_keys,
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
            'codebase_version': CODEBASE_VERSION,
            'robot_type': self.robot.name,
            'total_episodes': self.episode_count,
            'total_frames': sum(map(len, self._states)),
            'total_tasks': len(self._tasks),
            'total_videos': self.episode_count * len(self.robot.cameras),
            'total_chunks': (self.episode_count - 1) // EPISODES_PER_CHUNK + 1,
            'chunks_size': EPISODES_PER_CHUNK,
            'fps': whole,
            'splits': {'train': f'0:{self.episode_count}'},
            'data_path': DATA_PATH,
            'video_path': VIDEO_PATH,
            'features': {
                **{
                    name: {
                        'dtype': 'float32',
                        'shape': [len(gear_metadata.value_names(keys))],
                        'names': gear_metadata.value_names(keys),
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
                    for name, size in self._label_features().items()
                },
            },
        }

    def _label_features(self) -> dict[str, int]:
        """Return the label columns: how many values each has per row, 0 for booleans."""
        widths = self._label_widths or {}
        valid = {name + VALID_SUFFIX: 0 for name, width in widths.items() if width}
        return {**widths, **valid}


def crop_to_even(rgb: np.ndarray) -> np.ndarray:
    """Return an image without its last row or column where their number is odd.

    Video in 4:2:0 has even sides; a crop at the end moves no pixel, so intrinsics stay valid.
    """
    height, width = rgb.shape[:2]
    return rgb[: height - height % 2, : width - width % 2]


def _describe_video(size: tuple[int, int], fps: float) -> dict[str, Any]:
    width, height = size
    properties = {
        'video.fps': fps,
        'video.height': height,
        'video.width': width,
        'video.channels': 3,
        'video.codec': CODEC,
        'video.pix_fmt': PIXEL_FORMAT,
        'video.is_depth_map': False,
        'has_audio': False,
    }
    return {
        'dtype': 'video',
        'shape': [height, width, 3],
        'names': ['height', 'width', 'channel'],
        'info': properties,
        'video_info': properties,
    }


def _label_columns(name: str, values: Sequence[Any]) -> dict[str, pa.Array]:
    """Return the columns of a label: booleans, or float32 lists and their validity."""
    if isinstance(values[0], bool):
        return {name: pa.array(values, type=pa.bool_())}
    vectors = np.stack(values).astype(np.float32)
    valid = np.isfinite(vectors).all(axis=1)
    return {
        name: _vector_column(np.where(valid[:, None], vectors, np.float32(0))),
        name + VALID_SUFFIX: pa.array(valid),
    }


def _vector_column(values: np.ndarray) -> pa.Array:
    """Return [rows n] as a column of float32 lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

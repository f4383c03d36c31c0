"""Read data set folders into arrays for training: canvases, states, actions, labels.

Images pass through the same canvas code as live ones and are cached next to the data set
(`NAME.clips`), because decoding is slow. Rows are those of the data set; images are taken every
`stride` rows. Columns that only a simulator can label (supervised, grounding) are optional:
without them every row is supervised and has no grounding label. Rows of another rate than the
robot's are resampled: states and actions linearly, images and labels to the nearest.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.error import FFmpegError

from wam_learning.data.lerobot.column_mapping import gather, map_cameras, map_vectors
from wam_learning.data.lerobot.dataset_metadata import (
    DatasetMetadata,
    read_column,
    read_dataset_metadata,
)
from wam_learning.data.lerobot_writer import VALID_SUFFIX
from wam_learning.data.video_files import read_frames_at
from wam_policy import robot_folders
from wam_policy.core.observation.view_tiles import ViewLayout
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.encoders import view_layout

SUPERVISED, PIXEL, PLACE = 'supervised', 'grounding.pixel', 'grounding.place'
_CACHE_VERSION = 2
MAX_RATE_DEVIATION = 1e-3  # of two rates that count as the same


@dataclass(frozen=True, slots=True)
class EpisodeSlice:
    """Locate an episode in the arrays."""

    first_row: int
    row_count: int
    first_frame: int
    frame_count: int
    family: str  # of its task; empty if unknown


class FrameStore:
    """Index the canvases of several data sets with one number."""

    def __init__(self, parts: tuple[np.ndarray, ...]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, index: int) -> np.ndarray:
        part = int(np.searchsorted(self._ends, index, side='right'))
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeArrays:
    """Hold all episodes of several data sets, concatenated."""

    robot: Embodiment
    frame_stride: int  # rows between two images
    episodes: tuple[EpisodeSlice, ...]
    texts: tuple[str, ...]
    canvases: tuple[np.ndarray, ...]  # one per data set, uint8 [frames height width 3]
    cache_dirs: tuple[Path, ...]  # folders of cached canvases and latents
    state: np.ndarray  # float32 [rows state], the model's keys and units
    action: np.ndarray  # float32 [rows action], absolute
    task: np.ndarray  # int32 [rows], index into texts
    supervised: np.ndarray  # bool [rows]
    pixel: np.ndarray  # float32 [rows 2], NaN: no label
    place: np.ndarray  # float32 [rows 2], NaN: no label

    @property
    def frame_count(self) -> int:
        return sum(map(len, self.canvases))

    @property
    def frame_store(self) -> FrameStore:
        return FrameStore(self.canvases)

    @property
    def has_grounding(self) -> bool:
        return bool(np.isfinite(self.pixel).any())


def read_datasets(folders: Sequence[Path], design: ModelSpec) -> EpisodeArrays:
    """Read data sets of one robot; raise ValueError with the folder that does not fit, and why.

    A folder of data sets (the shards of `./wam generate-demos`) stands for all of them.
    """
    if not folders:
        raise ValueError('no data set given')
    parts = [_read_dataset(shard, design) for folder in folders for shard in find_shards(folder)]
    robots = {part.robot.name for part in parts}
    if len(robots) > 1:
        raise ValueError(
            f'data sets of different robots: {", ".join(sorted(robots))}; train '
            'on one of them at a time'
        )
    return concatenate(parts)


def concatenate(parts: Sequence[EpisodeArrays]) -> EpisodeArrays:
    """Concatenate the arrays of one robot."""
    texts = tuple(dict.fromkeys(text for part in parts for text in part.texts))
    spans, tasks, row, frame = [], [], 0, 0
    for part in parts:
        spans += [
            EpisodeSlice(
                span.first_row + row,
                span.row_count,
                span.first_frame + frame,
                span.frame_count,
                span.family,
            )
            for span in part.episodes
        ]
        tasks.append(np.array([texts.index(text) for text in part.texts], np.int32)[part.task])
        row, frame = row + len(part.task), frame + part.frame_count

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return EpisodeArrays(
        parts[0].robot,
        parts[0].frame_stride,
        tuple(spans),
        texts,
        tuple(canvases for part in parts for canvases in part.canvases),
        tuple(cache_dir for part in parts for cache_dir in part.cache_dirs),
        whole('state'),
        whole('action'),
        np.concatenate(tasks),
        whole('supervised'),
        whole('pixel'),
        whole('place'),
    )


def select_episodes(data: EpisodeArrays, indices: Sequence[int]) -> EpisodeArrays:
    """Return the same arrays with only the episodes `indices`."""
    spans = tuple(data.episodes[i] for i in indices)
    return replace(data, episodes=spans)


# ---- one folder


def find_shards(folder: Path) -> list[Path]:
    """Return the data sets in a folder of several, or the folder itself."""
    found = sorted(path.parents[1] for path in folder.glob('*/meta/info.json'))
    return found if found and not (folder / 'meta').is_dir() else [folder]


def _read_dataset(folder: Path, design: ModelSpec) -> EpisodeArrays:
    metadata = read_dataset_metadata(folder)
    robot = robot_folders.load_robot(metadata.robot_type)
    model = design.model
    stride, rest = divmod(model.actions_per_block, model.block_pixel_frames)
    if rest:
        raise ValueError(
            f'{design.name}: {model.actions_per_block} actions are not a multiple of '
            f'{model.block_pixel_frames} images'
        )
    sources = map_vectors(metadata, robot)
    names = list(dict.fromkeys(source.column for group in sources for source in group))
    grid = _RowGrid(metadata.fps, 1.0 / robot.step_dt_s)
    spans, rows, row, frame = [], [], 0, 0
    for episode in metadata.episodes:
        table = metadata.read_rows(episode)
        count = grid.count_rows(len(table))
        if count < 1:
            raise ValueError(f'{folder}: episode {episode.index} has no rows')
        columns = {name: grid.interpolate(read_column(table, name)) for name in names}
        labels = {name: grid.pick(values) for name, values in _read_labels(table).items()}
        rows.append(
            {
                'state': gather(sources[0], columns),
                'action': gather(sources[1], columns),
                'task': grid.pick(read_column(table, 'task_index')).astype(np.int32),
                **labels,
            }
        )
        shown = -(-count // stride)
        spans.append(EpisodeSlice(row, count, frame, shown, str(episode.fields.get('family', ''))))
        row, frame = row + count, frame + shown

    def whole(name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in rows])

    task = whole('task')
    if not 0 <= task.min() <= task.max() < len(metadata.tasks):
        raise ValueError(
            f'{folder}: task_index is from {task.min()} to {task.max()}, there are '
            f'{len(metadata.tasks)} tasks'
        )
    return EpisodeArrays(
        robot,
        stride,
        tuple(spans),
        metadata.tasks,
        (_load_canvases(metadata, design, robot, spans, stride, grid),),
        (_cache_dir(folder),),
        whole('state'),
        whole('action'),
        task,
        whole(SUPERVISED),
        whole(PIXEL),
        whole(PLACE),
    )


@dataclass(frozen=True, slots=True)
class _RowGrid:
    """Resample rows from the rate of a data set to that of a model."""

    source_hz: float
    target_hz: float

    def count_rows(self, source_rows: int) -> int:
        """Return how many target rows lie within the source rows."""
        if self._is_same:
            return source_rows
        return int((source_rows - 1) / self.source_hz * self.target_hz + 1e-6) + 1

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Return [rows n] linearly interpolated."""
        if self._is_same:
            return values
        at, known = self._positions(len(values)), np.arange(len(values))
        return np.stack([np.interp(at, known, column) for column in values.T], axis=1)

    def pick(self, values: np.ndarray) -> np.ndarray:
        """Return the nearest row of each target row."""
        return (
            values if self._is_same else values[np.rint(self._positions(len(values))).astype(int)]
        )

    def source_rows(self, target_rows: np.ndarray) -> np.ndarray:
        """Return the nearest source row of each of some target rows."""
        return np.rint(target_rows * (self.source_hz / self.target_hz)).astype(int)

    @property
    def _is_same(self) -> bool:
        return abs(self.source_hz / self.target_hz - 1) < MAX_RATE_DEVIATION

    def _positions(self, source_rows: int) -> np.ndarray:
        rows = np.arange(self.count_rows(source_rows))
        return np.minimum(rows * (self.source_hz / self.target_hz), source_rows - 1)


def _read_labels(table: Any) -> dict[str, np.ndarray]:
    """Return the labels that only a simulator gives; without them, every row is supervised."""
    unlabeled = np.full((len(table), 2), np.nan, np.float32)
    found = {
        SUPERVISED: np.ones(len(table), bool),
        PIXEL: unlabeled,
        PLACE: unlabeled,
    }
    for name in found:
        if name in table.column_names:
            values = read_column(table, name)
            if name == SUPERVISED:
                found[name] = values.reshape(-1).astype(bool)
            elif name + VALID_SUFFIX in table.column_names:
                valid = read_column(table, name + VALID_SUFFIX).reshape(-1).astype(bool)
                found[name] = np.where(valid[:, None], values, np.float32(np.nan))
            else:  # written before validity was a column of its own
                found[name] = values
    return found


# ---- canvases


def _cache_dir(folder: Path) -> Path:
    return folder.with_name(folder.name + '.clips')


def _load_canvases(
    metadata: DatasetMetadata,
    design: ModelSpec,
    robot: Embodiment,
    episodes: Sequence[EpisodeSlice],
    stride: int,
    grid: _RowGrid,
) -> np.ndarray:
    """Return the canvases, [frames height width 3], from the cache or decoded now."""
    layout = design.canvas.make_layout(
        robot.model_tag, tuple(camera.key for camera in robot.cameras)
    )
    cameras = map_cameras(metadata, robot)
    key = {
        'version': _CACHE_VERSION,
        'layout': repr(layout),
        'cameras': cameras,
        'stride': stride,
        'rates': [grid.source_hz, grid.target_hz],
        'episodes': len(episodes),
        'rows': sum(span.row_count for span in episodes),
    }
    cache_dir = _cache_dir(metadata.folder)
    with _lock_cache(cache_dir):
        if (
            not (cache_dir / 'key.json').is_file()
            or json.loads((cache_dir / 'key.json').read_text()) != key
        ):
            _decode_canvases(metadata, cameras, layout, episodes, stride, grid, cache_dir, key)
        return np.load(cache_dir / 'canvases.npy', mmap_mode='r')


@contextmanager
def _lock_cache(cache_dir: Path) -> Iterator[None]:
    """Let only one process decode at a time; others wait and then read the cache."""
    with cache_dir.with_name(cache_dir.name + '.lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases it when the process exits
        yield


def _decode_canvases(
    metadata: DatasetMetadata,
    cameras: Mapping[str, str],
    layout: ViewLayout,
    episodes: Sequence[EpisodeSlice],
    stride: int,
    grid: _RowGrid,
    cache_dir: Path,
    key: Mapping[str, Any],
) -> None:
    """Decode the canvases of a data set into `cache_dir`, atomically."""
    part = cache_dir.with_name(cache_dir.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    count = sum(span.frame_count for span in episodes)
    kept = np.lib.format.open_memmap(
        part / 'canvases.npy', 'w+', np.uint8, (count, *layout.size, 3)
    )
    for entry, span in zip(metadata.episodes, episodes, strict=True):
        wanted = grid.source_rows(stride * np.arange(span.frame_count))
        views = {}
        for camera in layout.views:
            video = entry.videos[cameras[camera]]
            try:
                shown = read_frames_at(video.path, wanted, metadata.fps, video.start_s)
            except (OSError, FFmpegError, ValueError) as error:
                raise ValueError(f'{video.path}: cannot be decoded: {error}') from error
            views[camera] = torch.from_numpy(shown)
        kept[span.first_frame : span.first_frame + span.frame_count] = view_layout.compose_views(
            views, layout
        ).numpy()
    kept.flush()
    (part / 'key.json').write_text(json.dumps(key))
    shutil.rmtree(cache_dir, ignore_errors=True)
    os.rename(part, cache_dir)

"""Read data set folders into arrays for training: canvases, states, actions, labels.

Images pass through the same canvas code as live ones and are cached next to the data set
(`NAME.clips`), because decoding is slow. Rows are those of the data set; images are taken every
`stride` rows. Columns that only a simulator can label (supervised, grounding) are optional:
without them every row is supervised and has no grounding label.
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
import pyarrow.parquet as pq
import torch
from av.error import FFmpegError

from wam_learning.data import gear_metadata
from wam_learning.data.video_files import read_every_nth_frame
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint.model_spec import ModelSpec
from wam_policy.model.encoders import view_layout
from wam_policy.model.encoders.view_layout import ViewLayout

SUPERVISED, PIXEL, PLACE = 'supervised', 'grounding.pixel', 'grounding.place'
_CACHE_VERSION = 1


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
    parts = [_read_dataset(shard, design) for folder in folders for shard in _find_shards(folder)]
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


def _find_shards(folder: Path) -> list[Path]:
    found = sorted(path.parents[1] for path in folder.glob('*/meta/info.json'))
    return found if found and not (folder / 'meta').is_dir() else [folder]


def _read_dataset(folder: Path, design: ModelSpec) -> EpisodeArrays:
    info = _read_json(folder / 'meta' / 'info.json')
    robot = embodiment.load_embodiment(info['robot_type'])
    model = design.model
    stride, rest = divmod(model.actions_per_block, model.block_pixel_frames)
    if rest:
        raise ValueError(
            f'{design.name}: {model.actions_per_block} actions are not a multiple of '
            f'{model.block_pixel_frames} images'
        )
    lines = (folder / 'meta' / 'episodes.jsonl').read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    tasks = [
        json.loads(line)['task']
        for line in (folder / 'meta' / 'tasks.jsonl').read_text().splitlines()
    ]
    tables = [
        pq.read_table(folder / _episode_path(info, 'data_path', i)) for i in range(len(episodes))
    ]
    counts = [len(table) for table in tables]
    frames = [-(-count // stride) for count in counts]
    spans, row, frame = [], 0, 0
    for episode, rows, shown in zip(episodes, counts, frames, strict=True):
        spans.append(EpisodeSlice(row, rows, frame, shown, str(episode.get('family', ''))))
        row, frame = row + rows, frame + shown
    columns = {
        name: np.concatenate([_read_column(table, name) for table in tables])
        for name in (gear_metadata.OBS_STATE, gear_metadata.ACTION, 'task_index')
    }
    for name, kind in (
        (gear_metadata.OBS_STATE, robot.state_keys),
        (gear_metadata.ACTION, robot.action_keys),
    ):
        wanted = len(gear_metadata.value_names(kind))
        if columns[name].shape[1:] != (wanted,):
            raise ValueError(
                f'{folder}: {name} has shape {columns[name].shape[1:]}, {robot.name} '
                f'has {wanted} values; export the episodes again'
            )
    unlabeled = np.full((row, 2), np.nan, np.float32)
    extra = {
        name: np.concatenate([_read_column(table, name) for table in tables])
        for name in (SUPERVISED, PIXEL, PLACE)
        if name in tables[0].column_names
    }
    return EpisodeArrays(
        robot,
        stride,
        tuple(spans),
        tuple(tasks),
        (_load_canvases(folder, info, design, robot, spans, stride),),
        (_cache_dir(folder),),
        columns[gear_metadata.OBS_STATE],
        columns[gear_metadata.ACTION],
        columns['task_index'].astype(np.int32),
        extra.get(SUPERVISED, np.ones(row)).reshape(row).astype(bool),
        extra.get(PIXEL, unlabeled),
        extra.get(PLACE, unlabeled),
    )


def _read_column(table: Any, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    if hasattr(column, 'values'):  # lists of one length
        return (
            column.values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), -1)
        )
    return column.to_numpy(zero_copy_only=False)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: missing, so {path.parent.parent} is not a data set; '
            'make one with ./wam export or ./wam generate-demos'
        )
    return json.loads(path.read_text())


def _episode_path(info: Mapping[str, Any], kind: str, episode: int, key: str = '') -> str:
    return info[kind].format(
        episode_chunk=episode // info['chunks_size'], episode_index=episode, video_key=key
    )


# ---- canvases


def _cache_dir(folder: Path) -> Path:
    return folder.with_name(folder.name + '.clips')


def _load_canvases(
    folder: Path,
    info: Mapping[str, Any],
    design: ModelSpec,
    robot: Embodiment,
    episodes: Sequence[EpisodeSlice],
    stride: int,
) -> np.ndarray:
    """Return the canvases of a folder, [frames height width 3], from the cache or decoded now."""
    layout = design.canvas.make_layout(
        robot.model_tag, tuple(camera.key for camera in robot.cameras)
    )
    key = {
        'version': _CACHE_VERSION,
        'layout': repr(layout),
        'stride': stride,
        'episodes': len(episodes),
        'rows': sum(span.row_count for span in episodes),
    }
    cache_dir = _cache_dir(folder)
    with _lock_cache(cache_dir):
        if (
            not (cache_dir / 'key.json').is_file()
            or json.loads((cache_dir / 'key.json').read_text()) != key
        ):
            _decode_canvases(folder, info, layout, episodes, stride, cache_dir, key)
        return np.load(cache_dir / 'canvases.npy', mmap_mode='r')


@contextmanager
def _lock_cache(cache_dir: Path) -> Iterator[None]:
    """Let only one process decode at a time; others wait and then read the cache."""
    with cache_dir.with_name(cache_dir.name + '.lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases it when the process exits
        yield


def _decode_canvases(
    folder: Path,
    info: Mapping[str, Any],
    layout: ViewLayout,
    episodes: Sequence[EpisodeSlice],
    stride: int,
    cache_dir: Path,
    key: Mapping[str, Any],
) -> None:
    """Decode the canvases of a folder into `cache_dir`, atomically."""
    part = cache_dir.with_name(cache_dir.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    count = sum(span.frame_count for span in episodes)
    kept = np.lib.format.open_memmap(
        part / 'canvases.npy', 'w+', np.uint8, (count, *layout.size, 3)
    )
    for number, span in enumerate(episodes):
        views = {}
        for camera in layout.views:
            path = folder / _episode_path(
                info, 'video_path', number, gear_metadata.OBS_IMAGES_PREFIX + camera
            )
            try:
                shown = read_every_nth_frame(path, stride)
            except (OSError, FFmpegError) as error:
                raise ValueError(f'{path}: cannot be decoded: {error}') from error
            if len(shown) != span.frame_count:
                raise ValueError(
                    f'{path}: {len(shown)} images every {stride} rows, the table '
                    f'has room for {span.frame_count}; export the episodes again'
                )
            views[camera] = torch.from_numpy(shown)
        kept[span.first_frame : span.first_frame + span.frame_count] = view_layout.compose_views(
            views, layout
        ).numpy()
    kept.flush()
    (part / 'key.json').write_text(json.dumps(key))
    shutil.rmtree(cache_dir, ignore_errors=True)
    os.rename(part, cache_dir)

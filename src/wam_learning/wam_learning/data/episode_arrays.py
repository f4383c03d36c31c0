"""Data set folders as arrays that training can draw from: canvases, postures, targets, labels.

Pictures go through the same canvas code as live ones and are kept beside the data set
(`NAME.clips`), because decoding is the slow part. Rows are those of the data set; pictures are
taken every `stride` rows. Columns that only a simulator can fill (supervised, grounding) are
optional: without them every row is the expert's and nothing is grounded.
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
from wam_learning.data.video_files import pictures_every
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint.model_spec import Design
from wam_policy.model.encoders import view_layout
from wam_policy.model.encoders.view_layout import Layout

SUPERVISED, PIXEL, PLACE = 'supervised', 'grounding.pixel', 'grounding.place'
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Span:
    """Say where an episode lies in the arrays."""

    row: int
    rows: int
    frame: int
    frames: int
    family: str  # of its task; empty if the data set does not say


class Film:
    """Index the canvases of several data sets as one."""

    def __init__(self, parts: tuple[np.ndarray, ...]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, number: int) -> np.ndarray:
        part = int(np.searchsorted(self._ends, number, side='right'))
        return self._parts[part][number - (self._ends[part - 1] if part else 0)]


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """Hold all episodes of some data sets, one after the other."""

    robot: Embodiment
    stride: int  # rows between two pictures
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    canvases: tuple[np.ndarray, ...]  # one per data set, uint8 [frames height width 3]
    homes: tuple[Path, ...]  # where they lie, and what else is derived of them
    state: np.ndarray  # float32 [rows state], the model's keys and units
    action: np.ndarray  # float32 [rows action], absolute
    task: np.ndarray  # int32 [rows], index into texts
    supervised: np.ndarray  # bool [rows]
    pixel: np.ndarray  # float32 [rows 2], NaN: no label
    place: np.ndarray  # float32 [rows 2], NaN: no label

    @property
    def frames(self) -> int:
        return sum(map(len, self.canvases))

    @property
    def film(self) -> Film:
        return Film(self.canvases)

    @property
    def grounded(self) -> bool:
        return bool(np.isfinite(self.pixel).any())


def read(folders: Sequence[Path], design: Design) -> Clips:
    """Read data sets of one robot; ValueError names the folder that does not fit, and why.

    A folder of data sets (the shards of `./wam play`) stands for all of them.
    """
    if not folders:
        raise ValueError('no data set named')
    parts = [_folder(shard, design) for folder in folders for shard in _shards(folder)]
    robots = {part.robot.name for part in parts}
    if len(robots) > 1:
        raise ValueError(
            f'data sets of different robots: {", ".join(sorted(robots))}; train '
            'on one of them at a time'
        )
    return joined(parts)


def joined(parts: Sequence[Clips]) -> Clips:
    """Put clips of one robot behind each other."""
    texts = tuple(dict.fromkeys(text for part in parts for text in part.texts))
    spans, tasks, row, frame = [], [], 0, 0
    for part in parts:
        spans += [
            Span(span.row + row, span.rows, span.frame + frame, span.frames, span.family)
            for span in part.spans
        ]
        tasks.append(np.array([texts.index(text) for text in part.texts], np.int32)[part.task])
        row, frame = row + len(part.task), frame + part.frames

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Clips(
        parts[0].robot,
        parts[0].stride,
        tuple(spans),
        texts,
        tuple(canvases for part in parts for canvases in part.canvases),
        tuple(home for part in parts for home in part.homes),
        whole('state'),
        whole('action'),
        np.concatenate(tasks),
        whole('supervised'),
        whole('pixel'),
        whole('place'),
    )


def subset(clips: Clips, episodes: Sequence[int]) -> Clips:
    """Give the same arrays with some of the episodes."""
    spans = tuple(clips.spans[i] for i in episodes)
    return replace(clips, spans=spans)


# ---- one folder


def _shards(folder: Path) -> list[Path]:
    found = sorted(path.parents[1] for path in folder.glob('*/meta/info.json'))
    return found if found and not (folder / 'meta').is_dir() else [folder]


def _folder(folder: Path, design: Design) -> Clips:
    info = _json(folder / 'meta' / 'info.json')
    robot = embodiment.load(info['robot_type'])
    model = design.model
    stride, rest = divmod(model.actions_per_block, model.block_pixel_frames)
    if rest:
        raise ValueError(
            f'{design.name}: {model.actions_per_block} actions do not divide into '
            f'{model.block_pixel_frames} pictures'
        )
    lines = (folder / 'meta' / 'episodes.jsonl').read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    tasks = [
        json.loads(line)['task']
        for line in (folder / 'meta' / 'tasks.jsonl').read_text().splitlines()
    ]
    tables = [pq.read_table(folder / _path(info, 'data_path', i)) for i in range(len(episodes))]
    counts = [len(table) for table in tables]
    frames = [-(-count // stride) for count in counts]
    spans, row, frame = [], 0, 0
    for episode, rows, shown in zip(episodes, counts, frames, strict=True):
        spans.append(Span(row, rows, frame, shown, str(episode.get('family', ''))))
        row, frame = row + rows, frame + shown
    columns = {
        name: np.concatenate([_column(table, name) for table in tables])
        for name in (gear_metadata.STATE, gear_metadata.ACTION, 'task_index')
    }
    for name, kind in (
        (gear_metadata.STATE, robot.state_keys),
        (gear_metadata.ACTION, robot.action_keys),
    ):
        wanted = len(gear_metadata.names(kind))
        if columns[name].shape[1:] != (wanted,):
            raise ValueError(
                f'{folder}: {name} has shape {columns[name].shape[1:]}, {robot.name} '
                f'has {wanted} values; export the episodes again'
            )
    unlabelled = np.full((row, 2), np.nan, np.float32)
    extra = {
        name: np.concatenate([_column(table, name) for table in tables])
        for name in (SUPERVISED, PIXEL, PLACE)
        if name in tables[0].column_names
    }
    return Clips(
        robot,
        stride,
        tuple(spans),
        tuple(tasks),
        (_canvases(folder, info, design, robot, spans, stride),),
        (_home(folder),),
        columns[gear_metadata.STATE],
        columns[gear_metadata.ACTION],
        columns['task_index'].astype(np.int32),
        extra.get(SUPERVISED, np.ones(row)).reshape(row).astype(bool),
        extra.get(PIXEL, unlabelled),
        extra.get(PLACE, unlabelled),
    )


def _column(table: Any, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    if hasattr(column, 'values'):  # lists of one length
        return (
            column.values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), -1)
        )
    return column.to_numpy(zero_copy_only=False)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: not there, so {path.parent.parent} is no data set; '
            'make one with ./wam export or ./wam play'
        )
    return json.loads(path.read_text())


def _path(info: Mapping[str, Any], kind: str, episode: int, key: str = '') -> str:
    return info[kind].format(
        episode_chunk=episode // info['chunks_size'], episode_index=episode, video_key=key
    )


# ---- canvases


def _home(folder: Path) -> Path:
    return folder.with_name(folder.name + '.clips')


def _canvases(
    folder: Path,
    info: Mapping[str, Any],
    design: Design,
    robot: Embodiment,
    spans: Sequence[Span],
    stride: int,
) -> np.ndarray:
    """Give the canvases of a folder, from beside it or decoded now."""
    layout = design.canvas.layout(robot.model_tag, tuple(camera.key for camera in robot.cameras))
    key = {
        'version': _VERSION,
        'layout': repr(layout),
        'stride': stride,
        'episodes': len(spans),
        'rows': sum(span.rows for span in spans),
    }
    home = _home(folder)
    with _alone(home):
        if not (home / 'key.json').is_file() or json.loads((home / 'key.json').read_text()) != key:
            _decoded(folder, info, layout, spans, stride, home, key)
        return np.load(home / 'canvases.npy', mmap_mode='r')


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Let one training decode at a time: another that begins meanwhile takes what it finds."""
    with home.with_name(home.name + '.lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets go of it with the process
        yield


def _decoded(
    folder: Path,
    info: Mapping[str, Any],
    layout: Layout,
    spans: Sequence[Span],
    stride: int,
    home: Path,
    key: Mapping[str, Any],
) -> None:
    """Decode the canvases of a folder into `home`, whole or not at all."""
    part = home.with_name(home.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    count = sum(span.frames for span in spans)
    kept = np.lib.format.open_memmap(
        part / 'canvases.npy', 'w+', np.uint8, (count, *layout.size, 3)
    )
    for number, span in enumerate(spans):
        views = {}
        for camera in layout.views:
            path = folder / _path(info, 'video_path', number, gear_metadata.VIDEO + camera)
            try:
                shown = pictures_every(path, stride)
            except (OSError, FFmpegError) as error:
                raise ValueError(f'{path}: cannot be decoded: {error}') from error
            if len(shown) != span.frames:
                raise ValueError(
                    f'{path}: {len(shown)} pictures every {stride} rows, the table '
                    f'has room for {span.frames}; export the episodes again'
                )
            views[camera] = torch.from_numpy(shown)
        kept[span.frame : span.frame + span.frames] = view_layout.stitched(views, layout).numpy()
    kept.flush()
    (part / 'key.json').write_text(json.dumps(key))
    shutil.rmtree(home, ignore_errors=True)
    os.rename(part, home)

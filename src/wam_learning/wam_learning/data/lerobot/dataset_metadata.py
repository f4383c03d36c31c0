"""Read the metadata of a data set: versions v2.0 and v2.1 (a file per episode) and v3.0.

Layouts: LeRobot's `info.json` names the version, the rate, the columns and the path patterns.
v2.x lists episodes and tasks in JSON lines, v3.0 in parquet files, and several episodes of v3.0
share a table and a video. `modality.json` (GR00T, DreamZero) names slices of the columns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

VERSIONS = ('v2.0', 'v2.1', 'v3.0')
INFO_FIELDS = ('codebase_version', 'fps', 'features', 'data_path')


@dataclass(frozen=True, slots=True)
class VideoSegment:
    """Locate the images of one episode and camera in a video file."""

    path: Path
    start_s: float  # time of the episode's first image in the file


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """Locate the rows and videos of one episode."""

    index: int
    length: int
    table_path: Path
    videos: Mapping[str, VideoSegment]  # by feature name
    fields: Mapping[str, Any]  # everything that the data set says of the episode


@dataclass(frozen=True, slots=True)
class DatasetMetadata:
    """Hold what a data set says of itself."""

    folder: Path
    version: str
    fps: float
    robot_type: str
    features: Mapping[str, Mapping[str, Any]]
    tasks: tuple[str, ...]  # by task_index
    episodes: tuple[EpisodeEntry, ...]
    modality: Mapping[str, Any]  # of modality.json; empty without the file
    info: Mapping[str, Any]

    @property
    def video_features(self) -> tuple[str, ...]:
        """Return the names of the features that are videos."""
        return tuple(n for n, feature in self.features.items() if feature['dtype'] == 'video')

    def read_rows(self, episode: EpisodeEntry) -> pa.Table:
        """Read the rows of one episode; raise ValueError if they are not as many as promised."""
        try:
            table = pq.read_table(episode.table_path)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f'{episode.table_path}: cannot be read: {error}') from error
        if self.version == 'v3.0' and 'episode_index' in table.column_names:
            table = table.filter(pc.field('episode_index') == episode.index)
        if len(table) != episode.length:
            raise ValueError(
                f'{episode.table_path}: {len(table)} rows of episode {episode.index}, its '
                f'metadata says {episode.length}'
            )
        return table


def read_dataset_metadata(folder: Path) -> DatasetMetadata:
    """Read the metadata of a data set.

    Raise FileNotFoundError if the folder is no data set, ValueError with the file and the entry
    that is unknown, missing or malformed.
    """
    info = read_json(folder / 'meta' / 'info.json')
    missing = [name for name in INFO_FIELDS if name not in info]
    if missing:
        raise ValueError(f'{folder}/meta/info.json: has no {", ".join(missing)}')
    version, fps = info['codebase_version'], info['fps']
    if version not in VERSIONS:
        raise ValueError(
            f'{folder}: codebase_version {version!r} is not one of {", ".join(VERSIONS)}; '
            "convert it with LeRobot's converter"
        )
    if not isinstance(fps, int | float) or not 0 < fps <= 1000:
        raise ValueError(f'{folder}/meta/info.json: fps is {fps!r}, want a number in (0, 1000]')
    videos = _check_features(folder, info)
    read_episodes = _read_episodes_v30 if version == 'v3.0' else _read_episodes_v2
    modality_path = folder / 'meta' / 'modality.json'
    episodes = tuple(read_episodes(folder, info, videos))
    if not episodes:
        raise ValueError(f'{folder}: lists no episode')
    wrong = [e for e in episodes if not (_is_count(e.index, 0) and _is_count(e.length, 1))]
    if wrong:
        raise ValueError(
            f'{folder}: lists episode {wrong[0].index!r} of {wrong[0].length!r} rows; want whole '
            'numbers, at least one row'
        )
    return DatasetMetadata(
        folder,
        version,
        float(fps),
        str(info.get('robot_type') or ''),
        info['features'],
        _read_tasks(folder, version),
        episodes,
        _read_modality(modality_path) if modality_path.is_file() else {},
        info,
    )


def _check_features(folder: Path, info: Mapping[str, Any]) -> list[str]:
    """Return the names of the videos; raise ValueError if the columns are not described."""
    path, features = folder / 'meta' / 'info.json', info['features']
    if not isinstance(features, dict):
        raise ValueError(f'{path}: features is a {type(features).__name__}, want an object')
    for name, feature in features.items():
        if not isinstance(feature, dict) or not {'dtype', 'shape'} <= set(feature):
            raise ValueError(f'{path}: feature {name} has no dtype and shape')
        shape, names = feature['shape'], feature.get('names')
        if not isinstance(shape, list) or not all(_is_count(size, 1) for size in shape):
            raise ValueError(f'{path}: the shape of {name} is {shape!r}, want whole numbers')
        groups = names.values() if isinstance(names, dict) else [names or []]
        if not all(isinstance(group, list) for group in groups) or not all(
            isinstance(value, str) for group in groups for value in group
        ):
            raise ValueError(f'{path}: the names of {name} are {names!r:.80}, want texts')
    videos = [name for name, feature in features.items() if feature['dtype'] == 'video']
    patterns = ('data_path', 'video_path') if videos else ('data_path',)
    for pattern in patterns:
        if not isinstance(info.get(pattern), str):
            raise ValueError(f'{path}: {pattern} is {info.get(pattern)!r}, want a path pattern')
    return videos


def _read_modality(path: Path) -> dict[str, Any]:
    found = read_json(path)
    for group, keys in found.items():
        if not isinstance(keys, dict):
            raise ValueError(f'{path}: {group} is a {type(keys).__name__}, want an object')
        for key, part in keys.items():
            numbers = [part.get(n, 0) for n in ('start', 'end')] if isinstance(part, dict) else []
            column = part.get('original_key') if isinstance(part, dict) else None
            if not all(_is_count(number, 0) for number in numbers or [None]) or not (
                column is None or isinstance(column, str)
            ):
                raise ValueError(
                    f'{path}: {group} {key} is {part!r:.80}, want original_key, start and end'
                )
    return found


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def read_column(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as [rows] or, of lists, as float32 [rows n].

    Raise ValueError for lists of different lengths.
    """
    column = table[name].combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        lengths = sorted({len(row) for row in column})
        if len(lengths) > 1:
            raise ValueError(f'column {name}: rows of different lengths {lengths}')
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return values.reshape(len(table), -1)
    return column.to_numpy(zero_copy_only=False)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise FileNotFoundError or ValueError with the path and the reason."""
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: missing, so {path.parent.parent} is not a data set; '
            'make one with ./wam export or ./wam generate-demos'
        )
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f'{path}: is not JSON: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: want an object, got a {type(content).__name__}')
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; raise ValueError with the path and the reason."""
    if not path.is_file():
        raise ValueError(f'{path}: missing')
    try:
        text = path.read_text(encoding='utf-8')
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f'{path}: is not JSON lines: {error}') from error


def _read_tasks(folder: Path, version: str) -> tuple[str, ...]:
    """Return the task texts, ordered by their index, which must be 0, 1, 2, ..."""
    if version == 'v3.0':
        path = folder / 'meta' / 'tasks.parquet'
        table = _read_table(path)
        texts = next((n for n in table.column_names if n != 'task_index'), None)
        if texts is None or 'task_index' not in table.column_names:
            raise ValueError(f'{path}: want task_index and the texts, got {table.column_names}')
        found = dict(zip(table['task_index'].to_pylist(), table[texts].to_pylist(), strict=True))
    else:
        path = folder / 'meta' / 'tasks.jsonl'
        try:
            found = {entry['task_index']: entry['task'] for entry in read_lines(path)}
        except (KeyError, TypeError) as error:
            raise ValueError(f'{path}: want task_index and task in every line: {error}') from error
    if not all(_is_count(i, 0) for i in found) or sorted(found) != list(range(len(found))):
        raise ValueError(f'{path}: task_index is {list(found)}, want 0 to {len(found) - 1}')
    return tuple(str(found[i]) for i in range(len(found)))


def _read_episodes_v2(
    folder: Path, info: Mapping[str, Any], videos: Sequence[str]
) -> list[EpisodeEntry]:
    found, path = [], folder / 'meta' / 'episodes.jsonl'
    for entry in read_lines(path):
        try:
            index = entry['episode_index']
            at = {'episode_chunk': index // info.get('chunks_size', 1000), 'episode_index': index}
            segments = {
                name: VideoSegment(folder / info['video_path'].format(video_key=name, **at), 0.0)
                for name in videos
            }
            table = folder / info['data_path'].format(**at)
            found.append(EpisodeEntry(index, entry['length'], table, segments, entry))
        except (KeyError, TypeError, IndexError, ZeroDivisionError, AttributeError) as error:
            raise ValueError(
                f'{path}: line {len(found) + 1} with the path patterns of info.json: no {error}'
            ) from error
    return found


def _read_episodes_v30(
    folder: Path, info: Mapping[str, Any], videos: Sequence[str]
) -> list[EpisodeEntry]:
    paths = sorted((folder / 'meta' / 'episodes').glob('*/*.parquet'))
    if not paths:
        raise ValueError(f'{folder}/meta/episodes: has no parquet file')
    found = []
    for path in paths:
        table = _read_table(path)
        kept = [name for name in table.column_names if not name.startswith('stats/')]
        for entry in table.select(kept).to_pylist():
            try:
                segments = {
                    name: VideoSegment(
                        folder / _fill_pattern(info['video_path'], entry, f'videos/{name}', name),
                        entry[f'videos/{name}/from_timestamp'],
                    )
                    for name in videos
                }
                data = folder / _fill_pattern(info['data_path'], entry, 'data')
                index, length = entry['episode_index'], entry['length']
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(f'{path}: has no column {error}') from error
            found.append(EpisodeEntry(index, length, data, segments, entry))
    return sorted(found, key=lambda episode: episode.index)


def _fill_pattern(pattern: str, entry: Mapping[str, Any], prefix: str, key: str = '') -> str:
    return pattern.format(
        video_key=key,
        chunk_index=entry[f'{prefix}/chunk_index'],
        file_index=entry[f'{prefix}/file_index'],
    )


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f'{path}: cannot be read: {error}') from error

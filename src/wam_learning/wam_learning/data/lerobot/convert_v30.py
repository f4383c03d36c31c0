"""Convert a data set of ours from LeRobot v2.1 to v3.0, in place, before it gets its final name.

v3.0 keeps episodes, tasks and statistics in parquet files and adds quantiles to the statistics.
An episode keeps files of its own here, which the layout allows: nothing is encoded again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wam_learning.data.lerobot.dataset_metadata import (
    DatasetMetadata,
    EpisodeEntry,
    read_column,
    read_dataset_metadata,
)

DATA_PATH = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
VIDEO_PATH = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
EPISODES_PATH = Path('meta/episodes/chunk-000/file-000.parquet')
FILE_SIZES_MB = {'data_files_size_in_mb': 100, 'video_files_size_in_mb': 200}  # v3.0's defaults
QUANTILES = {'q01': 0.01, 'q10': 0.10, 'q50': 0.50, 'q90': 0.90, 'q99': 0.99}


def convert_to_v30(folder: Path) -> None:
    """Convert the data set in `folder`; raise ValueError if it is not v2.1."""
    metadata = read_dataset_metadata(folder)
    if metadata.version != 'v2.1':
        raise ValueError(f'{folder}: is {metadata.version}, only v2.1 can be converted')
    image_stats = _read_image_stats(folder, metadata)
    per_file = metadata.info['chunks_size']
    entries, values, first = [], [], 0
    for episode in metadata.episodes:
        columns = _read_numbers(metadata.read_rows(episode))
        values.append(columns)
        stats = {name: _compute_stats(rows) for name, rows in columns.items()}
        stats |= image_stats[episode.index]
        entries.append(_describe_episode(episode, metadata, first, per_file, stats))
        first += episode.length
        _move_files(folder, metadata, episode, per_file)
    _write_table(folder / EPISODES_PATH, pa.Table.from_pylist(entries))
    _write_tasks(folder / 'meta' / 'tasks.parquet', metadata.tasks)
    totals = {
        name: _compute_stats(np.concatenate([columns[name] for columns in values]))
        for name in values[0]
    }
    totals |= {
        name: _merge_image_stats([image_stats[e.index][name] for e in metadata.episodes])
        for name in metadata.video_features
    }
    (folder / 'meta' / 'stats.json').write_text(json.dumps(totals, indent=2) + '\n')
    for name in ('episodes.jsonl', 'tasks.jsonl', 'episodes_stats.jsonl'):
        (folder / 'meta' / name).unlink()
    for old in (*folder.glob('data/*'), *folder.glob('videos/chunk-*')):
        if old.is_dir() and not any(path.is_file() for path in old.rglob('*')):
            shutil.rmtree(old)
    _write_info(folder, metadata)


def _read_numbers(table: pa.Table) -> dict[str, np.ndarray]:
    """Return every numeric column as float64 [rows n]."""
    return {
        name: read_column(table, name).astype(np.float64).reshape(len(table), -1)
        for name in table.column_names
    }


def _compute_stats(rows: np.ndarray) -> dict[str, Any]:
    """Return the statistics of [rows n], each [n]."""
    found = {'min': rows.min(0), 'max': rows.max(0), 'mean': rows.mean(0), 'std': rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return {name: value.tolist() for name, value in found.items()} | {'count': [len(rows)]}


def _read_image_stats(
    folder: Path, metadata: DatasetMetadata
) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the image statistics of every episode, [channel 1 1] each, from v2.1's file."""
    lines = (folder / 'meta' / 'episodes_stats.jsonl').read_text().splitlines()
    return {
        entry['episode_index']: {name: entry['stats'][name] for name in metadata.video_features}
        for entry in map(json.loads, lines)
    }


def _merge_image_stats(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the statistics of several episodes' images together, weighted by their counts."""
    counts = np.array([part['count'][0] for part in parts], dtype=np.float64)
    stacked = {
        name: np.stack([np.asarray(part[name], dtype=np.float64) for part in parts])
        for name in parts[0]
        if name != 'count'
    }
    weights = (counts / counts.sum()).reshape(-1, *[1] * (stacked['mean'].ndim - 1))
    mean = (weights * stacked['mean']).sum(0)
    square = (weights * (stacked['std'] ** 2 + stacked['mean'] ** 2)).sum(0)
    found = {
        'min': stacked['min'].min(0),
        'max': stacked['max'].max(0),
        'mean': mean,
        'std': np.sqrt(np.maximum(square - mean**2, 0.0)),
    }
    return {name: value.tolist() for name, value in found.items()} | {'count': [int(counts.sum())]}


def _describe_episode(
    episode: EpisodeEntry,
    metadata: DatasetMetadata,
    first_row: int,
    per_file: int,
    stats: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    chunk, file = divmod(episode.index, per_file)
    videos = {
        f'videos/{name}/{field}': value
        for name in metadata.video_features
        for field, value in (
            ('chunk_index', chunk),
            ('file_index', file),
            ('from_timestamp', 0.0),
            ('to_timestamp', episode.length / metadata.fps),
        )
    }
    return {
        **episode.fields,
        'episode_index': episode.index,
        'length': episode.length,
        'tasks': list(episode.fields.get('tasks', ())),
        'data/chunk_index': chunk,
        'data/file_index': file,
        'dataset_from_index': first_row,
        'dataset_to_index': first_row + episode.length,
        **videos,
        **{
            f'stats/{name}/{field}': value
            for name, fields in stats.items()
            for field, value in fields.items()
        },
        'meta/episodes/chunk_index': 0,
        'meta/episodes/file_index': 0,
    }


def _move_files(
    folder: Path, metadata: DatasetMetadata, episode: EpisodeEntry, per_file: int
) -> None:
    chunk, file = divmod(episode.index, per_file)
    moves = {episode.table_path: DATA_PATH.format(chunk_index=chunk, file_index=file)}
    for name in metadata.video_features:
        moves[episode.videos[name].path] = VIDEO_PATH.format(
            video_key=name, chunk_index=chunk, file_index=file
        )
    for old, new in moves.items():
        target = folder / new
        target.parent.mkdir(parents=True, exist_ok=True)
        old.rename(target)


def _write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the texts as the pandas index of task_index, as LeRobot reads them."""
    table = pa.table({'task_index': np.arange(len(tasks)), '__index_level_0__': list(tasks)})
    description = {
        'index_columns': ['__index_level_0__'],
        'column_indexes': [],
        'columns': [
            {
                'name': 'task_index',
                'field_name': 'task_index',
                'pandas_type': 'int64',
                'numpy_type': 'int64',
                'metadata': None,
            },
            {
                'name': None,
                'field_name': '__index_level_0__',
                'pandas_type': 'unicode',
                'numpy_type': 'object',
                'metadata': None,
            },
        ],
    }
    _write_table(path, table.replace_schema_metadata({'pandas': json.dumps(description)}))


def _write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_info(folder: Path, metadata: DatasetMetadata) -> None:
    info = dict(metadata.info)
    for name in ('total_videos', 'total_chunks'):
        info.pop(name, None)
    info |= {
        'codebase_version': 'v3.0',
        'data_path': DATA_PATH,
        'video_path': VIDEO_PATH,
        **FILE_SIZES_MB,
    }
    (folder / 'meta' / 'info.json').write_text(json.dumps(info, indent=2) + '\n')

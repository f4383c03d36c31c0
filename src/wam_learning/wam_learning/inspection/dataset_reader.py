"""Read the columns of a data set's episodes for an inspection; what is damaged becomes a finding.

Training reads by `data.episode_arrays`, which stops at the first fault. Here every episode that
can be read is used and every one that cannot is named.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from wam_learning.data.finding import ERROR, WARNING, Finding
from wam_learning.data.lerobot.column_mapping import list_value_names
from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata, EpisodeEntry, read_column

ROW_COLUMNS = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')
VECTOR_PREFIXES = ('observation.', 'action')


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeColumns:
    """Hold the numeric columns of one episode."""

    entry: EpisodeEntry
    scalars: Mapping[str, np.ndarray]  # name -> [rows]
    vectors: Mapping[str, np.ndarray]  # name -> float [rows n]

    @property
    def rows(self) -> int:
        return self.entry.length


def read_episodes(metadata: DatasetMetadata, findings: list[Finding]) -> Iterator[EpisodeColumns]:
    """Yield the episodes that can be read; add a finding for each of the others."""
    names = list_vector_names(metadata)
    for entry in metadata.episodes:
        where = f'episode {entry.index}'
        try:
            table = metadata.read_rows(entry)
            missing = [n for n in (*names, 'task_index') if n not in table.column_names]
            if missing:
                raise ValueError(
                    f'{shorten(metadata, entry.table_path)}: has no column {", ".join(missing)}; '
                    f'it has {", ".join(table.column_names)}'
                )
            yield EpisodeColumns(
                entry,
                {n: read_column(table, n).ravel() for n in ROW_COLUMNS if n in table.column_names},
                {n: _read_vectors(metadata, table, n) for n in names},
            )
        except (ValueError, TypeError, pa.ArrowException) as error:
            text = str(error).replace(f'{metadata.folder}/', '')
            findings.append(
                Finding(ERROR, where, text, fix='copy the file again, or remove the episode')
            )


def list_vector_names(metadata: DatasetMetadata) -> list[str]:
    """Return the names of the float columns of states and actions."""
    return [
        name
        for name, feature in metadata.features.items()
        if name.startswith(VECTOR_PREFIXES) and str(feature['dtype']).startswith('float')
    ]


def list_names(metadata: DatasetMetadata, column: str, count: int) -> list[str]:
    """Return the names of a column's values, or their numbers."""
    names = list_value_names(metadata.features[column])
    if names is None or len(names) != count:
        return [f'{column}[{i}]' for i in range(count)]
    return [f'{column} {name}' for name in names]


def shorten(metadata: DatasetMetadata, path: Path) -> str:
    """Return a path relative to the data set."""
    return path.relative_to(metadata.folder).as_posix()


def check_totals(metadata: DatasetMetadata) -> Iterator[Finding]:
    """Yield where info.json and the list of episodes disagree."""
    found = {
        'total_episodes': len(metadata.episodes),
        'total_frames': sum(entry.length for entry in metadata.episodes),
        'total_tasks': len(metadata.tasks),
    }
    for name, count in found.items():
        value = metadata.info.get(name, count)
        if value != count:
            yield Finding(
                WARNING, 'meta/info.json', f'{name} is {value}', f'{count} listed', 'correct it'
            )
    indices = [entry.index for entry in metadata.episodes]
    if indices != list(range(len(indices))):
        yield Finding(
            WARNING,
            'meta/episodes',
            f'episode_index is {_abbreviate(indices)}',
            f'0 to {len(indices) - 1}, each once',
            'number the episodes again: trainers find rows by these numbers',
        )


def _abbreviate(values: Sequence[int]) -> str:
    return ', '.join(map(str, values[:5])) + (', ...' if len(values) > 5 else '')


def _read_vectors(metadata: DatasetMetadata, table: pa.Table, name: str) -> np.ndarray:
    values = read_column(table, name)
    values = values.reshape(len(table), -1).astype(np.float64)
    width = int(np.prod(metadata.features[name]['shape']))
    if values.shape[1] != width:
        raise ValueError(f'{name} has {values.shape[1]} values per row, info.json says {width}')
    return values

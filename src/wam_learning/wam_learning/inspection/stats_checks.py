"""Check that statistics files fit the rows they describe."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wam_learning.data import column_stats, gear_metadata
from wam_learning.data.finding import WARNING, Finding
from wam_learning.data.lerobot.column_mapping import KeySource, gather
from wam_learning.data.lerobot.dataset_metadata import (
    DatasetMetadata,
    read_json,
    read_lines,
)
from wam_learning.inspection.dataset_reader import EpisodeColumns, list_names
from wam_policy.core.robot.embodiment import Embodiment

TOLERANCE = 0.02  # of a column's range in the data set
MIN_RANGE = 1e-3
FIELDS = ('min', 'max', 'mean', 'std')  # of every version; quantiles differ in interpolation
STATS_FILE, RELATIVE_FILE = 'stats.json', 'relative_stats_dreamzero.json'
EPISODES_FILE = 'episodes_stats.jsonl'
FIX = 'compute it again: trainers normalize with it'


def check_stats(
    metadata: DatasetMetadata, episodes: Sequence[EpisodeColumns]
) -> Iterator[Finding]:
    """Yield the columns whose entries in stats.json do not fit all rows."""
    path = metadata.folder / 'meta' / STATS_FILE
    if not path.is_file() or not episodes:
        return
    try:
        stats = read_json(path)
    except ValueError as error:
        yield Finding(WARNING, f'meta/{STATS_FILE}', _reason(error), fix=FIX)
        return
    for name in episodes[0].vectors:
        values = np.concatenate([episode.vectors[name] for episode in episodes])
        names = list_names(metadata, name, values.shape[1])
        yield from _compare(f'meta/{STATS_FILE}', stats.get(name), values, names)


def check_episode_stats(
    metadata: DatasetMetadata, episodes: Sequence[EpisodeColumns]
) -> Iterator[Finding]:
    """Yield the first episode whose entry in v2.1's statistics does not fit its rows."""
    item = f'meta/{EPISODES_FILE}'
    if not (metadata.folder / 'meta' / EPISODES_FILE).is_file():
        return
    try:
        stats = read_episode_stats(metadata)
    except ValueError as error:
        yield Finding(WARNING, item, _reason(error), fix=FIX)
        return
    for episode in episodes:
        index = episode.entry.index
        if index not in stats:
            yield Finding(WARNING, item, f'has no episode {index}', fix=FIX)
            return
        for name, values in episode.vectors.items():
            names = list_names(metadata, name, values.shape[1])
            found = list(
                _compare(f'{item}, episode {index}', stats[index].get(name), values, names)
            )
            if found:
                yield from found
                return


def read_episode_stats(metadata: DatasetMetadata) -> dict[int, Mapping[str, Any]]:
    """Return v2.1's statistics by episode; empty without the file, ValueError if it is damaged."""
    path = metadata.folder / 'meta' / EPISODES_FILE
    if not path.is_file():
        return {}
    try:
        return {entry['episode_index']: dict(entry['stats']) for entry in read_lines(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: cannot be read: {error}') from error


def read_image_means(metadata: DatasetMetadata) -> dict[str, np.ndarray]:
    """Return the mean color of each video that has usable statistics, [3] from 0 to 1."""
    try:
        parts = list(read_episode_stats(metadata).values())
        path = metadata.folder / 'meta' / STATS_FILE
        parts += [] if parts or not path.is_file() else [read_json(path)]
    except ValueError:
        return {}  # a finding of its own
    found = {}
    for name in metadata.video_features:
        means = [_read_mean(part.get(name)) for part in parts]
        known = [mean for mean in means if mean is not None]
        if known:
            found[name] = np.mean(known, axis=0)
    return found


def _read_mean(entry: Any) -> np.ndarray | None:
    try:
        mean = np.asarray(entry['mean'], dtype=np.float64).ravel()
    except (KeyError, TypeError, ValueError):
        return None
    return mean if mean.shape == (3,) and np.isfinite(mean).all() and mean.max() <= 1 else None


def check_relative_stats(
    folder: Path,
    episodes: Sequence[EpisodeColumns],
    robot: Embodiment,
    sources: tuple[Sequence[KeySource], Sequence[KeySource]],
) -> Iterator[Finding]:
    """Yield the keys whose entries in DreamZero's statistics of relative actions do not fit."""
    path = folder / 'meta' / RELATIVE_FILE
    if not path.is_file() or not episodes:
        return
    try:
        stats = read_json(path)
    except ValueError as error:
        yield Finding(WARNING, f'meta/{RELATIVE_FILE}', _reason(error), fix=FIX)
        return
    states, actions = (
        [gather(group, episode.vectors) for episode in episodes] for group in sources
    )
    for key, expected in gear_metadata.build_relative_stats(robot, states, actions).items():
        spread = np.array(expected['max']) - np.array(expected['min'])
        names = [f'{key}[{i}]' for i in range(len(spread))]
        yield from _compare_fields(
            f'meta/{RELATIVE_FILE}', stats.get(key), expected, spread, names
        )


def _compare(item: str, entry: Any, values: np.ndarray, names: Sequence[str]) -> Iterator[Finding]:
    if not np.isfinite(values).all():
        return  # a finding of its own
    yield from _compare_fields(
        item, entry, column_stats.compute_stats(values), np.ptp(values, axis=0), names
    )


def _compare_fields(
    item: str,
    entry: Any,
    expected: Mapping[str, Sequence[float]],
    spread: np.ndarray,
    names: Sequence[str],
) -> Iterator[Finding]:
    if not isinstance(entry, dict):
        yield Finding(WARNING, item, f'has no entry for {names[0]}', fix=FIX)
        return
    for field in FIELDS:
        try:
            given = np.asarray(entry.get(field), dtype=np.float64).ravel()
        except (TypeError, ValueError):
            given = np.array([np.nan])
        if given.shape != spread.shape:
            yield Finding(
                WARNING,
                item,
                f'{field} of {names[0]} has {given.size} values',
                f'{spread.size}',
                FIX,
            )
            return
        error = np.abs(given - np.asarray(expected[field]))
        wrong = ~(error <= TOLERANCE * np.maximum(spread, MIN_RANGE))
        if wrong.any():
            worst = int(np.nan_to_num(error / np.maximum(spread, MIN_RANGE), nan=np.inf).argmax())
            yield Finding(
                WARNING,
                item,
                f'{field} of {names[worst]} is {given[worst]:.4g}, the rows give '
                f'{expected[field][worst]:.4g} ({int(wrong.sum())} of {wrong.size} values differ)',
                f'{100 * TOLERANCE:g} % of the range',
                FIX,
            )
            return


def _reason(error: Exception) -> str:
    return str(error).split(': ', 1)[-1]

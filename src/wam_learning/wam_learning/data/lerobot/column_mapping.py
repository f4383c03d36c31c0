"""Map the columns of a data set to the keys of a robot's model by name, never by position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_learning.data import gear_metadata
from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata
from wam_policy.core.robot.embodiment import Embodiment, ModelKey


@dataclass(frozen=True, slots=True)
class KeySource:
    """Locate the values of one model key: elements of a column, in the key's order."""

    key: str
    column: str
    elements: tuple[int, ...]


def map_vectors(
    metadata: DatasetMetadata, robot: Embodiment
) -> tuple[tuple[KeySource, ...], tuple[KeySource, ...]]:
    """Return the sources of the state keys and of the action keys, in the model's order.

    modality.json names the slice of a key; names of values in info.json order its elements and
    must not contradict it. Without modality.json every value is found by its name. Raise
    ValueError with what cannot be found or contradicts.
    """
    return (
        _map_group(metadata, 'state', robot.state_keys, gear_metadata.OBS_STATE),
        _map_group(metadata, 'action', robot.action_keys, gear_metadata.ACTION),
    )


def map_cameras(metadata: DatasetMetadata, robot: Embodiment) -> dict[str, str]:
    """Return camera key -> video feature; raise ValueError with those that are missing."""
    named = metadata.modality.get('video', {})
    found = {
        camera.key: named.get(camera.key, {}).get(
            'original_key', gear_metadata.OBS_IMAGES_PREFIX + camera.key
        )
        for camera in robot.cameras
    }
    missing = [f'{key} ({f})' for key, f in found.items() if f not in metadata.video_features]
    if missing:
        raise ValueError(
            f'{metadata.folder}: has no video {", ".join(missing)} for {robot.name}; its videos: '
            f'{", ".join(metadata.video_features) or "none"}. Name them in meta/modality.json'
        )
    return found


def gather(sources: Sequence[KeySource], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return float32 [rows values]: the elements of `sources` in their order."""
    parts = [columns[source.column][:, source.elements] for source in sources]
    return np.concatenate(parts, axis=1).astype(np.float32)


def list_value_names(feature: Mapping[str, Any]) -> list[str] | None:
    """Return the names of a column's values: a list, or lists below keys; None without names."""
    names = feature.get('names')
    if isinstance(names, Mapping):
        names = [name for group in names.values() for name in group]
    return [str(name) for name in names] if names else None


def _map_group(
    metadata: DatasetMetadata, group: str, keys: Sequence[ModelKey], default_column: str
) -> tuple[KeySource, ...]:
    slices = metadata.modality.get(group)
    if slices is None:
        return tuple(_map_by_names(metadata, key, default_column) for key in keys)
    missing = [key.key for key in keys if key.key not in slices]
    if missing:
        raise ValueError(
            f'{metadata.folder}/meta/modality.json: {group} has no {", ".join(missing)}; it has '
            f'{", ".join(slices) or "nothing"}'
        )
    return tuple(_map_by_slice(metadata, key, slices[key.key], default_column) for key in keys)


def _map_by_names(metadata: DatasetMetadata, key: ModelKey, column: str) -> KeySource:
    names = list_value_names(_feature(metadata, column))
    if names is None:
        raise ValueError(
            f'{metadata.folder}: the values of {column} have no names in meta/info.json and there '
            f'is no meta/modality.json, so {key.key} cannot be found; add one of them'
        )
    wanted = gear_metadata.value_names([key])
    missing = [name for name in wanted if names.count(name) != 1]
    if missing:
        raise ValueError(
            f'{metadata.folder}: {column} has not exactly one {", ".join(missing)} for {key.key}; '
            f'its values: {", ".join(names)}. Name the slice of {key.key} in meta/modality.json'
        )
    return KeySource(key.key, column, tuple(names.index(name) for name in wanted))


def _map_by_slice(
    metadata: DatasetMetadata, key: ModelKey, part: Mapping[str, Any], default_column: str
) -> KeySource:
    where = f'{metadata.folder}/meta/modality.json: {key.key}'
    column = part.get('original_key') or default_column
    feature = _feature(metadata, column)
    width = int(np.prod(feature['shape']))
    start, end = part.get('start', 0), part.get('end', width)
    if not 0 <= start < end <= width or end - start != key.size:
        raise ValueError(
            f'{where} is {column}[{start}:{end}] of {width} values, want {key.size} values'
        )
    if part.get('absolute') is False:
        raise ValueError(f'{where} is relative; export absolute values')
    elements, wanted = range(start, end), gear_metadata.value_names([key])
    names = list_value_names(feature)
    if names is None or len(names) != width or not set(wanted) & set(names):
        # named in another way: the slice's order
        return KeySource(key.key, column, tuple(elements))
    inside = names[start:end]
    if sorted(inside) != sorted(wanted):
        raise ValueError(
            f'{where} is {column}[{start}:{end}], which meta/info.json names {", ".join(inside)}; '
            f'want {", ".join(wanted)}'
        )
    return KeySource(key.key, column, tuple(start + inside.index(name) for name in wanted))


def _feature(metadata: DatasetMetadata, column: str) -> Mapping[str, Any]:
    if column not in metadata.features:
        raise ValueError(
            f'{metadata.folder}: has no column {column}; it has {", ".join(metadata.features)}'
        )
    return metadata.features[column]

"""Read and write the normalization statistics of a checkpoint: `experiment_cfg/metadata.json`.

Covers the schema of the file only; the arithmetic is in `model.normalizer`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

STATISTIC_NAMES = ('q01', 'q99', 'min', 'max', 'mean', 'std')


@dataclass(frozen=True, slots=True)
class Statistics:
    """Hold the statistics of one key, each [n]; units are those of the key."""

    q01: np.ndarray
    q99: np.ndarray
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        for name in STATISTIC_NAMES:
            values = np.asarray(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shapes = {name: getattr(self, name).shape for name in STATISTIC_NAMES}
        if len(set(shapes.values())) != 1 or self.q01.ndim != 1:
            raise ValueError(f'want six lists of one length, got shapes {shapes}')
        for name in STATISTIC_NAMES:
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f'{name} is not finite')

    @property
    def width(self) -> int:
        return len(self.q01)


@dataclass(frozen=True, slots=True)
class EmbodimentMetadata:
    """Hold the metadata of one embodiment tag in a checkpoint.

    `state` and `action` map keys to statistics; those of relative action keys are statistics of
    (action - state at the query). `resolution` maps video keys to (width, height).
    """

    name: str
    state: MappingProxyType[str, Statistics]
    action: MappingProxyType[str, Statistics]
    resolution: MappingProxyType[str, tuple[int, int]]
    synthetic: bool = False  # for random weights, not measured on a robot


def parse_metadata(content: dict[str, Any]) -> dict[str, EmbodimentMetadata]:
    """Parse the content of metadata.json; errors name tag, modality and key."""
    return {name: _parse_embodiment(name, entry) for name, entry in content.items()}


def _parse_embodiment(name: str, entry: dict[str, Any]) -> EmbodimentMetadata:
    try:
        statistics = entry['statistics']
        state, action = (
            _parse_statistics(statistics[kind], f'{name}/{kind}') for kind in ('state', 'action')
        )
        video = entry.get('modalities', {}).get('video', {})
        resolution = {
            key: (int(view['resolution'][0]), int(view['resolution'][1]))
            for key, view in video.items()
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f'metadata.json: tag {name!r} is malformed at {error}') from error
    return EmbodimentMetadata(
        name,
        MappingProxyType(state),
        MappingProxyType(action),
        MappingProxyType(resolution),
        bool(entry.get('synthetic', False)),
    )


def _parse_statistics(group: dict[str, Any], place: str) -> dict[str, Statistics]:
    found = {}
    for key, lists in group.items():
        lacking = [name for name in STATISTIC_NAMES if name not in lists]
        if lacking:
            raise ValueError(f'metadata.json: {place}/{key} has no {", ".join(lacking)}')
        try:
            found[key] = Statistics(**{name: lists[name] for name in STATISTIC_NAMES})
        except ValueError as error:
            raise ValueError(f'metadata.json: {place}/{key}: {error}') from error
    return found


def read_metadata(path: Path) -> dict[str, EmbodimentMetadata]:
    """Read metadata.json."""
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}: not JSON: {error}') from error
    return parse_metadata(content)


def to_dict(embodiments: dict[str, EmbodimentMetadata]) -> dict[str, Any]:
    """Give the JSON content for tags: the inverse of `parsed`."""
    return {tag.name: _embodiment_to_dict(tag) for tag in embodiments.values()}


def _embodiment_to_dict(metadata: EmbodimentMetadata) -> dict[str, Any]:
    groups = {'state': metadata.state, 'action': metadata.action}
    statistics = {
        kind: {
            key: {name: getattr(values, name).tolist() for name in STATISTIC_NAMES}
            for key, values in group.items()
        }
        for kind, group in groups.items()
    }
    shapes = {
        kind: {
            key: {
                'absolute': True,
                'rotation_type': None,
                'shape': [values.width],
                'continuous': True,
            }
            for key, values in group.items()
        }
        for kind, group in groups.items()
    }
    video = {
        key: {'resolution': list(size), 'channels': 3} for key, size in metadata.resolution.items()
    }
    return {
        'embodiment_tag': metadata.name,
        'synthetic': metadata.synthetic,
        'statistics': statistics,
        'modalities': {'video': video, **shapes},
    }

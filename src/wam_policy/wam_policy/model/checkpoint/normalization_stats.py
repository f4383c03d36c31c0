"""Normalisation statistics of a checkpoint: `experiment_cfg/metadata.json`, read strictly.

Knows the file's schema, not the arithmetic (see normaliser) and not the robot (see core).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

NAMES = ('q01', 'q99', 'min', 'max', 'mean', 'std')


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
        for name in NAMES:
            values = np.asarray(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shapes = {name: getattr(self, name).shape for name in NAMES}
        if len(set(shapes.values())) != 1 or self.q01.ndim != 1:
            raise ValueError(f'want six lists of one length, got shapes {shapes}')
        for name in NAMES:
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f'{name} is not finite')

    @property
    def width(self) -> int:
        return len(self.q01)


@dataclass(frozen=True, slots=True)
class Tag:
    """Hold what a checkpoint knows about one embodiment tag.

    `state` and `action` map keys to statistics; those of relative action keys are statistics of
    (action - state at the query). `resolution` maps video keys to (width, height).
    """

    name: str
    state: MappingProxyType[str, Statistics]
    action: MappingProxyType[str, Statistics]
    resolution: MappingProxyType[str, tuple[int, int]]
    synthetic: bool = False  # made up for random weights, measured on no robot


def parsed(content: dict[str, Any]) -> dict[str, Tag]:
    """Parse the content of metadata.json; a fault names tag, modality, key and what is wrong."""
    return {name: _tag(name, entry) for name, entry in content.items()}


def _tag(name: str, entry: dict[str, Any]) -> Tag:
    try:
        statistics = entry['statistics']
        state, action = (
            _group(statistics[kind], f'{name}/{kind}') for kind in ('state', 'action')
        )
        video = entry.get('modalities', {}).get('video', {})
        resolution = {
            key: (int(view['resolution'][0]), int(view['resolution'][1]))
            for key, view in video.items()
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f'metadata.json: tag {name!r} is malformed at {error}') from error
    return Tag(
        name,
        MappingProxyType(state),
        MappingProxyType(action),
        MappingProxyType(resolution),
        bool(entry.get('synthetic', False)),
    )


def _group(group: dict[str, Any], place: str) -> dict[str, Statistics]:
    found = {}
    for key, lists in group.items():
        lacking = [name for name in NAMES if name not in lists]
        if lacking:
            raise ValueError(f'metadata.json: {place}/{key} has no {", ".join(lacking)}')
        try:
            found[key] = Statistics(**{name: lists[name] for name in NAMES})
        except ValueError as error:
            raise ValueError(f'metadata.json: {place}/{key}: {error}') from error
    return found


def read(path: Path) -> dict[str, Tag]:
    """Read metadata.json."""
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}: not JSON: {error}') from error
    return parsed(content)


def written(tags: dict[str, Tag]) -> dict[str, Any]:
    """Give the JSON content for tags: the inverse of `parsed`."""
    return {tag.name: _entry(tag) for tag in tags.values()}


def _entry(tag: Tag) -> dict[str, Any]:
    groups = {'state': tag.state, 'action': tag.action}
    statistics = {
        kind: {
            key: {name: getattr(values, name).tolist() for name in NAMES}
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
        key: {'resolution': list(size), 'channels': 3} for key, size in tag.resolution.items()
    }
    return {
        'embodiment_tag': tag.name,
        'synthetic': tag.synthetic,
        'statistics': statistics,
        'modalities': {'video': video, **shapes},
    }

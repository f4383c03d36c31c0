"""Strict reader for YAML documents: every error gives the file, the key and the fix."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml


class StrictMapping:
    """Reader of one mapping; `reject_unknown_keys` rejects the keys that were not read."""

    def __init__(self, values: object, location: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f'{location}: want a mapping, got {values!r}')
        self.location = location
        self._values = values
        self._read_keys: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a file; reject duplicate keys, of which YAML keeps only the last."""
        try:
            # a subclass of SafeLoader
            text = path.read_text(encoding='utf-8')
            values = yaml.load(text, Loader=_UniqueKeyLoader)  # nosec B506
        except yaml.YAMLError as error:
            raise ValueError(f'{path}: invalid YAML document: {error}') from error
        return cls(values, f'{path}')

    def key_path(self, key: str) -> str:
        return (
            f'{self.location}: {key}'
            if self.location.endswith('.yaml')
            else f'{self.location}.{key}'
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def read(self, key: str) -> Any:
        if key not in self._values:
            raise ValueError(f'{self.key_path(key)} is missing; add it')
        self._read_keys.add(key)
        return self._values[key]

    def read_str(self, key: str) -> str:
        value = self.read(key)
        if not isinstance(value, str) or not value:
            raise ValueError(f'{self.key_path(key)}: want a non-empty string, got {value!r}')
        return value

    def read_float(self, key: str, *, above: float = -math.inf) -> float:
        return parse_float(self.read(key), self.key_path(key), above=above)

    def read_int(self, key: str, *, above: int = 0) -> int:
        value = self.read(key)
        if isinstance(value, bool) or not isinstance(value, int) or value <= above:
            raise ValueError(f'{self.key_path(key)}: want an integer above {above}, got {value!r}')
        return value

    def read_floats(self, key: str, count: int) -> tuple[float, ...]:
        return tuple(
            parse_float(value, self.key_path(key)) for value in self._read_list(key, count)
        )

    def read_strs(self, key: str, *, allow_empty: bool = False) -> tuple[str, ...]:
        values = self._read_list(key, None)
        if not values and not allow_empty:
            raise ValueError(f'{self.key_path(key)}: the list is empty; give at least one')
        if not all(isinstance(value, str) and value for value in values):
            raise ValueError(f'{self.key_path(key)}: want a list of names, got {values!r}')
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f'{self.key_path(key)}: duplicate {", ".join(twice)}; remove one')
        return tuple(values)

    def read_mapping(self, key: str) -> 'StrictMapping':
        return StrictMapping(self.read(key), self.key_path(key))

    def read_mappings[T](
        self, key: str, read: Callable[[str, 'StrictMapping'], T]
    ) -> tuple[T, ...]:
        """Read each entry of a mapping of mappings, in the order of the document."""
        outer = self.read_mapping(key)
        read_all = []
        for name in outer:
            inner = outer.read_mapping(name)
            read_all.append(read(name, inner))
            inner.reject_unknown_keys()
        return tuple(read_all)

    def read_frozen(self, key: str) -> MappingProxyType[str, Any]:
        """Return a mapping without checks, for another reader; lists become tuples."""
        return _freeze(self.read_mapping(key)._values)

    def compute_sha256(self) -> str:
        """Return the SHA-256 of the content, independent of comments and layout."""
        text = json.dumps(self._values, sort_keys=True, separators=(',', ':'))
        return hashlib.sha256(text.encode()).hexdigest()

    def reject_unknown_keys(self) -> None:
        unknown = [key for key in self._values if key not in self._read_keys]
        if unknown:
            raise ValueError(
                f'{self.key_path(str(unknown[0]))} is not a known key; remove it or '
                f'correct its spelling (known here: '
                f'{", ".join(sorted(self._read_keys))})'
            )

    def _read_list(self, key: str, count: int | None) -> list[Any]:
        values = self.read(key)
        if not isinstance(values, list) or count not in (None, len(values)):
            many = 'a list' if count is None else f'a list of {count}'
            raise ValueError(f'{self.key_path(key)}: want {many}, got {values!r}')
        return values


def parse_float(value: object, key_path: str, *, above: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f'{key_path}: want a finite number, got {value!r}')
    if value <= above:
        raise ValueError(f'{key_path}: want a number above {above:g}, got {value!r}')
    return float(value)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Load plain values only and reject duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.constructor.ConstructorError(
                    None, None, f'key {key!r} is not a string', key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'duplicate key {key}', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=True)


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return tuple(_freeze(inner) for inner in value)
    return value

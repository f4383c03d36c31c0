"""Values in nested maps and lists of a message, addressed by a path of keys and indices."""

from collections.abc import Mapping
from typing import Any

import numpy as np

KeyPath = tuple[str | int, ...]  # most servers use one flat key; an integer indexes a list


class ProfileMismatch(ValueError):
    """Report a message that differs from its server profile."""


def set_nested(message: dict[Any, Any], path: KeyPath, value: Any) -> None:
    """Set a value, creating the maps on the way."""
    for key in path[:-1]:
        message = message.setdefault(key, {})
    message[path[-1]] = value


def get_nested(message: Any, path: KeyPath) -> Any:
    """Return a value; raises ProfileMismatch if it is missing."""
    value: Any = message
    for key in path:
        try:
            if isinstance(value, Mapping) == isinstance(key, int):
                raise KeyError(key)
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise ProfileMismatch(f'{format_path(path)} is missing') from None
    return value


def merge_nested(message: dict[Any, Any], more: Mapping[Any, Any]) -> None:
    """Add the values of `more`, map by map."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(message.get(key), dict):
            merge_nested(message[key], value)
        else:
            message[key] = value


def format_path(path: KeyPath) -> str:
    """Return a path as text."""
    return '.'.join(map(str, path))


def describe_value(value: object) -> str:
    """Return a short text of a value for an error."""
    if isinstance(value, np.ndarray):
        return f'{value.dtype} {list(value.shape)}'
    return f'{value!r:.60}'

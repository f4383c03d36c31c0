"""Answers of a server as one array [rows columns], whatever their axes and keys are.

A server may answer one array, an array per group of joints under a key of its own, a list of rows
or a list of maps; with a batch axis, or with the rows split into frames. Columns that drive
nothing are cut off. Each function has its inverse next to it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wam_policy.servers.mapping.nested_keys import (
    ProfileMismatch,
    describe_value,
    format_path,
    get_nested,
    set_nested,
)
from wam_policy.servers.profile_fields import KeyPath, ServerProfile

MAX_ROWS = 1000
DEFAULT_AXES = ('rows', 'columns')


def collect_rows(profile: ServerProfile, message: Any) -> np.ndarray:
    """Return the driven columns of an answer, float64 [horizon or fewer, columns].

    Raises ProfileMismatch for a wrong type, shape or a value that is not finite.
    """
    value = message
    if profile.actions_key is not None and isinstance(message, dict | list):
        value = get_nested(message, profile.actions_key)
    rows = np.hstack(
        [
            _select_columns(
                profile, key, _to_rows(profile, key, _select_part(profile, value, key))
            )
            for key in _list_part_keys(profile)
        ]
    )
    if not np.isfinite(rows).all():
        raise ProfileMismatch('the actions contain NaN or infinity')
    return rows


def spread_rows(profile: ServerProfile, rows: np.ndarray) -> Any:
    """Invert `collect_rows`: return the answer for driven columns [rows columns], float32."""
    parts: dict[KeyPath, np.ndarray] = {}
    first = 0
    for key in _list_part_keys(profile):
        padded = []
        for group in profile.action_columns:
            if group.key != key:
                continue
            if group.ignored:
                padded.append(np.zeros((len(rows), group.width)))
            else:
                padded.append(rows[:, first : first + group.width])
                first += group.width
        parts[key] = _from_rows(profile, np.hstack(padded).astype(np.float32))
    if profile.row_maps:
        value: Any = [
            _make_map({key: part[i] for key, part in parts.items()}) for i in range(len(rows))
        ]
    elif () in parts:
        value = parts[()]
        value = value.tolist() if profile.action_encoding == 'lists' else value
    else:
        value = _make_map(parts)
    if profile.actions_key is None:
        return value
    if isinstance(profile.actions_key[0], int):
        return [value, {}]
    message: dict[str, Any] = {}
    set_nested(message, profile.actions_key, value)
    return message


def _list_part_keys(profile: ServerProfile) -> list[KeyPath]:
    """Return the keys of the arrays of an answer in order; one empty key: a single array."""
    return list(dict.fromkeys(group.key for group in profile.action_columns))


def _select_part(profile: ServerProfile, value: Any, key: KeyPath) -> Any:
    if profile.row_maps:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_ROWS:
            raise ProfileMismatch(
                f'the answer is {describe_value(value)}, want a list of maps, one per row'
            )
        return [get_nested(row, key) for row in value]
    return get_nested(value, key) if key else value


def _to_rows(profile: ServerProfile, key: KeyPath, value: Any) -> np.ndarray:
    """Return an array [rows columns] of one part."""
    width = sum(group.width for group in profile.action_columns if group.key == key)
    array = _to_array(value)
    axes = profile.action_axes
    where = f' under {format_path(key)}' if key else ''
    wanted = f'{[profile.horizon, width]}'
    if array is None or array.ndim != len(axes):
        if array is not None and array.ndim == len(axes) - 1 == 1 and width == 1:
            array = array[:, None]  # a list of numbers: one column
        else:
            raise ProfileMismatch(
                f'the answer{where} is {describe_value(value)}, want actions {wanted} '
                f'({profile.name}: horizon and joints; axes {", ".join(axes)})'
            )
    if 'batch' in axes:
        if array.shape[axes.index('batch')] != 1:
            raise ProfileMismatch(
                f'the answer{where} is {describe_value(value)}, want a batch of 1'
            )
        array = array.take(0, axes.index('batch'))
        axes = tuple(axis for axis in axes if axis != 'batch')
    if axes == ('columns',):
        array = array[None]
    elif axes == ('columns', 'frames', 'rows'):
        array = array.transpose(1, 2, 0).reshape(-1, array.shape[0])
    if profile.drops_extra_columns and array.ndim == 2:
        array = array[:, :width]
    count = len(array)
    good = count >= profile.horizon if profile.drops_extra_rows else count == profile.horizon
    if not good or count > MAX_ROWS or array.shape[1] != width:
        raise ProfileMismatch(
            f'the answer{where} is {describe_value(value)}, want actions {wanted} '
            f'({profile.name}: horizon and joints)'
        )
    return array[: profile.horizon].astype(np.float64)


def _from_rows(profile: ServerProfile, rows: np.ndarray) -> np.ndarray:
    """Invert `_to_rows`."""
    axes = tuple(axis for axis in profile.action_axes if axis != 'batch')
    if axes == ('columns',):
        rows = rows[0]
    elif axes == ('columns', 'frames', 'rows'):
        frames = len(rows) // profile.rows_per_frame
        rows = rows.reshape(frames, profile.rows_per_frame, -1).transpose(2, 0, 1)
    return rows[None] if 'batch' in profile.action_axes else rows


def _select_columns(profile: ServerProfile, key: KeyPath, rows: np.ndarray) -> np.ndarray:
    """Cut off the columns that drive nothing."""
    used: list[int] = []
    first = 0
    for group in profile.action_columns:
        if group.key == key:
            used += [] if group.ignored else range(first, first + group.width)
            first += group.width
    return rows[:, used]


def _to_array(value: Any) -> np.ndarray | None:
    """Return a numeric array of an array, or of a list of numbers or arrays; None otherwise."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind == 'f' else None
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ROWS:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):  # rows of different lengths
        return None
    return array.astype(np.float64) if array.dtype.kind in 'fiu' else None


def _make_map(parts: Mapping[KeyPath, np.ndarray]) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for key, part in parts.items():
        set_nested(message, key, part)
    return message

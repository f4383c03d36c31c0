"""Strict codec for messages of the OpenPI protocol: msgpack with arrays as tagged maps.

Notable:
- an array is a view of the received bytes, so a claimed size allocates no memory;
- only the numeric dtypes in DTYPES are accepted: no objects, pickle or extension types;
- lists and maps have size limits, so that a short message cannot request a large allocation.
The tags are those of the `openpi-client` package; both sides can be exchanged with it.
"""

import math
from typing import Any

import msgpack
import numpy as np

DTYPES = frozenset(
    f'{order}{kind}'
    for kind in ('f2', 'f4', 'f8', 'i2', 'i4', 'i8', 'u2', 'u4', 'u8')
    for order in '<>'
) | {'|u1', '|i1', '|b1'}
MAX_DIMENSIONS = 6
MAX_LIST_ITEMS = 4096  # a state has fewer than 100
MAX_MAP_KEYS = 256
MAX_TEXT_BYTES = 64 * 1024


class MalformedMessage(ValueError):
    """Report a message that is not valid in this protocol."""


def pack(value: Any) -> bytes:
    """Encode plain values and numeric arrays; raises MalformedMessage for anything else."""
    try:
        return msgpack.Packer(default=_encode_array).pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedMessage(f'cannot encode: {error}') from error


def unpack(raw: str | bytes) -> Any:
    """Decode a message into plain values and read-only arrays; raises MalformedMessage."""
    if isinstance(raw, str):
        raise MalformedMessage(f'want a binary message, got text: {raw!r:.200}')
    try:
        return msgpack.unpackb(
            raw,
            object_hook=_decode_array,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=len(raw),
            max_array_len=MAX_LIST_ITEMS,
            max_map_len=MAX_MAP_KEYS,
            max_ext_len=0,
        )
    except MalformedMessage:
        raise
    # msgpack raises its own exceptions, ValueError and, for invalid UTF-8, UnicodeError
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise MalformedMessage(f'cannot decode: {error or type(error).__name__}') from error


def unpack_request(raw: str | bytes) -> dict[str, Any]:
    """Decode a message that must be a map with string keys; raises MalformedMessage."""
    value = unpack(raw)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MalformedMessage(f'want a map with string keys, got {type(value).__name__}')
    return value


def _encode_array(value: object) -> dict[bytes, Any]:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        kind = getattr(value, 'dtype', type(value).__name__)
        raise MalformedMessage(f'cannot encode: {kind}')
    # a view of contiguous bytes: the packer makes the only copy
    data = memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return {b'__ndarray__': True, b'data': data, b'dtype': value.dtype.str, b'shape': value.shape}


def _decode_array(found: dict[Any, Any]) -> Any:
    if b'__ndarray__' in found:
        return _parse_array(found)
    if b'__npgeneric__' in found:
        dtype, value = found.get(b'dtype'), found.get(b'data')
        if dtype not in DTYPES or not isinstance(value, int | float):
            raise MalformedMessage(
                f'scalar of dtype {dtype!r:.40}; want a number of a numeric dtype'
            )
        return value
    return found


def _parse_array(found: dict[Any, Any]) -> np.ndarray:
    dtype, shape, data = (found.get(key) for key in (b'dtype', b'shape', b'data'))
    if dtype not in DTYPES:
        raise MalformedMessage(f'array of dtype {dtype!r:.40}; want a numeric dtype')
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and side >= 0 for side in shape)
    ):
        raise MalformedMessage(
            f'array of shape {shape!r:.80}; want at most {MAX_DIMENSIONS} sizes'
        )
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        size = len(data) if isinstance(data, bytes) else 'no'
        raise MalformedMessage(f'array {dtype} {shape} with {size} bytes')
    return np.frombuffer(data, dtype).reshape(shape)

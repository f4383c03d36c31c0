"""Messages of the OpenPI protocol: msgpack, with arrays as tagged maps; strict in what it takes.

Notable:
- an array is a view of the received bytes: nothing is allocated for a size that was only claimed;
- whitelisted numeric dtypes only: no objects, no pickle, no extension types;
- containers have a limit each, so that a short message cannot ask for a long list.
The tags are those of the `openpi-client` package, whose messages this reads and writes.
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
MAX_LIST_ITEMS = 4096  # of a list; a state is far shorter
MAX_MAP_KEYS = 256  # of a map
MAX_TEXT_BYTES = 64 * 1024


class MalformedMessage(ValueError):
    """A message is not one of this protocol."""


def pack(value: Any) -> bytes:
    """Encode plain values and numeric arrays; MalformedMessage for anything else."""
    try:
        return msgpack.Packer(default=_encode_array).pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedMessage(f'cannot be sent: {error}') from error


def unpack(raw: str | bytes) -> Any:
    """Decode a message; its arrays cannot be written to. MalformedMessage says what was wrong."""
    if isinstance(raw, str):
        raise MalformedMessage(f'text where a binary message belongs: {raw!r:.200}')
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
    # the library raises its own kinds, ValueError and, for text that is no UTF-8, UnicodeError
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise MalformedMessage(f'no readable message: {error or type(error).__name__}') from error


def unpack_request(raw: str | bytes) -> dict[str, Any]:
    """Decode a message that has to be a map with texts as keys."""
    value = unpack(raw)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MalformedMessage(f'want a map with texts as keys, got {type(value).__name__}')
    return value


def _encode_array(value: object) -> dict[bytes, Any]:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        kind = getattr(value, 'dtype', type(value).__name__)
        raise MalformedMessage(f'cannot be sent: {kind}')
    # contiguous bytes without a copy of their own: the packer copies them into the message
    data = memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return {b'__ndarray__': True, b'data': data, b'dtype': value.dtype.str, b'shape': value.shape}


def _decode_array(found: dict[Any, Any]) -> Any:
    if b'__ndarray__' in found:
        return _parse_array(found)
    if b'__npgeneric__' in found:
        dtype, value = found.get(b'dtype'), found.get(b'data')
        if dtype not in DTYPES or not isinstance(value, int | float):
            raise MalformedMessage(f'scalar of dtype {dtype!r:.40}')
        return value
    return found


def _parse_array(found: dict[Any, Any]) -> np.ndarray:
    dtype, shape, data = (found.get(key) for key in (b'dtype', b'shape', b'data'))
    if dtype not in DTYPES:
        raise MalformedMessage(f'array of dtype {dtype!r:.40}; numbers only')
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and side >= 0 for side in shape)
    ):
        raise MalformedMessage(f'array of shape {shape!r:.80}')
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        size = len(data) if isinstance(data, bytes) else 'no'
        raise MalformedMessage(f'array {dtype} {shape} with {size} bytes')
    return np.frombuffer(data, dtype).reshape(shape)

"""Rules that all codecs share: what a received array may be, and limits of msgpack messages.

An array is a view of the received bytes, so a claimed size allocates no memory. Only the numeric
dtypes in DTYPES are accepted: no objects, structures, text or extension types, and no pickle.
"""

import math
from collections.abc import Callable
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
    """Report a message that is not valid in its encoding."""


def view_array(dtype: object, shape: object, data: object, *, order: str = 'C') -> np.ndarray:
    """Return a read-only array of `data`; raises MalformedMessage if the three do not match.

    `order` is that of the elements in `data`: C (rows first) or F (columns first).
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedMessage(f'array of dtype {dtype!r:.40}; want a numeric dtype')
    if (
        not isinstance(shape, list | tuple)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and side >= 0 for side in shape)
    ):
        raise MalformedMessage(
            f'array of shape {shape!r:.80}; want at most {MAX_DIMENSIONS} sizes'
        )
    if (
        not isinstance(data, bytes | memoryview)
        or len(data) != math.prod(shape) * np.dtype(dtype).itemsize
    ):
        size = len(data) if isinstance(data, bytes | memoryview) else 'no'
        raise MalformedMessage(f'array {dtype} {list(shape)} with {size} bytes')
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order='F' if order == 'F' else 'C')


def check_dtype(value: object) -> np.ndarray:
    """Return an array or numpy scalar as a contiguous array; MalformedMessage for other values."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        kind = getattr(value, 'dtype', type(value).__name__)
        raise MalformedMessage(f'cannot encode: {kind}')
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def view_bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array without a copy; the encoder makes the only one."""
    return memoryview(array.reshape(-1).view(np.uint8))


def pack_msgpack(value: Any, encode_array: Callable[[Any], Any]) -> bytes:
    """Encode with msgpack; `encode_array` converts what msgpack does not know."""
    try:
        return msgpack.Packer(default=encode_array).pack(value)
    except MalformedMessage:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedMessage(f'cannot encode: {error}') from error


def unpack_msgpack(raw: str | bytes, decode_map: Callable[[dict[Any, Any]], Any]) -> Any:
    """Decode with msgpack under the limits above; `decode_map` converts maps, innermost first."""
    if isinstance(raw, str):
        raise MalformedMessage(f'want a binary message, got text: {raw!r:.200}')
    try:
        return msgpack.unpackb(
            raw,
            object_hook=decode_map,
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

"""Codec of the OpenPI protocol: msgpack with arrays as maps with byte keys.

The tags are those of the `openpi-client` package; both sides can be exchanged with it.
"""

from typing import Any

from wam_policy.servers.codecs import wire_arrays
from wam_policy.servers.codecs.wire_arrays import DTYPES, MalformedMessage


def pack(value: Any) -> bytes:
    """Encode plain values and numeric arrays; raises MalformedMessage for anything else."""
    return wire_arrays.pack_msgpack(value, _encode_array)


def unpack(raw: str | bytes) -> Any:
    """Decode a message into plain values and read-only arrays; raises MalformedMessage."""
    return wire_arrays.unpack_msgpack(raw, _decode_map)


def _encode_array(value: object) -> dict[bytes, Any]:
    array = wire_arrays.check_dtype(value)
    return {
        b'__ndarray__': True,
        b'data': wire_arrays.view_bytes(array),
        b'dtype': array.dtype.str,
        b'shape': array.shape,
    }


def _decode_map(found: dict[Any, Any]) -> Any:
    if b'__ndarray__' in found:
        return wire_arrays.view_array(*(found.get(key) for key in (b'dtype', b'shape', b'data')))
    if b'__npgeneric__' in found:
        dtype, value = found.get(b'dtype'), found.get(b'data')
        if not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(value, int | float):
            raise MalformedMessage(
                f'scalar of dtype {dtype!r:.40}; want a number of a numeric dtype'
            )
        return value
    return found

"""Codec of the `msgpack-numpy` package: arrays as maps with byte keys for type, shape and data.

XPolicyLab uses it. That package also writes objects (as pickle), structures and complex numbers;
these are refused.
"""

from typing import Any

import numpy as np

from wam_policy.servers.codecs import wire_arrays
from wam_policy.servers.codecs.wire_arrays import MalformedMessage


def pack(value: Any) -> bytes:
    """Encode plain values and numeric arrays; raises MalformedMessage for anything else."""
    return wire_arrays.pack_msgpack(value, _encode_array)


def unpack(raw: str | bytes) -> Any:
    """Decode a message into plain values and read-only arrays; raises MalformedMessage."""
    return wire_arrays.unpack_msgpack(raw, _decode_map)


def _encode_array(value: object) -> dict[bytes, Any]:
    array = wire_arrays.check_dtype(value)
    data = wire_arrays.view_bytes(array)
    if isinstance(value, np.generic):
        return {b'nd': False, b'type': array.dtype.str, b'data': data}
    return {
        b'nd': True,
        b'type': array.dtype.str,
        b'kind': b'',
        b'shape': array.shape,
        b'data': data,
    }


def _decode_map(found: dict[Any, Any]) -> Any:
    if b'complex' in found:
        raise MalformedMessage('a complex number; want real numbers')
    if b'nd' not in found:
        return found
    kind = found.get(b'kind', b'')
    if kind not in (b'', ''):
        raise MalformedMessage(f'array of kind {kind!r:.40}; want a numeric dtype')
    if found[b'nd'] is True:
        return wire_arrays.view_array(*(found.get(key) for key in (b'type', b'shape', b'data')))
    return wire_arrays.view_array(found.get(b'type'), [], found.get(b'data')).item()

"""Codec of `/act` servers: JSON with arrays as the maps of the `json_numpy` package.

An array may also come as nested lists, which stay lists. The number of values is limited before
the text is parsed, because a short text can ask for many Python objects.
"""

import base64
import binascii
import json
from typing import Any, NoReturn

from wam_policy.servers.codecs import wire_arrays
from wam_policy.servers.codecs.wire_arrays import MalformedMessage

MAX_JSON_ITEMS = 4_000_000  # three 640x360 RGB images as lists are 2 million


def pack(value: Any) -> bytes:
    """Encode plain values and numeric arrays; raises MalformedMessage for anything else."""
    try:
        return json.dumps(
            value, default=_encode_array, allow_nan=False, separators=(',', ':')
        ).encode()
    except MalformedMessage:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f'cannot encode: {error}') from error


def unpack(raw: str | bytes) -> Any:
    """Decode a message into plain values and read-only arrays; raises MalformedMessage."""
    if isinstance(raw, str):
        raw = raw.encode()
    items = sum(raw.count(sign) for sign in (b',', b'[', b'{'))
    if items > MAX_JSON_ITEMS:
        raise MalformedMessage(f'{items} values in a message; the limit is {MAX_JSON_ITEMS}')
    try:
        return json.loads(raw, object_hook=_decode_map, parse_constant=_reject_constant)
    except MalformedMessage:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f'cannot decode: {error or type(error).__name__}') from error


def _encode_array(value: object) -> dict[str, Any]:
    array = wire_arrays.check_dtype(value)
    return {
        '__numpy__': base64.b64encode(wire_arrays.view_bytes(array)).decode(),
        'dtype': array.dtype.str,
        'shape': array.shape,
    }


def _decode_map(found: dict[str, Any]) -> Any:
    if '__numpy__' not in found:
        return found
    try:
        data = base64.b64decode(found['__numpy__'], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise MalformedMessage(f'array data: {error}') from error
    array = wire_arrays.view_array(found.get('dtype'), found.get('shape'), data)
    return array if array.ndim else array.item()  # an empty shape is a scalar


def _reject_constant(name: str) -> NoReturn:
    raise MalformedMessage(f'{name} is no JSON number; want a finite number')

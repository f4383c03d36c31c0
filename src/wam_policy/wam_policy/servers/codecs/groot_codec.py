"""Codec of Isaac-GR00T's servers: msgpack with arrays as `.npy` files and modality configurations.

The header of an `.npy` file is a Python literal. It is compared with the form that numpy writes
for numeric arrays, and never evaluated.
"""

import io
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.servers.codecs import wire_arrays
from wam_policy.servers.codecs.wire_arrays import MalformedMessage

MAX_HEADER_BYTES = 512  # numpy writes 118 for up to six sizes
NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-z]\d)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)


@dataclass(frozen=True, slots=True)
class ModalityConfig:
    """Names and times of one modality, as a server states them: modality_keys, delta_indices."""

    fields: dict[str, Any]


def pack(value: Any) -> bytes:
    """Encode plain values, numeric arrays and ModalityConfig; raises MalformedMessage."""
    return wire_arrays.pack_msgpack(value, _encode_value)


def unpack(raw: str | bytes) -> Any:
    """Decode a message into plain values, read-only arrays and ModalityConfig.

    Raises MalformedMessage.
    """
    return wire_arrays.unpack_msgpack(raw, _decode_map)


def _encode_value(value: object) -> Any:
    if isinstance(value, ModalityConfig):
        return {'__ModalityConfig_class__': True, 'as_json': value.fields}
    if isinstance(value, np.generic) and value.dtype.str in wire_arrays.DTYPES:
        return value.item()  # their decoder knows arrays only
    file = io.BytesIO()
    np.save(file, wire_arrays.check_dtype(value), allow_pickle=False)
    return {'__ndarray_class__': True, 'as_npy': file.getvalue()}


def _decode_map(found: dict[Any, Any]) -> Any:
    if '__ndarray_class__' in found:
        return _parse_npy(found.get('as_npy'))
    if '__ModalityConfig_class__' in found:
        fields = found.get('as_json')
        if isinstance(fields, str):  # N1.5 sends the map as a JSON text
            try:
                fields = json.loads(fields)
            except (ValueError, RecursionError) as error:
                raise MalformedMessage(f'modality configuration: {error}') from error
        if not isinstance(fields, dict):
            raise MalformedMessage(f'modality configuration {fields!r:.80}; want a map')
        return ModalityConfig(fields)
    return found


def _parse_npy(data: object) -> np.ndarray:
    if not isinstance(data, bytes) or data[:6] != b'\x93NUMPY' or data[6:7] not in b'\1\2\3':
        raise MalformedMessage('an array that is not an .npy file')
    start = 10 if data[6] == 1 else 12  # the length of the header has two or four bytes
    length = int.from_bytes(data[8:start], 'little')
    header = NPY_HEADER.fullmatch(data[start : start + min(length, MAX_HEADER_BYTES)])
    if header is None:
        raise MalformedMessage(
            f'an .npy header {data[start : start + 60]!r}; want that of a numeric array'
        )
    dtype, fortran, shape = header.groups()
    return wire_arrays.view_array(
        dtype.decode(),
        [int(side) for side in shape.split(b',') if side.strip()],
        memoryview(data)[start + length :],
        order='F' if fortran == b'True' else 'C',
    )

"""Codec of vla-eval: msgpack with arrays as maps with text keys, images as PNG, JPEG or raw.

Scalars travel as plain numbers. An encoded image is decoded only after its header has shown that
its size and its channels are those that the message states.
"""

from typing import Any

import cv2
import numpy as np

from wam_policy.servers.codecs import wire_arrays
from wam_policy.servers.codecs.wire_arrays import MalformedMessage

MAX_IMAGE_SIDE = 4096  # pixels
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
JPEG_SIGNATURE = b'\xff\xd8'
# start-of-frame markers of JPEG, all but those of tables (C4, C8, CC)
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def pack(value: Any) -> bytes:
    """Encode plain values and numeric arrays, images raw; raises MalformedMessage."""
    return wire_arrays.pack_msgpack(value, _encode_array)


def unpack(raw: str | bytes) -> Any:
    """Decode a message into plain values and arrays, images RGB; raises MalformedMessage."""
    return wire_arrays.unpack_msgpack(raw, _decode_map)


def encode_image(image: np.ndarray, quality: int | None = None) -> dict[str, Any]:
    """Return the map of an image uint8 [h w 3] RGB: JPEG of `quality` 1 to 100, None: PNG."""
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    good, data = cv2.imencode('.png' if quality is None else '.jpg', image[..., ::-1], options)
    if not good:
        raise MalformedMessage(f'cannot encode an image {image.dtype} {list(image.shape)}')
    return {
        '__image__': True,
        'format': 'png' if quality is None else 'jpeg',
        'data': data.tobytes(),
        'shape': list(image.shape),
    }


def decode_image(data: bytes) -> np.ndarray:
    """Decode PNG or JPEG bytes to uint8 [h w 3] RGB; raises MalformedMessage.

    The size is read from the header first: a small file can claim an image of gigabytes.
    """
    width, height = _read_image_size(data)
    if not 0 < width <= MAX_IMAGE_SIDE or not 0 < height <= MAX_IMAGE_SIDE:
        raise MalformedMessage(
            f'image of {width}x{height} pixels; want sides of 1 to {MAX_IMAGE_SIDE}'
        )
    # RGB whatever the file has; no rotation by EXIF, which the sender does not apply either
    image = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if image is None or image.shape != (height, width, 3):
        raise MalformedMessage('an image that cannot be decoded')
    return np.ascontiguousarray(image[..., ::-1])


def _encode_array(value: object) -> Any:
    if isinstance(value, np.generic) and value.dtype.str in wire_arrays.DTYPES:
        return value.item()
    array = wire_arrays.check_dtype(value)
    return {
        '__ndarray__': True,
        'data': wire_arrays.view_bytes(array),
        'dtype': array.dtype.str,
        'shape': array.shape,
    }


def _decode_map(found: dict[Any, Any]) -> Any:
    raw_image = '__image__' in found and found.get('format') == 'raw'
    if '__ndarray__' in found or raw_image:
        return wire_arrays.view_array(*(found.get(key) for key in ('dtype', 'shape', 'data')))
    if '__image__' not in found:
        return found
    kind, data = found.get('format'), found.get('data')
    if kind not in ('png', 'jpeg') or not isinstance(data, bytes):
        raise MalformedMessage(f'image of format {kind!r:.40}; want raw, jpeg or png')
    image = decode_image(data)
    if found.get('shape') not in (None, list(image.shape)):
        raise MalformedMessage(
            f'image of {list(image.shape)}, the message states {found["shape"]!r:.80}'
        )
    return image


def _read_image_size(data: bytes) -> tuple[int, int]:
    """Return width and height in the header of a PNG or JPEG file; raises MalformedMessage."""
    if data.startswith(PNG_SIGNATURE) and data[12:16] == b'IHDR' and len(data) >= 24:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    at = 2 if data.startswith(JPEG_SIGNATURE) else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in JPEG_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + length
    raise MalformedMessage('an image that is neither PNG nor JPEG')

"""Serialised images: read where they lie, and made smaller.

rclpy takes 1.4 ms, with the interpreter locked, to unpack a 640x480 image. Here its header is
read from the bytes and the pixels stay where they are, so that three cameras at 30 Hz leave the
interpreter to others.
"""

import struct
from array import array
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import cv2
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from wam_policy.nodes import message_conversion

ENCAPSULATION = 4  # bytes before the first field; alignment counts after


@dataclass(frozen=True, slots=True)
class RawImage:
    """Hold the fields of a sensor_msgs/Image; `data` is a view of the message's bytes."""

    header: SimpleNamespace
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


class _Cursor:
    """Walk through plain CDR, the first version, in the byte order it names."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) < ENCAPSULATION or raw[0] != 0 or raw[1] not in (0, 1):
            raise ValueError('not a plain CDR message')
        self._body = memoryview(raw)[ENCAPSULATION:]
        self._order = '<' if raw[1] else '>'
        self._at = 0

    def number(self, code: str) -> int:
        size = struct.calcsize(code)
        self._at += -self._at % size
        try:
            (value,) = struct.unpack_from(self._order + code, self._body, self._at)
        except struct.error as error:
            raise ValueError('the message ends within a field') from error
        self._at += size
        return value

    def block(self) -> memoryview:
        length = self.number('I')
        block = self._body[self._at : self._at + length]
        if len(block) != length:
            raise ValueError('the message ends within a field')
        self._at += length
        return block

    def text(self) -> str:
        return bytes(self.block()).rstrip(b'\0').decode('utf-8', 'replace')


def read(raw: bytes) -> RawImage:
    """Return the fields of a serialised sensor_msgs/Image; ValueError if it is none."""
    cursor = _Cursor(raw)
    stamp = Time(sec=cursor.number('i'), nanosec=cursor.number('I'))
    header = SimpleNamespace(stamp=stamp, frame_id=cursor.text())
    height, width = cursor.number('I'), cursor.number('I')
    encoding = cursor.text()
    return RawImage(
        header, height, width, encoding, cursor.number('B'), cursor.number('I'), cursor.block()
    )


def compressed(raw: bytes, quality: int) -> bytes:
    """Return a serialised Image as a serialised JPEG CompressedImage with the same header.

    Raises ValueError for what is not 8-bit colour.
    """
    msg = read(raw)  # has the fields of a message, which is all that the door asks for
    seen = message_conversion.frame(cast(Image, msg), msg.header.frame_id or 'image')
    good, jpeg = cv2.imencode(
        '.jpg', cv2.cvtColor(seen.rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not good:
        raise ValueError(f'{msg.width}x{msg.height} {msg.encoding} could not be compressed')
    # format as image_transport names it: what it was, and what the JPEG decodes to
    out = CompressedImage(format=f'{msg.encoding}; jpeg compressed bgr8')
    out.header.stamp, out.header.frame_id = msg.header.stamp, msg.header.frame_id
    data = array('B')
    data.frombytes(jpeg.data)
    out._data = data  # the checked setter walks every byte in Python
    return serialize_message(out)

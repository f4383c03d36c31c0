"""Convert image messages to frames and back; every message is validated here, once.

An invalid or unfit message raises ValueError that names the camera, the value and the fix. Pixels
go through cv_bridge; what its versions treat differently (padded rows, byte order of 8-bit values,
newer names) is settled before.
"""

from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from wam_policy.core.types import Frame
from wam_policy.nodes.images import opencv_bridge
from wam_policy.nodes.images.bridge_selection import select_bridge
from wam_policy.nodes.message_conversion import time_to_msg, to_ns

# encoding -> bytes per pixel of a row, and the name that every cv_bridge knows
COLOR_ENCODINGS = {
    'rgb8': (3, 'rgb8'),
    'bgr8': (3, 'bgr8'),
    'rgba8': (4, 'rgba8'),
    'bgra8': (4, 'bgra8'),
    '8UC3': (3, 'bgr8'),  # without a name of the color space: OpenCV's order
    '8UC4': (4, 'bgra8'),
    'yuv422': (2, 'yuv422'),
    'uyvy': (2, 'yuv422'),
    'yuv422_yuy2': (2, 'yuv422_yuy2'),
    'yuyv': (2, 'yuv422_yuy2'),
    'nv12': (1, 'nv12'),
    'nv21': (1, 'nv21'),
    'bayer_rggb8': (1, 'bayer_rggb8'),
    'bayer_bggr8': (1, 'bayer_bggr8'),
    'bayer_gbrg8': (1, 'bayer_gbrg8'),
    'bayer_grbg8': (1, 'bayer_grbg8'),
}
MONO_ENCODINGS = {'mono8': (1, 'mono8'), '8UC1': (1, 'mono8')}
_HALF_CHROMA = ('nv12', 'nv21')  # not known to the installed cv_bridge
_VIDEO_FORMATS = ('h264', 'h.264', 'h265', 'h.265', 'hevc', 'av1', 'vp9', 'theora', 'ffmpeg')
_OWN_BRIDGE = opencv_bridge.CvBridge()


def frame_from_msg(msg: Image, camera: str, allow_mono: bool = False) -> Frame:
    """Return the pixels of a raw image; rgb8 without padded rows is not copied.

    is_bigendian says nothing about 8-bit channels and is ignored.
    """
    pixel_bytes, encoding = _find_encoding(msg.encoding, camera, allow_mono)
    rows = msg.height + (msg.height // 2 if encoding in _HALF_CHROMA else 0)
    row_bytes = msg.width * pixel_bytes
    if not msg.width or not msg.height or msg.step < row_bytes:
        raise ValueError(
            f'camera {camera}: {msg.width}x{msg.height} {msg.encoding} does not fit '
            f'a step of {msg.step} bytes'
        )
    if len(msg.data) != msg.step * rows:
        raise ValueError(
            f'camera {camera}: {len(msg.data)} bytes of data, want {rows} rows of {msg.step}'
        )
    stamp_ns = to_ns(msg.header.stamp)
    data = np.frombuffer(msg.data, dtype=np.uint8)
    if msg.step != row_bytes:  # cv_bridge misreads rows padded by a part of a pixel
        data = np.ascontiguousarray(data.reshape(rows, msg.step)[:, :row_bytes])
    if encoding == 'rgb8':  # cv_bridge would copy it
        return Frame(camera, stamp_ns, data.reshape(msg.height, msg.width, 3))
    plain = SimpleNamespace(
        height=msg.height,
        width=msg.width,
        encoding=encoding,
        is_bigendian=0,
        step=row_bytes,
        data=data,
    )
    bridge: Any = _OWN_BRIDGE if encoding in _HALF_CHROMA else select_bridge().bridge
    try:
        pixels = bridge.imgmsg_to_cv2(plain, 'rgb8')
    except (TypeError, RuntimeError, cv2.error) as error:  # CvBridgeError is a TypeError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f'camera {camera}: {msg.width}x{msg.height} {msg.encoding} cannot be converted: '
            f'{lines[-1]:.200}'
        ) from error
    return Frame(camera, stamp_ns, pixels)


def frame_from_compressed_msg(
    msg: CompressedImage, camera: str, allow_mono: bool = False
) -> Frame:
    """Return the pixels of a JPEG or PNG image."""
    kind = msg.format.lower()
    if 'compresseddepth' in kind:
        raise ValueError(f'camera {camera}: {msg.format!r} is a depth image; subscribe to color')
    if any(word in kind for word in _VIDEO_FORMATS):
        raise ValueError(
            f'camera {camera}: {msg.format!r} are packets of a video; want single JPEG or PNG '
            'images: use the transport compressed (ros2 run image_transport republish)'
        )
    try:
        stored = select_bridge().bridge.compressed_imgmsg_to_cv2(msg) if len(msg.data) else None
    except (TypeError, RuntimeError, cv2.error):
        stored = None
    if stored is None:
        raise ValueError(
            f'camera {camera}: {len(msg.data)} bytes of {msg.format or "no format"!r} '
            'are not a readable JPEG or PNG'
        )
    return Frame(camera, to_ns(msg.header.stamp), _to_rgb(stored, camera, msg.format, allow_mono))


def _to_rgb(stored: np.ndarray, camera: str, kind: str, allow_mono: bool) -> np.ndarray:
    """Return a decoded image, which OpenCV orders blue first, as uint8 [height width 3]."""
    if stored.dtype != np.uint8:
        raise ValueError(
            f'camera {camera}: {kind!r} has {8 * stored.itemsize} bits per value; want 8-bit color'
        )
    if stored.ndim == 2:
        _find_encoding('mono8', camera, allow_mono)
        return cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB)
    code = cv2.COLOR_BGRA2RGB if stored.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(stored, code)


def _find_encoding(encoding: str, camera: str, allow_mono: bool) -> tuple[int, str]:
    """Return bytes per pixel and name of an encoding; ValueError with the fix if it is unfit."""
    if encoding in COLOR_ENCODINGS:
        return COLOR_ENCODINGS[encoding]
    if encoding in MONO_ENCODINGS:
        if allow_mono:
            return MONO_ENCODINGS[encoding]
        raise ValueError(
            f'camera {camera}: encoding {encoding!r} has no color, which the model was trained '
            'with; set the camera to color, or the parameter allow_mono_images to use gray'
        )
    is_depth = encoding.startswith(('16', '32', '64', 'mono16'))
    what = 'is a depth image or has' if is_depth else 'is not one of these or has'
    raise ValueError(
        f'camera {camera}: encoding {encoding!r} {what} other than 8 bits per color; want '
        f'{", ".join(COLOR_ENCODINGS)}'
    )


def image_to_msg(rgb: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """Return an rgb8 message of uint8 [height width 3]."""
    height, width, _ = rgb.shape
    msg = Image(height=height, width=width, encoding='rgb8', step=width * 3)
    msg.header.stamp = time_to_msg(stamp_ns)
    msg.header.frame_id = frame_id
    pixels = array('B')
    pixels.frombytes(np.ascontiguousarray(rgb).data)
    msg._data = pixels  # the checked setter walks every byte in Python: 0.1 s per image
    return msg


def compress_to_msg(
    rgb: np.ndarray, stamp_ns: int, frame_id: str, quality: int, encoding: str = 'rgb8'
) -> CompressedImage:
    """Return uint8 [height width 3] as JPEG; `encoding` is that of the image it was."""
    good, jpeg = cv2.imencode(
        '.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not good:
        height, width, _ = rgb.shape
        raise ValueError(f'{frame_id}: {width}x{height} {encoding} could not be compressed')
    # format as image_transport names it: what it was, and what the JPEG decodes to
    msg = CompressedImage(format=f'{encoding}; jpeg compressed bgr8')
    msg.header.stamp, msg.header.frame_id = time_to_msg(stamp_ns), frame_id
    data = array('B')
    data.frombytes(jpeg.data)
    msg._data = data  # the checked setter walks every byte in Python
    return msg

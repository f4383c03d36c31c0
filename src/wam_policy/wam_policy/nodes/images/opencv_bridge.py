"""cv_bridge's Python interface on OpenCV alone, where the package is absent or does not run.

The assembled ROS 2 prefix has this file as `cv_bridge`; upstream's needs a compiled module that
is bound to one NumPy and one OpenCV. Differences: rows are read at their stride whatever the
padding, big-endian images work under NumPy 2, an unchanged encoding is not copied, and the names
uyvy, yuyv, nv12 and nv21 are known.
"""

import re
import sys
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

PASSTHROUGH = 'passthrough'
_DEPTHS = {
    '8U': 'uint8',
    '8S': 'int8',
    '16U': 'uint16',
    '16S': 'int16',
    '32S': 'int32',
    '32F': 'float32',
    '64F': 'float64',
}
_GENERIC = re.compile(r'(8U|8S|16U|16S|32S|32F|64F)(?:C(\d+))?')
# encoding -> OpenCV's name of the color space, type of a pixel
_COLORS = {
    'mono8': ('GRAY', '8UC1'),
    'mono16': ('GRAY', '16UC1'),
    **{f'{name}8': (name.upper(), f'8UC{len(name)}') for name in ('rgb', 'bgr', 'rgba', 'bgra')},
    **{f'{name}16': (name.upper(), f'16UC{len(name)}') for name in ('rgb', 'bgr', 'rgba', 'bgra')},
    'yuv422': ('YUV_UYVY', '8UC2'),
    'uyvy': ('YUV_UYVY', '8UC2'),
    'yuv422_yuy2': ('YUV_YUY2', '8UC2'),
    'yuyv': ('YUV_YUY2', '8UC2'),
    'nv12': ('YUV_NV12', '8UC1'),
    'nv21': ('YUV_NV21', '8UC1'),
    # OpenCV names a pattern by the second row's second and third pixel
    **{
        f'bayer_{pattern}{bits}': (f'Bayer{code}', f'{bits}UC1')
        for pattern, code in (('rggb', 'BG'), ('bggr', 'RG'), ('gbrg', 'GR'), ('grbg', 'GB'))
        for bits in (8, 16)
    },
}
_HALF_CHROMA = ('nv12', 'nv21')  # half as many rows again, of color, follow the image
# OpenCV 5 counts channels in other bits of a type than OpenCV 4
_CHANNEL_SHIFT = (cv2.CV_8UC2 - cv2.CV_8UC1).bit_length() - 1


class CvBridgeError(TypeError):
    """An image cannot be converted."""


class CvBridge:
    """Convert between OpenCV images and ROS image messages."""

    def __init__(self) -> None:
        self.cvdepth_to_numpy_depth = {
            getattr(cv2, f'CV_{depth}'): name for depth, name in _DEPTHS.items()
        }
        self.cvtype_to_name = {
            getattr(cv2, f'CV_{depth}C{channels}'): f'{depth}C{channels}'
            for depth in _DEPTHS
            for channels in (1, 2, 3, 4)
        }
        self.numpy_type_to_cvtype = {
            **{name: depth for depth, name in _DEPTHS.items()},
            **_DEPTHS,
        }

    def dtype_with_channels_to_cvtype2(self, dtype: np.dtype, n_channels: int) -> str:
        """Return the name of a pixel's type, as 8UC3."""
        return f'{self.numpy_type_to_cvtype[dtype.name]}C{n_channels}'

    def cvtype2_to_dtype_with_channels(self, cvtype: int) -> tuple[str, int]:
        """Return the numpy name and the number of channels of OpenCV's type."""
        depth = cvtype & ((1 << _CHANNEL_SHIFT) - 1)
        return self.cvdepth_to_numpy_depth[depth], (cvtype >> _CHANNEL_SHIFT) + 1

    def encoding_to_cvtype2(self, encoding: str) -> int:
        """Return OpenCV's type of a pixel; CvBridgeError for an unknown encoding."""
        match = _GENERIC.fullmatch(_COLORS[encoding][1] if encoding in _COLORS else encoding)
        if match is None:
            raise CvBridgeError(f'Unrecognized image encoding [{encoding}]')
        depth, channels = match.groups()
        return getattr(cv2, f'CV_{depth}') + ((int(channels or 1) - 1) << _CHANNEL_SHIFT)

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """Return the numpy name and the number of channels of an encoding."""
        return self.cvtype2_to_dtype_with_channels(self.encoding_to_cvtype2(encoding))

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = PASSTHROUGH) -> np.ndarray:
        """Return an image as [height width] or [height width channels].

        The result shares the message's memory if rows are not padded and the encoding is kept.
        """
        dtype, channels = self.encoding_to_dtype_with_channels(img_msg.encoding)
        item = np.dtype(dtype).newbyteorder('>' if img_msg.is_bigendian else '<')
        rows = img_msg.height
        if img_msg.encoding in _HALF_CHROMA:
            rows += img_msg.height // 2
        row_bytes = img_msg.width * channels * item.itemsize
        data = np.frombuffer(img_msg.data, np.uint8)
        if img_msg.step < row_bytes or data.size < img_msg.step * rows:
            raise CvBridgeError(
                f'Image is wrongly formed: {data.size} bytes, step {img_msg.step} for '
                f'{img_msg.width}x{img_msg.height} {img_msg.encoding}'
            )
        pixels = data[: img_msg.step * rows].reshape(rows, img_msg.step)[:, :row_bytes]
        values = np.ascontiguousarray(pixels).view(item)
        if item.itemsize > 1 and img_msg.is_bigendian == (sys.byteorder == 'little'):
            values = values.astype(item.newbyteorder('='))
        image = values if channels == 1 else values.reshape(rows, img_msg.width, channels)
        if desired_encoding in (PASSTHROUGH, img_msg.encoding):
            return image
        return self._convert(image, img_msg.encoding, desired_encoding)

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: CompressedImage, desired_encoding: str = PASSTHROUGH
    ) -> np.ndarray:
        """Return a compressed image: as it is stored, or taken for bgr8 and converted."""
        data = np.frombuffer(cmprs_img_msg.data, np.uint8)
        image: Any = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
        if image is None:
            raise CvBridgeError(f'{data.size} bytes are not an image that OpenCV reads')
        if desired_encoding in (PASSTHROUGH, 'bgr8'):
            return image
        return self._convert(image, 'bgr8', desired_encoding)

    def cv2_to_imgmsg(
        self, cvim: np.ndarray, encoding: str = PASSTHROUGH, header: Any = None
    ) -> Image:
        """Return the message of an image; CvBridgeError if its type is not that of `encoding`."""
        if not isinstance(cvim, np.ndarray | np.generic):
            raise TypeError('Your input type is not a numpy array')
        channels = cvim.shape[2] if cvim.ndim > 2 else 1
        kind = self.dtype_with_channels_to_cvtype2(cvim.dtype, channels)
        if encoding != PASSTHROUGH:
            wanted = self.cvtype_to_name[self.encoding_to_cvtype2(encoding)]
            if wanted != kind:
                raise CvBridgeError(
                    f'encoding specified as {encoding}, but image has incompatible type {kind}'
                )
        height = cvim.shape[0]
        if encoding in _HALF_CHROMA:
            height = height * 2 // 3
        msg = Image(
            height=height,
            width=cvim.shape[1],
            encoding=kind if encoding == PASSTHROUGH else encoding,
            is_bigendian=cvim.dtype.byteorder == '>',
            step=cvim.shape[1] * channels * cvim.itemsize,
        )
        if header is not None:
            msg.header = header
        msg.data.frombytes(cvim.tobytes())
        return msg

    def cv2_to_compressed_imgmsg(
        self, cvim: np.ndarray, dst_format: str = 'jpg'
    ) -> CompressedImage:
        """Return the message of an image, compressed as JPEG, PNG, ..."""
        if not isinstance(cvim, np.ndarray | np.generic):
            raise TypeError('Your input type is not a numpy array')
        try:
            good, data = cv2.imencode(f'.{dst_format}', cvim)
        except cv2.error as error:
            raise CvBridgeError(str(error)) from error
        if not good:
            raise CvBridgeError(f'OpenCV cannot write {cvim.dtype} {cvim.shape} as {dst_format}')
        msg = CompressedImage(format=dst_format)
        msg.data.frombytes(data.tobytes())
        return msg

    def _convert(self, image: np.ndarray, source: str, target: str) -> np.ndarray:
        """Convert colors and depth as upstream does: 8 and 16 bits are scaled to each other."""
        dtype, channels = self.encoding_to_dtype_with_channels(target)
        if (source in _COLORS) != (target in _COLORS) or source not in _COLORS:
            if (1 if image.ndim == 2 else image.shape[2]) != channels or (
                source not in _COLORS and target in _COLORS
            ):
                raise CvBridgeError(
                    f'[{source}] and [{target}]: one is no color format, or their channels differ'
                )
            return image.astype(dtype, copy=False)
        (space, _), (wanted, _) = _COLORS[source], _COLORS[target]
        if space != wanted:
            model, _, layout = space.partition('_')
            code = getattr(cv2, f'COLOR_{model}2{wanted}' + (f'_{layout}' if layout else ''), None)
            if code is None:
                raise CvBridgeError(f'Unsupported conversion from [{source}] to [{target}]')
            try:
                image = cv2.cvtColor(image, code)
            except cv2.error as error:
                raise CvBridgeError(str(error)) from error
        if image.dtype.name == dtype:
            return image
        scale = 257.0 if dtype == 'uint16' else 1 / 257.0
        return (
            cv2.convertScaleAbs(image, alpha=scale)
            if dtype == 'uint8'
            else np.multiply(image, np.uint16(scale), dtype=np.uint16)
        )

"""Images of a request, as a server profile wants them: keys, size, axes, encoding.

Our images are uint8 [T h w 3] RGB per camera.
"""

import base64
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from wam_policy.servers import image_resize
from wam_policy.servers.codecs.text_key_codec import decode_image
from wam_policy.servers.mapping.nested_keys import (
    ProfileMismatch,
    describe_value,
    format_path,
    get_nested,
    set_nested,
)
from wam_policy.servers.profile_fields import ServerProfile

MAX_IMAGE_SIDE = 4096  # pixels
JPEG_QUALITY = 85  # as MolmoAct2's client sends


def encode_images(profile: ServerProfile, views: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the message keys of images.

    Without `image_axes` one image is sent as [h w 3] and several as [T h w 3]. Empty `views` give
    no keys: a streaming server needs no images in a query.
    """
    message: dict[str, Any] = {}
    for camera, key in profile.cameras.items() if views else ():
        frames = image_resize.resize(views[camera], profile.image_size, profile.image_fit)
        frames = image_resize.to_channel_order(frames, profile.channel_order)
        if profile.image_encoding == 'raw':
            value: Any = _set_axes(frames, profile.image_axes)
        elif profile.image_encoding == 'lists':
            value = _set_axes(frames, profile.image_axes).tolist()
        else:
            value = [encode_jpeg_base64(frame) for frame in frames]
            value = value[0] if len(value) == 1 else value
        set_nested(message, key, value)
    return message


def encode_frames(profile: ServerProfile, views: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the images as one message map per instant."""
    count = len(next(iter(views.values())))
    return [
        encode_images(profile, {camera: frames[i : i + 1] for camera, frames in views.items()})
        for i in range(count)
    ]


def decode_images(profile: ServerProfile, message: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Invert `encode_images`, except for resizing; raises ProfileMismatch with key and fix."""
    found = {}
    for camera, key in profile.cameras.items():
        frames = _to_frames(profile, get_nested(message, key))
        if frames is None:
            raise ProfileMismatch(
                f'{format_path(key)}: want images uint8 [height width 3] or [T height '
                f'width 3], got {describe_value(get_nested(message, key))}'
            )
        frames = image_resize.to_hwc(frames, profile.channel_order)
        height, width, channels = frames.shape[1:]
        wanted = profile.image_size or (width, height)
        if channels != 3 or (width, height) != wanted or max(width, height) > MAX_IMAGE_SIDE:
            raise ProfileMismatch(
                f'{format_path(key)}: want {wanted[0]}x{wanted[1]} images of 3 channels '
                f'(sides up to {MAX_IMAGE_SIDE}), got {describe_value(frames)}'
            )
        found[camera] = np.array(frames)  # writable copy: received arrays are read-only
    counts = {camera: len(frames) for camera, frames in found.items()}
    if len(set(counts.values())) != 1:
        raise ProfileMismatch(f'want the same number of images of each camera, got {counts}')
    return found


def has_images(profile: ServerProfile, message: Mapping[str, Any]) -> bool:
    return any(key[0] in message for key in profile.cameras.values())


def encode_jpeg_base64(image: np.ndarray) -> str:
    """Return an image uint8 [h w 3] RGB as JPEG in base64."""
    _, data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode()


def _decode_jpegs(texts: list[Any]) -> np.ndarray | None:
    try:
        images = [decode_image(base64.b64decode(text, validate=True)) for text in texts]
        return np.stack(images)
    except (ValueError, TypeError):  # no base64, no image, images of different sizes
        return None


def _set_axes(frames: np.ndarray, axes: tuple[str, ...] | None) -> np.ndarray:
    if axes is None:
        return frames[0] if len(frames) == 1 else frames
    if 'time' not in axes:
        frames = frames[-1]
    return frames[None] if 'batch' in axes else frames


def _to_frames(profile: ServerProfile, value: Any) -> np.ndarray | None:
    """Return [T h w 3] or [T 3 h w]; None: the value is no image."""
    if profile.image_encoding == 'jpeg_base64':
        return _decode_jpegs(value if isinstance(value, list) else [value])
    if isinstance(value, list):
        try:
            value = np.array(value, np.uint8)
        except (ValueError, OverflowError, TypeError):
            return None
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or not value.size:
        return None
    axes = profile.image_axes
    if axes is not None and 'batch' in axes:
        if value.ndim < 1 or len(value) != 1:
            return None
        value = value[0]
    if axes is not None and value.ndim != (4 if 'time' in axes else 3):
        return None
    if value.ndim not in (3, 4):
        return None
    return value[None] if value.ndim == 3 else value

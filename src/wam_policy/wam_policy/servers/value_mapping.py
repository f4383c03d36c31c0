"""Convert between our values and the messages of a server profile; each function with its inverse.

Our values: views uint8 [T h w 3] per camera, joint positions [observed], targets [horizon
commanded], in rad, m and gripper opening 0..1. Decoded targets are always absolute, also if the
server's actions are relative or rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import image_resize
from wam_policy.servers.server_profile import JointGroup, KeyPath, ServerProfile

MAX_IMAGE_SIDE = 4096  # pixels


class ProfileMismatch(ValueError):
    """Report a message that differs from its server profile."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRequest:
    """Content of an infer request."""

    views: Mapping[str, np.ndarray]  # camera -> uint8 [T h w 3]
    joint_positions: np.ndarray  # float64 [observed]
    prompt: str


def encode_images(profile: ServerProfile, views: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the message keys of images; one image is sent as [h w 3], several as [T h w 3].

    Empty `views` give no keys: a streaming server needs no images in a query.
    """
    message: dict[str, Any] = {}
    for camera, key in profile.cameras.items() if views else ():
        frames = image_resize.resize(views[camera], profile.image_size, profile.image_fit)
        frames = image_resize.to_channel_order(frames, profile.channel_order)
        _set_nested(message, key, frames[0] if len(frames) == 1 else frames)
    return message


def decode_images(profile: ServerProfile, message: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Invert `encode_images`, except for resizing; raises ProfileMismatch with key and fix."""
    found = {}
    for camera, key in profile.cameras.items():
        frames = _get_nested(message, key)
        if (
            not isinstance(frames, np.ndarray)
            or frames.dtype != np.uint8
            or frames.ndim not in (3, 4)
            or not frames.size
        ):
            raise ProfileMismatch(
                f'{_format_key(key)}: want images uint8 [height width 3] or [T height '
                f'width 3], got {_describe_value(frames)}'
            )
        frames = image_resize.to_hwc(
            frames[None] if frames.ndim == 3 else frames, profile.channel_order
        )
        height, width, channels = frames.shape[1:]
        wanted = profile.image_size or (width, height)
        if channels != 3 or (width, height) != wanted or max(width, height) > MAX_IMAGE_SIDE:
            raise ProfileMismatch(
                f'{_format_key(key)}: want {wanted[0]}x{wanted[1]} images of 3 channels '
                f'(sides up to {MAX_IMAGE_SIDE}), got {_describe_value(frames)}'
            )
        found[camera] = np.array(frames)  # writable copy: received arrays are read-only
    counts = {camera: len(frames) for camera, frames in found.items()}
    if len(set(counts.values())) != 1:
        raise ProfileMismatch(f'want the same number of images of each camera, got {counts}')
    return found


def has_images(profile: ServerProfile, message: Mapping[str, Any]) -> bool:
    """Return whether a message has images."""
    return any(key[0] in message for key in profile.cameras.values())


def encode_state(
    profile: ServerProfile, robot: Embodiment, joint_positions: np.ndarray
) -> dict[str, Any]:
    """Return the state keys of a message, float32, for joint positions [observed]."""
    message: dict[str, Any] = {}
    for span in profile.state:
        columns = [robot.observed.index(name) for name in span.joints]
        values = _to_server_grippers(profile, robot, span, joint_positions[columns])
        _set_nested(message, span.key, values.astype(np.float32))
    return message


def decode_state(
    profile: ServerProfile, robot: Embodiment, message: Mapping[str, Any]
) -> np.ndarray:
    """Invert `encode_state`: float64 [observed]; joints missing in the profile are NaN."""
    found = np.full(len(robot.observed), np.nan)
    for span in profile.state:
        values = _read_numbers(_get_nested(message, span.key))
        if values is None or values.size != len(span.joints) or not np.isfinite(values).all():
            raise ProfileMismatch(
                f'{_format_key(span.key)}: want {len(span.joints)} finite numbers, got '
                f'{_describe_value(_get_nested(message, span.key))}'
            )
        columns = [robot.observed.index(name) for name in span.joints]
        found[columns] = _from_server_grippers(
            profile, robot, span, values.reshape(-1).astype(np.float64)
        )
    return found


def _read_numbers(value: object) -> np.ndarray | None:
    """Return numbers that travel as an array, a number or lists of numbers; None: others do."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in 'fiu' else None
    try:
        found = np.asarray(value)  # ragged lists raise ValueError
        return found.astype(np.float64) if found.dtype.kind in 'fiu' else None
    except (ValueError, OverflowError):
        return None


def encode_request(
    profile: ServerProfile,
    robot: Embodiment,
    views: Mapping[str, np.ndarray],
    joint_positions: np.ndarray,
    prompt: str,
) -> dict[str, Any]:
    """Return the infer message: images, state and prompt."""
    message = encode_images(profile, views)
    _merge_nested(message, encode_state(profile, robot, joint_positions))
    _set_nested(message, profile.prompt_key, prompt)
    return message


def decode_request(
    profile: ServerProfile,
    robot: Embodiment,
    message: Mapping[str, Any],
    *,
    images_optional: bool = False,
) -> DecodedRequest:
    """Invert `encode_request`; `images_optional` accepts a message without images."""
    prompt = _get_nested(message, profile.prompt_key)
    if not isinstance(prompt, str):
        raise ProfileMismatch(
            f'{_format_key(profile.prompt_key)}: want a string, got {_describe_value(prompt)}'
        )
    with_images = has_images(profile, message) or not images_optional
    return DecodedRequest(
        decode_images(profile, message) if with_images else {},
        decode_state(profile, robot, message),
        prompt,
    )


def encode_actions(
    profile: ServerProfile, robot: Embodiment, targets: np.ndarray, joint_positions: np.ndarray
) -> Any:
    """Return the answer for absolute targets [horizon commanded], actions float32.

    Rates above 1 are not limited here; `decode_actions` scales such a row down.
    """
    columns = []
    for span in profile.action_columns:
        wanted = [robot.commanded.index(name) for name in span.joints]
        values = _to_server_grippers(profile, robot, span, targets[:, wanted])
        start = _to_server_grippers(
            profile, robot, span, _select_joints(robot, span, joint_positions)
        )
        if span.kind == 'relative':
            values = values - start
        elif span.kind == 'rate':
            values = np.diff(np.vstack([start, values]), axis=0) / span.scale
        columns.append(values)
    actions = np.hstack(columns).astype(np.float32)
    if profile.actions_key is None:
        return actions
    message: dict[str, Any] = {}
    _set_nested(message, profile.actions_key, actions)
    return message


def decode_actions(
    profile: ServerProfile, robot: Embodiment, message: Any, joint_positions: np.ndarray
) -> np.ndarray:
    """Invert `encode_actions`: return absolute targets, float64 [horizon commanded].

    Raises ProfileMismatch for a wrong type, shape or a value that is not finite.
    """
    if profile.actions_key is None:
        actions = message
    else:
        actions = (
            _get_nested(message, profile.actions_key) if isinstance(message, dict) else message
        )
    wanted = (profile.horizon, profile.action_dim)
    if not isinstance(actions, np.ndarray) or actions.dtype.kind != 'f' or actions.shape != wanted:
        raise ProfileMismatch(
            f'the answer is {_describe_value(actions)}, want actions {list(wanted)} '
            f'({profile.name}: horizon and joints)'
        )
    if not np.isfinite(actions).all():
        raise ProfileMismatch('the actions contain NaN or infinity')
    found = np.empty((profile.horizon, len(robot.commanded)))
    first = 0
    for span in profile.action_columns:
        values = actions[:, first : first + len(span.joints)].astype(np.float64)
        first += len(span.joints)
        start = _to_server_grippers(
            profile, robot, span, _select_joints(robot, span, joint_positions)
        )
        if span.kind == 'relative':
            values = start + values
        elif span.kind == 'rate':
            # a row with a rate above 1 is scaled as a whole, so its direction is kept
            excess = np.maximum(1.0, np.abs(values).max(axis=1, keepdims=True))
            values = start + np.cumsum(values / excess, axis=0) * span.scale
        joints = [robot.commanded.index(name) for name in span.joints]
        found[:, joints] = _from_server_grippers(profile, robot, span, values)
    return found


def _select_joints(
    robot: Embodiment, group: JointGroup, joint_positions: np.ndarray
) -> np.ndarray:
    return joint_positions[[robot.observed.index(name) for name in group.joints]]


def _to_server_grippers(
    profile: ServerProfile, robot: Embodiment, group: JointGroup, values: np.ndarray
) -> np.ndarray:
    """Return a copy with grippers converted from 0 closed .. 1 open to the server's values."""
    converted, grippers = np.array(values, np.float64), _find_gripper_columns(robot, group)
    opened, closed = profile.gripper_open, profile.gripper_closed
    converted[..., grippers] = closed + converted[..., grippers] * (opened - closed)
    return converted


def _from_server_grippers(
    profile: ServerProfile, robot: Embodiment, group: JointGroup, values: np.ndarray
) -> np.ndarray:
    converted, grippers = np.array(values, np.float64), _find_gripper_columns(robot, group)
    opened, closed = profile.gripper_open, profile.gripper_closed
    converted[..., grippers] = (converted[..., grippers] - closed) / (opened - closed)
    return converted


def _find_gripper_columns(robot: Embodiment, group: JointGroup) -> list[int]:
    named = {gripper.name for gripper in robot.grippers}
    return [column for column, name in enumerate(group.joints) if name in named]


def _set_nested(message: dict[str, Any], key: KeyPath, value: Any) -> None:
    for name in key[:-1]:
        message = message.setdefault(name, {})
    message[key[-1]] = value


def _get_nested(message: Mapping[str, Any], key: KeyPath) -> Any:
    value: Any = message
    for name in key:
        if not isinstance(value, Mapping) or name not in value:
            raise ProfileMismatch(f'{_format_key(key)} is missing')
        value = value[name]
    return value


def _merge_nested(message: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _merge_nested(message.setdefault(key, {}), value)
        else:
            message[key] = value


def _format_key(key: KeyPath) -> str:
    return '.'.join(key)


def _describe_value(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f'{value.dtype} {list(value.shape)}'
    return f'{value!r:.60}'

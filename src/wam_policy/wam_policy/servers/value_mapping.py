"""Convert between our values and the messages of a server profile; each function with its inverse.

Our values: views uint8 [T h w 3] per camera, joint positions [observed], targets [horizon
commanded], in rad, m and gripper opening 0..1. Decoded targets are always absolute, also if the
server's actions are relative, rates or poses of tools.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers.mapping import action_layout, message_template
from wam_policy.servers.mapping.image_encoding import decode_images, encode_images, has_images
from wam_policy.servers.mapping.nested_keys import (
    KeyPath,
    ProfileMismatch,
    describe_value,
    format_path,
    get_nested,
    merge_nested,
    set_nested,
)
from wam_policy.servers.mapping.pose_mapping import PoseMapper
from wam_policy.servers.profile_fields import FixedGroup, JointGroup, PoseGroup, ServerProfile


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRequest:
    """Content of an infer request."""

    views: Mapping[str, np.ndarray]  # camera -> uint8 [T h w 3]
    joint_positions: np.ndarray  # float64 [observed]
    prompt: str


def encode_state(
    profile: ServerProfile,
    robot: Embodiment,
    joint_positions: np.ndarray,
    poses: PoseMapper | None = None,
    history: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the state keys of a message, float32, for joint positions [observed].

    Groups with the same key are concatenated. A profile with a history of states gets one per
    image, [T values], from `history` [T observed].
    """
    instants = joint_positions[None] if history is None else history
    if not profile.has_state_history:
        instants = joint_positions[None]
    parts: dict[KeyPath, list[np.ndarray]] = {}
    for group in profile.state:
        if isinstance(group, FixedGroup):
            values = np.tile(np.array(group.values), (len(instants), 1))
        elif isinstance(group, PoseGroup):
            values = _require_poses(profile, poses).encode_rows(
                group, instants, joint_positions, None
            )
        else:
            values = _to_server(profile, group, _select_joints(robot, group, instants))
        parts.setdefault(group.key, []).append(values)
    message: dict[str, Any] = {}
    for key, values in parts.items():
        array: Any = np.concatenate(values, axis=1).astype(np.float32)
        array = array if profile.has_state_history else array[0]
        array = array.reshape((1,) * profile.state_axes + array.shape)
        if profile.state_form == 'list':
            array = array.tolist()
        elif profile.state_form == 'scalar' and array.size == 1:
            array = float(array.item())
        set_nested(message, key, array)
    return message


def decode_state(
    profile: ServerProfile, robot: Embodiment, message: Mapping[str, Any]
) -> np.ndarray:
    """Invert `encode_state`: float64 [observed]; joints missing in the profile are NaN.

    Of a history of states the newest counts. Lists of numbers are accepted as arrays are; poses
    give no joint positions.
    """
    found = np.full(len(robot.observed), np.nan)
    sizes: dict[KeyPath, int] = {}
    for group in profile.state:
        sizes[group.key] = sizes.get(group.key, 0) + group.width
    first = dict.fromkeys(sizes, 0)
    for group in profile.state:
        value = get_nested(message, group.key)
        if profile.has_state_history and isinstance(value, np.ndarray) and value.ndim > 1:
            value = value[..., -1, :]
        values = _parse_numbers(group.key, value, sizes[group.key])
        start, first[group.key] = first[group.key], first[group.key] + group.width
        if isinstance(group, JointGroup):
            columns = [robot.observed.index(name) for name in group.joints]
            found[columns] = _from_server(profile, group, values[start : start + group.width])
    return found


def encode_request(
    profile: ServerProfile,
    robot: Embodiment,
    views: Mapping[str, np.ndarray],
    joint_positions: np.ndarray,
    prompt: str,
    poses: PoseMapper | None = None,
    history: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the infer message: images, state, prompt and the profile's constants."""
    message = encode_images(profile, views)
    merge_nested(message, encode_state(profile, robot, joint_positions, poses, history))
    if profile.prompt_key is not None:
        value: Any = profile.prompt_text.replace('{prompt}', prompt)
        for _ in range(profile.prompt_lists):
            value = [value]
        set_nested(message, profile.prompt_key, value)
    merge_nested(message, message_template.fill_template(profile.constants, {}))
    return message


def decode_request(
    profile: ServerProfile,
    robot: Embodiment,
    message: Mapping[str, Any],
    *,
    images_optional: bool = False,
) -> DecodedRequest:
    """Invert `encode_request`; `images_optional` accepts a message without images."""
    prompt: Any = ''
    if profile.prompt_key is not None:
        prompt = get_nested(message, profile.prompt_key)
        for _ in range(profile.prompt_lists):
            prompt = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else None
        if not isinstance(prompt, str):
            raise ProfileMismatch(
                f'{format_path(profile.prompt_key)}: want a string'
                f'{" in lists of one" * bool(profile.prompt_lists)}, got '
                f'{describe_value(get_nested(message, profile.prompt_key))}'
            )
        before, after = profile.prompt_text.split('{prompt}')
        prompt = prompt.removeprefix(before).removesuffix(after)
    with_images = has_images(profile, message) or not images_optional
    return DecodedRequest(
        decode_images(profile, message) if with_images else {},
        decode_state(profile, robot, message),
        prompt,
    )


def encode_actions(
    profile: ServerProfile,
    robot: Embodiment,
    targets: np.ndarray,
    joint_positions: np.ndarray,
    episode_positions: np.ndarray | None = None,
    poses: PoseMapper | None = None,
) -> Any:
    """Return the answer for absolute targets [horizon commanded], actions float32.

    Rates above 1 are not limited here; `decode_actions` scales such a row down.
    """
    return action_layout.spread_rows(
        profile,
        encode_rows(profile, robot, targets, joint_positions, episode_positions, poses),
    )


def encode_rows(
    profile: ServerProfile,
    robot: Embodiment,
    targets: np.ndarray,
    joint_positions: np.ndarray,
    episode_positions: np.ndarray | None = None,
    poses: PoseMapper | None = None,
) -> np.ndarray:
    """Return the driven columns [rows columns] of absolute targets [rows commanded]."""
    columns = []
    for group in profile.action_columns:
        if isinstance(group, PoseGroup):
            rows = np.tile(joint_positions, (len(targets), 1))
            rows[:, [robot.observed.index(name) for name in robot.commanded]] = targets
            columns.append(
                _require_poses(profile, poses).encode_rows(
                    group, rows, joint_positions, episode_positions
                )
            )
        elif isinstance(group, JointGroup):
            wanted = [robot.commanded.index(name) for name in group.joints]
            values = _to_server(profile, group, targets[:, wanted])
            start = _start_of(profile, robot, group, joint_positions, episode_positions)
            if group.kind in ('relative', 'episode_relative'):
                values = values - start
            elif group.kind in ('rate', 'delta'):
                values = np.diff(np.vstack([start, values]), axis=0) / group.scale
            columns.append(values)
    return np.hstack(columns)


def decode_actions(
    profile: ServerProfile,
    robot: Embodiment,
    message: Any,
    joint_positions: np.ndarray,
    episode_positions: np.ndarray | None = None,
    poses: PoseMapper | None = None,
    first_row: int = 0,
) -> np.ndarray:
    """Invert `encode_actions`: return absolute targets, float64 [horizon commanded].

    `episode_positions` [observed] are those at the start of the episode. Rows before `first_row`
    are not executed and left out. Raises ProfileMismatch for a wrong type, shape, a value that is
    not finite or a pose out of reach.
    """
    actions = action_layout.collect_rows(profile, message)[first_row:]
    found = np.empty((len(actions), len(robot.commanded)))
    posed: list[tuple[PoseGroup, np.ndarray]] = []
    first = 0
    for group in profile.action_columns:
        if isinstance(group, FixedGroup):
            continue
        values = actions[:, first : first + group.width]
        first += group.width
        if isinstance(group, PoseGroup):
            posed.append((group, values))
            continue
        start = _start_of(profile, robot, group, joint_positions, episode_positions)
        if group.kind in ('relative', 'episode_relative'):
            values = start + values
        elif group.kind == 'delta':
            values = start + np.cumsum(values, axis=0)
        elif group.kind == 'rate':
            # a row with a rate above 1 is scaled as a whole, so its direction is kept
            excess = np.maximum(1.0, np.abs(values).max(axis=1, keepdims=True))
            values = start + np.cumsum(values / excess, axis=0) * group.scale
        joints = [robot.commanded.index(name) for name in group.joints]
        found[:, joints] = _from_server(profile, group, values)
    if posed:
        solved = _require_poses(profile, poses).decode_rows(
            posed, joint_positions, episode_positions
        )
        for name, rows in solved.items():
            found[:, [robot.commanded.index(joint) for joint in profile.tools[name].joints]] = rows
    return found


def _require_poses(profile: ServerProfile, poses: PoseMapper | None) -> PoseMapper:
    if poses is None:
        raise ProfileMismatch(
            f'{profile.name} has poses of tools, which need the kinematics of the robot'
        )
    return poses


def _start_of(
    profile: ServerProfile,
    robot: Embodiment,
    group: JointGroup,
    joint_positions: np.ndarray,
    episode_positions: np.ndarray | None,
) -> np.ndarray:
    """Return the server's values of the joints to which rows are relative."""
    from_episode = group.kind == 'episode_relative' and episode_positions is not None
    positions = episode_positions if from_episode else joint_positions
    assert positions is not None
    return _to_server(profile, group, _select_joints(robot, group, positions))


def _select_joints(
    robot: Embodiment, group: JointGroup, joint_positions: np.ndarray
) -> np.ndarray:
    return joint_positions[..., [robot.observed.index(name) for name in group.joints]]


def _to_server(profile: ServerProfile, group: JointGroup, values: np.ndarray) -> np.ndarray:
    """Return a copy in the server's units: grippers from 0 closed .. 1 open to its values."""
    converted = np.array(values, np.float64)
    if group.in_degrees:
        converted = np.degrees(converted)
    for column, name in enumerate(group.joints):
        if name in profile.gripper_ranges:
            opened, closed = profile.gripper_ranges[name]
            converted[..., column] = closed + values[..., column] * (opened - closed)
    return converted


def _from_server(profile: ServerProfile, group: JointGroup, values: np.ndarray) -> np.ndarray:
    converted = np.array(values, np.float64)
    if group.in_degrees:
        converted = np.radians(converted)
    for column, name in enumerate(group.joints):
        if name in profile.gripper_ranges:
            opened, closed = profile.gripper_ranges[name]
            opening = (values[..., column] - closed) / (opened - closed)
            converted[..., column] = np.clip(opening, 0, 1) if profile.clips_grippers else opening
    return converted


def _parse_numbers(key: KeyPath, value: Any, count: int) -> np.ndarray:
    """Return finite numbers [count] of an array, a list or one number."""
    array = value
    if isinstance(value, list | int | float) and not isinstance(value, bool):
        try:
            array = np.array(value)
        except (ValueError, OverflowError):  # lists of different lengths
            array = None
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.kind not in 'fiu'
        or array.size != count
        or not np.isfinite(array).all()
    ):
        raise ProfileMismatch(
            f'{format_path(key)}: want {count} finite numbers, got {describe_value(value)}'
        )
    return array.reshape(-1).astype(np.float64)

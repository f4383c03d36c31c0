"""Server profiles: read from YAML files, one per kind of server and robot.

The remote worker (as client) and our server use the same mapping. Joint names are those of the
robot's embodiment; grippers are converted between ours (0 closed .. 1 open) and the server's.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from wam_policy import robot_folders
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.strict_yaml import StrictMapping
from wam_policy.servers import image_resize, profile_blocks
from wam_policy.servers.codecs.codec_table import CODECS
from wam_policy.servers.profile_blocks import (
    parse_choice,
    parse_key_path,
    parse_optional_choice,
    parse_optional_key_path,
    parse_optional_text,
)
from wam_policy.servers.profile_fields import (
    MEMORY_KINDS,
    STATE_FORMS,
    FixedGroup,
    FrameSchedule,
    JointGroup,
    PoseGroup,
    ServerProfile,
    ValueGroup,
)

PROFILE_FOLDER = Path(__file__).resolve().parent / 'profiles'


def list_names(folder: Path = PROFILE_FOLDER) -> tuple[str, ...]:
    """Return the names of the server profiles in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob('*.yaml')))


def load(name: str, folder: Path = PROFILE_FOLDER) -> ServerProfile:
    """Load a server profile by name or file; raises ValueError with file, key and fix."""
    path = Path(name) if name.endswith('.yaml') else folder / f'{name}.yaml'
    if not path.is_file():
        known = list_names(folder)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(
            f'no server profile {name!r}; known: {", ".join(known)}, or a .yaml file{hint}'
        )
    document = StrictMapping.load(path)
    profile = _parse_profile(document)
    document.reject_unknown_keys()
    if profile.name != path.stem:
        raise ValueError(
            f'{document.key_path("name")}: {profile.name!r} differs from the file name {path.name}'
        )
    return profile


def load_for_robot(name: str, robot: Embodiment) -> ServerProfile:
    """Load the named profile or the robot's default; ValueError if it is for another robot."""
    if name:
        profile = load(name)
        if profile.robot != robot.name:
            raise ValueError(
                f'server profile {name} is for {profile.robot}, not for {robot.name}; '
                f'for {robot.name}: {", ".join(_list_names_for_robot(robot)) or "none"}'
            )
        return profile
    for profile in map(load, _list_names_for_robot(robot)):
        if profile.is_default:
            return profile
    raise ValueError(
        f'{robot.name} has no default server profile; select one of '
        f'{", ".join(_list_names_for_robot(robot)) or "a .yaml file"}'
    )


def _list_names_for_robot(robot: Embodiment) -> list[str]:
    return [name for name in list_names() if load(name).robot == robot.name]


def _parse_profile(document: StrictMapping) -> ServerProfile:
    robot = robot_folders.load_robot(document.read_str('robot'))
    request, shown = document.read_mapping('request'), document.read_mapping('pictures')
    actions, cameras = document.read_mapping('actions'), document.read_mapping('cameras')
    frames = document.read_mapping('frames')
    schedule = _parse_frame_schedule(frames)
    prompt_key = parse_optional_key_path(request, 'prompt')
    session_key = parse_optional_key_path(request, 'session')
    endpoint_key = parse_optional_text(request, 'endpoint')
    tools = profile_blocks.parse_tools(document, robot)
    gripper_ranges, clips_grippers = profile_blocks.parse_grippers(document, robot)
    state = _parse_groups(document, 'state', robot, tuple(tools), is_state=True)
    profile = ServerProfile(
        name=document.read_str('name'),
        title=document.read_str('title'),
        robot=robot.name,
        is_default=parse_choice(document, 'default', (True, False)),
        url_path=parse_optional_text(document, 'path') or '',
        transport=profile_blocks.parse_transport(document),
        codec=parse_optional_choice(document, 'codec', tuple(CODECS)),
        operations=profile_blocks.parse_operations(document, session_key, endpoint_key),
        prompt_key=prompt_key,
        prompt_lists=_read_optional(request, 'prompt_lists', 0),
        prompt_text=profile_blocks.parse_prompt_text(request),
        session_key=session_key,
        endpoint_key=endpoint_key,
        constants=profile_blocks.parse_constants(request),
        cameras=MappingProxyType({camera: parse_key_path(cameras, camera) for camera in cameras}),
        image_size=_parse_image_size(shown),
        image_fit=parse_choice(shown, 'fit', image_resize.FIT_MODES),
        channel_order=parse_choice(shown, 'order', image_resize.CHANNEL_ORDERS),
        image_axes=profile_blocks.parse_image_axes(shown),
        image_encoding=parse_optional_choice(shown, 'encoding', profile_blocks.IMAGE_ENCODINGS),
        frames=schedule,
        memory=_parse_memory(document, schedule),
        state=state,
        state_axes=_read_optional(request, 'state_axes', 0),
        state_form=parse_optional_choice(request, 'state_form', STATE_FORMS),
        has_state_history=parse_optional_choice(request, 'state_history', (False, True)),
        gripper_ranges=gripper_ranges,
        clips_grippers=clips_grippers,
        tools=tools,
        action_columns=_parse_groups(actions, 'columns', robot, tuple(tools), is_state=False),
        configuration=document.read_frozen('configuration'),
        **profile_blocks.parse_action_layout(actions),
    )
    for table in (request, shown, actions, frames):
        table.reject_unknown_keys()
    _check_robot(document, profile, robot)
    return profile


def _read_optional(table: StrictMapping, key: str, default: int) -> int:
    return table.read_int(key, above=-1) if key in table else default


def _parse_memory(document: StrictMapping, frames: FrameSchedule) -> str:
    kind = 'none' if frames.block_steps is None else 'block'
    if 'memory' in document:
        kind = parse_choice(document, 'memory', MEMORY_KINDS)
    steps = frames.block_steps
    if steps is not None and -frames.offsets[0] == steps and kind != 'after_execution':
        raise ValueError(
            f'{document.key_path("frames.offsets")}: only a memory after_execution reaches back '
            f'to the image before the block, want more than {-steps}, got {frames.offsets[0]}'
        )
    if (kind == 'none') != (frames.block_steps is None):
        raise ValueError(
            f'{document.key_path("memory")}: {kind} with frames.block_steps '
            f'{frames.block_steps}; want null without a memory and a number with one'
        )
    return kind


def _check_robot(document: StrictMapping, profile: ServerProfile, robot: Embodiment) -> None:
    """Raise ValueError if the profile does not match its robot's cameras and joints."""
    unknown = [key for key in profile.cameras if key not in {c.key for c in robot.cameras}]
    if unknown or not profile.cameras:
        raise ValueError(
            f'{document.key_path("cameras")}: want cameras of {robot.name}: '
            f'{", ".join(camera.key for camera in robot.cameras)}'
        )
    driven = [name for group in profile.action_columns for name in group.joints]
    posed = [group for group in profile.action_columns if isinstance(group, PoseGroup)]
    for name in dict.fromkeys(group.pose for group in posed):
        driven += profile.tools[name].joints
        parts = sorted(group.part for group in posed if group.pose == name)
        if parts not in (['pose'], ['rotation', 'xyz']):
            raise ValueError(
                f'{document.key_path("actions.columns")}: pose {name} has the parts '
                f'{", ".join(parts)}; want pose, or xyz and rotation'
            )
    if sorted(driven) != sorted(robot.commanded):
        raise ValueError(
            f'{document.key_path("actions.columns")}: want each of '
            f'{", ".join(robot.commanded)} once'
        )
    for name, (opened, closed) in profile.gripper_ranges.items():
        if opened == closed:
            raise ValueError(f'{document.key_path("grippers")}: open equals closed ({name})')
    sent = {name for group in profile.state for name in group.joints}
    lost = [
        name
        for group in profile.action_columns
        if isinstance(group, JointGroup) and group.kind in ('relative', 'rate')
        for name in group.joints
        if name not in sent
    ]
    if lost:
        raise ValueError(
            f'{document.key_path("actions.columns")}: {", ".join(lost)} are '
            'not absolute, so the state must contain them'
        )
    if 'frames' in profile.action_axes and profile.horizon % profile.rows_per_frame:
        raise ValueError(
            f'{document.key_path("actions.rows_per_frame")}: want a divisor of the horizon '
            f'{profile.horizon}, got {profile.rows_per_frame}'
        )


def _parse_groups(
    table: StrictMapping, key: str, robot: Embodiment, tools: Sequence[str], *, is_state: bool
) -> tuple[ValueGroup, ...]:
    rows = table.read(key)
    if not isinstance(rows, list) or (not rows and not is_state):
        raise ValueError(f'{table.key_path(key)}: want a list')
    known = robot.observed if is_state else robot.commanded
    found = []
    for number, row in enumerate(rows):
        inner = StrictMapping(row, f'{table.key_path(key)}[{number}]')
        found.append(profile_blocks.parse_group(inner, known, tools, is_state=is_state))
        inner.reject_unknown_keys()
    if not is_state and all(isinstance(group, FixedGroup) for group in found):
        raise ValueError(f'{table.key_path(key)}: no column drives a joint')
    return tuple(found)


def _parse_frame_schedule(table: StrictMapping) -> FrameSchedule:
    steps = table.read('block_steps')
    if steps is not None:
        steps = table.read_int('block_steps')
    offsets = table.read('offsets')
    good = (
        isinstance(offsets, list)
        and offsets
        and all(type(i) is int for i in offsets)
        and offsets == sorted(set(offsets))
        and offsets[-1] == 0
        and -offsets[0] <= (0 if steps is None else steps)
    )
    if not good:
        raise ValueError(
            f'{table.key_path("offsets")}: want ascending integers that end with 0 and are '
            f'at least -block_steps, got {offsets!r}'
        )
    repeats_first = parse_optional_choice(table, 'first', ('single', 'repeat')) == 'repeat'
    return FrameSchedule(steps, tuple(offsets), table.read_int('window'), repeats_first)


def _parse_image_size(table: StrictMapping) -> tuple[int, int] | None:
    if table.read('size') is None:
        return None
    width, height = table.read_floats('size', 2)
    if min(width, height) < 1 or width % 1 or height % 1:
        raise ValueError(f'{table.key_path("size")}: want [width, height] in pixels')
    return int(width), int(height)

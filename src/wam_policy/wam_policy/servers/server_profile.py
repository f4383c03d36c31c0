"""Server profiles: message keys, images, state and action columns of a server, one YAML each.

The remote worker (as client) and our server use the same mapping. Joint names are those of the
robot's embodiment; grippers are converted between ours (0 closed .. 1 open) and the server's.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.strict_yaml import StrictMapping
from wam_policy.servers import image_resize

PROFILE_FOLDER = Path(__file__).resolve().parent / 'profiles'
ACTION_KINDS = ('absolute', 'relative', 'rate')

KeyPath = tuple[str, ...]  # keys of nested maps; most servers use one flat key


@dataclass(frozen=True, slots=True)
class JointGroup:
    """Joints, in the server's order, that share a state key or consecutive action columns."""

    joints: tuple[str, ...]
    key: KeyPath = ()  # of a state; empty for action columns
    kind: str = 'absolute'  # of actions, one of ACTION_KINDS
    scale: float = 1.0  # of a rate: change per row at a rate of 1, rad


@dataclass(frozen=True, slots=True)
class FrameSchedule:
    """Images of a request and the interval between requests.

    A server with memory receives one request per `block_steps` robot steps, with the images at
    `offsets` (steps relative to the newest). A server without receives the newest at any time.
    """

    block_steps: int | None  # None: no memory, requests at any time
    offsets: tuple[int, ...]  # ascending, the last is 0
    window: int  # newest images that the server uses


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """Message format of one kind of server, for one robot."""

    name: str
    title: str
    robot: str  # embodiment whose joints and cameras are mapped
    is_default: bool  # the profile of this robot unless another is selected
    url_path: str  # appended to an address without a path
    prompt_key: KeyPath
    session_key: KeyPath | None  # None: the server has no sessions
    endpoint_key: str | None  # holds infer or reset; None: the server has only infer
    cameras: Mapping[str, KeyPath]  # in the server's order
    image_size: tuple[int, int] | None  # width, height; None: the size of the camera images
    image_fit: str
    channel_order: str
    frames: FrameSchedule
    state: tuple[JointGroup, ...]
    gripper_open: float
    gripper_closed: float
    actions_key: KeyPath | None  # of the actions; None: the answer is the array
    horizon: int
    step_hz: float
    action_columns: tuple[JointGroup, ...]
    configuration: Mapping[str, Any]  # metadata that the server sends on connect

    @property
    def action_dim(self) -> int:
        """Return the number of action columns."""
        return sum(len(span.joints) for span in self.action_columns)


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
    robot = embodiment.load_embodiment(document.read_str('robot'))
    request, shown = document.read_mapping('request'), document.read_mapping('pictures')
    actions, grippers = document.read_mapping('actions'), document.read_mapping('grippers')
    cameras = document.read_mapping('cameras')
    profile = ServerProfile(
        name=document.read_str('name'),
        title=document.read_str('title'),
        robot=robot.name,
        is_default=_parse_choice(document, 'default', (True, False)),
        url_path=_parse_optional_text(document, 'path') or '',
        prompt_key=_parse_key_path(request, 'prompt'),
        session_key=_parse_optional_key_path(request, 'session'),
        endpoint_key=_parse_optional_text(request, 'endpoint'),
        cameras=MappingProxyType({camera: _parse_key_path(cameras, camera) for camera in cameras}),
        image_size=_parse_image_size(shown),
        image_fit=_parse_choice(shown, 'fit', image_resize.FIT_MODES),
        channel_order=_parse_choice(shown, 'order', image_resize.CHANNEL_ORDERS),
        frames=_parse_frame_schedule(document.read_mapping('frames')),
        state=_parse_joint_groups(document, 'state', robot.observed, has_keys=True),
        gripper_open=grippers.read_float('open'),
        gripper_closed=grippers.read_float('closed'),
        actions_key=_parse_optional_key_path(actions, 'key'),
        horizon=actions.read_int('horizon'),
        step_hz=actions.read_float('step_hz', above=0.0),
        action_columns=_parse_joint_groups(actions, 'columns', robot.commanded, has_keys=False),
        configuration=document.read_frozen('configuration'),
    )
    for table in (request, shown, actions, grippers):
        table.reject_unknown_keys()
    _check_robot(document, profile, robot)
    return profile


def _check_robot(document: StrictMapping, profile: ServerProfile, robot: Embodiment) -> None:
    """Raise ValueError if the profile does not match its robot's cameras and joints."""
    unknown = [key for key in profile.cameras if key not in {c.key for c in robot.cameras}]
    if unknown or not profile.cameras:
        raise ValueError(
            f'{document.key_path("cameras")}: want cameras of {robot.name}: '
            f'{", ".join(camera.key for camera in robot.cameras)}'
        )
    driven = [name for span in profile.action_columns for name in span.joints]
    if sorted(driven) != sorted(robot.commanded):
        raise ValueError(
            f'{document.key_path("actions.columns")}: want each of '
            f'{", ".join(robot.commanded)} once'
        )
    if profile.gripper_open == profile.gripper_closed:
        raise ValueError(f'{document.key_path("grippers")}: open equals closed')
    if any(span.kind != 'absolute' for span in profile.action_columns):
        sent = {name for span in profile.state for name in span.joints}
        lost = [
            name
            for span in profile.action_columns
            if span.kind != 'absolute'
            for name in span.joints
            if name not in sent
        ]
        if lost:
            raise ValueError(
                f'{document.key_path("actions.columns")}: {", ".join(lost)} are '
                'not absolute, so the state must contain them'
            )


def _parse_joint_groups(
    table: StrictMapping, key: str, known: Sequence[str], *, has_keys: bool
) -> tuple[JointGroup, ...]:
    rows = table.read(key)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{table.key_path(key)}: want a list')
    found = []
    for number, row in enumerate(rows):
        inner = StrictMapping(row, f'{table.key_path(key)}[{number}]')
        joints = inner.read_strs('joints')
        strange = [name for name in joints if name not in known]
        if strange:
            raise ValueError(f'{inner.key_path("joints")}: unknown joint {", ".join(strange)}')
        if has_keys:
            span = JointGroup(joints, _parse_key_path(inner, 'key'))
        else:
            kind = _parse_choice(inner, 'kind', ACTION_KINDS)
            span = JointGroup(
                joints, (), kind, inner.read_float('scale', above=0.0) if kind == 'rate' else 1.0
            )
        inner.reject_unknown_keys()
        found.append(span)
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
        and -offsets[0] < (1 if steps is None else steps)
    )
    if not good:
        raise ValueError(
            f'{table.key_path("offsets")}: want ascending integers that end with 0 and are '
            f'greater than -block_steps, got {offsets!r}'
        )
    frames = FrameSchedule(steps, tuple(offsets), table.read_int('window'))
    table.reject_unknown_keys()
    return frames


def _parse_image_size(table: StrictMapping) -> tuple[int, int] | None:
    if table.read('size') is None:
        return None
    width, height = table.read_floats('size', 2)
    if min(width, height) < 1 or width % 1 or height % 1:
        raise ValueError(f'{table.key_path("size")}: want [width, height] in pixels')
    return int(width), int(height)


def _parse_key_path(table: StrictMapping, key: str) -> KeyPath:
    """Read one key, or a list of keys for a value inside nested maps."""
    value = table.read(key)
    return table.read_strs(key) if isinstance(value, list) else (table.read_str(key),)


def _parse_optional_key_path(table: StrictMapping, key: str) -> KeyPath | None:
    return None if table.read(key) is None else _parse_key_path(table, key)


def _parse_optional_text(table: StrictMapping, key: str) -> str | None:
    return None if table.read(key) is None else table.read_str(key)


def _parse_choice[T](table: StrictMapping, key: str, choices: Sequence[T]) -> T:
    value = table.read(key)
    if value not in choices or isinstance(value, bool) != isinstance(choices[0], bool):
        raise ValueError(
            f'{table.key_path(key)}: want one of {", ".join(map(str, choices))}, got {value!r}'
        )
    return value

"""How a server wants to be spoken to, as data: one YAML per flavour, read strictly.

The same mapping serves both directions: the remote worker asks with it, our own server answers
with it. Joints are named as the robot names them; grippers are ours (0 closed .. 1 open) outside
and the server's inside.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.strict_yaml import Table
from wam_policy.servers import image_resize

FLAVOURS = Path(__file__).resolve().parent / 'profiles'
KINDS = ('absolute', 'relative', 'rate')

Key = tuple[str, ...]  # path into nested maps; most servers use one flat name


@dataclass(frozen=True, slots=True)
class Span:
    """Name joints, in the server's order, that share a key or a run of columns."""

    joints: tuple[str, ...]
    key: Key = ()  # of a state; columns of actions have none
    kind: str = 'absolute'  # of actions, one of KINDS
    scale: float = 1.0  # of a rate: change per row at full rate, rad


@dataclass(frozen=True, slots=True)
class Frames:
    """Say which pictures a request carries and how often it may be made.

    A server with a memory gets one request per `block_steps` steps of the robot, with the
    pictures of `offsets` (in steps before the newest). One without takes the newest at any time.
    """

    block_steps: int | None  # None: no memory, ask at any time
    offsets: tuple[int, ...]  # ascending, the last is 0
    window: int  # pictures a server of this flavour looks back on


@dataclass(frozen=True, slots=True)
class Flavour:
    """Hold what one kind of server expects and gives."""

    name: str
    title: str
    robot: str  # whose joints and cameras are named
    default: bool  # spoken for this robot unless another is named
    path: str  # appended to an address without a path
    prompt_key: Key
    session_key: Key | None  # None: the server knows no sessions
    endpoint_key: str | None  # tells infer from reset; None: infer is all there is
    cameras: Mapping[str, Key]  # in the server's order
    size: tuple[int, int] | None  # width, height; None: as the cameras give them
    fit: str
    order: str
    frames: Frames
    state: tuple[Span, ...]
    gripper_open: float
    gripper_closed: float
    answer_key: Key | None  # of the actions; None: the answer is the array
    horizon: int
    step_hz: float
    columns: tuple[Span, ...]
    configuration: Mapping[str, Any]  # what the server says of itself on connect

    @property
    def width(self) -> int:
        """Count the columns of an answer."""
        return sum(len(span.joints) for span in self.columns)


def names(folder: Path = FLAVOURS) -> tuple[str, ...]:
    """Return the flavours there are."""
    return tuple(sorted(path.stem for path in folder.glob('*.yaml')))


def load(name: str, folder: Path = FLAVOURS) -> Flavour:
    """Read a flavour by name, or from a file; ValueError names the file, the key and the fix."""
    path = Path(name) if name.endswith('.yaml') else folder / f'{name}.yaml'
    if not path.is_file():
        known = names(folder)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'no flavour {name!r}; known: {", ".join(known)}, or a .yaml file{hint}')
    document = Table.load(path)
    flavour = _flavour(document)
    document.done()
    if flavour.name != path.stem:
        raise ValueError(
            f'{document.spot("name")}: {flavour.name!r} stands in {path.name}; make them equal'
        )
    return flavour


def chosen(name: str, robot: Embodiment) -> Flavour:
    """Read the named flavour, or the robot's default one; ValueError if it is not this robot's."""
    if name:
        flavour = load(name)
        if flavour.robot != robot.name:
            raise ValueError(
                f'flavour {name} speaks for {flavour.robot}, not for {robot.name}; '
                f'for that: {", ".join(_of(robot)) or "none yet"}'
            )
        return flavour
    for flavour in map(load, _of(robot)):
        if flavour.default:
            return flavour
    raise ValueError(
        f'{robot.name} has no default flavour; name one of '
        f'{", ".join(_of(robot)) or "your own (a .yaml file)"}'
    )


def _of(robot: Embodiment) -> list[str]:
    return [name for name in names() if load(name).robot == robot.name]


def _flavour(document: Table) -> Flavour:
    robot = embodiment.load(document.text('robot'))
    request, shown = document.table('request'), document.table('pictures')
    actions, grippers = document.table('actions'), document.table('grippers')
    cameras = document.table('cameras')
    flavour = Flavour(
        name=document.text('name'),
        title=document.text('title'),
        robot=robot.name,
        default=_one_of(document, 'default', (True, False)),
        path=_maybe_text(document, 'path') or '',
        prompt_key=_key(request, 'prompt'),
        session_key=_maybe_key(request, 'session'),
        endpoint_key=_maybe_text(request, 'endpoint'),
        cameras=MappingProxyType({camera: _key(cameras, camera) for camera in cameras}),
        size=_size(shown),
        fit=_one_of(shown, 'fit', image_resize.FITS),
        order=_one_of(shown, 'order', image_resize.ORDERS),
        frames=_frames(document.table('frames')),
        state=_spans(document, 'state', robot.observed, keyed=True),
        gripper_open=grippers.number('open'),
        gripper_closed=grippers.number('closed'),
        answer_key=_maybe_key(actions, 'key'),
        horizon=actions.whole('horizon'),
        step_hz=actions.number('step_hz', above=0.0),
        columns=_spans(actions, 'columns', robot.commanded, keyed=False),
        configuration=document.frozen('configuration'),
    )
    for table in (request, shown, actions, grippers):
        table.done()
    _checked(document, flavour, robot)
    return flavour


def _checked(document: Table, flavour: Flavour, robot: Embodiment) -> None:
    """Raise ValueError where a mapping does not fit its robot."""
    unknown = [key for key in flavour.cameras if key not in {c.key for c in robot.cameras}]
    if unknown or not flavour.cameras:
        raise ValueError(
            f'{document.spot("cameras")}: want cameras of {robot.name}: '
            f'{", ".join(camera.key for camera in robot.cameras)}'
        )
    driven = [name for span in flavour.columns for name in span.joints]
    if sorted(driven) != sorted(robot.commanded):
        raise ValueError(
            f'{document.spot("actions.columns")}: want each of {", ".join(robot.commanded)} once'
        )
    if flavour.gripper_open == flavour.gripper_closed:
        raise ValueError(f'{document.spot("grippers")}: open equals closed')
    if any(span.kind != 'absolute' for span in flavour.columns):
        sent = {name for span in flavour.state for name in span.joints}
        lost = [
            name
            for span in flavour.columns
            if span.kind != 'absolute'
            for name in span.joints
            if name not in sent
        ]
        if lost:
            raise ValueError(
                f'{document.spot("actions.columns")}: {", ".join(lost)} are not '
                'absolute, but the state does not carry them'
            )


def _spans(table: Table, key: str, known: Sequence[str], *, keyed: bool) -> tuple[Span, ...]:
    rows = table.take(key)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{table.spot(key)}: want a list')
    found = []
    for number, row in enumerate(rows):
        inner = Table(row, f'{table.spot(key)}[{number}]')
        joints = inner.texts('joints')
        strange = [name for name in joints if name not in known]
        if strange:
            raise ValueError(f'{inner.spot("joints")}: unknown joint {", ".join(strange)}')
        if keyed:
            span = Span(joints, _key(inner, 'key'))
        else:
            kind = _one_of(inner, 'kind', KINDS)
            span = Span(
                joints, (), kind, inner.number('scale', above=0.0) if kind == 'rate' else 1.0
            )
        inner.done()
        found.append(span)
    return tuple(found)


def _frames(table: Table) -> Frames:
    steps = table.take('block_steps')
    if steps is not None:
        steps = table.whole('block_steps')
    offsets = table.take('offsets')
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
            f'{table.spot("offsets")}: want ascending steps that end with 0 and do '
            f'not reach back into the block before, got {offsets!r}'
        )
    frames = Frames(steps, tuple(offsets), table.whole('window'))
    table.done()
    return frames


def _size(table: Table) -> tuple[int, int] | None:
    if table.take('size') is None:
        return None
    width, height = table.numbers('size', 2)
    if min(width, height) < 1 or width % 1 or height % 1:
        raise ValueError(f'{table.spot("size")}: want [width, height] in pixels')
    return int(width), int(height)


def _key(table: Table, key: str) -> Key:
    """Read a flat name, or a list of names for a value inside maps."""
    value = table.take(key)
    return table.texts(key) if isinstance(value, list) else (table.text(key),)


def _maybe_key(table: Table, key: str) -> Key | None:
    return None if table.take(key) is None else _key(table, key)


def _maybe_text(table: Table, key: str) -> str | None:
    return None if table.take(key) is None else table.text(key)


def _one_of[T](table: Table, key: str, wanted: Sequence[T]) -> T:
    value = table.take(key)
    if value not in wanted or isinstance(value, bool) != isinstance(wanted[0], bool):
        raise ValueError(
            f'{table.spot(key)}: want one of {", ".join(map(str, wanted))}, got {value!r}'
        )
    return value

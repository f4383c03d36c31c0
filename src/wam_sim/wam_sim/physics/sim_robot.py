"""A simulated robot as data: what its folder says, read once and strictly, frozen afterwards.

`kinematics.json` holds the facts (joint frames, masses, inertias, limits) as published;
`robot.yaml` holds what is ours (mounts, shapes, servos, cameras, table). Names, speed limits and
the rest posture are not repeated here: they come from the robot's embodiment.
"""

import difflib
import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.strict_yaml import Table

ROBOTS = Path(__file__).resolve().parents[1] / 'robots'
WORLD = 'world'

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class JointFacts:
    """State one joint and its child link as published; frames in the URDF convention."""

    name: str
    type: str  # revolute, prismatic or fixed
    parent: str
    child: str
    xyz: Vector  # m, joint frame in the parent link
    rpy: Vector  # rad, fixed axes
    axis: Vector  # in the joint frame; empty if fixed
    limits: Vector  # rad or m; empty if fixed
    mass: float  # kg, of the child link; 0: no inertia of its own
    com: Vector  # m, in the child link
    inertia: Vector  # kg m^2: ixx ixy ixz iyy iyz izz about the com


@dataclass(frozen=True, slots=True)
class Mount:
    """Place one copy of the kinematic tree in the world."""

    prefix: str  # put before every joint and link name
    root: str  # root link, without the prefix
    xyz: Vector
    rpy: Vector


@dataclass(frozen=True, slots=True)
class Primitive:
    """Draw one shape on the links that match a pattern."""

    shape: str  # capsule, cylinder, box, sphere or ellipsoid
    size: Vector  # radius | half lengths
    start: Vector  # m: centre, or one end of a capsule or cylinder
    end: Vector  # the other end; empty for the rest
    rpy: Vector
    material: str
    collide: bool


@dataclass(frozen=True, slots=True)
class Servo:
    """State the position servo of a joint: torque = kp (q* - q) + kv (v* - v)."""

    kp: float
    kv: float
    armature: float  # kg m^2, rotor inertia seen at the joint


@dataclass(frozen=True, slots=True)
class Hand:
    """State one hand: which commanded gripper it is and how its fingers follow it."""

    side: str
    gripper: str  # commanded joint, 0 closed .. 1 open
    arm_base: str  # first link of the arm; all below belongs to the hand
    tool_link: str
    tool_xyz: Vector  # the point between the finger pads
    tool_axis: Vector  # unit, from the palm to the fingertips
    fingers: Mapping[str, Vector]  # joint -> (closed, open) in its own unit
    effort: float  # N or Nm per finger


@dataclass(frozen=True, slots=True)
class CameraMount:
    """Hang one camera on a link, looking from a point at another."""

    key: str
    link: str
    start: Vector
    at: Vector
    up: Vector
    fovy_deg: float


@dataclass(frozen=True, slots=True)
class TableTop:
    """Place the table top; its upper face lies at `height_m`."""

    centre: Vector  # m, x y
    half: Vector  # m, x y
    height_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Robot:
    """Hold everything the simulator knows of one robot."""

    name: str
    embodiment: Embodiment
    joints: tuple[JointFacts, ...]  # prefixed, parents before children
    mounts: tuple[Mount, ...]
    materials: Mapping[str, Mapping[str, Any]]
    geometry: Mapping[str, tuple[Primitive, ...]]  # link -> shapes
    unseen: frozenset[str]  # links that the robot's cameras never see
    servos: Mapping[str, Servo]  # joint ->
    couplings: Mapping[str, tuple[str, float]]  # joint -> (joint it follows, ratio)
    hands: tuple[Hand, ...]
    cameras: tuple[CameraMount, ...]  # in the order of the embodiment
    portrait: CameraMount  # for screenshots and the viewer
    table: TableTop
    workspace: Vector  # m: x low, x high, y low, y high
    mirror: Vector  # signs from the left arm's posture to the right's
    elbow_above_m: float  # how far the rest posture may rise over the shoulder

    def joint(self, name: str) -> JointFacts:
        return next(joint for joint in self.joints if joint.name == name)

    def hand(self, side: str) -> Hand:
        return next(hand for hand in self.hands if hand.side == side)

    def below(self, link: str) -> frozenset[str]:
        """Return `link` and every link that hangs on it."""
        links = {link}
        for joint in self.joints:  # parents come first
            if joint.parent in links:
                links.add(joint.child)
        return frozenset(links)


def names(folder: Path = ROBOTS) -> tuple[str, ...]:
    """Return the robots there are."""
    return tuple(sorted(path.parent.name for path in folder.glob('*/robot.yaml')))


def load(name: str, folder: Path = ROBOTS) -> Robot:
    """Read one robot; ValueError names the file, the key and the fix."""
    known = names(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'no simulated robot {name!r}; known: {", ".join(known)}{hint}')
    document = Table.load(folder / name / 'robot.yaml')
    robot = _robot(document, embodiment.load(name), folder / name / 'kinematics.json')
    document.done()
    return robot


def _robot(document: Table, body: Embodiment, facts: Path) -> Robot:
    mounts = document.tables(
        'mounts',
        lambda name, table: Mount(
            table.take('prefix'),
            table.text('root'),
            table.numbers('xyz', 3),
            table.numbers('rpy', 3),
        ),
    )
    published = json.loads(facts.read_text(encoding='utf-8'))['joints']
    published += document.take('derived_joints')
    joints = tuple(joint for mount in mounts for joint in _placed(published, mount))
    links = (
        WORLD,
        *(mount.prefix + mount.root for mount in mounts),
        *(joint.child for joint in joints),
    )
    moving = [joint.name for joint in joints if joint.type != 'fixed']
    hands = document.tables('hands', lambda side, table: _hand(side, table, body, moving))
    cameras = {mount.key: mount for mount in document.tables('cameras', _camera)}
    _known(document.spot('cameras'), cameras, [camera.key for camera in body.cameras])
    top = document.table('table')
    robot = Robot(
        name=body.name,
        embodiment=body,
        joints=joints,
        mounts=mounts,
        materials=document.frozen('materials'),
        geometry=_geometry(document.table('geometry'), links),
        unseen=frozenset(document.texts('unseen', empty=True)),
        servos=_servos(document.table('servos'), moving),
        couplings={
            joint: (row[0], float(row[1])) for joint, row in document.frozen('couplings').items()
        },
        hands=hands,
        cameras=tuple(cameras[camera.key] for camera in body.cameras),
        portrait=_camera('portrait', document.table('portrait')),
        table=TableTop(top.numbers('centre', 2), top.numbers('half', 2), top.number('height_m')),
        workspace=document.numbers('workspace', 4),
        mirror=_mirror(document, body),
        elbow_above_m=document.number('elbow_above_m'),
    )
    top.done()
    _known(document.spot('couplings'), robot.couplings, moving)
    _known(document.spot('unseen'), robot.unseen, links)
    for primitives in robot.geometry.values():
        _known(document.spot('materials'), [p.material for p in primitives], robot.materials)
    return robot


def _placed(published: list[dict[str, Any]], mount: Mount) -> list[JointFacts]:
    """Return the joints of one mounted copy, parents before children."""
    ready, waiting, placed = {mount.root}, list(published), []
    while waiting:
        row = next((row for row in waiting if row['parent'] in ready), None)
        if row is None:
            raise ValueError(
                f'joint {waiting[0]["name"]}: its parent {waiting[0]["parent"]} does '
                f'not hang on {mount.root}; correct the parent'
            )
        waiting.remove(row)
        ready.add(row['child'])
        placed.append(
            JointFacts(
                name=mount.prefix + row['name'],
                type=row['type'],
                parent=mount.prefix + row['parent'],
                child=mount.prefix + row['child'],
                xyz=tuple(row['xyz']),
                rpy=tuple(row['rpy']),
                axis=tuple(row.get('axis', ())),
                limits=tuple(row.get('limits', ())),
                mass=row.get('mass', 0.0),
                com=tuple(row.get('com', ())),
                inertia=tuple(row.get('inertia', ())),
            )
        )
    return placed


def _hand(side: str, table: Table, body: Embodiment, moving: list[str]) -> Hand:
    fingers = {
        joint: tuple(float(value) for value in ends)
        for joint, ends in table.frozen('fingers').items()
    }
    _known(table.spot('fingers'), fingers, moving)
    gripper = table.text('gripper')
    _known(table.spot('gripper'), [gripper], [entry.name for entry in body.grippers])
    return Hand(
        side,
        gripper,
        table.text('arm_base'),
        table.text('tool_link'),
        table.numbers('tool_xyz', 3),
        table.numbers('tool_axis', 3),
        fingers,
        table.number('effort', above=0.0),
    )


def _mirror(document: Table, body: Embodiment) -> Vector:
    return document.numbers('mirror', len(body.controllers[0].joints))


def _camera(key: str, table: Table) -> CameraMount:
    return CameraMount(
        key,
        table.text('link'),
        table.numbers('from', 3),
        table.numbers('at', 3),
        table.numbers('up', 3),
        table.number('fovy_deg', above=0.0),
    )


def _servos(table: Table, moving: list[str]) -> dict[str, Servo]:
    servos: dict[str, Servo] = {}
    for pattern in table:
        kp, kv, armature = table.numbers(pattern, 3)
        servos |= {
            name: Servo(kp, kv, armature)
            for name in _matching(table.spot(pattern), pattern, moving)
        }
    return servos


def _geometry(table: Table, links: tuple[str, ...]) -> dict[str, tuple[Primitive, ...]]:
    geometry: dict[str, tuple[Primitive, ...]] = {}
    for pattern in table:
        spot = table.spot(pattern)
        shapes = tuple(
            _primitive(Table(row, f'{spot}[{i}]')) for i, row in enumerate(table.take(pattern))
        )
        for link in _matching(spot, pattern, links):
            geometry[link] = geometry.get(link, ()) + shapes
    return geometry


def _primitive(row: Table) -> Primitive:
    keys = set(row)
    size = row.take('size')
    size = tuple(float(value) for value in (size if isinstance(size, list) else [size]))
    primitive = Primitive(
        shape=row.text('shape'),
        size=size,
        start=row.numbers('at', 3),
        end=row.numbers('to', 3) if 'to' in keys else (),
        rpy=row.numbers('rpy', 3) if 'rpy' in keys else (0.0, 0.0, 0.0),
        material=row.text('material'),
        collide='collide' in keys and bool(row.take('collide')),
    )
    row.done()
    return primitive


def _matching(spot: str, pattern: str, names_: Any) -> list[str]:
    found = fnmatch.filter(names_, pattern)
    if not found:
        raise ValueError(f'{spot}: matches no name; known: {", ".join(names_)}')
    return found


def _known(spot: str, given: Any, known: Any) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f'{spot}: unknown {", ".join(unknown)}; known: {", ".join(known)}')

"""Description of a simulated robot, loaded from its folder with strict checks.

`kinematics.json` has published values (joint frames, masses, inertias, limits); `robot.yaml` has
ours (mounts, shapes, servos, cameras, table). Names, speed limits and the home position come from
the robot's embodiment.
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
from wam_policy.core.robot.strict_yaml import StrictMapping

ROBOTS = Path(__file__).resolve().parents[1] / 'robots'
WORLD = 'world'
BOTH_HANDS, SINGLE_HAND = ('left', 'right'), ('only',)  # sides

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class JointDescription:
    """One joint and its child link as published; frames in the URDF convention."""

    name: str
    type: str  # revolute, prismatic or fixed
    parent: str
    child: str
    xyz: Vector  # m, joint frame in the parent link
    rpy: Vector  # rad, fixed axes
    axis: Vector  # in the joint frame; empty if fixed
    limits: Vector  # rad or m; empty if fixed
    mass: float  # kg, of the child link; 0: no inertia
    com: Vector  # m, in the child link
    inertia: Vector  # kg m^2: ixx ixy ixz iyy iyz izz about the com


@dataclass(frozen=True, slots=True)
class Mount:
    """Pose of one copy of the kinematic tree in the world: xyz in m, rpy in rad."""

    prefix: str  # put before every joint and link name
    root: str  # root link, without the prefix
    xyz: Vector
    rpy: Vector


@dataclass(frozen=True, slots=True)
class Primitive:
    """One shape of a link, in the link's frame."""

    shape: str  # capsule, cylinder, box, sphere or ellipsoid
    size: Vector  # radius | half lengths
    start: Vector  # m: center, or one end of a capsule or cylinder
    end: Vector  # the other end; empty for the rest
    rpy: Vector
    material: str
    collide: bool


@dataclass(frozen=True, slots=True)
class Servo:
    """Position servo of a joint: torque = kp (q* - q) + kv (v* - v)."""

    kp: float
    kv: float
    armature: float  # kg m^2, rotor inertia seen at the joint


@dataclass(frozen=True, slots=True)
class Hand:
    """One hand: its commanded gripper joint and the finger joints that follow it."""

    side: str
    gripper: str  # commanded joint, 0 closed .. 1 open
    arm_base: str  # first link of the arm; its descendants belong to this hand
    tool_link: str
    tool_xyz: Vector  # the point between the finger pads
    tool_axis: Vector  # unit, from the palm to the fingertips
    fingers: Mapping[str, Vector]  # joint -> (closed, open) in its own unit
    effort: float  # N or Nm per finger


@dataclass(frozen=True, slots=True)
class CameraMount:
    """Camera on a link, in the link's frame: position and target in m."""

    key: str
    link: str
    position: Vector
    look_at: Vector
    up: Vector
    fovy_deg: float


@dataclass(frozen=True, slots=True)
class TableTop:
    """Table top in the world frame; its upper face is at `height_m`."""

    center: Vector  # m, x y
    half: Vector  # m, x y
    height_m: float


@dataclass(frozen=True, slots=True, eq=False)
class SimRobot:
    """All data of one simulated robot."""

    name: str
    embodiment: Embodiment
    joints: tuple[JointDescription, ...]  # prefixed, parents before children
    mounts: tuple[Mount, ...]
    materials: Mapping[str, Mapping[str, Any]]
    geometry: Mapping[str, tuple[Primitive, ...]]  # link -> shapes
    hidden_links: frozenset[str]  # links never visible to the robot's cameras
    servos: Mapping[str, Servo]  # joint -> servo
    mimic_joints: Mapping[str, tuple[str, float]]  # joint -> (leading joint, ratio)
    hands: tuple[Hand, ...]
    cameras: tuple[CameraMount, ...]  # in the order of the embodiment
    portrait_camera: CameraMount  # for screenshots and the viewer
    table: TableTop
    workspace: Vector  # m: x low, x high, y low, y high
    tool_limits: Vector  # of the expert's tool points: m/s, m/s^2, m/s^3
    # with two arms, to find their home position: factors from left to right arm joint positions,
    # and the allowed height of an arm above its shoulder
    mirror_signs: Vector = ()
    max_elbow_rise_m: float = 0.0

    @property
    def hand_sides(self) -> tuple[str, ...]:
        """Return the sides of the hands, left before right; ('only',) of a single hand."""
        return tuple(hand.side for hand in self.hands)

    def joint(self, name: str) -> JointDescription:
        return next(joint for joint in self.joints if joint.name == name)

    def hand(self, side: str) -> Hand:
        return next(hand for hand in self.hands if hand.side == side)

    def descendants(self, link: str) -> frozenset[str]:
        """Return `link` and all links below it in the kinematic tree."""
        links = {link}
        for joint in self.joints:  # parents come first
            if joint.parent in links:
                links.add(joint.child)
        return frozenset(links)


def list_robots(folder: Path = ROBOTS) -> tuple[str, ...]:
    """Return the names of the simulated robots, sorted."""
    return tuple(sorted(path.parent.name for path in folder.glob('*/robot.yaml')))


def load(name: str, folder: Path = ROBOTS) -> SimRobot:
    """Load one robot; raises ValueError with file, key and fix."""
    known = list_robots(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'no simulated robot {name!r}; known: {", ".join(known)}{hint}')
    document = StrictMapping.load(folder / name / 'robot.yaml')
    robot = _build_robot(
        document, embodiment.load_embodiment(name), folder / name / 'kinematics.json'
    )
    document.reject_unknown_keys()
    return robot


def _build_robot(document: StrictMapping, body: Embodiment, facts: Path) -> SimRobot:
    mounts = document.read_mappings(
        'mounts',
        lambda name, table: Mount(
            table.read('prefix'),
            table.read_str('root'),
            table.read_floats('xyz', 3),
            table.read_floats('rpy', 3),
        ),
    )
    published = json.loads(facts.read_text(encoding='utf-8'))['joints']
    published += document.read('derived_joints')
    joints = tuple(joint for mount in mounts for joint in _build_joints(published, mount))
    links = (
        WORLD,
        *(mount.prefix + mount.root for mount in mounts),
        *(joint.child for joint in joints),
    )
    moving = [joint.name for joint in joints if joint.type != 'fixed']
    hands = document.read_mappings(
        'hands', lambda side, table: _parse_hand(side, table, body, moving)
    )
    cameras = {mount.key: mount for mount in document.read_mappings('cameras', _parse_camera)}
    _check_sides(document.key_path('hands'), [hand.side for hand in hands])
    _check_names(document.key_path('cameras'), cameras, [camera.key for camera in body.cameras])
    top = document.read_mapping('table')
    robot = SimRobot(
        name=body.name,
        embodiment=body,
        joints=joints,
        mounts=mounts,
        materials=document.read_frozen('materials'),
        geometry=_parse_geometry(document.read_mapping('geometry'), links),
        hidden_links=frozenset(document.read_strs('unseen', allow_empty=True)),
        servos=_parse_servos(document.read_mapping('servos'), moving),
        mimic_joints={
            joint: (row[0], float(row[1]))
            for joint, row in document.read_frozen('couplings').items()
        },
        hands=hands,
        cameras=tuple(cameras[camera.key] for camera in body.cameras),
        portrait_camera=_parse_camera('portrait', document.read_mapping('portrait')),
        table=TableTop(
            top.read_floats('center', 2), top.read_floats('half', 2), top.read_float('height_m')
        ),
        workspace=document.read_floats('workspace', 4),
        tool_limits=document.read_floats('tool_limits', 3),
        **(_parse_arm_pair(document, body) if len(hands) > 1 else {}),
    )
    top.reject_unknown_keys()
    _check_names(document.key_path('couplings'), robot.mimic_joints, moving)
    _check_names(document.key_path('unseen'), robot.hidden_links, links)
    for primitives in robot.geometry.values():
        _check_names(
            document.key_path('materials'), [p.material for p in primitives], robot.materials
        )
    return robot


def _build_joints(published: list[dict[str, Any]], mount: Mount) -> list[JointDescription]:
    """Return the joints of one mounted copy, parents before children."""
    ready, waiting, placed = {mount.root}, list(published), []
    while waiting:
        row = next((row for row in waiting if row['parent'] in ready), None)
        if row is None:
            raise ValueError(
                f'joint {waiting[0]["name"]}: parent {waiting[0]["parent"]} is not connected '
                f'to {mount.root}; correct the parent'
            )
        waiting.remove(row)
        ready.add(row['child'])
        placed.append(
            JointDescription(
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


def _parse_hand(side: str, table: StrictMapping, body: Embodiment, moving: list[str]) -> Hand:
    fingers = {
        joint: tuple(float(value) for value in ends)
        for joint, ends in table.read_frozen('fingers').items()
    }
    _check_names(table.key_path('fingers'), fingers, moving)
    gripper = table.read_str('gripper')
    _check_names(table.key_path('gripper'), [gripper], [entry.name for entry in body.grippers])
    return Hand(
        side,
        gripper,
        table.read_str('arm_base'),
        table.read_str('tool_link'),
        table.read_floats('tool_xyz', 3),
        table.read_floats('tool_axis', 3),
        fingers,
        table.read_float('effort', above=0.0),
    )


def _parse_arm_pair(document: StrictMapping, body: Embodiment) -> dict[str, Any]:
    return {
        'mirror_signs': document.read_floats('mirror', len(body.controllers[0].joints)),
        'max_elbow_rise_m': document.read_float('elbow_above_m'),
    }


def _parse_camera(key: str, table: StrictMapping) -> CameraMount:
    return CameraMount(
        key,
        table.read_str('link'),
        table.read_floats('from', 3),
        table.read_floats('at', 3),
        table.read_floats('up', 3),
        table.read_float('fovy_deg', above=0.0),
    )


def _parse_servos(table: StrictMapping, moving: list[str]) -> dict[str, Servo]:
    servos: dict[str, Servo] = {}
    for pattern in table:
        kp, kv, armature = table.read_floats(pattern, 3)
        servos |= {
            name: Servo(kp, kv, armature)
            for name in _match_names(table.key_path(pattern), pattern, moving)
        }
    return servos


def _parse_geometry(
    table: StrictMapping, links: tuple[str, ...]
) -> dict[str, tuple[Primitive, ...]]:
    geometry: dict[str, tuple[Primitive, ...]] = {}
    for pattern in table:
        spot = table.key_path(pattern)
        shapes = tuple(
            _parse_primitive(StrictMapping(row, f'{spot}[{i}]'))
            for i, row in enumerate(table.read(pattern))
        )
        for link in _match_names(spot, pattern, links):
            geometry[link] = geometry.get(link, ()) + shapes
    return geometry


def _parse_primitive(row: StrictMapping) -> Primitive:
    keys = set(row)
    size = row.read('size')
    size = tuple(float(value) for value in (size if isinstance(size, list) else [size]))
    primitive = Primitive(
        shape=row.read_str('shape'),
        size=size,
        start=row.read_floats('at', 3),
        end=row.read_floats('to', 3) if 'to' in keys else (),
        rpy=row.read_floats('rpy', 3) if 'rpy' in keys else (0.0, 0.0, 0.0),
        material=row.read_str('material'),
        collide='collide' in keys and bool(row.read('collide')),
    )
    row.reject_unknown_keys()
    return primitive


def _check_sides(path: str, sides: list[str]) -> None:
    if tuple(sides) not in (BOTH_HANDS, SINGLE_HAND):
        raise ValueError(f'{path}: {", ".join(sides)}; want left and right in this order, or only')


def _match_names(path: str, pattern: str, names_: Any) -> list[str]:
    found = fnmatch.filter(names_, pattern)
    if not found:
        raise ValueError(f'{path}: matches no name; known: {", ".join(names_)}')
    return found


def _check_names(path: str, given: Any, known: Any) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f'{path}: unknown {", ".join(unknown)}; known: {", ".join(known)}')

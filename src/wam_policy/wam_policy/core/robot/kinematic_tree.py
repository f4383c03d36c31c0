"""Kinematic tree of a robot, read from its URDF: where each link is at given joint positions.

Frames are those of the URDF: a joint's frame in its parent link at position 0, then its motion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from scipy.spatial.transform import Rotation

JOINT_TYPES = ('fixed', 'revolute', 'continuous', 'prismatic')


@dataclass(frozen=True, slots=True, eq=False)
class LinkJoint:
    """One joint of the tree and its child link."""

    name: str
    type: str  # one of JOINT_TYPES
    parent: str
    child: str
    xyz: np.ndarray  # m, [3], of the joint frame in the parent link
    turn: Rotation  # of the joint frame in the parent link
    axis: np.ndarray  # [3], in the joint frame
    source: str  # joint whose position counts: itself, or the one it mimics; empty if fixed
    multiplier: float
    offset: float


class KinematicTree:
    """Compute frames of a robot's links; safe to use from several threads."""

    def __init__(self, joints: Sequence[LinkJoint]) -> None:
        """Take joints in any order; raises ValueError unless they form one tree."""
        children = {joint.child for joint in joints}
        roots = {joint.parent for joint in joints} - children
        if len(roots) != 1 or len(children) != len(joints):
            raise ValueError(
                f'URDF: {len(roots)} root links ({", ".join(sorted(roots)) or "none"}) and '
                f'{len(joints)} joints with {len(children)} child links; want one root link and '
                'one parent per link'
            )
        (self.root,) = roots
        known, waiting, placed = {self.root}, list(joints), []
        while waiting:
            ready = [joint for joint in waiting if joint.parent in known]
            if not ready:
                raise ValueError(
                    f'URDF: {waiting[0].child} is not connected to {self.root}: its joints form '
                    'a loop'
                )
            known |= {joint.child for joint in ready}
            placed += ready
            waiting = [joint for joint in waiting if joint.child not in known]
        self.joints = tuple(placed)  # parents before children
        self._parents = {joint.child: joint for joint in placed}

    @classmethod
    def from_urdf(cls, text: str) -> Self:
        """Read a URDF; raises ValueError naming the joint and what is wrong with it."""
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise ValueError(f'URDF: not XML: {error}') from error
        return cls([_parse_joint(element) for element in root.findall('joint')])

    @property
    def links(self) -> tuple[str, ...]:
        """Return all links, parents before children."""
        return self.root, *(joint.child for joint in self.joints)

    @property
    def sources(self) -> frozenset[str]:
        """Return the joints whose positions determine every frame."""
        return frozenset(joint.source for joint in self.joints if joint.source)

    def joints_to(self, link: str) -> tuple[LinkJoint, ...]:
        """Return the joints from the root to a link; KeyError for an unknown one."""
        chain: list[LinkJoint] = []
        while link != self.root:
            joint = self._parents[link]
            chain.append(joint)
            link = joint.parent
        return tuple(reversed(chain))

    def compute_path(
        self, link: str, names: Sequence[str], path: np.ndarray, fixed: Mapping[str, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions [rows 3] in m and quaternions [rows 4], xyzw, of a link in the root.

        `path` [rows names] are joint positions; `fixed` are those of joints that are not in it.
        Raises KeyError for a joint that is in neither.
        """
        columns = {name: path[:, i] for i, name in enumerate(names)}
        position, turn = np.zeros((len(path), 3)), Rotation.identity(len(path))
        for joint in self.joints_to(link):
            value = np.zeros(len(path))
            if joint.source:
                value = columns.get(joint.source)
                if value is None:
                    value = np.full(len(path), fixed[joint.source])
            local_position, local_turn = compute_motion(joint, value)
            position = position + turn.apply(local_position)
            turn = turn * local_turn
        return position, turn.as_quat()


class JointFrames:
    """Compute the frames of many links at once, each in its parent link."""

    def __init__(self, joints: Sequence[LinkJoint]) -> None:
        """Take the joints whose child links are wanted."""
        self.joints = tuple(joints)
        self._xyz = np.array([joint.xyz for joint in joints]).reshape(-1, 3)
        self._turn = Rotation.from_quat(
            np.array([joint.turn.as_quat() for joint in joints]).reshape(-1, 4)
        )
        slides = np.array([joint.type == 'prismatic' for joint in joints])
        turns = np.array([joint.type in ('revolute', 'continuous') for joint in joints])
        axes = np.array([joint.axis for joint in joints]).reshape(-1, 3)
        self._turn_axes = axes * turns[:, None]
        self._slide_axes = self._turn.apply(axes) * slides[:, None]
        self._multiplier = np.array([joint.multiplier for joint in joints])
        self._offset = np.array([joint.offset for joint in joints])

    def compute(self, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Return positions [joints 3] in m and quaternions [joints 4], xyzw.

        `values` are positions of source joints; rows whose source is missing are NaN.
        """
        given = np.array(
            [values.get(joint.source, np.nan) if joint.source else 0.0 for joint in self.joints]
        )
        value = (self._offset + self._multiplier * given)[:, None]
        known = np.isfinite(value)
        value = np.where(known, value, 0.0)
        turn = self._turn * Rotation.from_rotvec(self._turn_axes * value)
        position = self._xyz + self._slide_axes * value
        return np.where(known, position, np.nan), np.where(known, turn.as_quat(), np.nan)


def compute_motion(joint: LinkJoint, value: np.ndarray) -> tuple[np.ndarray, Rotation]:
    """Return position [rows 3] and rotation of a joint's child in its parent at `value` [rows].

    `value` is the position of `joint.source`.
    """
    value = joint.offset + joint.multiplier * value
    position = np.broadcast_to(joint.xyz, (len(value), 3))
    if joint.type == 'prismatic':
        return position + joint.turn.apply(joint.axis * value[:, None]), joint.turn
    if joint.type == 'fixed':
        return position, joint.turn
    return position, joint.turn * Rotation.from_rotvec(joint.axis * value[:, None])


def _parse_joint(element: Element) -> LinkJoint:
    name, kind = element.get('name', ''), element.get('type', '')
    if kind not in JOINT_TYPES:
        raise ValueError(f'URDF: joint {name} has type {kind!r}; known: {", ".join(JOINT_TYPES)}')
    ends = {
        tag: found.get('link', '')
        for tag in ('parent', 'child')
        if (found := element.find(tag)) is not None
    }
    if len(ends) != 2:
        raise ValueError(f'URDF: joint {name} needs a parent and a child link')
    origin, axis = element.find('origin'), element.find('axis')
    mimic = element.find('mimic')
    direction = _parse_vector(name, axis, 'xyz', (1.0, 0.0, 0.0))
    length = float(np.linalg.norm(direction))
    if kind != 'fixed' and not length:
        raise ValueError(f'URDF: joint {name}: its axis has no direction')
    return LinkJoint(
        name=name,
        type=kind,
        parent=ends['parent'],
        child=ends['child'],
        xyz=_parse_vector(name, origin, 'xyz', (0.0, 0.0, 0.0)),
        turn=Rotation.from_euler('xyz', _parse_vector(name, origin, 'rpy', (0.0, 0.0, 0.0))),
        axis=direction / (length or 1.0),
        source='' if kind == 'fixed' else name if mimic is None else mimic.get('joint', ''),
        multiplier=1.0 if mimic is None else float(mimic.get('multiplier', '1')),
        offset=0.0 if mimic is None else float(mimic.get('offset', '0')),
    )


def _parse_vector(
    name: str, element: Element | None, attribute: str, default: tuple[float, float, float]
) -> np.ndarray:
    text = None if element is None else element.get(attribute)
    try:
        values = default if text is None else tuple(map(float, text.split()))
        if len(values) != 3:
            raise ValueError
    except ValueError as error:
        raise ValueError(f'URDF: joint {name}: want three numbers, got {text!r}') from error
    return np.array(values)

"""Generate the URDF of a robot, which description_node publishes on /robot_description.

`python -m wam_sim.physics.robot_description ROBOT` writes robot.urdf into the robot's embodiment:
the frames, masses and inertias of the simulation, its shapes as primitives that every viewer
draws without further files, the limits of the embodiment, a frame per tool and the optical frame
of each camera.

A gripper is a joint of its own, 0 closed .. 1 open as in /joint_states; it moves an empty link,
and the fingers mimic it.
"""

import argparse
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Comment, Element, SubElement

import numpy as np
from scipy.spatial.transform import Rotation

from wam_policy.core.robot import embodiment
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import (
    WORLD,
    CameraMount,
    Hand,
    JointDescription,
    Primitive,
    SimRobot,
)

Pose = tuple[np.ndarray, Rotation]  # m, and from the shape's frame to the link's
# Rings of spheres that stand for an ellipsoid: share of the distance to the rim, spheres.
ELLIPSOID_RINGS = ((0.0, 1), (0.5, 6), (0.85, 12))


def build_urdf(robot: SimRobot) -> str:
    """Return the robot as URDF; its root link is the world."""
    root = Element('robot', name=robot.name)
    root.append(
        Comment(
            f' made by `python -m wam_sim.physics.robot_description {robot.name}`: change the '
            'simulated robot, not this file '
        )
    )
    for name, look in robot.materials.items():
        material = SubElement(root, 'material', name=name)
        SubElement(material, 'color', rgba=_format_values(look['rgba']))
    _add_link(root, robot, WORLD)
    for mount in robot.mounts:
        link = mount.prefix + mount.root
        _add_link(root, robot, link)
        _add_fixed_joint(root, WORLD, link, np.array(mount.xyz), _from_rpy(mount.rpy))
    mimics = _collect_mimics(robot)
    for joint in robot.joints:
        _add_link(root, robot, joint.child, joint)
        _add_joint(root, robot, joint, mimics)
    for hand in robot.hands:
        _add_gripper(root, robot, hand)
        _add_tool(root, hand)
    for camera in robot.cameras:
        _add_camera(root, robot, camera)
    ElementTree.indent(root, ' ')
    return ElementTree.tostring(root, encoding='unicode') + '\n'


def _add_link(
    root: Element, robot: SimRobot, name: str, joint: JointDescription | None = None
) -> None:
    link = SubElement(root, 'link', name=name)
    if joint is not None and joint.mass:
        inertial = SubElement(link, 'inertial')
        SubElement(inertial, 'origin', xyz=_format_values(joint.com))
        SubElement(inertial, 'mass', value=_format_values([joint.mass]))
        keys = ('ixx', 'ixy', 'ixz', 'iyy', 'iyz', 'izz')
        values = map(_format_values, zip(joint.inertia))
        SubElement(inertial, 'inertia', dict(zip(keys, values, strict=True)))
    shapes = robot.geometry.get(name, ())
    for tag, wanted in (('visual', shapes), ('collision', [s for s in shapes if s.collide])):
        for primitive in wanted:
            for pose, shape, sizes in _split_shape(primitive):
                element = SubElement(link, tag)
                _add_origin(element, *pose)
                SubElement(SubElement(element, 'geometry'), shape, sizes)
                if tag == 'visual':
                    SubElement(element, 'material', name=primitive.material)


def _add_joint(
    root: Element,
    robot: SimRobot,
    joint: JointDescription,
    mimics: dict[str, tuple[str, float, float]],
) -> None:
    rotation = _from_rpy(joint.rpy)
    if joint.type == 'fixed':
        _add_fixed_joint(
            root, joint.parent, joint.child, np.array(joint.xyz), rotation, joint.name
        )
        return
    element = SubElement(root, 'joint', name=joint.name, type=joint.type)
    _connect(element, joint.parent, joint.child, np.array(joint.xyz), rotation)
    SubElement(element, 'axis', xyz=_format_values(joint.axis))
    lower, upper = joint.limits
    if joint.name in mimics:
        name, multiplier, offset = mimics[joint.name]
        hand = next(hand for hand in robot.hands if hand.gripper == name)
        effort = hand.effort
        velocity = abs(multiplier) * robot.embodiment.joint(name).hw_velocity
    else:
        known = robot.embodiment.joint(joint.name)
        lower, upper = known.lower, known.upper
        effort, velocity = known.hw_effort, known.hw_velocity
    _add_limit(element, lower, upper, effort, velocity)
    if joint.name in mimics:
        SubElement(
            element,
            'mimic',
            joint=name,
            multiplier=_format_values([multiplier]),
            offset=_format_values([offset]),
        )


def _collect_mimics(robot: SimRobot) -> dict[str, tuple[str, float, float]]:
    """Return gripper joint, multiplier and offset of each finger joint.

    Viewers do not follow a joint that mimics a mimicking joint: all refer to the gripper.
    """
    mimics = {
        joint: (hand.gripper, open_at - closed_at, closed_at)
        for hand in robot.hands
        for joint, (closed_at, open_at) in hand.fingers.items()
    }
    for joint, (leader, ratio) in robot.mimic_joints.items():
        gripper, multiplier, offset = mimics[leader]
        mimics[joint] = (gripper, ratio * multiplier, ratio * offset)
    return mimics


def _add_gripper(root: Element, robot: SimRobot, hand: Hand) -> None:
    """Add the joint that /joint_states names; it turns an empty link on the spot."""
    link = f'{hand.gripper}_opening'
    inertial = SubElement(SubElement(root, 'link', name=link), 'inertial')
    # one gram: simulators refuse links that move and have no mass
    SubElement(inertial, 'mass', value='0.001')
    SubElement(
        inertial, 'inertia', ixx='1e-06', ixy='0', ixz='0', iyy='1e-06', iyz='0', izz='1e-06'
    )
    element = SubElement(root, 'joint', name=hand.gripper, type='revolute')
    _connect(element, hand.tool_link, link, np.zeros(3), Rotation.identity())
    SubElement(element, 'axis', xyz='0 0 1')
    known = robot.embodiment.joint(hand.gripper)
    _add_limit(element, 0.0, 1.0, known.hw_effort, known.hw_velocity)


def _add_tool(root: Element, hand: Hand) -> None:
    """Add the point between the finger pads, z from the palm to the fingertips."""
    link = f'{hand.side}_tool'
    SubElement(root, 'link', name=link)
    turn = _turn_z_axis(hand.tool_axis)
    _add_fixed_joint(root, hand.tool_link, link, np.array(hand.tool_xyz), turn)


def _add_camera(root: Element, robot: SimRobot, camera: CameraMount) -> None:
    """Add the optical frame (REP 103): x right, y down, z forward."""
    link = next(each.frame_id for each in robot.embodiment.cameras if each.key == camera.key)
    SubElement(root, 'link', name=link)
    forward = np.subtract(camera.look_at, camera.position)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, camera.up)
    right /= np.linalg.norm(right)
    turn = Rotation.from_matrix(np.column_stack([right, np.cross(forward, right), forward]))
    _add_fixed_joint(root, camera.link, link, np.array(camera.position), turn)


def _split_shape(primitive: Primitive) -> Iterator[tuple[Pose, str, dict[str, str]]]:
    """Yield pose, URDF shape and sizes; URDF has neither capsules nor ellipsoids."""
    center, turn = np.array(primitive.start), _from_rpy(primitive.rpy)
    length = 0.0
    if primitive.end:
        along = np.subtract(primitive.end, primitive.start)
        center, length = center + along / 2, float(np.linalg.norm(along))
        turn = _turn_z_axis(along)
    radius = {'radius': _format_values(primitive.size[:1])}
    if primitive.shape == 'box':
        size = _format_values(2 * np.array(primitive.size))
        yield (center, turn), 'box', {'size': size}
    elif primitive.shape == 'sphere':
        yield (center, turn), 'sphere', radius
    elif primitive.shape == 'ellipsoid':
        for offset, ball_radius in _fill_ellipsoid(np.array(primitive.size)):
            sizes = {'radius': _format_values([ball_radius])}
            yield (center + turn.apply(offset), turn), 'sphere', sizes
    else:
        yield (center, turn), 'cylinder', {**radius, 'length': _format_values([length])}
        if primitive.shape == 'capsule':
            for end in (primitive.start, primitive.end):
                yield (np.array(end), Rotation.identity()), 'sphere', radius


def _fill_ellipsoid(half: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Yield center [3] and radius of spheres that touch an ellipsoid of half axes [3] inside.

    Their centers (u, v) lie in the plane of the two longer axes a and b, on rings up to the
    medial rim; with c the shortest axis, r^2 = c^2 (1 - u^2 / (a^2 - c^2) - v^2 / (b^2 - c^2)).
    """
    order = np.argsort(half)
    c = half[order[0]]
    spread = np.sqrt(np.maximum(half[order[1:]] ** 2 - c**2, 0.0))
    rim = spread**2 / half[order[1:]]  # where spheres would be smaller than the tip's curvature
    for share, count in ELLIPSOID_RINGS:
        for angle in np.arange(count) * 2 * np.pi / count:
            offset = share * rim * (np.cos(angle), np.sin(angle))
            used = np.divide(offset, spread, out=np.zeros(2), where=spread > 0)
            center = np.zeros(3)
            center[order[1:]] = offset
            yield center, float(c * np.sqrt(1.0 - used @ used))
            if not spread.any():  # a sphere
                return


def _add_fixed_joint(
    root: Element, parent: str, child: str, xyz: np.ndarray, turn: Rotation, name: str = ''
) -> None:
    element = SubElement(root, 'joint', name=name or f'{child}_joint', type='fixed')
    _connect(element, parent, child, xyz, turn)


def _connect(element: Element, parent: str, child: str, xyz: np.ndarray, turn: Rotation) -> None:
    SubElement(element, 'parent', link=parent)
    SubElement(element, 'child', link=child)
    _add_origin(element, xyz, turn)


def _add_origin(element: Element, xyz: np.ndarray, turn: Rotation) -> None:
    SubElement(element, 'origin', xyz=_format_values(xyz), rpy=_format_values(_to_rpy(turn)))


def _add_limit(
    element: Element, lower: float, upper: float, effort: float, velocity: float
) -> None:
    keys = ('lower', 'upper', 'effort', 'velocity')
    values = map(_format_values, zip((lower, upper, effort, velocity)))
    SubElement(element, 'limit', dict(zip(keys, values, strict=True)))


def _from_rpy(rpy: Iterable[float]) -> Rotation:
    return Rotation.from_euler('xyz', list(rpy))


def _turn_z_axis(direction: Sequence[float] | np.ndarray) -> Rotation:
    """Return a rotation that turns z to `direction`."""
    return Rotation.align_vectors([direction], [[0.0, 0.0, 1.0]])[0]


def _to_rpy(turn: Rotation) -> np.ndarray:
    """Return roll, pitch and yaw about fixed axes, rad."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # at a pitch of 90 degrees yaw is set to 0, as it may be
        return turn.as_euler('xyz')


def _format_values(values: Iterable[float]) -> str:
    return ' '.join(f'{value + 0.0:.12g}' for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a robot's URDF")
    parser.add_argument('robot', choices=robots.list_robots())
    robot = robots.load(parser.parse_args().robot)
    path = Path(embodiment.ROBOTS_DIR) / robot.name / 'robot.urdf'
    path.write_text(build_urdf(robot), encoding='utf-8')
    print(path)


if __name__ == '__main__':
    main()

"""Generate the collision model of a robot, which motion_node uses to check plans.

`python -m wam_sim.physics.collision ROBOT` writes collision.xml into the robot's embodiment: the
frames, joints and shapes of the simulation, without decorative shapes and inertias. Head and waist
stay joints, because their positions on the real robot can differ.
"""

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Comment, Element, SubElement

import mujoco
import numpy as np

from wam_policy.core.robot import embodiment
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.mjcf_model import rpy_to_quat
from wam_sim.physics.sim_robot import Hand, JointDescription, Primitive, SimRobot

# geom groups that motion_node distinguishes
LINK, HAND, BODY, TABLE = 0, 1, 2, 3
GROUP_COLORS = {
    LINK: '0.3 0.5 0.8 0.5',
    HAND: '0.9 0.6 0.2 0.5',
    BODY: '0.6 0.6 0.6 0.5',
    TABLE: '0.8 0.7 0.55 0.5',
}
GROUP_CLASSES = {LINK: 'link', HAND: 'hand', BODY: 'body', TABLE: 'table'}
# (contype, conaffinity): arms and hands collide with everything, body and table with these only
COLLISION_BITS = {LINK: (1, 3), HAND: (1, 3), BODY: (1, 0), TABLE: (2, 0)}
DECORATIVE_MATERIALS = ('accent',)  # rings and strips flush with their link
MIN_EXTENT_M = 0.02  # smaller shapes lie within the others
SAMPLE_COUNT, SEED = 2000, 5
ALWAYS_CLOSE_SHARE = 0.8  # a pair this often close by design is excluded


def build_collision_xml(robot: SimRobot) -> str:
    """Return the collision model as MJCF."""
    root = _build_model(robot)
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding='unicode'))
    contact = SubElement(root, 'contact')
    for first, second in sorted(_find_excluded_pairs(robot, model)):
        SubElement(contact, 'exclude', body1=first, body2=second)
    ElementTree.indent(root, ' ')
    return ElementTree.tostring(root, encoding='unicode') + '\n'


def _build_model(robot: SimRobot) -> Element:
    root = Element('mujoco', model=robot.name)
    root.append(
        Comment(
            f' made by `python -m wam_sim.physics.collision {robot.name}`: change the '
            'simulated robot, not this file '
        )
    )
    SubElement(root, 'compiler', angle='radian', inertiagrouprange='5 5')
    defaults = SubElement(root, 'default')
    for group, name in GROUP_CLASSES.items():
        contype, conaffinity = COLLISION_BITS[group]
        SubElement(
            SubElement(defaults, 'default', {'class': name}),
            'geom',
            group=f'{group}',
            contype=f'{contype}',
            conaffinity=f'{conaffinity}',
            rgba=GROUP_COLORS[group],
        )
    world = SubElement(root, 'worldbody')
    _add_table(world, robot)
    bodies = {
        mount.prefix + mount.root: SubElement(
            world,
            'body',
            name=mount.prefix + mount.root,
            pos=_format_values(mount.xyz),
            quat=_format_values(rpy_to_quat(mount.rpy)),
        )
        for mount in robot.mounts
    }
    for joint in robot.joints:
        bodies[joint.child] = _add_body(bodies[joint.parent], joint)
    arms = frozenset().union(*(robot.descendants(hand.arm_base) for hand in robot.hands))
    hands = frozenset().union(*(robot.descendants(hand.tool_link) for hand in robot.hands))
    for link, primitives in robot.geometry.items():
        group = HAND if link in hands else LINK if link in arms else BODY
        for primitive in primitives:
            if (
                link in bodies
                and primitive.material not in DECORATIVE_MATERIALS
                and _compute_extent_m(primitive) > MIN_EXTENT_M
            ):
                _add_geom(bodies[link], primitive, group)
    tendons = SubElement(root, 'tendon')
    for hand in robot.hands:
        _add_gripper_tendon(tendons, robot, hand)
    return root


def _add_table(world: Element, robot: SimRobot) -> None:
    """Add the table as a solid block down to the floor, so that no plan goes under it."""
    (x, y), half, height = robot.table.center, robot.table.half, robot.table.height_m
    SubElement(
        world,
        'geom',
        {'class': GROUP_CLASSES[TABLE]},
        name='table',
        type='box',
        size=_format_values((*half, height / 2)),
        pos=_format_values((x, y, height / 2)),
    )


def _add_body(parent: Element, joint: JointDescription) -> Element:
    body = SubElement(
        parent,
        'body',
        name=joint.child,
        pos=_format_values(joint.xyz),
        quat=_format_values(rpy_to_quat(joint.rpy)),
    )
    if joint.type != 'fixed':
        # MuJoCo requires a mass for every moving body; there are no dynamics here
        SubElement(body, 'inertial', pos='0 0 0', mass='1', diaginertia='0.01 0.01 0.01')
        SubElement(
            body,
            'joint',
            name=joint.name,
            axis=_format_values(joint.axis),
            range=_format_values(joint.limits),
            type='slide' if joint.type == 'prismatic' else 'hinge',
        )
    return body


def _add_geom(body: Element, primitive: Primitive, group: int) -> None:
    """Add one shape; cylinders of an arm become enclosing capsules, which are faster."""
    kind = primitive.shape
    if kind == 'cylinder' and group != BODY:
        kind = 'capsule'
    geom = SubElement(body, 'geom', {'class': GROUP_CLASSES[group]}, type=kind)
    if primitive.end:
        geom.set('size', _format_values(primitive.size[:1]))
        geom.set('fromto', _format_values((*primitive.start, *primitive.end)))
    else:
        geom.set('size', _format_values(primitive.size))
        geom.set('pos', _format_values(primitive.start))
        if any(primitive.rpy):
            geom.set('quat', _format_values(rpy_to_quat(primitive.rpy)))


def _compute_extent_m(primitive: Primitive) -> float:
    """Return the largest half extent of a shape along its axes, m."""
    if not primitive.end:
        return max(primitive.size)
    half = float(np.linalg.norm(np.subtract(primitive.end, primitive.start))) / 2
    return half + primitive.size[0]


def _add_gripper_tendon(tendons: Element, robot: SimRobot, hand: Hand) -> None:
    """Couple the fingers of a hand: a fixed tendon whose length is the opening, 0 .. 1."""
    travel = {joint: ends[1] for joint, ends in hand.fingers.items()}
    if any(ends[0] for ends in hand.fingers.values()):
        raise ValueError(
            f'{robot.name}: {hand.gripper}: the closed value of a finger must be '
            '0; move the zero of its joint'
        )
    travel |= {
        joint: ratio * travel[leader]
        for joint, (leader, ratio) in robot.mimic_joints.items()
        if leader in travel
    }
    tendon = SubElement(tendons, 'fixed', name=hand.gripper)
    for joint, open_at in travel.items():
        SubElement(
            tendon, 'joint', joint=joint, coef=_format_values([1.0 / (len(travel) * open_at)])
        )


def _format_values(values: Iterable[float]) -> str:
    return ' '.join(f'{value + 0.0:.9g}' for value in values)


def _find_excluded_pairs(robot: SimRobot, model: mujoco.MjModel) -> set[tuple[str, str]]:
    """Return the pairs of bodies to exclude from collision checks.

    These are pairs with at most one joint between them, parts of one hand, pairs close at the
    home position, and pairs close in more than ALWAYS_CLOSE_SHARE of random positions.
    """
    rule = robot.embodiment.safety.contact
    pairs = _find_adjacent_pairs(model) | {
        _sort_pair(*pair)
        for hand in robot.hands
        for pair in itertools.combinations(
            robot.descendants(hand.tool_link) & set(robot.geometry), 2
        )
    }
    data, rng = mujoco.MjData(model), np.random.default_rng(SEED)
    model.geom_margin[:] = rule.self_m
    for name, value in robot.embodiment.home.items():
        if name in {model.joint(i).name for i in range(model.njnt)}:
            data.joint(name).qpos[0] = value
    pairs |= _find_close_pairs(model, data)
    counts: dict[tuple[str, str], int] = {}
    for _ in range(SAMPLE_COUNT):
        data.qpos[:] = rng.uniform(model.jnt_range[:, 0], model.jnt_range[:, 1])
        for pair in _find_close_pairs(model, data):
            counts[pair] = counts.get(pair, 0) + 1
    return pairs | {
        pair for pair, count in counts.items() if count > ALWAYS_CLOSE_SHARE * SAMPLE_COUNT
    }


def _find_adjacent_pairs(model: mujoco.MjModel) -> set[tuple[str, str]]:
    """Return the pairs of bodies with at most one joint between them."""
    pairs: set[tuple[str, str]] = set()
    solid = [i for i in range(1, model.nbody) if model.body_geomnum[i]]
    for first, second in itertools.combinations(solid, 2):
        between = 0
        low, high = first, second
        while low != high:  # a child has a higher index than its parent
            low, high = min(low, high), max(low, high)
            between += int(model.body_jntnum[high])
            high = int(model.body_parentid[high])
        if between <= 1:
            pairs.add(_sort_pair(model.body(first).name, model.body(second).name))
    return pairs


def _find_close_pairs(model: mujoco.MjModel, data: mujoco.MjData) -> set[tuple[str, str]]:
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    bodies = model.geom_bodyid[data.contact.geom]
    return {
        _sort_pair(model.body(first).name, model.body(second).name)
        for first, second in bodies
        if first and second
    }


def _sort_pair(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first < second else (second, first)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a robot's collision model")
    parser.add_argument('robot', choices=robots.list_robots())
    robot = robots.load(parser.parse_args().robot)
    path = Path(embodiment.ROBOTS_DIR) / robot.name / 'collision.xml'
    path.write_text(build_collision_xml(robot), encoding='utf-8')
    print(path)


if __name__ == '__main__':
    main()

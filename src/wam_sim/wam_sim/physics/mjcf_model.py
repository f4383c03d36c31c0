"""Build the MuJoCo model of a robot folder, with published frames, masses, inertias and limits.

Joints that no policy moves (head, waist) are welded at their position, because fewer joints make
every physics step faster.
"""

from collections.abc import Mapping

import mujoco
import numpy as np

from wam_sim.physics.sim_robot import (
    WORLD,
    CameraMount,
    JointDescription,
    Mount,
    Primitive,
    SimRobot,
)

TABLE_BIT, OBJECT_BIT, BODY_BIT = 1, 2, 4
EXTERNAL_VIEW_GROUP = 3  # drawn for viewers, not for the robot's cameras
HIDDEN_GROUP = 4  # never drawn
HAND_BITS = (8, 16)  # each hand collides with the table, objects and the other hand
GEOM_TYPES = {
    'capsule': mujoco.mjtGeom.mjGEOM_CAPSULE,
    'cylinder': mujoco.mjtGeom.mjGEOM_CYLINDER,
    'box': mujoco.mjtGeom.mjGEOM_BOX,
    'sphere': mujoco.mjtGeom.mjGEOM_SPHERE,
    'ellipsoid': mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}


def add_robot(spec: mujoco.MjSpec, robot: SimRobot, fixed_joints: Mapping[str, float]) -> None:
    """Add the robot to `spec`; `fixed_joints` are welded at their value (rad or m)."""
    for name, look in robot.materials.items():
        spec.add_material(
            name=name,
            rgba=look['rgba'],
            specular=look['specular'],
            shininess=look['shininess'],
            reflectance=look['reflectance'],
        )
    bits = _compute_collision_bits(robot)
    bodies = {WORLD: spec.worldbody} | {
        mount.prefix + mount.root: _add_mount(spec, mount) for mount in robot.mounts
    }
    for joint in robot.joints:
        bodies[joint.child] = _add_link(bodies[joint.parent], joint, robot, fixed_joints)
    for link, primitives in robot.geometry.items():
        for primitive in primitives:
            geom = _add_geom(bodies[link], primitive, bits.get(link, (BODY_BIT, 0)))
            geom.group = EXTERNAL_VIEW_GROUP if link in robot.hidden_links else 0
    for hand in robot.hands:
        bodies[hand.tool_link].add_site(
            name=f'{hand.side}_tool',
            pos=hand.tool_xyz,
            size=[0.005],
            group=HIDDEN_GROUP,
            quat=_z_axis_to_quat(hand.tool_axis),
        )
    for camera in (*robot.cameras, robot.portrait_camera):
        _add_camera(bodies[camera.link], camera)
    _add_actuators(spec, robot, fixed_joints)


def rpy_to_quat(rpy: tuple[float, ...]) -> np.ndarray:
    """Return the quaternion wxyz of URDF roll, pitch, yaw (rad) about fixed axes."""
    quat = np.empty(4)
    mujoco.mju_euler2Quat(quat, np.array(rpy, dtype=np.float64), 'XYZ')
    return quat


def _add_mount(spec: mujoco.MjSpec, mount: Mount) -> mujoco.MjsBody:
    return spec.worldbody.add_body(
        name=mount.prefix + mount.root, pos=mount.xyz, quat=rpy_to_quat(mount.rpy)
    )


def _add_link(
    parent: mujoco.MjsBody,
    joint: JointDescription,
    robot: SimRobot,
    fixed_joints: Mapping[str, float],
) -> mujoco.MjsBody:
    pos, quat = np.array(joint.xyz), rpy_to_quat(joint.rpy)
    if joint.name in fixed_joints:
        pos, quat = _offset_frame(pos, quat, joint, fixed_joints[joint.name])
    # gravcomp: the drives of both robots compensate gravity, so the servo does not have to
    body = parent.add_body(name=joint.child, pos=pos, quat=quat, gravcomp=1.0)
    if joint.mass:
        ixx, ixy, ixz, iyy, iyz, izz = joint.inertia
        body.mass, body.ipos, body.explicitinertial = joint.mass, joint.com, True
        body.fullinertia = [ixx, iyy, izz, ixy, ixz, iyz]
    if joint.type == 'fixed' or joint.name in fixed_joints:
        return body
    slides = joint.type == 'prismatic'
    made = body.add_joint(
        name=joint.name,
        axis=joint.axis,
        range=joint.limits,
        limited=True,
        type=mujoco.mjtJoint.mjJNT_SLIDE if slides else mujoco.mjtJoint.mjJNT_HINGE,
    )
    if joint.name in robot.servos:
        made.armature = robot.servos[joint.name].armature
    return body


def _offset_frame(
    pos: np.ndarray, quat: np.ndarray, joint: JointDescription, value: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the child frame (m, quaternion wxyz) of `joint` at `value` in the parent link."""
    if joint.type == 'prismatic':
        shift = np.empty(3)
        mujoco.mju_rotVecQuat(shift, np.array(joint.axis) * value, quat)
        return pos + shift, quat
    turn, turned = np.empty(4), np.empty(4)
    mujoco.mju_axisAngle2Quat(turn, np.array(joint.axis), value)
    mujoco.mju_mulQuat(turned, quat, turn)
    return pos, turned


def _compute_collision_bits(robot: SimRobot) -> dict[str, tuple[int, int]]:
    """Return (contype, conaffinity) of every link of a hand's arm."""
    bits = {}
    for hand, own, other in zip(robot.hands, HAND_BITS, reversed(HAND_BITS), strict=False):
        meets = TABLE_BIT | OBJECT_BIT | other
        bits |= dict.fromkeys(robot.descendants(hand.arm_base), (own, meets))
    return bits


def _add_geom(body: mujoco.MjsBody, primitive: Primitive, bits: tuple[int, int]) -> mujoco.MjsGeom:
    geom = body.add_geom(
        type=GEOM_TYPES[primitive.shape],
        material=primitive.material,
        mass=0.0,
        quat=rpy_to_quat(primitive.rpy),
    )
    if primitive.end:
        geom.fromto = [*primitive.start, *primitive.end]
        geom.size = [primitive.size[0], 0.0, 0.0]
    else:
        geom.pos = primitive.start
        geom.size = [*primitive.size, 0.0, 0.0][:3]
    geom.contype, geom.conaffinity = bits if primitive.collide else (0, 0)
    geom.friction = [1.2, 0.01, 0.0002]  # rubber on plastic, enough to lift the objects
    geom.condim = 4  # torsional friction, so that a grasped cube does not spin
    return geom


def _add_camera(body: mujoco.MjsBody, camera: CameraMount) -> None:
    """Add a camera; a MuJoCo camera looks along its -z axis with +y up."""
    back = np.array(camera.position) - np.array(camera.look_at)
    back /= np.linalg.norm(back)
    right = np.cross(camera.up, back)
    right /= np.linalg.norm(right)
    rotation = np.column_stack([right, np.cross(back, right), back])
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, rotation.ravel())
    body.add_camera(name=camera.key, pos=camera.position, quat=quat, fovy=camera.fovy_deg)


def _z_axis_to_quat(axis: tuple[float, ...]) -> np.ndarray:
    quat = np.empty(4)
    mujoco.mju_quatZ2Vec(quat, np.array(axis))
    return quat


def _add_actuators(
    spec: mujoco.MjSpec, robot: SimRobot, fixed_joints: Mapping[str, float]
) -> None:
    """Add an actuator per servo joint, and couple passive finger joints to the driven ones."""
    effort = {joint.name: joint.hw_effort for joint in robot.embodiment.joints}
    effort |= {joint: hand.effort for hand in robot.hands for joint in hand.fingers}
    for name, servo in robot.servos.items():
        if name in fixed_joints:
            continue
        spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            gainprm=[servo.kp] + [0.0] * 9,
            biasprm=[0.0, -servo.kp, -servo.kv] + [0.0] * 7,
            forcelimited=True,
            forcerange=[-effort[name], effort[name]],
        )
    for joint, (leader, ratio) in robot.mimic_joints.items():
        spec.add_equality(
            type=mujoco.mjtEq.mjEQ_JOINT,
            name1=joint,
            name2=leader,
            objtype=mujoco.mjtObj.mjOBJ_JOINT,
            data=[0.0, ratio] + [0.0] * 10,
            solref=[0.004, 1.0],
        )

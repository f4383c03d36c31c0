"""The generated URDF places links, tools and cameras where the simulator does."""

import re
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.sim.physics.test_mjcf_model import compile_bare_robot
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.kinematic_tree import KinematicTree
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.robot_description import build_urdf

TOLERANCE = 1e-6  # m, and of each element of a rotation matrix
POSTURES = 30


def sample_positions(robot: robots.SimRobot, rng: np.random.Generator) -> dict[str, float]:
    """Return positions of the joints that /joint_states names."""
    names = robot.embodiment.observed
    joints = [robot.embodiment.joint(name) for name in names]
    return {joint.name: rng.uniform(joint.lower, joint.upper) for joint in joints}


def set_positions(
    robot: robots.SimRobot, model: mujoco.MjModel, data: mujoco.MjData, given: dict[str, float]
) -> None:
    """Set the simulator's joints, fingers by its own description of the hands."""
    values = dict(given)
    for hand in robot.hands:
        for finger, (closed, opened) in hand.fingers.items():
            values[finger] = closed + given[hand.gripper] * (opened - closed)
    for joint, (leader, ratio) in robot.mimic_joints.items():
        values[joint] = ratio * values[leader]
    for number in range(model.njnt):
        name = model.joint(number).name
        data.qpos[model.jnt_qposadr[number]] = values[name]
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def read_urdf_in_mujoco(text: str) -> mujoco.MjModel:
    """Load the URDF by MuJoCo's own reader, fixed links kept."""
    extra = '<mujoco><compiler fusestatic="false"/></mujoco></robot>'
    return mujoco.MjModel.from_xml_string(text.replace('</robot>', extra))


@pytest.mark.parametrize('name', robots.list_robots())
def test_forward_kinematics_is_that_of_the_simulator(name: str) -> None:
    robot, rng = robots.load(name), np.random.default_rng(11)
    text = build_urdf(robot)
    model, tree = compile_bare_robot(robot), KinematicTree.from_urdf(text)
    data, other = mujoco.MjData(model), read_urdf_in_mujoco(text)
    other_data = mujoco.MjData(other)
    mimics = {
        joint.get('name'): joint.find('mimic').attrib  # type: ignore[union-attr]
        for joint in ElementTree.fromstring(text).findall('joint')
        if joint.find('mimic') is not None
    }
    for _ in range(POSTURES):
        given = sample_positions(robot, rng)
        set_positions(robot, model, data, given)
        for number in range(other.njnt):
            joint = other.joint(number).name
            mimic = mimics.get(joint)
            other_data.qpos[other.jnt_qposadr[number]] = (
                given[joint]
                if mimic is None
                else float(mimic['offset']) + float(mimic['multiplier']) * given[mimic['joint']]
            )
        mujoco.mj_kinematics(other, other_data)
        places = {
            model.body(body).name: (data.xpos[body], data.xmat[body].reshape(3, 3))
            for body in range(1, model.nbody)
        }
        for camera in robot.embodiment.cameras:  # optical frame: x right, y down, z forward
            seen = data.cam(camera.key)
            places[camera.frame_id] = seen.xpos, seen.xmat.reshape(3, 3) * [1, -1, -1]
        for hand in robot.hands:
            site = data.site(f'{hand.side}_tool')
            places[f'{hand.side}_tool'] = site.xpos, site.xmat.reshape(3, 3)
        assert set(tree.links) - set(places) == {
            tree.root,
            *(f'{hand.gripper}_opening' for hand in robot.hands),
        }
        for link, (position, matrix) in places.items():
            (at,), (quaternion,) = tree.compute_path(link, (), np.zeros((1, 0)), given)
            turn = Rotation.from_quat(quaternion).as_matrix()
            body = other_data.body(link)
            np.testing.assert_allclose(at, position, atol=TOLERANCE)
            np.testing.assert_allclose(body.xpos, position, atol=TOLERANCE)
            np.testing.assert_allclose(body.xmat.reshape(3, 3), turn, atol=TOLERANCE)
            # only the direction of a tool is given, not its turn about it
            axes = slice(2, 3) if link.endswith('_tool') else slice(0, 3)
            np.testing.assert_allclose(turn[:, axes], matrix[:, axes], atol=TOLERANCE)


@pytest.mark.parametrize('name', robots.list_robots())
def test_masses_inertias_and_limits_are_those_of_the_robot(name: str) -> None:
    robot = robots.load(name)
    text = build_urdf(robot)
    model, other = compile_bare_robot(robot), read_urdf_in_mujoco(text)
    for joint in robot.joints:
        if not joint.mass:
            continue
        ours, theirs = model.body(joint.child), other.body(joint.child)
        assert theirs.mass == pytest.approx(ours.mass)
        np.testing.assert_allclose(theirs.ipos, ours.ipos, atol=1e-9)
        np.testing.assert_allclose(theirs.inertia, ours.inertia, rtol=1e-4)
    document = ElementTree.fromstring(text)
    for joint in robot.embodiment.joints:
        limit = document.find(f"joint[@name='{joint.name}']/limit")
        assert limit is not None
        got = [float(limit.get(key, 'nan')) for key in ('lower', 'upper', 'velocity', 'effort')]
        assert got == [joint.lower, joint.upper, joint.hw_velocity, joint.hw_effort]


@pytest.mark.parametrize('name', robots.list_robots())
def test_the_committed_file_is_the_generated_one(name: str) -> None:
    assert embodiment.load_urdf(name) == build_urdf(robots.load(name)), (
        f'./wam shell -c "python -m wam_sim.physics.robot_description {name}"'
    )


@pytest.mark.parametrize('name', robots.list_robots())
def test_every_viewer_can_draw_it(name: str) -> None:
    text = build_urdf(robots.load(name))
    document = ElementTree.fromstring(text)
    shapes = {shape.tag for shape in document.findall('link/*/geometry/*')}
    assert shapes <= {'box', 'cylinder', 'sphere'} and document.findall('link/visual')
    materials = {material.get('name') for material in document.findall('material')}
    assert {each.get('name') for each in document.findall('link/visual/material')} <= materials
    assert not re.search('nan|inf|mesh', text)

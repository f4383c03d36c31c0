"""The built models are the published robots: frames, masses, inertias and limits."""

import json

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wam_sim.physics import mjcf_model as model_module
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import Simulation


def compile_bare_robot(robot: robots.SimRobot) -> mujoco.MjModel:
    """Build the bare robot with every joint moving."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    model_module.add_robot(spec, robot, {})
    return spec.compile()


def compute_link_transforms(
    robot: robots.SimRobot, name: str, joint_positions: dict[str, float]
) -> dict[str, np.ndarray]:
    """Place every link from the published file alone: homogeneous transforms, no simulator."""
    rows = json.loads((robots.ROBOTS / name / 'kinematics.json').read_text())['joints']
    placed = {}
    for mount in robot.mounts:
        placed[mount.prefix + mount.root] = make_transform(mount.rpy, mount.xyz)
        waiting = list(rows)
        while waiting:
            left = []
            for row in waiting:
                parent = placed.get(mount.prefix + row['parent'])
                if parent is None:
                    left.append(row)
                    continue
                here = parent @ make_transform(row['rpy'], row['xyz'])
                value = joint_positions.get(mount.prefix + row['name'], 0.0)
                move = np.eye(4)
                if row['type'] == 'revolute':
                    turn = Rotation.from_rotvec(np.array(row['axis']) * value)
                    move[:3, :3] = turn.as_matrix()
                elif row['type'] == 'prismatic':
                    move[:3, 3] = np.array(row['axis']) * value
                placed[mount.prefix + row['child']] = here @ move
            if len(left) == len(waiting):
                break  # what is left hangs on links we derive ourselves
            waiting = left
    return placed


def make_transform(rpy: tuple[float, ...], xyz: tuple[float, ...]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler('xyz', rpy).as_matrix()
    out[:3, 3] = xyz
    return out


@pytest.mark.parametrize('name', robots.list_robots())
def test_forward_kinematics_is_that_of_the_published_file(name: str) -> None:
    robot = robots.load(name)
    model = compile_bare_robot(robot)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(7)
    for _ in range(50):
        posture = {
            joint.name: rng.uniform(*joint.limits)
            for joint in robot.joints
            if joint.type != 'fixed'
        }
        for joint, value in posture.items():
            data.qpos[model.joint(joint).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        links = compute_link_transforms(robot, name, posture)
        assert len(links) > 8
        for link, wanted in links.items():
            body = data.body(link)
            np.testing.assert_allclose(body.xpos, wanted[:3, 3], atol=1e-9)
            np.testing.assert_allclose(body.xmat.reshape(3, 3), wanted[:3, :3], atol=1e-9)


@pytest.mark.parametrize('name', robots.list_robots())
def test_masses_inertias_and_limits_are_the_published_ones(name: str) -> None:
    robot = robots.load(name)
    model = compile_bare_robot(robot)
    rows = json.loads((robots.ROBOTS / name / 'kinematics.json').read_text())['joints']
    for mount in robot.mounts:
        for row in rows:
            body = model.body(mount.prefix + row['child'])
            assert body.mass[0] == pytest.approx(row.get('mass', 0.0), abs=1e-12)
            if row['type'] != 'fixed':
                np.testing.assert_allclose(
                    model.joint(mount.prefix + row['name']).range, row['limits'], atol=1e-12
                )
            if 'mass' not in row:
                continue
            np.testing.assert_allclose(body.ipos, row['com'], atol=1e-12)
            axes = np.empty(9)
            mujoco.mju_quat2Mat(axes, body.iquat)
            axes = axes.reshape(3, 3)
            tensor = axes @ np.diag(body.inertia) @ axes.T
            ixx, ixy, ixz, iyy, iyz, izz = row['inertia']
            np.testing.assert_allclose(
                tensor, [[ixx, ixy, ixz], [ixy, iyy, iyz], [ixz, iyz, izz]], atol=1e-12
            )


def test_held_joints_are_welded_where_the_embodiment_rests() -> None:
    robot = robots.load('agibot_g1')
    simulation = Simulation(robot)
    body = robot.embodiment
    posture = {joint: body.home[joint] for joint in body.observed if 'gripper' not in joint}
    links = compute_link_transforms(robot, 'agibot_g1', posture)
    mujoco.mj_kinematics(simulation.model, simulation.data)
    for link in ('head_link2', 'arm_l_base_link', 'gripper_r_base_link'):
        np.testing.assert_allclose(simulation.data.body(link).xpos, links[link][:3, 3], atol=1e-9)


def test_unknown_robot_names_the_nearest() -> None:
    with pytest.raises(ValueError, match='did you mean agibot_g1'):
        robots.load('agibot_g2')

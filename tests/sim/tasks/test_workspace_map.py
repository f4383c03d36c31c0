"""Every hand reaches the whole workspace from the stored rest posture."""

import json

import mujoco
import numpy as np
import pytest

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import compile_model
from wam_sim.tasks import workspace_map
from wam_sim.tasks.inverse_kinematics import ArmIk

MAX_ERROR_M = 0.01
MAX_TILT_RAD = 0.6


@pytest.fixture(scope='module', params=robots.list_robots())
def solved(request: pytest.FixtureRequest) -> tuple[robots.SimRobot, dict, list[tuple]]:
    robot = robots.load(request.param)
    body = robot.embodiment
    model = compile_model(
        robot, {name: body.home[name] for name in body.observed if name not in body.commanded}
    )
    hands = []
    for side in robot.hand_sides:
        arm = ArmIk(robot, model, side)
        hands.append(
            (
                side,
                arm,
                workspace_map.map_workspace(
                    robot, arm, body.home_positions(arm.names), workspace_map.FINE_GRID
                ),
            )
        )
    stored = json.loads((robots.ROBOTS / robot.name / 'reach.json').read_text())
    return robot, stored, hands


def test_every_point_is_reached_within_the_joint_limits(solved: tuple) -> None:
    robot, _, hands = solved
    for _, arm, found in hands:
        limits = np.array([robot.joint(name).limits for name in arm.names])
        assert found.as_grid('error_m').max() < MAX_ERROR_M
        assert found.as_grid('tilt_rad').max() < MAX_TILT_RAD
        for pose in found.poses:
            assert (pose.joints_rad > limits[:, 0]).all()
            assert (pose.joints_rad < limits[:, 1]).all()


def test_reported_errors_are_real(solved: tuple) -> None:
    """Place the simulated arm and measure where the tool stands."""
    _, _, hands = solved
    for side, arm, found in hands:
        targets = [(x, y, z) for z in found.z_m for x in found.x_m for y in found.y_m]
        data = mujoco.MjData(arm.model)
        for pose, target in list(zip(found.poses, targets, strict=True))[::7]:
            for name, value in zip(arm.names, pose.joints_rad, strict=True):
                data.joint(name).qpos[0] = value
            mujoco.mj_kinematics(arm.model, data)
            error = np.linalg.norm(data.site(f'{side}_tool').xpos - target)
            assert error == pytest.approx(pose.error_m, abs=1e-9)


def test_no_pose_goes_into_the_table(solved: tuple) -> None:
    _, _, hands = solved
    for _, arm, found in hands:
        table = arm.model.geom('table').id
        for pose in found.poses:
            arm.compute_tool_pose(pose.joints_rad)
            mujoco.mj_collision(arm.model, arm.data)
            deep = [contact.dist for contact in arm.data.contact if table in contact.geom]
            assert min(deep, default=0.0) > -1e-4


def test_the_stored_map_is_that_of_the_rest_posture_in_the_embodiment(solved: tuple) -> None:
    robot, stored, hands = solved
    assert stored['rest_rad'] == {
        name: robot.embodiment.home[name] for _, arm, _ in hands for name in arm.names
    }
    for side, _, found in hands:
        np.testing.assert_allclose(
            stored['hands'][side]['error_mm'], found.as_grid('error_m') * 1e3, atol=0.5
        )


def test_the_right_arm_mirrors_the_left(solved: tuple) -> None:
    robot, _, hands = solved
    if robot.hand_sides == robots.SINGLE_HAND:
        assert not robot.mirror_signs
        return
    (_, left, _), (_, right, _) = hands
    rest = robot.embodiment.home_positions(left.names)
    one, _ = left.compute_tool_pose(rest)
    other, _ = right.compute_tool_pose(workspace_map.mirror_joint_positions(robot, rest))
    np.testing.assert_allclose(one * [1, -1, 1], other, atol=0.003)


@pytest.mark.slow
@pytest.mark.parametrize('name', robots.list_robots())
def test_the_search_finds_the_stored_posture_again(name: str) -> None:
    stored = json.loads((robots.ROBOTS / name / 'reach.json').read_text())
    found = workspace_map.build_map(robots.load(name))
    assert found.keys() == stored.keys()
    for joint, value in stored['rest_rad'].items():
        assert found['rest_rad'][joint] == pytest.approx(value, abs=2e-3)  # other CPUs round

"""What inverse kinematics does beside reaching the point."""

import numpy as np
import pytest

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.inverse_kinematics import FORWARD_DOWN, ArmIk

ACROSS = np.array([0.0, 1.0, 0.0])


@pytest.fixture(scope='module', params=robots.list_robots())
def arm(request: pytest.FixtureRequest) -> tuple[ArmIk, np.ndarray, np.ndarray]:
    """Return the first arm, its posture at rest and the middle of the workspace, hovering."""
    robot = robots.load(request.param)
    found = ArmIk(robot, Simulation(robot).model, robot.hand_sides[0])
    x_low, x_high, y_low, y_high = robot.workspace
    middle = np.array([(x_low + x_high) / 2, (y_low + y_high) / 2, robot.table.height_m + 0.1])
    return found, robot.embodiment.home_positions(found.names), middle


def test_fingers_open_across_where_it_is_asked(arm: tuple) -> None:
    solver, rest, middle = arm
    pose = solver.solve(middle, FORWARD_DOWN, rest, rest, opening_axis=ACROSS)
    assert pose.error_m < 1e-3
    solver.compute_tool_pose(pose.joints_rad)
    palm = solver.data.xmat[solver._tool_body].reshape(3, 3)
    assert abs(palm[:, 1] @ ACROSS) > 0.99


def test_a_shy_joint_keeps_away_from_its_limit(arm: tuple) -> None:
    """The point is still met: only what it leaves free gives way."""
    solver, rest, middle = arm
    start = rest.copy()
    start[-1] = solver.upper[-1]
    bold = solver.solve(middle, FORWARD_DOWN, start, start, iterations=300)
    shy = solver.solve(middle, FORWARD_DOWN, start, start, iterations=300, avoidance_range_rad=0.5)
    assert shy.error_m < 1e-3
    assert shy.joints_rad[-1] < bold.joints_rad[-1] - 0.05

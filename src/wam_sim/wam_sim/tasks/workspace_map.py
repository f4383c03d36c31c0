"""Find the home position of a robot and the map of the workspace that its hands reach from it.

`python -m wam_sim.tasks.workspace_map ROBOT` writes robots/ROBOT/reach.json and prints the home
position for the embodiment's `rest:`; with a single hand the embodiment's own is taken, because
its maker or data set has one. Candidates are random; the cost of each is computed by solving the
whole workspace from it, as a controller that starts there has to. Deterministic.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.physics.simulation import compile_model
from wam_sim.tasks.inverse_kinematics import FORWARD_DOWN, LIMIT_MARGIN_RAD, ArmIk, IkSolution

CANDIDATE_COUNT = 60
SEED = 11
HEIGHTS_M = (0.035, 0.14)  # tool point above the table: touch, hover
HOME_ABOVE_M = 0.17
COARSE_GRID, FINE_GRID = (3, 3), (6, 9)  # grid points along x and y
# cost per m, rad, 1 and m: 1 cm of error outweighs any posture
ERROR_COST, TILT_COST, LIMIT_COST, ELBOW_COST = 100.0, 1.0, 4.0, 3.0


@dataclass(frozen=True, slots=True, eq=False)
class WorkspaceMap:
    """Poses of one hand over the workspace, [heights x y]; axes in m."""

    x_m: np.ndarray
    y_m: np.ndarray
    z_m: np.ndarray
    poses: list[IkSolution]  # in the order heights, x, y

    def as_grid(self, name: str) -> np.ndarray:
        values = [getattr(pose, name) for pose in self.poses]
        return np.array(values).reshape(len(self.z_m), len(self.x_m), len(self.y_m))


def map_workspace(
    robot: SimRobot, arm: ArmIk, home_rad: np.ndarray, grid: tuple[int, int]
) -> WorkspaceMap:
    """Solve every grid point of the workspace, each from `home_rad` [arm joints]."""
    x_low, x_high, y_low, y_high = robot.workspace
    x, y = np.linspace(x_low, x_high, grid[0]), np.linspace(y_low, y_high, grid[1])
    z = robot.table.height_m + np.array(HEIGHTS_M)
    return WorkspaceMap(
        x,
        y,
        z,
        [
            arm.solve(np.array([x_, y_, z_]), FORWARD_DOWN, home_rad, home_rad)
            for z_ in z
            for x_ in x
            for y_ in y
        ],
    )


def find_home(robot: SimRobot, arm: ArmIk) -> np.ndarray:
    """Return the best home position of the left arm, [arm joints] rad."""
    rng = np.random.default_rng(SEED)
    x_low, x_high, _, y_high = robot.workspace
    hover = np.array([(x_low + x_high) / 2, y_high + 0.03, robot.table.height_m + HOME_ABOVE_M])
    best_cost, best = np.inf, None
    for _ in range(CANDIDATE_COUNT):
        start = rng.uniform(arm.lower, arm.upper)
        pose = arm.solve(hover, FORWARD_DOWN, start, 0.5 * start, iterations=200)
        if pose.error_m > 0.005 or pose.tilt_rad > 0.6:
            continue
        rest = _level_wrist_camera(robot, arm, pose.joints_rad)
        cost = _compute_cost(robot, arm, rest)
        if cost < best_cost:
            best_cost, best = cost, rest
    if best is None:
        raise RuntimeError(
            f'{robot.name}: no candidate reaches the point above the workspace; move the '
            'table or the workspace in robot.yaml'
        )
    return best


def mirror_joint_positions(robot: SimRobot, left_rad: np.ndarray) -> np.ndarray:
    """Return the right arm's joint positions that mirror the left arm's in the plane y = 0."""
    return left_rad * np.array(robot.mirror_signs)


def _compute_cost(robot: SimRobot, arm: ArmIk, home: np.ndarray) -> float:
    poses = map_workspace(robot, arm, home, COARSE_GRID).poses
    error = max(pose.error_m for pose in poses)
    tilt = np.mean([pose.tilt_rad for pose in poses]) + 0.5 * max(p.tilt_rad for p in poses)
    middle, half = (arm.upper + arm.lower) / 2, (arm.upper - arm.lower) / 2
    near_limit = np.mean((np.abs(home - middle) / half) ** 4)
    return (
        ERROR_COST * error
        + TILT_COST * tilt
        + LIMIT_COST * near_limit
        + ELBOW_COST * _compute_elbow_excess(robot, arm, home)
    )


def _compute_elbow_excess(robot: SimRobot, arm: ArmIk, home: np.ndarray) -> float:
    """Return by how many m links are above the shoulder or closer than 0.1 m to y = 0."""
    arm.compute_tool_pose(home)
    links = [joint.child for joint in robot.joints if joint.name in arm.names]
    points = np.array([arm.data.body(link).xpos for link in links])
    return float(
        np.maximum(points[:, 2] - points[0, 2] - robot.max_elbow_rise_m, 0.0).max()
        + np.maximum(0.1 - points[:, 1], 0.0).max()
    )


def _level_wrist_camera(robot: SimRobot, arm: ArmIk, home: np.ndarray) -> np.ndarray:
    """Rotate the last joint (the tool about its axis) so that the wrist image is upright."""
    camera = next(mount for mount in robot.cameras if mount.link == robot.hand('left').tool_link)
    rolls = np.linspace(arm.lower[-1], arm.upper[-1], 181)
    turned = [np.append(home[:-1], roll) for roll in rolls]
    return max(turned, key=lambda joints: _compute_uprightness(arm, joints, camera.key))


def _compute_uprightness(arm: ArmIk, joints: np.ndarray, key: str) -> float:
    arm.compute_tool_pose(joints)
    mujoco.mj_camlight(arm.model, arm.data)
    return float(arm.data.cam(key).xmat.reshape(3, 3)[0, 1])  # camera's up along world x


def build_map(robot: SimRobot) -> dict[str, Any]:
    """Return home position and workspace map as stored in reach.json; mm and rad."""
    body = robot.embodiment
    model = compile_model(
        robot, {name: body.home[name] for name in body.observed if name not in body.commanded}
    )
    arms = {side: ArmIk(robot, model, side) for side in robot.hand_sides}
    found: dict[str, Any] = {
        'rest_rad': {},
        'tool_axis': np.round(FORWARD_DOWN, 4).tolist(),
        'margin_rad': LIMIT_MARGIN_RAD,
        'hands': {},
    }
    for (side, arm), joint_positions in zip(arms.items(), _find_rest(robot, arms), strict=True):
        reach = map_workspace(robot, arm, joint_positions, FINE_GRID)
        found['rest_rad'] |= dict(zip(arm.names, joint_positions.tolist(), strict=True))
        found['hands'][side] = {
            'error_mm': np.round(reach.as_grid('error_m') * 1e3, 2).tolist(),
            'tilt_rad': np.round(reach.as_grid('tilt_rad'), 3).tolist(),
        }
        found |= {
            axis: np.round(getattr(reach, axis), 4).tolist() for axis in ('x_m', 'y_m', 'z_m')
        }
    return found


def _find_rest(robot: SimRobot, arms: Mapping[str, ArmIk]) -> list[np.ndarray]:
    """Return the home position of each arm, [arm joints] rad."""
    first, *others = arms.values()
    if not others:
        return [robot.embodiment.home_positions(first.names)]
    rest = np.round(find_home(robot, first), 4)
    return [rest, mirror_joint_positions(robot, rest)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Find the home position and workspace map of a robot'
    )
    parser.add_argument('robot', choices=robots.list_robots())
    robot = robots.load(parser.parse_args().robot)
    found = build_map(robot)
    path = Path(robots.ROBOTS) / robot.name / 'reach.json'
    path.write_text(json.dumps(found) + '\n', encoding='utf-8')
    for side, hand in found['hands'].items():
        print(
            f'{side}: worst error {np.max(hand["error_mm"]):.2f} mm, tilt mean '
            f'{np.mean(hand["tilt_rad"]):.2f} max {np.max(hand["tilt_rad"]):.2f} rad'
        )
    print('rest:')
    for joint, value in found['rest_rad'].items():
        print(f'  {joint}: {value}')


if __name__ == '__main__':
    main()

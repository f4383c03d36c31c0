"""Find the rest posture of a robot and the map of what both hands reach from it.

`python -m wam_sim.tasks.workspace_map ROBOT` writes robots/ROBOT/reach.json and prints the rest
posture for the embodiment's `rest:`. Candidates come from random starts; each is judged by solving
the whole workspace from it, as a controller that starts at rest would have to. Deterministic.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import Robot
from wam_sim.physics.simulation import compiled
from wam_sim.tasks.inverse_kinematics import FORWARD_DOWN, MARGIN_RAD, Arm, Pose

CANDIDATES = 60
SEED = 11
HEIGHTS_M = (0.035, 0.14)  # tool point above the table: touch, hover
REST_ABOVE_M = 0.17
COARSE, FINE = (3, 3), (6, 9)  # grid points along x and y
# what one unit costs: a centimetre of error outweighs any posture
ERROR_COST, TILT_COST, LIMIT_COST, ELBOW_COST = 100.0, 1.0, 4.0, 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """Hold one hand's poses over the workspace, [heights x y] each."""

    x_m: np.ndarray
    y_m: np.ndarray
    z_m: np.ndarray
    poses: list[Pose]  # in the order heights, x, y

    def field(self, name: str) -> np.ndarray:
        values = [getattr(pose, name) for pose in self.poses]
        return np.array(values).reshape(len(self.z_m), len(self.x_m), len(self.y_m))


def mapped(robot: Robot, arm: Arm, rest_rad: np.ndarray, grid: tuple[int, int]) -> Map:
    """Solve the workspace from the rest posture, each point on its own."""
    x_low, x_high, y_low, y_high = robot.workspace
    x, y = np.linspace(x_low, x_high, grid[0]), np.linspace(y_low, y_high, grid[1])
    z = robot.table.height_m + np.array(HEIGHTS_M)
    return Map(
        x,
        y,
        z,
        [
            arm.solve(np.array([x_, y_, z_]), FORWARD_DOWN, rest_rad, rest_rad)
            for z_ in z
            for x_ in x
            for y_ in y
        ],
    )


def rest_found(robot: Robot, arm: Arm) -> np.ndarray:
    """Return the best rest posture of the left arm, [arm joints] rad."""
    rng = np.random.default_rng(SEED)
    x_low, x_high, _, y_high = robot.workspace
    hover = np.array([(x_low + x_high) / 2, y_high + 0.03, robot.table.height_m + REST_ABOVE_M])
    best_cost, best = np.inf, None
    for _ in range(CANDIDATES):
        start = rng.uniform(arm.lower, arm.upper)
        pose = arm.solve(hover, FORWARD_DOWN, start, 0.5 * start, iterations=200)
        if pose.error_m > 0.005 or pose.tilt_rad > 0.6:
            continue
        rest = _rolled(robot, arm, pose.joints_rad)
        cost = _cost(robot, arm, rest)
        if cost < best_cost:
            best_cost, best = cost, rest
    if best is None:
        raise RuntimeError(
            f'{robot.name}: no candidate hovers over the workspace; move the '
            'table or the workspace in robot.yaml'
        )
    return best


def mirrored(robot: Robot, left_rad: np.ndarray) -> np.ndarray:
    """Return the right arm's posture that mirrors the left one in the robot's middle plane."""
    return left_rad * np.array(robot.mirror)


def _cost(robot: Robot, arm: Arm, rest: np.ndarray) -> float:
    poses = mapped(robot, arm, rest, COARSE).poses
    error = max(pose.error_m for pose in poses)
    tilt = np.mean([pose.tilt_rad for pose in poses]) + 0.5 * max(p.tilt_rad for p in poses)
    middle, half = (arm.upper + arm.lower) / 2, (arm.upper - arm.lower) / 2
    near_limit = np.mean((np.abs(rest - middle) / half) ** 4)
    return (
        ERROR_COST * error
        + TILT_COST * tilt
        + LIMIT_COST * near_limit
        + ELBOW_COST * _elbow_badness(robot, arm, rest)
    )


def _elbow_badness(robot: Robot, arm: Arm, rest: np.ndarray) -> float:
    """Return by how many m the links stand above the shoulder or over the middle plane."""
    arm.tool(rest)
    links = [joint.child for joint in robot.joints if joint.name in arm.names]
    points = np.array([arm.data.body(link).xpos for link in links])
    return float(
        np.maximum(points[:, 2] - points[0, 2] - robot.elbow_above_m, 0.0).max()
        + np.maximum(0.1 - points[:, 1], 0.0).max()
    )


def _rolled(robot: Robot, arm: Arm, rest: np.ndarray) -> np.ndarray:
    """Turn the last joint, which spins the tool on its axis, until the wrist view is upright."""
    camera = next(mount for mount in robot.cameras if mount.link == robot.hand('left').tool_link)
    rolls = np.linspace(arm.lower[-1], arm.upper[-1], 181)
    turned = [np.append(rest[:-1], roll) for roll in rolls]
    return max(turned, key=lambda joints: _upright(arm, joints, camera.key))


def _upright(arm: Arm, joints: np.ndarray, key: str) -> float:
    arm.tool(joints)
    mujoco.mj_camlight(arm.model, arm.data)
    return float(arm.data.cam(key).xmat.reshape(3, 3)[0, 1])  # camera's up along world x


def document(robot: Robot) -> dict[str, Any]:
    """Return rest posture and reach map as they are stored; mm and rad."""
    body = robot.embodiment
    model = compiled(
        robot, {name: body.rest[name] for name in body.observed if name not in body.commanded}
    )
    left, right = (Arm(robot, model, side) for side in ('left', 'right'))
    rest = np.round(rest_found(robot, left), 4)
    found: dict[str, Any] = {
        'rest_rad': {},
        'tool_axis': np.round(FORWARD_DOWN, 4).tolist(),
        'margin_rad': MARGIN_RAD,
        'hands': {},
    }
    for arm, side, posture in ((left, 'left', rest), (right, 'right', mirrored(robot, rest))):
        reach = mapped(robot, arm, posture, FINE)
        found['rest_rad'] |= dict(zip(arm.names, posture.tolist(), strict=True))
        found['hands'][side] = {
            'error_mm': np.round(reach.field('error_m') * 1e3, 2).tolist(),
            'tilt_rad': np.round(reach.field('tilt_rad'), 3).tolist(),
        }
        found |= {
            axis: np.round(getattr(reach, axis), 4).tolist() for axis in ('x_m', 'y_m', 'z_m')
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='Find the rest posture and reach map of a robot')
    parser.add_argument('robot', choices=robots.names())
    robot = robots.load(parser.parse_args().robot)
    found = document(robot)
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

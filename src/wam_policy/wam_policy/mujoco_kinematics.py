"""Poses of a robot's tools, forward and inverse, on the kinematics of its collision.xml.

Inverse kinematics is mink's: differential steps with a quadratic program that keeps to the joint
ranges, started at the row before, so that rows close in space stay close in the joints.
"""

import logging
from pathlib import Path

import mink
import mujoco
import numpy as np

from wam_policy.core.robot.embodiment import ROBOTS_DIR, Embodiment
from wam_policy.core.robot.kinematics import ToolFrame, UnreachablePose

MAX_STEPS = 60  # of one row; 5 to 10 are enough for rows of 30 Hz
POSITION_TOLERANCE_M = 0.001
ROTATION_TOLERANCE_RAD = 0.005
REST_COST = 1e-3  # toward the row before: keeps a redundant arm where it is
# a joint that rests at its limit is measured beyond it by its noise; mink would only warn
logging.getLogger('mink').setLevel(logging.ERROR)


class MujocoKinematics:
    """Kinematics of one robot, for use by one thread."""

    def __init__(self, robot: Embodiment, *, folder: Path = ROBOTS_DIR) -> None:
        """Load the model; raises ValueError if it is missing or has not the robot's joints."""
        path = folder / robot.name / 'collision.xml'
        try:
            self._model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise ValueError(f'{path}: cannot load the kinematics: {error}') from error
        self._path, self._observed = path, robot.observed
        self._configuration = mink.Configuration(self._model)
        self._limits = [mink.ConfigurationLimit(self._model)]
        # grippers have joints of other names in the model and move no tool point
        self._columns = [
            (column, self._find_joint(name))
            for column, name in enumerate(robot.observed)
            if robot.joint(name).kind != 'gripper'
        ]

    def check_tool(self, tool: ToolFrame) -> None:
        for body in (tool.link, tool.base):
            self._find_body(body)
        for name in tool.joints:
            self._find_joint(name)

    def compute_pose(
        self, tool: ToolFrame, joint_positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self._set_positions(joint_positions)
        pose = self._get_base(tool).inverse() @ self._get_pose(tool.link) @ _get_offset(tool)
        return pose.translation(), pose.rotation().as_matrix()

    def solve_rows(
        self,
        tool: ToolFrame,
        positions: np.ndarray,
        rotations: np.ndarray,
        joint_positions: np.ndarray,
    ) -> np.ndarray:
        self._set_positions(joint_positions)
        joints = [self._find_joint(name) for name in tool.joints]
        addresses = [int(self._model.jnt_qposadr[joint]) for joint in joints]
        moved = {int(self._model.jnt_dofadr[joint]) for joint in joints}
        others = [dof for dof in range(self._model.nv) if dof not in moved]
        fixed = [mink.DofFreezingTask(self._model, others)] if others else []
        frame = mink.FrameTask(tool.link, 'body', position_cost=1.0, orientation_cost=0.3)
        rest = mink.PostureTask(self._model, cost=REST_COST)
        base, offset = self._get_base(tool), _get_offset(tool).inverse()
        found = np.empty((len(positions), len(joints)))
        for row, (position, rotation) in enumerate(zip(positions, rotations, strict=True)):
            target = mink.SE3.from_rotation_and_translation(
                mink.SO3.from_matrix(rotation), position
            )
            frame.set_target(base @ target @ offset)
            rest.set_target_from_configuration(self._configuration)
            self._solve(frame, rest, fixed, row)
            found[row] = self._configuration.q[addresses]
        return found

    def _solve(
        self,
        frame: mink.FrameTask,
        rest: mink.PostureTask,
        fixed: list[mink.DofFreezingTask],
        row: int,
    ) -> None:
        """Move the configuration to the target of `frame`."""
        for _ in range(MAX_STEPS):
            error = frame.compute_error(self._configuration)
            off_m, off_rad = np.linalg.norm(error[:3]), np.linalg.norm(error[3:])
            if off_m < POSITION_TOLERANCE_M and off_rad < ROTATION_TOLERANCE_RAD:
                return
            try:
                velocity = mink.solve_ik(
                    self._configuration,
                    [frame, rest],
                    1.0,
                    'daqp',
                    damping=1e-6,
                    limits=self._limits,
                    constraints=fixed or None,
                )
            except mink.NoSolutionFound:
                break
            self._configuration.integrate_inplace(velocity, 1.0)
        error = frame.compute_error(self._configuration)
        raise UnreachablePose(
            f'row {row}: the arm cannot reach the pose of {frame.frame_name}: '
            f'{np.linalg.norm(error[:3]):.3f} m and {np.linalg.norm(error[3:]):.2f} rad are left'
        )

    def _set_positions(self, joint_positions: np.ndarray) -> None:
        qpos = np.zeros(self._model.nq)
        for column, joint in self._columns:
            low, high = self._model.jnt_range[joint]
            qpos[self._model.jnt_qposadr[joint]] = np.clip(joint_positions[column], low, high)
        self._configuration.update(qpos)

    def _get_pose(self, body: str) -> mink.SE3:
        return self._configuration.get_transform_frame_to_world(body, 'body')

    def _get_base(self, tool: ToolFrame) -> mink.SE3:
        return self._get_pose(tool.base)

    def _find_joint(self, name: str) -> int:
        try:
            return int(self._model.joint(name).id)
        except KeyError as error:
            raise ValueError(f'{self._path} has no joint {name}') from error

    def _find_body(self, name: str) -> int:
        try:
            return int(self._model.body(name).id)
        except KeyError as error:
            raise ValueError(f'{self._path} has no body {name}') from error


def _get_offset(tool: ToolFrame) -> mink.SE3:
    return mink.SE3.from_rotation_and_translation(
        mink.SO3(np.array(tool.tool_quat_wxyz) / np.linalg.norm(tool.tool_quat_wxyz)),
        np.array(tool.tool_xyz),
    )

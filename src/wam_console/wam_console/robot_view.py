"""The robot in 3D: its shapes once, then the pose of every body for given joint positions.

Shapes are those of the simulated robot; where wam_sim is not installed or does not know the robot,
those of the collision model that motion_node uses.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from wam_policy.core.motion.trajectory import PlannedPath
from wam_policy.core.robot.embodiment import ROBOTS_DIR, Embodiment

SHAPES = {
    mujoco.mjtGeom.mjGEOM_SPHERE: 'sphere',
    mujoco.mjtGeom.mjGEOM_CAPSULE: 'capsule',
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: 'sphere',
    mujoco.mjtGeom.mjGEOM_CYLINDER: 'cylinder',
    mujoco.mjtGeom.mjGEOM_BOX: 'box',
}
HIDDEN_GROUP = 4
HAND_GROUP = 1  # of the collision model
LARGE_M = 5.0  # a floor; the page draws its own


class RobotView:
    """Compute the poses of one robot's bodies; not thread-safe."""

    def __init__(self, robot: Embodiment) -> None:
        """Load the model; ValueError if there is none of this robot."""
        self._robot = robot
        self._fingers: dict[str, tuple[str, float, float]] = {}  # joint -> gripper, offset, scale
        self._mimic_joints: list[tuple[int, int, float]] = []  # follower, leader, ratio
        self.camera = {'from': [2.2, -1.4, 1.8], 'at': [0.4, 0.0, 0.9]}
        model = self._load_sim_model() or self._load_collision_model()
        self._model, self._data = model, mujoco.MjData(model)
        self._qpos = {
            model.joint(joint).name: int(model.jnt_qposadr[joint])
            for joint in range(model.njnt)
            if model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE
        }
        self._bodies = self._find_bodies()

    @property
    def scene(self) -> dict[str, Any]:
        """Return the shapes, each in the frame of its body, for the page."""
        model, shapes = self._model, []
        index = {body: number for number, body in enumerate(self._bodies)}
        for geom in range(model.ngeom):
            kind = mujoco.mjtGeom(model.geom_type[geom])
            body = int(model.geom_bodyid[geom])
            if (
                kind not in SHAPES
                or model.geom_group[geom] == HIDDEN_GROUP
                or body not in index
                or model.geom_size[geom].max() > LARGE_M
            ):
                continue
            material = int(model.geom_matid[geom])
            rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
            size = model.geom_size[geom]
            if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
                size = np.repeat(size[:1], 3)
            shapes.append(
                {
                    'shape': SHAPES[kind],
                    'body': index[body],
                    'size': np.round(size, 5).tolist(),
                    'pos': np.round(model.geom_pos[geom], 5).tolist(),
                    'quat': np.round(model.geom_quat[geom], 6).tolist(),
                    'rgb': np.round(rgba[:3], 3).tolist(),
                    'fixed': int(model.body_weldid[body]) == 0,
                }
            )
        return {'bodies': len(self._bodies), 'shapes': shapes, 'camera': self.camera}

    def compute_poses(self, positions: Mapping[str, float]) -> np.ndarray:
        """Return position and quaternion wxyz of every body, float32 [bodies 7]."""
        self._set_positions(positions)
        data = self._data
        return np.hstack([data.xpos[self._bodies], data.xquat[self._bodies]]).astype(np.float32)

    def compute_tool_paths(
        self, plan: PlannedPath | None, measured: Mapping[str, float]
    ) -> np.ndarray:
        """Return where the tools are in each row of a plan, float32 [tools rows 3].

        Joints that the plan leaves out stay as measured.
        """
        if plan is None:
            return np.zeros((0, 0, 3), np.float32)
        self._set_positions(measured)
        points = []
        for qpos in self._compute_qpos_rows(plan):
            self._data.qpos[:] = qpos
            mujoco.mj_kinematics(self._model, self._data)
            points.append(self._read_tools())
        return np.array(points, dtype=np.float32).transpose(1, 0, 2)

    def _compute_qpos_rows(self, plan: PlannedPath) -> np.ndarray:
        """Return the model's joint positions in each row of a plan [rows qpos]."""
        rows = np.tile(self._data.qpos, (len(plan.positions), 1))
        column = {name: index for index, name in enumerate(plan.names)}
        for name, index in column.items():
            if name in self._qpos:
                rows[:, self._qpos[name]] = plan.positions[:, index]
        for joint, (gripper, offset, scale) in self._fingers.items():
            if gripper in column:
                opening = plan.positions[:, column[gripper]]
                rows[:, self._qpos[joint]] = offset + scale * opening
        for follower, leader, ratio in self._mimic_joints:
            rows[:, follower] = ratio * rows[:, leader]
        return rows

    def _set_positions(self, positions: Mapping[str, float]) -> None:
        qpos = self._data.qpos
        for name, value in positions.items():
            if name in self._qpos:
                qpos[self._qpos[name]] = value
        for joint, (gripper, offset, scale) in self._fingers.items():
            qpos[self._qpos[joint]] = offset + scale * positions.get(gripper, 1.0)
        for follower, leader, ratio in self._mimic_joints:
            qpos[follower] = ratio * qpos[leader]
        mujoco.mj_kinematics(self._model, self._data)

    def _read_tools(self) -> np.ndarray:
        """Return the tools' positions [tools 3]: sites, or the hands of the collision model."""
        if self._model.nsite:
            return self._data.site_xpos.copy()
        hands = np.flatnonzero(self._model.geom_group == HAND_GROUP)
        sides: dict[int, list[int]] = {}
        for geom in hands.tolist():
            sides.setdefault(int(self._model.body_rootid[self._model.geom_bodyid[geom]]), [])
            sides[int(self._model.body_rootid[self._model.geom_bodyid[geom]])].append(geom)
        return np.array([self._data.geom_xpos[geoms].mean(axis=0) for geoms in sides.values()])

    def _find_bodies(self) -> list[int]:
        """Return the bodies that are shown: not the objects on the table, which move freely."""
        model = self._model
        free = {
            int(model.jnt_bodyid[joint])
            for joint in range(model.njnt)
            if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE
        }
        return [
            body
            for body in range(model.nbody)
            if body not in free and model.body_mocapid[body] < 0
        ]

    def _load_sim_model(self) -> mujoco.MjModel | None:
        """Return the simulated robot's model with every joint free to move, or None."""
        if importlib.util.find_spec('wam_sim') is None:
            return None
        from wam_sim.physics import sim_robot
        from wam_sim.physics.simulation import compile_model

        if self._robot.name not in sim_robot.list_robots():
            return None
        robot = sim_robot.load(self._robot.name)
        model = compile_model(robot, {})
        self._fingers = {
            joint: (hand.gripper, closed, opened - closed)
            for hand in robot.hands
            for joint, (closed, opened) in hand.fingers.items()
        }
        self._mimic_joints = [
            (int(model.joint(joint).qposadr[0]), int(model.joint(leader).qposadr[0]), ratio)
            for joint, (leader, ratio) in robot.mimic_joints.items()
        ]
        view = robot.portrait_camera
        self.camera = {'from': list(view.position), 'at': list(view.look_at)}
        return model

    def _load_collision_model(self) -> mujoco.MjModel:
        path = ROBOTS_DIR / self._robot.name / 'collision.xml'
        try:
            return mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise ValueError(f'{path}: cannot load the shapes of the robot: {error}') from error

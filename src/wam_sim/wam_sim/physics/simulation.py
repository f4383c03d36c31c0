"""Physics of one simulated robot with its table and task, without ROS, clock or threads.

Time advances only by `step`, so equal calls give bitwise equal states. Use a simulation from one
thread at a time; the thread that first observes opens the cameras.
"""

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from wam_policy.core.motion.trajectory import JointMotion
from wam_policy.core.types import Frame, JointState, Observation
from wam_sim.physics import mjcf_model as model_module
from wam_sim.physics import scene as scenes
from wam_sim.physics.cameras import CameraRenderer
from wam_sim.physics.controllers import ExecutedMotion, SimControllers
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.tasks import task_families

STEP_NS = 2_000_000
STEP_S = STEP_NS / 1e9


@dataclass(frozen=True, slots=True, eq=False)
class SceneGeom:
    """One object as a viewer draws it, in the world frame."""

    slot: str
    text: str  # 'red cube'
    is_box: bool  # else a cylinder
    size: np.ndarray  # half lengths of a box [3]; radius and half length of a cylinder
    rgba: np.ndarray
    position: np.ndarray  # m, [3]
    quaternion: np.ndarray  # wxyz


class Simulation:
    """Simulate one robot; `task` is a family or group of `tasks.task_families`."""

    def __init__(
        self,
        robot: SimRobot,
        *,
        task: str = 'any',
        seed: int = 0,
        image_size: tuple[int, int] = (320, 240),
        start_ns: int = 0,
        task_split: str = task_families.ALL_SPLIT,
        defer_mark: bool = False,
    ) -> None:
        """Create; with `defer_mark` the timer of the mark starts with `start_mark_timer`."""
        self.robot, self.image_size = robot, image_size
        self._family, self._task_split, self._defer_mark = task, task_split, defer_mark
        body = robot.embodiment
        state_only = body.observed[len(body.commanded) :]
        self.fixed_joints = {name: body.home[name] for name in state_only}
        self.model = compile_model(robot, self.fixed_joints)
        self.data = mujoco.MjData(self.model)
        self.now_ns = start_ns
        self._actuator_map = _ActuatorMap(robot, self.model)
        self._home = body.home_positions(body.commanded)
        self._actuator_map.set_positions(self.data, self._home)
        self._actuator_map.update_inertia(self.model, self.data)
        self.controllers = SimControllers(body, self._home)
        self.executed_motion = ExecutedMotion(body.limits(), STEP_S, self._home)
        self._tool_sites = {
            hand.side: self.model.site(f'{hand.side}_tool').id for hand in robot.hands
        }
        self._camera_renderer: CameraRenderer | None = None
        self.reset(seed)

    def reset(
        self,
        seed: int,
        *,
        keep_arms: bool = False,
        task: str | None = None,
        task_split: str | None = None,
    ) -> bool:
        """Start the episode of `seed`; return False if kept arms collide with a new object.

        The arms move home instantly, or with `keep_arms` continue their trajectories. Time
        continues in both cases. `task` and `task_split` apply to this episode only.
        """
        scene = scenes.sample_scene(self.robot, seed)
        next_task = task_families.sample_task(
            task or self._family, scene, seed, task_split or self._task_split
        )
        before = self.data.qpos.copy(), self.data.qvel.copy()
        if not keep_arms:
            mujoco.mj_resetData(self.model, self.data)
            self._actuator_map.set_positions(self.data, self._home)
            self.controllers.hold(self._home)
            self.executed_motion.set_position(self._home)
            self.data.ctrl[:] = self._actuator_map.compute_control(JointMotion.at_rest(self._home))
        scenes.place_objects(self.model, self.data, self.robot, scene)
        mujoco.mj_forward(self.model, self.data)
        if keep_arms and self._is_touching_objects():
            self.data.qpos[:], self.data.qvel[:] = before
            scenes.place_objects(self.model, self.data, self.robot, self.scene)
            self.data.qpos[:], self.data.qvel[:] = before
            mujoco.mj_forward(self.model, self.data)
            return False
        self.scene, self.task, self._marked_task = scene, next_task, next_task
        self._mark_shown: bool | None = None
        self._mark_timer_start_ns: int | None = None
        self._update_mark()
        if not self._defer_mark:
            self.start_mark_timer()
        self.start = self.state()
        return True

    def set_task(self, task: task_families.Task) -> None:
        """Replace the task; its success is judged from the present state."""
        self.task, self.start = task, self.state()

    def start_mark_timer(self) -> None:
        """Start the timer of the mark, once per episode, when the instruction is sent."""
        if self._mark_timer_start_ns is None:
            self._mark_timer_start_ns = self.now_ns

    def accept(self, controller: str, trajectory: Any) -> str | None:
        """Give a trajectory to a controller now; return the reason if it is rejected."""
        return self.controllers.accept(controller, trajectory, self.now_ns)

    def hold(self) -> None:
        """Hold the measured joint positions until a new trajectory is accepted.

        Used after a stall: continuing the old trajectory at the present time would be a jump.
        """
        position, _ = self._actuator_map.read_measured(self.data.qpos, self.data.qvel)
        self.controllers.hold(position)
        self.executed_motion.set_position(position)

    def step(self, count: int = 1) -> None:
        """Advance `count` physics steps of STEP_NS under the controllers."""
        setpoints = self.controllers.sample_many(
            self.now_ns + STEP_NS * np.arange(1, count + 1, dtype=np.int64)
        )
        qpos, qvel = np.empty((count, self.model.nq)), np.empty((count, self.model.nv))
        for i, control in enumerate(self._actuator_map.compute_control(setpoints)):
            self.data.ctrl[:] = control
            mujoco.mj_step(self.model, self.data)
            qpos[i], qvel[i] = self.data.qpos, self.data.qvel
        self.now_ns += count * STEP_NS
        self.executed_motion.record(setpoints, *self._actuator_map.read_measured(qpos, qvel))
        self._update_mark()

    def step_linear(self, start: np.ndarray, end: np.ndarray, count: int) -> None:
        """Advance `count` steps along a straight line of setpoints, without controllers.

        `start` and `end` are [commanded]. Faster than `step`: no maxima are recorded.
        """
        velocity = (end - start) / (count * STEP_S)
        still = np.zeros_like(velocity)
        for i in range(1, count + 1):
            setpoint = JointMotion(start + (end - start) * (i / count), velocity, still)
            self.data.ctrl[:] = self._actuator_map.compute_control(setpoint)
            mujoco.mj_step(self.model, self.data)
        self.now_ns += count * STEP_NS
        self._update_mark()

    def teleport_arms(self, position: np.ndarray) -> bool:
        """Set joint positions [commanded], at rest; return False if the arms are in contact."""
        self._actuator_map.set_positions(self.data, position)
        self.controllers.hold(position)
        self.executed_motion.set_position(position)
        self.data.ctrl[:] = self._actuator_map.compute_control(JointMotion.at_rest(position))
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)
        self.start = self.state()
        lying = {self.model.geom(slot).id for slot in (*scenes.OBJECTS, 'table', 'floor')}
        return all(set(contact.geom.tolist()) <= lying for contact in self.data.contact)

    def joint_state(self) -> JointState:
        """Return the measured joint state, [observed] each; no effort of joints that are fixed."""
        position, velocity = self._actuator_map.read_measured(self.data.qpos, self.data.qvel)
        effort = self._actuator_map.read_effort(self.data)
        held = np.array(list(self.fixed_joints.values()))
        return JointState(
            self.now_ns,
            self.robot.embodiment.observed,
            np.concatenate([position, held]),
            np.concatenate([velocity, np.zeros_like(held)]),
            np.concatenate([effort, np.full_like(held, np.nan)]),
        )

    def state(self) -> task_families.SceneState:
        """Return the state that task predicates use."""
        mujoco.mj_kinematics(self.model, self.data)
        return task_families.SceneState(
            objects={
                slot: self.data.body(slot).xpos.copy() for slot in (*scenes.OBJECTS, scenes.PAD)
            },
            rotations={
                slot: self.data.body(slot).xmat.reshape(3, 3).copy() for slot in scenes.OBJECTS
            },
            tools={
                side: self.data.site_xpos[site].copy() for side, site in self._tool_sites.items()
            },
        )

    @property
    def is_success(self) -> bool:
        """Return whether the task's goal holds now."""
        return self.task.is_done(self.state(), self.start)

    def observe(self) -> Observation:
        """Return joints and all camera frames of this instant."""
        if self._camera_renderer is None:
            self._camera_renderer = self.open_cameras()
        update_kinematics(self.model, self.data)
        frames = tuple(
            Frame(key, self.now_ns, rgb)
            for key, rgb in zip(
                self._camera_renderer.keys, self._camera_renderer.render(self.data), strict=True
            )
        )
        return Observation(self.now_ns, frames, self.joint_state())

    def open_cameras(self) -> CameraRenderer:
        """Open the robot's cameras for the calling thread."""
        return CameraRenderer(
            self.model, [camera.key for camera in self.robot.cameras], self.image_size
        )

    def copy_render_state(self, target: mujoco.MjData) -> int:
        """Copy the state that rendering needs into `target`; return its time in ns."""
        target.qpos[:] = self.data.qpos
        target.mocap_pos[:] = self.data.mocap_pos
        return self.now_ns

    def scene_geoms(self) -> tuple[SceneGeom, ...]:
        """Return shape, color and pose of every object that is shown now."""
        names = {item.slot: f'{item.color} {item.kind}' for item in self.scene.objects}
        return tuple(
            SceneGeom(
                slot,
                names.get(slot, slot),
                self.model.geom(slot).type[0] == mujoco.mjtGeom.mjGEOM_BOX,
                self.model.geom(slot).size.copy(),
                self.model.geom(slot).rgba.copy(),
                self.data.body(slot).xpos.copy(),
                self.data.body(slot).xquat.copy(),
            )
            for slot in (*scenes.OBJECTS, scenes.PAD, scenes.MARK)
            if self.data.body(slot).xpos[2] > 0.0  # hidden ones are under the floor
        )

    @property
    def object_colors(self) -> dict[str, np.ndarray]:
        """Return the color of every object slot, rgba."""
        return {slot: self.model.geom(slot).rgba.copy() for slot in scenes.OBJECTS}

    def close(self) -> None:
        if self._camera_renderer is not None:
            self._camera_renderer.close()
            self._camera_renderer = None

    def _update_mark(self) -> None:
        """Show or hide the mark according to the timer."""
        since_s = (
            -1.0
            if self._mark_timer_start_ns is None
            else (self.now_ns - self._mark_timer_start_ns) / 1e9
        )
        due = self._marked_task.mark_from_s <= since_s < self._marked_task.mark_end_s
        if due != self._mark_shown:
            self._mark_shown = due
            scenes.set_mark(
                self.model,
                self.data,
                self.robot,
                self.scene.find_object(self._marked_task.slot) if due else None,
            )

    def _is_touching_objects(self) -> bool:
        slots = {self.model.geom(slot).id for slot in scenes.OBJECTS}
        still = {self.model.geom('table').id, self.model.geom('floor').id}
        pairs = [set(contact.geom.tolist()) for contact in self.data.contact]
        return any(pair & slots and not pair & still for pair in pairs)


def compile_model(
    robot: SimRobot, fixed_joints: dict[str, float], *, high_quality: bool = False
) -> mujoco.MjModel:
    """Return the model of robot and scene.

    The default is fast to step and to render; `high_quality` adds shadows, smooth edges and tiles
    for screenshots.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations, spec.option.ls_iterations = 10, 20
    spec.option.impratio = 3.0  # reduces slip of grasped cubes
    quality = spec.visual.quality
    quality.shadowsize, quality.offsamples = (8192, 8) if high_quality else (0, 0)
    quality.numslices, quality.numstacks, quality.numquads = (
        (48, 24, 4) if high_quality else (14, 8, 1)
    )
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 60.0
    spec.stat.extent, spec.stat.center = 1.0, [0.5, 0.0, 0.9]
    scenes.add_scene(spec, robot, high_quality=high_quality)
    model_module.add_robot(spec, robot, fixed_joints)
    return spec.compile()


def update_kinematics(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Compute the poses of bodies, cameras and lights from `data.qpos`."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


class _ActuatorMap:
    """Convert between commanded joints and MuJoCo's actuators and coordinates.

    An arm joint has one actuator, a gripper one per finger; the joint value of an actuator is
    `offset + scale * command`.
    """

    def __init__(self, robot: SimRobot, model: mujoco.MjModel) -> None:
        commanded = robot.embodiment.commanded
        ends = {
            joint: (hand.gripper, closed, opened - closed)
            for hand in robot.hands
            for joint, (closed, opened) in hand.fingers.items()
        }
        names = [model.actuator(i).name for i in range(model.nu)]
        rows = [ends.get(name, (name, 0.0, 1.0)) for name in names]
        self._command_index = np.array([commanded.index(row[0]) for row in rows])
        self._offset = np.array([row[1] for row in rows])
        self._scale = np.array([row[2] for row in rows])
        self._qpos = np.array([model.joint(name).qposadr[0] for name in names])
        self._qvel = np.array([model.joint(name).dofadr[0] for name in names])
        share = 1.0 / np.bincount(self._command_index)[self._command_index]
        self._actuator_to_command = np.zeros((len(commanded), len(names)))
        self._actuator_to_command[self._command_index, np.arange(len(names))] = share / self._scale
        followers = [
            (model.joint(joint).qposadr[0], model.joint(leader).qposadr[0], ratio)
            for joint, (leader, ratio) in robot.mimic_joints.items()
        ]
        self._mimic_joints = followers
        # The servo's force is kp (ctrl - q) - kv v. A feed-forward of kv / kp times the velocity
        # and inertia / kp times the acceleration removes most of the lag without overshoot. One
        # step less, because the setpoint is that of the end of the step.
        servos = [robot.servos[name] for name in names]
        self._kp = np.array([servo.kp for servo in servos])
        self._lead_s = np.array([servo.kv for servo in servos]) / self._kp - STEP_S
        self._lead_s2 = np.zeros_like(self._kp)

    def update_inertia(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Compute the inertia that each actuator moves, at the present joint positions."""
        mujoco.mj_forward(model, data)
        inertia = np.empty((model.nv, model.nv))
        mujoco.mj_fullM(model, data, inertia)
        self._lead_s2 = inertia.diagonal()[self._qvel] / self._kp

    def compute_control(self, setpoint: JointMotion) -> np.ndarray:
        """Return the actuators' inputs [... actuators] for setpoints [... commanded]."""
        ahead = (
            setpoint.position[..., self._command_index]
            + self._lead_s * setpoint.velocity[..., self._command_index]
            + self._lead_s2 * setpoint.acceleration[..., self._command_index]
        )
        return ahead * self._scale + self._offset

    def read_measured(self, qpos: np.ndarray, qvel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity [... commanded] for qpos [... nq] and qvel [... nv].

        The value of a gripper is the mean of its fingers.
        """
        return (
            (qpos[..., self._qpos] - self._offset) @ self._actuator_to_command.T,
            qvel[..., self._qvel] @ self._actuator_to_command.T,
        )

    def read_effort(self, data: mujoco.MjData) -> np.ndarray:
        """Return what the motors give, [commanded] Nm or N: servo force and weight of the links.

        That of a gripper is the mean of its fingers.
        """
        effort = data.actuator_force + data.qfrc_gravcomp[self._qvel]
        return np.bincount(self._command_index, effort) / np.bincount(self._command_index)

    def set_positions(self, data: mujoco.MjData, position: np.ndarray) -> None:
        """Set qpos to joint positions [commanded]."""
        data.qpos[self._qpos] = position[self._command_index] * self._scale + self._offset
        for follower, leader, ratio in self._mimic_joints:
            data.qpos[follower] = ratio * data.qpos[leader]

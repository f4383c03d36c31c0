"""One simulated robot, its table and its task: physics without ROS, clock or threads.

Time advances by `step` only, so the same calls give the same states bit for bit. A simulation
belongs to one thread at a time; cameras are opened by the thread that first observes.
"""

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


class Simulation:
    """Hold the physics of one robot; `task` is a family of `tasks.task_families` or 'any'."""

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
        """With `mark_waits` the mark's time begins with `begin`: somebody was told the task."""
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
        """Begin the episode of `seed`; return False if the kept arms stand in an object's place.

        Arms go to rest at once, or with `keep_arms` stay and go on with their trajectories.
        Time goes on in both cases. `task` is a family for this episode only, `combinations` of
        words too.
        """
        scene = scenes.sample_scene(self.robot, seed)
        asked = task_families.sample_task(
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
        self.scene, self.task, self._marked_task = scene, asked, asked
        self._mark_shown: bool | None = None
        self._mark_timer_start_ns: int | None = None
        self._update_mark()
        if not self._defer_mark:
            self.start_mark_timer()
        self.start = self.state()
        return True

    def set_task(self, task: task_families.Task) -> None:
        """Ask for something else from now on; what is done counts from here."""
        self.task, self.start = task, self.state()

    def start_mark_timer(self) -> None:
        """Start the clock of the mark, once per episode: the task has been heard."""
        if self._mark_timer_start_ns is None:
            self._mark_timer_start_ns = self.now_ns

    def accept(self, controller: str, trajectory: Any) -> str | None:
        """Hand a trajectory message or Points to a controller now; return why not, if rejected."""
        return self.controllers.accept(controller, trajectory, self.now_ns)

    def hold(self) -> None:
        """Let the controllers stay at the measured posture until a new trajectory comes.

        Controllers that stood still for long must not go on where a trajectory has got to
        meanwhile: that is a jump.
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
        """Advance `count` steps on the straight line between set-points, past the controllers.

        Both are [commanded]. For data by the thousand episodes: nothing is recorded.
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
        """Put the arms at a posture [commanded], at rest; False if they touch something there."""
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
        """Return the measured posture in the embodiment's order of observed joints."""
        position, velocity = self._actuator_map.read_measured(self.data.qpos, self.data.qvel)
        held = np.array(list(self.fixed_joints.values()))
        return JointState(
            self.now_ns,
            self.robot.embodiment.observed,
            np.concatenate([position, held]),
            np.concatenate([velocity, np.zeros_like(held)]),
        )

    def state(self) -> task_families.SceneState:
        """Return what task predicates look at."""
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
        """Tell whether the task's goal holds now."""
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
        """Copy what a picture needs into `into` and return its time in ns."""
        target.qpos[:] = self.data.qpos
        target.mocap_pos[:] = self.data.mocap_pos
        return self.now_ns

    @property
    def object_colors(self) -> dict[str, np.ndarray]:
        """Return the color of every object slot, rgba."""
        return {slot: self.model.geom(slot).rgba.copy() for slot in scenes.OBJECTS}

    def close(self) -> None:
        if self._camera_renderer is not None:
            self._camera_renderer.close()
            self._camera_renderer = None

    def _update_mark(self) -> None:
        """Show the mark in its time, which does not begin before the task has been heard."""
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

    Made for little work per step and per picture; `fine` spends time on shadows, smooth edges
    and tiles, for pictures of the robot rather than by it.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations, spec.option.ls_iterations = 10, 20
    spec.option.impratio = 3.0  # grasped cubes creep less
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
    """Compute where everything is drawn from `data.qpos`."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


class _ActuatorMap:
    """Translate between commanded joints and MuJoCo's actuators and coordinates.

    An arm joint has one actuator, a gripper one per finger; `offset + scale * command` is the
    actuator's joint value.
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
        # The servo pulls with kp (ctrl - q) - kv v. Ahead by kv / kp of the velocity and by
        # inertia / kp of the acceleration it follows with next to no lag and no overshoot. One
        # step less, because the set-point is that of the end of the step.
        servos = [robot.servos[name] for name in names]
        self._kp = np.array([servo.kp for servo in servos])
        self._lead_s = np.array([servo.kv for servo in servos]) / self._kp - STEP_S
        self._lead_s2 = np.zeros_like(self._kp)

    def update_inertia(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Take the inertia that each actuator moves from the present posture."""
        mujoco.mj_forward(model, data)
        inertia = np.empty((model.nv, model.nv))
        mujoco.mj_fullM(model, data, inertia)
        self._lead_s2 = inertia.diagonal()[self._qvel] / self._kp

    def compute_control(self, setpoint: JointMotion) -> np.ndarray:
        """Return the actuators' inputs for set-points [... commanded] of the joints."""
        ahead = (
            setpoint.position[..., self._command_index]
            + self._lead_s * setpoint.velocity[..., self._command_index]
            + self._lead_s2 * setpoint.acceleration[..., self._command_index]
        )
        return ahead * self._scale + self._offset

    def read_measured(self, qpos: np.ndarray, qvel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity [... commanded] of coordinates [... all].

        A gripper is its fingers' mean.
        """
        return (
            (qpos[..., self._qpos] - self._offset) @ self._actuator_to_command.T,
            qvel[..., self._qvel] @ self._actuator_to_command.T,
        )

    def set_positions(self, data: mujoco.MjData, position: np.ndarray) -> None:
        """Set the coordinates to a posture of the commanded joints."""
        data.qpos[self._qpos] = position[self._command_index] * self._scale + self._offset
        for follower, leader, ratio in self._mimic_joints:
            data.qpos[follower] = ratio * data.qpos[leader]

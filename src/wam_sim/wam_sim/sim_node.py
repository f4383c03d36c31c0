"""ROS 2 node of a simulated robot: the topics of the real one, plus sim/*.

Three threads: physics (paced by the wall clock), cameras (the only user of OpenGL), executor.
"""

import sys
import threading
import time
from collections import deque
from functools import partial
from typing import Any

import mujoco
import numpy as np
import rclpy
from control_msgs.msg import JointTrajectoryControllerState, SpeedScalingFactor
from diagnostic_updater import Updater
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from wam_msgs.msg import DriverStatus, SimStatus
from wam_msgs.srv import BeginEpisode
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.statistics import EventRate
from wam_policy.nodes import parameters
from wam_policy.nodes.callback_guard import CallbackGuard
from wam_policy.nodes.controller_parameters import ControllerParameterServer
from wam_policy.nodes.images.image_conversion import compress_to_msg, image_to_msg
from wam_policy.nodes.message_conversion import joint_state_to_msg, time_to_msg
from wam_policy.nodes.motion.control_loop import set_realtime_priority
from wam_policy.nodes.run_node import NodeFailure, run_node
from wam_sim import messages, viewer
from wam_sim.params import SimParams
from wam_sim.physics import scene as scenes
from wam_sim.physics import sim_robot
from wam_sim.physics.camera_schedule import CameraSchedule
from wam_sim.physics.cameras import add_noise, compute_intrinsics
from wam_sim.physics.simulation import STEP_NS, Simulation, update_kinematics
from wam_sim.realtime_runner import STEPS_PER_BATCH, RealtimeRunner
from wam_sim.tasks import task_families
from wam_sim.tasks.success_monitor import SuccessMonitor, validate_goal

CLOCK_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
# reliable: best-effort subscribers match, too, and viewers that want reliable get images
IMAGE_QOS = QoSProfile(depth=2)
JPEG_QUALITY = 90  # of <camera topic>/compressed
RELIABLE_QOS = QoSProfile(depth=10)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BATCH_NS = STEPS_PER_BATCH * STEP_NS
# controller states at 50 Hz; motion_node waits for one after the start time of each command
BATCHES_PER_STATE = 2
BATCHES_PER_STATUS = 50  # batches: status at 2 Hz
BATCHES_PER_OBJECTS = 10  # objects at 10 Hz, for viewers
MAX_SCENE_TRIES = 30  # on a reset where the arms collide with the new objects
RATE_WINDOW_NS = 3_000_000_000
# A trajectory must reach physics before its start time, 30 ms after it was sent: Python switches
# away from a thread that renders or publishes images after this time.
SWITCH_INTERVAL_S = 0.0005
CHECK_PERIOD_S = 0.1  # for errors of the threads
REALTIME_PRIORITY = 5  # below the control loops, so that the simulator does not delay them


class SimNode(Node):
    """Node of one simulated robot."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__('sim', **node_options)
        self.params = parameters.read(self, SimParams)
        # no parameter can change at run time: every change is rejected
        parameters.add_on_change_callback(self, SimParams, lambda: True, lambda _: None)
        updater = Updater(self)
        updater.setHardwareID('none')
        self.guard = CallbackGuard(self, updater)
        self.robot = sim_robot.load(self.params.robot)
        self.embodiment = self.robot.embodiment
        # Physics is paced by the monotonic clock, offset to the wall clock at the start, so that
        # stamps are comparable with those of other nodes with and without /clock.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        width, height = self.embodiment.cameras[0].size
        size = (
            self.params.image_width,
            self.params.image_height or round(self.params.image_width * height / width),
        )
        simulation = Simulation(
            self.robot,
            task=self.params.task_family,
            seed=self.params.seed,
            image_size=size,
            task_split=self.params.task_split,
            defer_mark=True,
        )
        self._success_monitor = SuccessMonitor((simulation.task,), simulation.start)
        self._episode, self._batches, self._render_ms = 0, 0, deque([0.0], maxlen=60)
        self._rejection = ''
        self._cameras = {camera.key: camera for camera in self.embodiment.cameras}
        self._rates = {camera.key: EventRate(RATE_WINDOW_NS) for camera in self.embodiment.cameras}
        self._make_endpoints()
        self.runner = RealtimeRunner(
            simulation,
            self._wall_ns,
            skip_lost_time=not self.params.publish_clock,
            on_batch=self.on_batch,
            on_reject=self.on_reject,
        )
        self._stop = threading.Event()
        self._camera_error: BaseException | None = None
        self._camera_thread = threading.Thread(target=self._run_cameras, name='cameras')
        self._publish_task(simulation)
        self.runner.start()
        self._camera_thread.start()
        self.create_timer(CHECK_PERIOD_S, self.raise_thread_errors)
        self.get_logger().info(
            f'{self.embodiment.title}: scene {self.params.seed}, "{simulation.task.instruction}"'
        )

    def raise_thread_errors(self) -> None:
        """Raise RuntimeError if the physics or camera thread has failed."""
        for failure in (self.runner.error, self._camera_error):
            if failure is not None:
                raise NodeFailure('the simulation stopped') from failure

    def close(self) -> None:
        """Stop both threads; the node can be destroyed afterwards."""
        self._stop.set()
        self._camera_thread.join()
        self.runner.close()

    # relative names: the embodiment's absolute ones are those of the root namespace
    def _make_endpoints(self) -> None:
        publisher, topic = self.create_publisher, lambda name: name.lstrip('/')
        self._joints = publisher(JointState, 'joint_states', RELIABLE_QOS)
        self._clock_out = (
            publisher(Clock, '/clock', CLOCK_QOS) if self.params.publish_clock else None
        )
        self._status = publisher(SimStatus, 'sim/status', RELIABLE_QOS)
        self._task = publisher(String, 'sim/task', LATCHED_QOS)
        self._objects = publisher(MarkerArray, 'sim/objects', RELIABLE_QOS)
        self._driver_status = publisher(DriverStatus, self.params.driver_status_topic, LATCHED_QOS)
        self._images = {
            camera.key: publisher(Image, topic(camera.topic), IMAGE_QOS)
            for camera in self.embodiment.cameras
        }
        self._compressed_images = {
            camera.key: publisher(CompressedImage, f'{topic(camera.topic)}/compressed', IMAGE_QOS)
            for camera in self.embodiment.cameras
        }
        self._camera_infos = {
            camera.key: publisher(CameraInfo, topic(camera.info_topic), IMAGE_QOS)
            for camera in self.embodiment.cameras
        }
        self._states = {
            controller.name: publisher(
                JointTrajectoryControllerState, topic(controller.state_topic), RELIABLE_QOS
            )
            for controller in self.embodiment.controllers
        }
        for controller in self.embodiment.controllers:
            self.create_subscription(
                JointTrajectory,
                topic(controller.topic),
                partial(self.on_trajectory, controller.name),
                RELIABLE_QOS,
            )
            self.create_subscription(
                SpeedScalingFactor,
                f'{topic(controller.topic).rpartition("/")[0]}/speed_scaling_input',
                partial(self.on_speed_scaling, controller.name),
                LATCHED_QOS,
            )
        ControllerParameterServer(self, self.embodiment, NS_PER_S // STEP_NS, prefix='/')
        self.create_subscription(
            String, self.params.instruction_topic, self.on_instruction, RELIABLE_QOS
        )
        self.guard.create_service(Trigger, 'sim/reset', self.on_reset)
        self.guard.create_service(Trigger, 'sim/recount', self.on_reset_metrics)
        self.guard.create_service(BeginEpisode, 'sim/begin', self.on_begin)

    def _wall_ns(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    def on_trajectory(self, controller: str, message: JointTrajectory) -> None:
        self.runner.queue_trajectory(controller, message)

    def on_speed_scaling(self, controller: str, message: SpeedScalingFactor) -> None:
        """Execute trajectories at another speed, as joint_trajectory_controller does."""
        if message.factor >= 0.0:  # others are ignored there too
            with self.runner.lock:
                self.runner.simulation.controllers.set_speed_scaling(controller, message.factor)

    def on_instruction(self, message: String) -> None:
        """Start the mark's timer: the policy's memory and the episode start here."""
        if message.data:
            with self.runner.lock:
                self.runner.simulation.start_mark_timer()

    def on_reject(self, controller: str, reason: str) -> None:
        if reason != self._rejection:  # log a repeated reason once
            self.get_logger().warning(f'{controller}: trajectory rejected: {reason}')
        self._rejection = reason

    def on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self.runner.lock:
            simulation = self.runner.simulation
            for episode in range(self._episode + 1, self._episode + 1 + MAX_SCENE_TRIES):
                if self._has_task(episode) and simulation.reset(
                    self.params.seed + episode, keep_arms=not self.params.reset_arms
                ):
                    self._episode = episode
                    self._publish_task(simulation)
                    response.success = True
                    response.message = simulation.task.instruction
                    return response
        response.success = False
        response.message = (
            f'no scene in {MAX_SCENE_TRIES} tries: objects of the task are missing or the arms '
            'collide with objects; move the arms home first'
        )
        return response

    def on_begin(
        self, request: BeginEpisode.Request, response: BeginEpisode.Response
    ) -> BeginEpisode.Response:
        with self.runner.lock:
            simulation = self.runner.simulation
            try:
                goals = tuple(
                    validate_goal(
                        task_families.Task(goal.task_family, '', goal.slot, goal.side, goal.target)
                    )
                    for goal in request.goals
                )
                response.success = simulation.reset(
                    request.seed,
                    keep_arms=True,
                    task=request.task_family,
                    task_split=request.task_split,
                )
            except ValueError as error:
                response.message = str(error)
                return response
            if not response.success:
                response.message = 'the arms collide with objects; move the arms home first'
                return response
            self._episode += 1
            self._publish_task(simulation, goals)
            response.instruction = simulation.task.instruction
            self._status.publish(self._make_status(simulation))
        return response

    def _has_task(self, episode: int) -> bool:
        """Return whether the scene has the objects that the task needs."""
        return task_families.is_available(
            self.params.task_family,
            scenes.sample_scene(self.robot, self.params.seed + episode),
            self.params.task_split,
        )

    def on_reset_metrics(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Reset the maxima of executed motion in sim/status."""
        with self.runner.lock:
            self.runner.simulation.executed_motion.reset_maxima()
        response.success, response.message = True, 'maxima of executed motion were reset'
        return response

    def on_batch(self, simulation: Simulation) -> None:
        """Publish what is due after a batch of physics steps; runs in the physics thread."""
        self._batches += 1
        now_ns = simulation.now_ns
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=time_to_msg(now_ns)))
        joints = simulation.joint_state()
        self._joints.publish(joint_state_to_msg(joints))
        if self._batches % BATCHES_PER_STATE == 0:
            self._publish_controller_states(simulation, joints)
        reached = self._success_monitor.update(simulation.state(), now_ns)
        if reached or self._batches % BATCHES_PER_STATUS == 0:
            self._status.publish(self._make_status(simulation))
            self._driver_status.publish(messages.make_driver_status(self.embodiment.name, now_ns))
        if self._batches % BATCHES_PER_OBJECTS == 0 and self._objects.get_subscription_count():
            self._objects.publish(messages.make_objects(simulation.scene_geoms(), now_ns))

    def _publish_controller_states(self, simulation: Simulation, joints: Any) -> None:
        for controller in self.embodiment.controllers:
            follower = simulation.controllers.followers[controller.name]
            motion = follower.setpoint
            self._states[controller.name].publish(
                messages.make_controller_state(
                    simulation.now_ns,
                    controller.joints,
                    np.stack([motion.position, motion.velocity, motion.acceleration]),
                    np.stack(
                        [joints.positions(controller.joints), joints.velocities(controller.joints)]
                    ),
                    follower.speed_scaling,
                )
            )

    def _make_status(self, simulation: Simulation) -> SimStatus:
        executed = simulation.executed_motion
        ratios = {name: ratio.tolist() for name, ratio in executed.limit_ratios().items()}
        wall_ns = self._wall_ns()
        status = SimStatus(
            robot=self.embodiment.name,
            sim_time=self._batches * BATCH_NS / 1e9,
            real_time_factor=self.runner.pacer.real_time_factor,
            task_family=simulation.task.family,
            instruction=simulation.task.instruction,
            success=simulation.is_success,
            goals_reached=[at is not None for at in self._success_monitor.reached_ns],
            goals_reached_stamp=[time_to_msg(at or 0) for at in self._success_monitor.reached_ns],
            episode_index=self._episode,
            camera_names=list(self._rates),
            camera_rate_hz=[rate.hz(wall_ns) for rate in list(self._rates.values())],
            render_ms=float(np.mean(list(self._render_ms))),
            joint_names=list(self.embodiment.commanded),
            max_velocity_ratio=ratios['velocity'],
            max_acceleration_ratio=ratios['acceleration'],
            max_jerk_ratio=ratios['jerk'],
            max_setpoint_step=executed.step.tolist(),
            max_measured_velocity_ratio=ratios['measured_velocity'],
            max_tracking_error=executed.tracking_error.tolist(),
            trajectories_accepted=simulation.controllers.accepted,
            trajectories_rejected=simulation.controllers.rejected,
        )
        status.header.stamp = time_to_msg(simulation.now_ns)
        return status

    def _publish_task(
        self, simulation: Simulation, goals: tuple[task_families.Task, ...] = ()
    ) -> None:
        self._success_monitor = SuccessMonitor(goals or (simulation.task,), simulation.start)
        self._task.publish(String(data=simulation.task.instruction))

    def _run_cameras(self) -> None:
        """Render and publish every camera at camera_hz; only this thread uses OpenGL."""
        try:
            simulation = self.runner.simulation
            cameras, data = simulation.open_cameras(), mujoco.MjData(simulation.model)
            window, rng = self._open_window(simulation.model, data), np.random.default_rng()
            schedule = CameraSchedule(
                cameras.keys,
                1.0 / self.params.camera_hz,
                self.params.camera_phase,
                self.params.camera_jitter,
                start_s=time.monotonic(),
                seed=self.params.seed,
            )
            while not self._stop.wait(max(0.0, schedule.due_s - time.monotonic())):
                begin_s = time.monotonic()
                keys = schedule.pop_due(begin_s)
                if not keys:  # woken early
                    continue
                now_ns = self.runner.copy_render_state(data)
                update_kinematics(simulation.model, data)
                images = cameras.render(data, keys)
                self._render_ms.append(1e3 * (time.monotonic() - begin_s))
                for key, rgb in zip(keys, images, strict=True):
                    if self.params.camera_noise:
                        add_noise(rgb, rng)
                    self._publish_image(key, now_ns, rgb, simulation.model)
                if window is not None and window.is_running():
                    window.sync()
            cameras.close()
            if window is not None:
                window.close()
        except BaseException as error:  # noqa: BLE001 — the main thread raises it
            self._camera_error = error

    def _publish_image(
        self, key: str, now_ns: int, rgb: np.ndarray, model: mujoco.MjModel
    ) -> None:
        camera, size = self._cameras[key], (rgb.shape[1], rgb.shape[0])
        if self._images[key].get_subscription_count():
            self._images[key].publish(image_to_msg(rgb, now_ns, camera.frame_id))
        if self._compressed_images[key].get_subscription_count():
            self._compressed_images[key].publish(
                compress_to_msg(rgb, now_ns, camera.frame_id, JPEG_QUALITY)
            )
        matrix = compute_intrinsics(model, key, size)
        self._camera_infos[key].publish(messages.make_camera_info(camera, now_ns, matrix, size))
        self._rates[key].tick(self._wall_ns())

    def _open_window(self, model: mujoco.MjModel, data: mujoco.MjData) -> Any:
        """Open the viewer if it is enabled and there is a display."""
        if not self.params.viewer:
            return None
        if not viewer.has_display():
            self.get_logger().warning('viewer: no display (DISPLAY is not set), no window opened')
            return None
        return viewer.open_viewer(self.robot, model, data)


def make_node() -> SimNode:
    """Return the node; logs invalid parameters and exits with status 1."""
    try:
        return SimNode()
    except ValueError as error:
        get_logger('sim').fatal(str(error))
        rclpy.try_shutdown()
        sys.exit(1)


def main(args: list[str] | None = None) -> None:
    """Run until SIGINT or SIGTERM and exit with status 0, or 1 after a failure."""
    set_realtime_priority(REALTIME_PRIORITY, SWITCH_INTERVAL_S)
    run_node(make_node, 'sim', args)


if __name__ == '__main__':
    main()

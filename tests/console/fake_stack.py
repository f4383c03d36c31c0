"""A stand-in for a running stack: statuses, joints, images and services, as ROS sees them.

`python tests/console/fake_stack.py [ROBOT]` in ./wam shell runs it with images of the simulator,
to look at the page without the cost of a stack.
"""

import sys
import threading

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Empty, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from wam_msgs.msg import EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_msgs.srv import Reload, StartEpisode, StopEpisode
from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot import embodiment
from wam_policy.core.types import JointState as Joints
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.images import image_conversion
from wam_policy.nodes.run_node import ExecutorThread

PERIOD_S = 0.1
STAGES = {
    'image_transport': 9.0, 'queue': 3.0, 'preprocess': 2.5, 'denoise': 41.0, 'exchange': 0.0,
    'postprocess': 1.2, 'transport': 4.1, 'publish': 0.4, 'total': 61.0,
}  # fmt: skip


class FakeStack(Node):
    """Publish what the fields say ten times a second, and note every request."""

    def __init__(self, robot='agibot_g1', images=None, context=None):
        super().__init__('fake_stack', namespace='wam', context=context)
        self.robot = embodiment.load_embodiment(robot)
        self.requests = []  # what came over ROS, in order
        self.received = threading.Condition()
        self.silent = False  # publish nothing, as if every node had died
        self.policy = PolicyStatus(
            state=5, state_name='RUNNING', memory_update='streaming', robot=robot,
            instruction='lift the red cube', trained=True, model='wam-mini', query_rate_hz=7.4,
            chunks_published=412, stage_names=list(STAGES), stage_p50_ms=list(STAGES.values()),
            stage_p99_ms=[1.9 * value for value in STAGES.values()],
            camera_names=[camera.key for camera in self.robot.cameras],
            camera_age_ms=[41.0, 38.0, 55.0], camera_rate_hz=[15.0, 15.0, 15.0],
            joints_age_ms=6.0, kv_cached_blocks=3, kv_window_fill=0.8, kv_commits=40,
            imagination_error=0.31, imagination_error_low=0.2, imagination_error_high=0.45,
            view_layout='head_beside_hands',
        )  # fmt: skip
        self.motion = MotionStatus(
            state=MotionStatus.TRACKING, state_name='TRACKING', robot=robot, enabled=True,
            deadman_ok=True, joint_names=list(self.robot.commanded), rows_left=17.0,
            clamp_counts=[0] * len(self.robot.commanded), chunks_accepted=400, max_jerk_ratio=0.99,
            max_velocity_ratio=0.71, max_acceleration_ratio=0.93, tick_jitter_p99_ms=0.6,
            inactive_checks=['temperature'], inactive_reasons=['no motor reports it'],
        )  # fmt: skip
        self.episode = EpisodeStatus(state=EpisodeStatus.IDLE)
        self.sim = SimStatus(robot=robot, instruction='lift the red cube', real_time_factor=1.0)
        self._images = images or [
            np.full((48, 64, 3), 60 * i + 40, np.uint8) for i in range(len(self.robot.cameras))
        ]
        self._ticks, self._home = 0, self.robot.home_positions(self.robot.observed)
        self._make_endpoints()
        self.create_timer(PERIOD_S, self.publish_all)

    def _make_endpoints(self):
        new, listen = self.create_publisher, self.create_subscription
        self._outputs = {
            'policy': new(PolicyStatus, 'status', qos.LATCHED),
            'motion': new(MotionStatus, 'motion_status', qos.LATCHED),
            'episode': new(EpisodeStatus, 'episode', qos.LATCHED),
            'sim': new(SimStatus, '/sim/status', qos.REQUEST),
        }
        self._joints = new(JointState, '/joint_states', qos.JOINTS)
        self._cameras = [new(Image, camera.topic, qos.IMAGE) for camera in self.robot.cameras]
        self._plans = [
            new(JointTrajectory, controller.topic, qos.TRAJECTORY)
            for controller in self.robot.controllers
        ]
        self._video = new(Image, 'predicted_video', qos.IMAGE)
        self._diagnostics = new(DiagnosticArray, '/diagnostics', 10)
        self._objects = new(MarkerArray, '/sim/objects', qos.REQUEST)
        listen(String, 'instruction', lambda msg: self.on_instruction(msg.data), qos.REQUEST)
        listen(Empty, 'estop_signal', lambda _: self.on_estop(), qos.REQUEST)
        for kind, name in (
            (Trigger, 'estop'), (Trigger, 'reset'), (SetBool, 'enable'), (Reload, 'reload'),
            (StartEpisode, 'recorder/start'), (StopEpisode, 'recorder/stop'),
            (Trigger, '/sim/reset'),
        ):  # fmt: skip
            self.create_service(kind, name, self._make_callback(name))

    def _make_callback(self, name):
        def answer(request, response):
            fields = request.get_fields_and_field_types()
            self.note(name, *(getattr(request, field) for field in fields))
            response.success, response.message = True, f'{name}: done'
            if name == 'estop':
                self.on_estop()
            if name == 'reset':
                self.motion.estop, self.motion.state = False, MotionStatus.DISABLED
                self.motion.state_name = 'DISABLED'
            return response

        return answer

    def note(self, *what):
        with self.received:
            self.requests.append(what)
            self.received.notify_all()

    def wait_for(self, *what, timeout_s=10.0):
        with self.received:
            assert self.received.wait_for(lambda: what in self.requests, timeout_s), (
                f'{what} did not come over ROS, but {self.requests}'
            )

    @property
    def watches_video(self):
        return self._video.get_subscription_count() > 0

    @property
    def watches_images(self):
        return self._cameras[0].get_subscription_count() > 0

    def on_instruction(self, text):
        self.note('instruction', text)
        self.policy.instruction = text

    def on_estop(self):
        self.note('estop')
        self.motion.estop, self.motion.state = True, MotionStatus.ESTOPPED
        self.motion.state_name, self.motion.reason = 'ESTOPPED', 'e-stop requested'
        self._outputs['motion'].publish(self.motion)

    def report_health(self, node):
        """Report once that a node is well, as each does every second."""
        status = DiagnosticStatus(name=f'{node}: callbacks', level=DiagnosticStatus.OK)
        self._diagnostics.publish(DiagnosticArray(status=[status]))

    def publish_all(self):
        self._ticks += 1
        if self.silent:
            return
        now_ns = self.get_clock().now().nanoseconds
        stamp = message_conversion.time_to_msg(now_ns)
        for name, publisher in self._outputs.items():
            msg = getattr(self, name)
            msg.header.stamp = stamp
            publisher.publish(msg)
        phase = 0.1 * self._ticks
        position = self._home + 0.12 * np.sin(phase + np.arange(len(self._home)))
        state = Joints(now_ns, self.robot.observed, position, None, None)
        self._joints.publish(message_conversion.joint_state_to_msg(state))
        for camera, publisher, rgb in zip(
            self.robot.cameras, self._cameras, self._images, strict=True
        ):
            publisher.publish(image_conversion.image_to_msg(rgb, now_ns, camera.frame_id))
        self._publish_plan(now_ns, position)
        self._publish_objects()
        if self.watches_video and self._ticks % 2 == 0:
            self._video.publish(self._make_prediction(now_ns + 400_000_000))
        if self._ticks % 8 == 0:
            self.policy.kv_commits += 1
            self.policy.imagination_error = 0.3 + 0.15 * float(np.sin(phase / 3))

    def _publish_plan(self, now_ns, position):
        for controller, publisher in zip(self.robot.controllers, self._plans, strict=True):
            columns = [self.robot.observed.index(name) for name in controller.joints]
            share = np.linspace(0.0, 1.0, 8)[:, None]
            rows = position[columns] + 0.35 * share**2 * np.sin(np.arange(len(columns)) + 1.0)
            still = np.zeros_like(rows)
            plan = Trajectory(
                controller.joints, now_ns - 300_000_000,
                np.arange(8) * 150_000_000, rows, still, still,
            )  # fmt: skip
            publisher.publish(message_conversion.trajectory_to_msg(plan, controller.joints))

    def _publish_objects(self):
        found = MarkerArray()
        for i, (text, color) in enumerate(
            {'red cube': (0.86, 0.09, 0.09), 'blue cube': (0.1, 0.27, 0.9)}.items()
        ):
            marker = Marker(type=Marker.CUBE, text=text, id=i)
            marker.pose.position.x, marker.pose.position.y = 0.6 + 0.1 * i, 0.2 * i - 0.1
            marker.pose.position.z = 0.775
            marker.scale.x = marker.scale.y = marker.scale.z = 0.05
            marker.color.r, marker.color.g, marker.color.b = color
            marker.color.a = 1.0
            found.markers.append(marker)
        self._objects.publish(found)

    def _make_prediction(self, stamp_ns):
        canvas = np.zeros((64, 96, 3), np.uint8)
        canvas[:, :64] = self._images[0][:: max(1, len(self._images[0]) // 64)][:48].mean((0, 1))
        canvas[:32, 64:], canvas[32:, 64:] = 120, 180
        return image_conversion.image_to_msg(canvas, stamp_ns, self.robot.name)


def render_images(robot):
    from wam_sim.physics import sim_robot
    from wam_sim.physics.simulation import Simulation

    simulation = Simulation(sim_robot.load(robot), seed=3)
    simulation.step(50)
    return [frame.rgb for frame in simulation.observe().frames]


def main():
    robot = sys.argv[1] if len(sys.argv) > 1 else 'agibot_g1'
    rclpy.init()
    stack = FakeStack(robot, render_images(robot))
    executor = ExecutorThread([stack])
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        executor.stop()


if __name__ == '__main__':
    main()

"""The simulated robot on real middleware: topics, controllers, reset, clean exit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('wam_msgs', reason='needs the built wam_msgs')

from builtin_interfaces.msg import Time
from control_msgs.msg import JointTrajectoryControllerState, SpeedScalingFactor
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from wam_msgs.msg import SimStatus
from wam_policy.core.robot import embodiment
from wam_policy.nodes.images.image_conversion import frame_from_compressed_msg
from wam_policy.nodes.motion.controller_monitor import ControllerMonitor


@pytest.fixture(scope='module', autouse=True)
def isolate_environment(ros_domain: int) -> Iterator[None]:
    """Start everything in a domain of its own, and where no window can be opened."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
            patch.delenv(name, raising=False)
        yield


class SimNodeProcess:
    """Run one sim_node and remember the messages of every topic."""

    def __init__(self, *arguments: str) -> None:
        self.embodiment = embodiment.load_embodiment('agibot_g1')
        flags = [flag for argument in arguments for flag in ('-p', argument)]
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'wam_sim.sim_node', '--ros-args', *flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('onlooker', context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received: dict[str, list] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.subscribe(JointState, '/joint_states', 500)
        self.subscribe(SimStatus, '/sim/status', 50)
        self.subscribe(String, '/sim/task', latched)
        self.subscribe(Clock, '/clock', qos_profile_sensor_data)
        for camera in self.embodiment.cameras:
            self.subscribe(Image, camera.topic, qos_profile_sensor_data)
            self.subscribe(CameraInfo, camera.info_topic, qos_profile_sensor_data)
        self.controller = self.embodiment.controllers[0]
        self.subscribe(JointTrajectoryControllerState, self.controller.state_topic, 100)
        self.command = self.node.create_publisher(JointTrajectory, self.controller.topic, 1)

    def subscribe(self, kind: type, topic: str, qos: object) -> None:
        heard = self.received.setdefault(topic, [])
        self.node.create_subscription(kind, topic, heard.append, qos)

    def wait_until(
        self, condition: Callable[[], object], description: str, timeout_s: float = 60.0
    ) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, f'{description}: not within {timeout_s} s'
            assert self.process.poll() is None, self.process.stderr.read()
            self.executor.spin_once(timeout_sec=0.1)

    def wait_newest(self, topic: str) -> object:
        self.wait_until(lambda: self.received[topic], topic)
        return self.received[topic][-1]

    def spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=15.0)
        finally:
            self.process.kill()
            self.process.stderr.close()
            self.executor.shutdown()
            self.node.destroy_node()
            rclpy.shutdown(context=self.context)


@pytest.fixture
def robot() -> Iterator[SimNodeProcess]:
    running = SimNodeProcess('robot:=agibot_g1', 'seed:=4')
    yield running
    assert running.close() == 0


def to_seconds(stamp: Time) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


def find_raw(robot: SimNodeProcess, topic: str) -> tuple[Image, CompressedImage] | None:
    """Return a raw image and its JPEG, of the same instant."""
    raw = {to_seconds(image.header.stamp): image for image in robot.received[topic]}
    for jpeg in robot.received[f'{topic}/compressed']:
        if to_seconds(jpeg.header.stamp) in raw:
            return raw[to_seconds(jpeg.header.stamp)], jpeg
    return None


def test_a_robot_to_the_stack(robot: SimNodeProcess) -> None:
    """Everything a policy needs is there, moves when told, and starts another scene."""
    camera = robot.embodiment.cameras[0]
    # reliable, as viewers ask for it
    robot.subscribe(CompressedImage, f'{camera.topic}/compressed', 2)
    robot.wait_until(partial(find_raw, robot, camera.topic), 'the raw image of a JPEG')
    raw, jpeg = find_raw(robot, camera.topic)
    assert jpeg.format == 'rgb8; jpeg compressed bgr8'
    seen = frame_from_compressed_msg(jpeg, camera.key).rgb.astype(int)
    assert np.abs(seen - np.asarray(raw.data).reshape(240, 320, 3)).mean() < 4.0
    for each in robot.node.get_publishers_info_by_topic(camera.topic):
        assert each.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    robot.wait_until(
        lambda: all(heard for topic, heard in robot.received.items() if topic != '/clock'),
        'every topic',
    )
    joints = robot.wait_newest('/joint_states')
    assert tuple(joints.name) == robot.embodiment.observed
    np.testing.assert_allclose(
        joints.position, robot.embodiment.home_positions(robot.embodiment.observed), atol=0.02
    )
    for camera in robot.embodiment.cameras:
        image, info = robot.wait_newest(camera.topic), robot.wait_newest(camera.info_topic)
        assert (image.encoding, image.width, image.height) == ('rgb8', 320, 240)
        assert len(image.data) == 320 * 240 * 3
        assert image.header.frame_id == info.header.frame_id == camera.frame_id
        assert (info.k[2], info.k[5], info.width) == (160.0, 120.0, 320)
    assert abs(time.time() - to_seconds(joints.header.stamp)) < 5.0
    assert not robot.received['/clock']
    assert robot.wait_newest('/sim/task').data == robot.wait_newest('/sim/status').instruction

    names = robot.controller.joints
    target = np.array([joints.position[joints.name.index(name)] for name in names])
    target[5] += 0.15
    message = JointTrajectory(
        joint_names=list(names),
        points=[
            JointTrajectoryPoint(
                positions=target.tolist(), velocities=[0.0] * 7, accelerations=[0.0] * 7
            )
        ],
    )
    message.points[0].time_from_start.sec = 1
    robot.wait_until(lambda: robot.command.get_subscription_count(), 'the controller')
    robot.command.publish(message)
    robot.wait_until(
        lambda: (
            abs(robot.wait_newest(robot.controller.state_topic).feedback.positions[5] - target[5])
            < 0.002
        ),
        'the motion',
    )
    bad = JointTrajectory(joint_names=['nobody'], points=message.points)
    robot.command.publish(bad)
    robot.wait_until(
        lambda: robot.wait_newest('/sim/status').trajectories_rejected == 1, 'the rejection'
    )
    status = robot.wait_newest('/sim/status')
    assert status.trajectories_accepted == 1
    assert 0.0 < max(status.max_velocity_ratio) < 1.0
    assert max(status.max_tracking_error) < 0.02

    client = robot.node.create_client(Trigger, '/sim/reset')
    robot.wait_until(client.service_is_ready, 'the reset service')
    future = client.call_async(Trigger.Request())
    robot.wait_until(future.done, 'the reset')
    assert future.result().success
    robot.wait_until(
        lambda: robot.wait_newest('/sim/status').episode_index >= 1, 'the next episode'
    )
    assert robot.wait_newest('/sim/task').data == future.result().message
    begun = robot.wait_newest('/sim/status').header.stamp
    # this listener may be seconds behind: what it hears next need not be of the new episode
    robot.wait_until(
        lambda: to_seconds(robot.wait_newest('/joint_states').header.stamp) >= to_seconds(begun),
        'joints of the next episode',
    )
    moved = robot.wait_newest('/joint_states').position
    assert abs(moved[list(joints.name).index(names[5])] - target[5]) < 0.01  # arms stay


def test_rates_hold_in_wall_time(robot: SimNodeProcess) -> None:
    robot.wait_until(lambda: len(robot.received['/sim/status']) >= 2, 'a status')
    for heard in robot.received.values():
        heard.clear()
    robot.spin(4.0)
    status = robot.wait_newest('/sim/status')
    stamps = [to_seconds(m.header.stamp) for m in robot.received['/joint_states']]
    assert (np.diff(stamps) > 0).all()
    states = len(robot.received[robot.controller.state_topic])
    assert states / len(stamps) == pytest.approx(1 / 2, rel=0.15)
    first, last = robot.received['/sim/status'][0], robot.received['/sim/status'][-1]
    passed_s = to_seconds(last.header.stamp) - to_seconds(first.header.stamp)
    # stamps are wall time; what the simulation did of it is the factor it reports
    assert (last.sim_time - first.sim_time) / passed_s == pytest.approx(
        status.real_time_factor, abs=0.15
    )
    if os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
        pytest.skip('the machine is too busy for its rates to say anything')
    assert status.real_time_factor == pytest.approx(1.0, abs=0.05)
    assert min(status.camera_rate_hz) >= 12.0
    assert len(stamps) / 4.0 > 80


def test_a_mark_is_shown_once_the_task_was_heard() -> None:
    robot = SimNodeProcess('robot:=agibot_g1', 'task_family:=recall', 'seed:=4', 'camera_hz:=5.0')
    head = robot.embodiment.cameras[0].topic

    def white() -> int:
        pixels = np.frombuffer(robot.wait_newest(head).data, np.uint8).reshape(-1, 3)
        return int((pixels > 250).all(axis=1).sum())

    try:
        robot.spin(1.5)  # longer than any mark is shown
        assert white() < 50
        told = robot.node.create_publisher(String, '/wam/instruction', 1)
        robot.wait_until(lambda: told.get_subscription_count() > 0, 'a listener')
        told.publish(String(data=robot.wait_newest('/sim/task').data))
        robot.wait_until(lambda: white() > 500, 'the mark')
        robot.wait_until(lambda: white() < 50, 'the mark gone')
    finally:
        assert robot.close() == 0


def test_clock_on_request_is_what_stamps_are_in() -> None:
    """Ask for a window too: without a display that is a warning, nothing more."""
    running = SimNodeProcess('publish_clock:=true', 'camera_hz:=5.0', 'viewer:=true')
    try:
        for topic in ('/clock', '/joint_states'):
            running.wait_until(lambda topic=topic: len(running.received[topic]) > 20, topic)
        joints = to_seconds(running.received['/joint_states'][-1].header.stamp)
        running.wait_until(
            lambda: to_seconds(running.received['/clock'][-1].clock) >= joints, 'that instant'
        )
        assert any(
            abs(to_seconds(heard.clock) - joints) < 0.02 for heard in running.received['/clock']
        )
        running.wait_until(
            lambda: running.received[running.embodiment.cameras[0].topic], 'a picture'
        )
    finally:
        assert running.close() == 0


@pytest.mark.parametrize(
    'argument, reason',
    [
        ('robot:=agibot_g2', 'want one of'),
        ('task:=juggle', 'want one of'),
        ('camera_hz:=500.0', 'camera_hz'),
    ],
)
def test_wrong_parameters_end_it_with_a_reason(argument: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'wam_sim.sim_node', '--ros-args', '-p', argument],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert reason in done.stderr
    assert 'Traceback' not in done.stderr


def test_its_controllers_pass_the_checks_of_motion_node_and_take_another_speed(
    robot: SimNodeProcess,
) -> None:
    outputs = [
        (robot.node.create_publisher(JointTrajectory, controller.topic, 1), controller)
        for controller in robot.embodiment.controllers
    ]
    robot.node.destroy_publisher(robot.command)  # else: a second publisher
    monitor = ControllerMonitor(robot.node, outputs, 1.0, '')
    robot.wait_until(
        lambda: monitor.check_enable() is None and not monitor.inactive_checks, 'the settings'
    )
    base = robot.controller.topic.rpartition('/')[0]
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    slider = robot.node.create_publisher(
        SpeedScalingFactor, f'{base}/speed_scaling_input', latched
    )
    robot.wait_until(slider.get_subscription_count, 'the speed scaling')
    slider.publish(SpeedScalingFactor(factor=0.5))

    def is_slowed() -> bool:
        newest = robot.wait_newest(robot.controller.state_topic)
        monitor.on_state(robot.controller.name, newest)
        return newest.speed_scaling_factor == 0.5

    robot.wait_until(is_slowed, 'the slower speed')
    assert f'{robot.controller.name}: speed scaling is 0.5' in monitor.check_enable()
    monitor.close()

"""The stack as the page sees it: the newest message of each topic, and its services.

Notable:
- subscribes while somebody looks, and to predicted video only while its panel is open; without a
  viewer it takes the instruction's topic alone, a message per instruction;
- images and joint states stay serialized until one is drawn;
- the executor's thread files messages, the web server's thread reads them: each is replaced as a
  whole, never changed.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from wam_console import stack_status
from wam_console.console_params import ConsoleParams
from wam_console.imagination import ComparedFrame, ImaginationPairs
from wam_console.robot_view import RobotView
from wam_console.stack_status import ReceivedMessage
from wam_msgs.msg import DriverStatus, EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.motion.trajectory import Trajectory, sample_plan
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.images import image_conversion
from wam_policy.nodes.images.cdr_image import read_image
from wam_policy.nodes.node_clock import NodeClock

UPDATE_PERIOD_S = 0.2  # how late subscriptions follow the viewers
MAX_HISTORY = 20  # instructions
MAX_OBJECTS = 32
IMAGE_PERIODS = 0.8  # of camera_rate_hz: cameras and the page run at their own instants
KEEP_TARGET_NS = 2_000_000_000  # after its end a trajectory is no target any more
# statuses: name, type, topic, quality of service, description
STATUSES: tuple[tuple[str, Any, str, Any, Callable[[Any], dict[str, Any]]], ...] = (
    ('policy', PolicyStatus, 'status', qos.LATCHED, stack_status.describe_policy),
    ('motion', MotionStatus, 'motion_status', qos.LATCHED, stack_status.describe_motion),
    ('driver', DriverStatus, 'driver_status', qos.LATCHED, stack_status.describe_driver),
    ('episode', EpisodeStatus, 'episode', qos.LATCHED, stack_status.describe_episode),
    ('sim', SimStatus, '/sim/status', qos.REQUEST, stack_status.describe_sim),
)


class StackSubscriber:
    """Subscribe to a running stack on behalf of the page."""

    def __init__(self, node: Node, robot: Embodiment, params: ConsoleParams) -> None:
        """Raise ValueError if the robot cannot be drawn."""
        self._node, self._robot, self._params = node, robot, params
        self.view = RobotView(robot)
        self._now_ns = NodeClock(node.get_clock())
        self._newest: dict[str, ReceivedMessage] = {}
        self._history: deque[str] = deque(maxlen=MAX_HISTORY)
        self._trajectories: dict[tuple[str, ...], Trajectory] = {}  # newest, by its joints
        self.pairs = ImaginationPairs(tuple(camera.key for camera in robot.cameras))
        self._viewer_count, self._wants_predictions = 0, False
        self._subscriptions: list[Subscription] = []
        self._video_subscription: Subscription | None = None
        self._joints: dict[str, float] = {}
        self._joints_received_s = 0.0
        self._sent_images: dict[str, ReceivedMessage] = {}
        self._instruction_subscription = node.create_subscription(
            String, 'instruction', self._on_instruction, qos.REQUEST
        )
        self._timer = node.create_timer(UPDATE_PERIOD_S, self.update_subscriptions)

    def close(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._instruction_subscription)
        self.set_viewers(0, wants_predictions=False)
        self.update_subscriptions()

    # viewers; called by the web server's thread

    def set_viewers(self, count: int, *, wants_predictions: bool) -> None:
        """Say how many look; subscriptions follow in the executor's thread."""
        self._viewer_count, self._wants_predictions = count, wants_predictions

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the node is active."""
        robot = self._robot
        return {
            'robot': robot.name,
            'title': robot.title,
            'cameras': [camera.key for camera in robot.cameras],
            'camera_max_age_s': [camera.max_age_s for camera in robot.cameras],
            'joints': [
                {'name': joint.name, 'lower': joint.lower, 'upper': joint.upper}
                for joint in robot.joints
            ],
            'commanded': len(robot.commanded),
            'scene': self.view.scene,
        }

    def make_state(self) -> dict[str, Any]:
        """Return all statuses with their ages."""
        now_s, newest = time.monotonic(), self._newest
        state: dict[str, Any] = {}
        for name, _, _, _, describe in STATUSES:
            seen = newest.get(name)
            state[name] = seen and {**describe(seen.msg), 'age_s': seen.age_s(now_s)}
        self._read_joints()
        target = self._read_targets(self._now_ns())
        state['joints'] = {
            'age_s': self._age_of('joints', now_s),
            'values': stack_status.describe_joints(self._robot, self._joints, target),
        }
        task = state['sim']['instruction'] if state['sim'] else ''
        state['suggestions'] = stack_status.list_suggestions(task, self._list_object_names())
        state['history'] = list(self._history)
        return state

    def make_poses(self) -> dict[str, Any]:
        """Return poses of the robot's bodies, where the plan leads, tools' paths, objects."""
        now_ns, now_s = self._now_ns(), time.monotonic()
        self._read_joints()
        measured = {**self._robot.home, **self._joints}
        plan = sample_plan(
            list(self._trajectories.values()), self._robot.commanded, measured, now_ns
        )
        return {
            'age_s': self._age_of('joints', now_s),
            'bodies': self.view.compute_poses(measured),
            'ghost': plan and self.view.compute_poses({**measured, **plan.goal}),
            'paths': self.view.compute_tool_paths(plan, measured),
            'share': plan.count_past(now_ns) / len(plan.times_ns) if plan else 0.0,
        }

    def make_objects(self) -> list[dict[str, Any]]:
        """Return the simulated scene's objects: shape, size, color and pose."""
        seen = self._newest.get('objects')
        markers = seen.msg.markers[:MAX_OBJECTS] if seen else ()
        return [
            {
                'shape': 'box' if marker.type == marker.CUBE else 'cylinder',
                'size': [
                    round(value / 2, 4)
                    for value in (marker.scale.x, marker.scale.y, marker.scale.z)
                ],
                'rgb': [
                    round(value, 3) for value in (marker.color.r, marker.color.g, marker.color.b)
                ],
                'pos': [round(getattr(marker.pose.position, axis), 4) for axis in 'xyz'],
                'quat': [round(getattr(marker.pose.orientation, axis), 4) for axis in 'wxyz'],
            }
            for marker in markers
        ]

    def take_image(self, camera: str) -> tuple[bytes, float] | None:
        """Return the newest image of a camera as JPEG, with its age; None: nothing is due."""
        seen, last = self._newest.get(f'image/{camera}'), self._sent_images.get(camera)
        if seen is None or seen is last:
            return None
        period_s = IMAGE_PERIODS / self._params.camera_rate_hz
        if last and seen.received_s - last.received_s < period_s:
            return None
        self._sent_images[camera] = seen
        rgb = self._decode_image(seen.msg, camera)
        width = self._params.image_width
        size = (width, max(1, round(rgb.shape[0] * width / rgb.shape[1])))
        if size[0] < rgb.shape[1]:
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        return encode_jpeg(rgb, self._params.jpeg_quality), seen.age_s(time.monotonic())

    def take_compared_frames(self) -> list[tuple[ComparedFrame, float]]:
        """Return new frames of the panel with predicted video, and their ages in s."""
        now_ns = self._now_ns()
        return [(frame, (now_ns - frame.stamp_ns) / 1e9) for frame in self.pairs.take_ready()]

    # messages; called by the executor's thread

    def update_subscriptions(self) -> None:
        """Subscribe for the first viewer, and no longer than there is one."""
        wanted = self._viewer_count > 0
        if wanted and not self._subscriptions:
            self._subscriptions = self._subscribe()
        elif not wanted and self._subscriptions:
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions, self._newest = [], {}
            self._trajectories = {}
        if self._wants_predictions and self._video_subscription is None:
            self._video_subscription = self._node.create_subscription(
                Image, 'predicted_video', self._on_prediction, qos.IMAGE
            )
        elif not self._wants_predictions and self._video_subscription is not None:
            self._node.destroy_subscription(self._video_subscription)
            self._video_subscription = None
            self.pairs.clear()

    def _subscribe(self) -> list[Subscription]:
        create = self._node.create_subscription
        made = [
            create(message_type, topic, partial(self._store, name), profile)
            for name, message_type, topic, profile, _ in STATUSES
        ]
        made.append(
            create(
                JointState,
                self._params.joint_states_topic,
                partial(self._store_raw, 'joints'),
                qos.JOINTS,
                raw=True,
            )
        )
        compressed = self._params.compressed_images
        for camera in self._robot.cameras:
            made.append(
                create(
                    CompressedImage if compressed else Image,
                    f'{camera.topic}/compressed' if compressed else camera.topic,
                    partial(self._on_image, camera.key),
                    qos.IMAGE,
                    raw=True,
                )
            )
        topics = [controller.topic for controller in self._robot.controllers]
        for topic in (*topics, 'motion/dry_run_trajectory'):
            made.append(create(JointTrajectory, topic, self._on_trajectory, qos.TRAJECTORY))
        made.append(
            create(MarkerArray, '/sim/objects', partial(self._store, 'objects'), qos.REQUEST)
        )
        return made

    def _store(self, name: str, msg: Any) -> None:
        delay_s = 0.0
        if hasattr(msg, 'header'):
            delay_s = max(0.0, (self._now_ns() - message_conversion.to_ns(msg.header.stamp)) / 1e9)
        self._newest[name] = ReceivedMessage(msg, time.monotonic(), delay_s)

    def _store_raw(self, name: str, raw: bytes) -> None:
        self._newest[name] = ReceivedMessage(raw, time.monotonic(), 0.0)

    def _on_image(self, camera: str, raw: bytes) -> None:
        delay_s = 0.0
        if not self._params.compressed_images:
            stamp_ns = message_conversion.to_ns(read_image(raw).header.stamp)
            delay_s = max(0.0, (self._now_ns() - stamp_ns) / 1e9)
            if self._wants_predictions:
                self.pairs.add_image(camera, stamp_ns, raw)
        self._newest[f'image/{camera}'] = ReceivedMessage(raw, time.monotonic(), delay_s)

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        try:
            trajectory = message_conversion.trajectory_from_msg(msg)
        except ValueError:
            return  # of another program; motion_node and the controllers judge it, not the page
        self._trajectories[trajectory.names] = trajectory

    def _on_prediction(self, msg: Image) -> None:
        status = self._newest.get('policy')
        self.pairs.add_prediction(
            message_conversion.to_ns(msg.header.stamp),
            image_conversion.frame_from_msg(msg, 'predicted_video').rgb,
            status.msg.view_layout if status else '',
        )

    def _on_instruction(self, msg: String) -> None:
        text = msg.data.strip()[:400]
        if text and (not self._history or self._history[-1] != text):
            self._history.append(text)

    # serialized messages

    def _read_joints(self) -> None:
        """Deserialize the newest joint state, unless it was read before."""
        seen = self._newest.get('joints')
        if seen is None or seen.received_s == self._joints_received_s:
            return
        self._joints_received_s = seen.received_s
        msg = deserialize_message(seen.msg, JointState)
        known = set(self._robot.observed)
        self._joints |= {
            name: float(value)
            for name, value in zip(msg.name, msg.position, strict=False)
            if name in known and np.isfinite(value)
        }

    def _read_targets(self, now_ns: int) -> dict[str, float]:
        """Return what is commanded now, by joint; nothing of a plan that is over."""
        targets: dict[str, float] = {}
        for each in list(self._trajectories.values()):
            if now_ns < each.end_ns + KEEP_TARGET_NS:
                row = each.at_times(np.array([now_ns])).position[0]
                targets |= dict(zip(each.names, row.tolist(), strict=True))
        return targets

    def _decode_image(self, raw: bytes, camera: str) -> np.ndarray:
        if self._params.compressed_images:
            return image_conversion.frame_from_compressed_msg(
                deserialize_message(raw, CompressedImage), camera
            ).rgb
        return decode_raw_image(raw, camera)

    def _age_of(self, name: str, now_s: float) -> float | None:
        seen = self._newest.get(name)
        return seen.age_s(now_s) if seen else None

    def _list_object_names(self) -> Sequence[str]:
        seen = self._newest.get('objects')
        return [marker.text for marker in seen.msg.markers[:MAX_OBJECTS]] if seen else ()


def decode_raw_image(raw: bytes, camera: str) -> np.ndarray:
    """Return the pixels of a serialized Image, uint8 [h w 3]; ValueError if it is none."""
    image: Any = read_image(raw)  # has the fields that frame_from_msg reads
    return image_conversion.frame_from_msg(image, camera).rgb


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """Return pixels, uint8 [h w 3], as JPEG."""
    _, jpeg = cv2.imencode(
        '.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return jpeg.tobytes()

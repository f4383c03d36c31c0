"""The stack as the page sees it: the newest message of each topic, and its services.

Notable:
- subscribes while somebody looks, and to predicted video only while its panel is open; without a
  viewer it takes the instruction's topic alone, a message per instruction;
- what the page draws less often than it is published (images, joint states, statuses) is polled:
  the middleware keeps the newest message, and this program is not woken 200 times a second;
- the web server's thread polls; the executor's thread subscribes and files everything else: each
  is replaced as a whole, never changed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from wam_console import stack_status
from wam_console.console_params import ConsoleParams
from wam_console.imagination import ComparedFrame, ImaginationPairs, describe_tiles
from wam_console.node_health import NodeHealth
from wam_console.robot_view import RobotView
from wam_console.stack_status import ReceivedMessage
from wam_msgs.msg import DriverStatus, EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.motion.trajectory import Trajectory, sample_plan
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.cdr_reader import read_header_stamp_ns, read_trajectory
from wam_policy.nodes.images import image_conversion
from wam_policy.nodes.images.cdr_image import read_image
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.robot_parameters import find_joint_states_topic
from wam_policy.robot_names import add_namespace

UPDATE_PERIOD_S = 0.2  # how late subscriptions follow the viewers
MAX_HISTORY = 20  # instructions
MAX_OBJECTS = 32
IMAGE_PERIODS = 0.8  # of camera_rate_hz: cameras and the page run at their own instants
MAX_JPEG_BYTES = 12_000  # sent as published: 3 cameras at 5 Hz are 180 kB/s
DIAGNOSTICS_DEPTH = 10
JPEG_START = b'\xff\xd8'
MAX_UNREAD = 32  # trajectories between two poses
KEEP_TARGET_NS = 2_000_000_000  # after its end a trajectory is no target any more
# statuses: name, type, topic, quality of service, description
STATUSES: tuple[tuple[str, Any, str, Any, Callable[[Any], dict[str, Any]]], ...] = (
    ('policy', PolicyStatus, 'status', qos.LATCHED, stack_status.describe_policy),
    ('motion', MotionStatus, 'motion_status', qos.LATCHED, stack_status.describe_motion),
    ('driver', DriverStatus, 'driver_status', qos.LATCHED, stack_status.describe_driver),
    ('episode', EpisodeStatus, 'episode', qos.LATCHED, stack_status.describe_episode),
    ('sim', SimStatus, '/sim/status', qos.REQUEST, stack_status.describe_sim),
)


def is_polled(subscription: Subscription) -> bool:
    """Tell whether a subscription is read with `take_message`; an executor must not serve it."""
    return subscription.callback is _refuse_callback


def _refuse_callback(_: Any) -> None:
    raise RuntimeError('an executor serves a subscription that is polled')


class StackSubscriber:
    """Subscribe to a running stack on behalf of the page.

    The node leaves subscriptions that are polled out of what it offers to its executor.
    """

    def __init__(self, node: Node, robot: Embodiment, params: ConsoleParams) -> None:
        """Raise ValueError if the robot cannot be drawn."""
        self._node, self._robot, self._params = node, robot, params
        self.view = RobotView(robot)
        self._now_ns = NodeClock(node.get_clock())
        self._newest: dict[str, ReceivedMessage] = {}
        self._history: deque[str] = deque(maxlen=MAX_HISTORY)
        self._raw_trajectories: deque[bytes] = deque(maxlen=MAX_UNREAD)
        self._trajectories: dict[tuple[str, ...], Trajectory] = {}  # newest, by its joints
        self._cameras = tuple(camera.key for camera in robot.cameras)
        self.pairs = ImaginationPairs(self._cameras, self._decode_image)
        self._health = NodeHealth(params.robot_namespace)
        self._viewer_count, self._wants_predictions = 0, False
        self._subscriptions: list[Subscription] = []
        self._video_subscription: Subscription | None = None
        self._polled: dict[str, Subscription] = {}
        self._joints: dict[str, float] = {}
        self._image_sent_s: dict[str, float] = {}
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
            'namespace': self._params.robot_namespace,
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
        now_s = time.monotonic()
        state: dict[str, Any] = {}
        for name, _, _, _, describe in STATUSES:
            self._poll(name)
            seen = self._newest.get(name)
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
        state['nodes'] = self._health.describe(now_s)
        layout_name = self._get_layout_name()
        state['views'] = layout_name and describe_tiles(layout_name, self._cameras)
        return state

    def make_poses(self) -> dict[str, Any]:
        """Return poses of the robot's bodies, where the plan leads, tools' paths, objects."""
        now_ns, now_s = self._now_ns(), time.monotonic()
        self._read_joints()
        measured = {**self._robot.home, **self._joints}
        self._read_trajectories()
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
        self._poll('objects')
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
        now_s, name = time.monotonic(), f'image/{camera}'
        is_due = (
            now_s - self._image_sent_s.get(camera, 0.0)
            >= IMAGE_PERIODS / self._params.camera_rate_hz
        )
        if not (is_due or self._wants_predictions):
            return None
        before = self._newest.get(name)
        for seen in self._poll(name):
            if self._wants_predictions:
                self.pairs.add_image(camera, read_header_stamp_ns(seen.msg), seen.msg)
        seen = self._newest.get(name)
        if seen is None or not is_due or (seen is before and camera in self._image_sent_s):
            return None
        self._image_sent_s[camera] = now_s
        return self._make_jpeg(seen.msg, camera), seen.age_s(now_s)

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
            self._subscribe_to_images()
        elif not wanted and self._subscriptions:
            polled, self._polled = self._polled, {}
            self._destroy([*self._subscriptions, *polled.values()])
            self._subscriptions, self._newest = [], {}
            self._trajectories = {}
            self._raw_trajectories.clear()
            self._image_sent_s = {}
            self._health = NodeHealth(self._params.robot_namespace)
        if self._wants_predictions and self._video_subscription is None:
            self._video_subscription = self._node.create_subscription(
                Image, 'predicted_video', self._on_prediction, qos.IMAGE
            )
            self._subscribe_to_images()
        elif not self._wants_predictions and self._video_subscription is not None:
            self._node.destroy_subscription(self._video_subscription)
            self._video_subscription = None
            self.pairs.clear()
            if self._subscriptions:
                self._subscribe_to_images()

    def _subscribe(self) -> list[Subscription]:
        create = self._node.create_subscription
        name_of = partial(add_namespace, self._params.robot_namespace)
        topics = [controller.topic for controller in self._robot.controllers]
        # not polled: a trajectory expires in the middleware, and of a burst each part counts
        made = [
            create(JointTrajectory, topic, self._on_trajectory, qos.TRAJECTORY, raw=True)
            for topic in (*topics, 'motion/dry_run_trajectory')
        ]
        made.append(
            create(DiagnosticArray, '/diagnostics', self._on_diagnostics, DIAGNOSTICS_DEPTH)
        )
        polled: dict[str, Subscription] = {
            name: create(message_type, name_of(topic), _refuse_callback, profile)
            for name, message_type, topic, profile, _ in STATUSES
        }
        polled['objects'] = create(
            MarkerArray, name_of('/sim/objects'), _refuse_callback, qos.REQUEST
        )
        polled['joints'] = create(
            JointState,
            find_joint_states_topic(self._params),
            _refuse_callback,
            _keep_last(qos.JOINTS, 1),
            raw=True,
        )
        self._polled = polled
        return made

    def _subscribe_to_images(self) -> None:
        """Keep the newest image of each camera, or all of a tick to find those of an instant."""
        compressed = self._params.compressed_images
        before = {name: each for name, each in self._polled.items() if name.startswith('image/')}
        depth = qos.IMAGE.depth if self._wants_predictions else 1
        made = {
            f'image/{camera.key}': self._node.create_subscription(
                CompressedImage if compressed else Image,
                f'{camera.topic}/compressed' if compressed else camera.topic,
                _refuse_callback,
                _keep_last(qos.IMAGE, depth),
                raw=True,
            )
            for camera in self._robot.cameras
        }
        self._polled = {**self._polled, **made}
        self._destroy(before.values())

    def _destroy(self, subscriptions: Iterable[Subscription]) -> None:
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_trajectory(self, raw: bytes) -> None:
        self._raw_trajectories.append(raw)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self._health.add(msg, time.monotonic())

    def _on_prediction(self, msg: Image) -> None:
        self.pairs.add_prediction(
            message_conversion.to_ns(msg.header.stamp),
            image_conversion.frame_from_msg(msg, 'predicted_video').rgb,
            self._get_layout_name(),
        )

    def _on_instruction(self, msg: String) -> None:
        text = msg.data.strip()[:400]
        if text and (not self._history or self._history[-1] != text):
            self._history.append(text)

    # polled and serialized messages

    def _poll(self, name: str) -> list[ReceivedMessage]:
        """Take what came on a polled topic since the last time; the newest is kept."""
        subscription = self._polled.get(name)
        if subscription is None:
            return []
        found = []
        # the executor may have destroyed it
        with suppress(rclpy_implementation.InvalidHandle), subscription.handle:
            while taken := subscription.handle.take_message(
                subscription.msg_type, subscription.raw
            ):
                found.append(self._make_received(taken[0]))
        if found:
            self._newest[name] = found[-1]
        return found

    def _make_received(self, msg: Any) -> ReceivedMessage:
        """Date a message by its stamp, where it has one: it may have waited to be polled."""
        stamp_ns = 0
        if isinstance(msg, bytes):
            stamp_ns = read_header_stamp_ns(msg)
        elif hasattr(msg, 'header'):
            stamp_ns = message_conversion.to_ns(msg.header.stamp)
        delay_s = max(0.0, (self._now_ns() - stamp_ns) / 1e9) if stamp_ns else 0.0
        return ReceivedMessage(msg, time.monotonic(), delay_s)

    def _get_layout_name(self) -> str:
        """Return how the model arranges views on its canvas; empty while that is not known."""
        status = self._newest.get('policy')
        return status.msg.view_layout if status else ''

    def _read_trajectories(self) -> None:
        while self._raw_trajectories:
            try:
                trajectory = read_trajectory(self._raw_trajectories.popleft())
            except ValueError:
                continue  # of another program; motion_node and the controllers judge it
            self._trajectories[trajectory.names] = trajectory

    def _read_joints(self) -> None:
        """Deserialize the newest joint state, unless it was read before."""
        if not self._poll('joints'):
            return
        msg = deserialize_message(self._newest['joints'].msg, JointState)
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
                row = each.at(now_ns).position
                targets |= dict(zip(each.names, row.tolist(), strict=True))
        return targets

    def _make_jpeg(self, raw: bytes, camera: str) -> bytes:
        """Return an image for the page, as it was published if that is small enough."""
        if self._params.compressed_images:
            msg = deserialize_message(raw, CompressedImage)
            jpeg = bytes(msg.data)
            if jpeg.startswith(JPEG_START) and len(jpeg) <= MAX_JPEG_BYTES:
                return jpeg
        rgb = self._decode_image(raw, camera)
        width = self._params.image_width
        size = (width, max(1, round(rgb.shape[0] * width / rgb.shape[1])))
        if size[0] < rgb.shape[1]:
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        return encode_jpeg(rgb, self._params.jpeg_quality)

    def _decode_image(self, raw: bytes, camera: str) -> np.ndarray:
        """Return the pixels of a serialized image, uint8 [h w 3]; ValueError if it is none."""
        if self._params.compressed_images:
            return image_conversion.frame_from_compressed_msg(
                deserialize_message(raw, CompressedImage), camera
            ).rgb
        image: Any = read_image(raw)  # has the fields that frame_from_msg reads
        return image_conversion.frame_from_msg(image, camera).rgb

    def _age_of(self, name: str, now_s: float) -> float | None:
        seen = self._newest.get(name)
        return seen.age_s(now_s) if seen else None

    def _list_object_names(self) -> Sequence[str]:
        seen = self._newest.get('objects')
        return [marker.text for marker in seen.msg.markers[:MAX_OBJECTS]] if seen else ()


def _keep_last(profile: QoSProfile, depth: int) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=profile.reliability)


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """Return pixels, uint8 [h w 3], as JPEG."""
    _, jpeg = cv2.imencode(
        '.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return jpeg.tobytes()

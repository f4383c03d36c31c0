"""What an episode holds: every topic a robot is seen and driven by, in one table."""

from dataclasses import dataclass

import yaml
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder import message_definitions
from wam_policy.recording.bag_writer import Topic

INSTRUCTION, SIM_STATUS = 'instruction', '/sim/status'
# Deep queues: a recorder wants everything, also what came while it was busy for a moment.
_EVENTS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=200, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
_SENSORS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
_IMAGES = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
IMAGE_QUEUE, QUEUE = 30, 2000  # messages that may wait to be written
ENDLESS = {'sec': 9223372036, 'nsec': 854775807}


@dataclass(frozen=True, slots=True)
class Source:
    """Say how one topic is heard and written."""

    topic: str  # as subscribed to; relative names in our namespace
    kind: type  # message class on the wire
    qos: QoSProfile
    jpeg: bool = False  # written as CompressedImage on <topic>/compressed
    kept: bool = False  # the newest from before belongs to an episode
    queue: int = QUEUE

    def written(self, resolved: str) -> Topic:
        """Describe the topic in the bag; `resolved` is its full name."""
        kind = CompressedImage if self.jpeg else self.kind
        package, _, name = kind.__module__.split('.')[0], 'msg', kind.__name__
        type_name = f'{package}/msg/{name}'
        return Topic(
            f'{resolved}/compressed' if self.jpeg else resolved,
            type_name,
            message_definitions.definition(type_name),
            message_definitions.type_hash(type_name),
            yaml.safe_dump([_profile(self.qos)]),
        )


def sources(robot: Embodiment, given: RecorderParams) -> tuple[Source, ...]:
    """Return everything that is recorded of a robot, images as the parameters say."""
    compressed = given.images == 'compressed'
    cameras = [
        Source(
            f'{camera.topic}/compressed' if compressed else camera.topic,
            CompressedImage if compressed else Image,
            _IMAGES,
            jpeg=given.images == 'jpeg',
            queue=IMAGE_QUEUE,
        )
        for camera in robot.cameras
    ]
    return (
        Source(given.joint_states_topic, JointState, _SENSORS),
        *(Source(controller.topic, JointTrajectory, _EVENTS) for controller in robot.controllers),
        Source('action_chunk', ActionChunk, _EVENTS),
        Source(INSTRUCTION, String, _EVENTS),
        Source('status', PolicyStatus, _LATCHED, kept=True),
        Source('motion_status', MotionStatus, _LATCHED, kept=True),
        Source(SIM_STATUS, SimStatus, _EVENTS, kept=True),
        *(Source(camera.info_topic, CameraInfo, _SENSORS, kept=True) for camera in robot.cameras),
        *cameras,
    )


def _profile(qos: QoSProfile) -> dict:
    """Return a profile as rosbag2 writes it; limits in time mean nothing to a replay."""
    return {
        'history': 'keep_last',
        'depth': qos.depth,
        'reliability': qos.reliability.name.lower(),
        'durability': (
            'transient_local' if qos.durability is DurabilityPolicy.TRANSIENT_LOCAL else 'volatile'
        ),
        'deadline': ENDLESS,
        'lifespan': ENDLESS,
        'liveliness': 'automatic',
        'liveliness_lease_duration': ENDLESS,
        'avoid_ros_namespace_conventions': False,
    }

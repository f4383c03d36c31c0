"""What an episode holds: every topic a robot is seen and driven by, in one table."""

from dataclasses import dataclass
from functools import partial

import yaml
from control_msgs.msg import JointTrajectoryControllerState
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, Empty, String
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes.images import image_transport
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder import message_definitions
from wam_policy.nodes.robot_parameters import find_joint_states_topic
from wam_policy.recording.bag_writer import BagTopic
from wam_policy.robot_names import add_namespace

INSTRUCTION_TOPIC, SIM_STATUS_TOPIC = 'instruction', '/sim/status'
MOTION_STATUS_TOPIC = 'motion_status'
# Deep queues: a recorder wants everything, also what came while it was busy for a moment.
_EVENT_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED_QOS = QoSProfile(
    depth=200, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
_SENSOR_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
_IMAGE_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
IMAGE_QUEUE_SIZE, QUEUE_SIZE = 30, 2000  # messages that may wait to be written
STATIC_FRAME_SOURCES = 20  # nodes that publish /tf_static, each once: drivers of cameras, ...
INFINITE_DURATION = {'sec': 9223372036, 'nsec': 854775807}


@dataclass(frozen=True, slots=True)
class RecordedTopic:
    """Say how one topic is heard and written."""

    topic: str  # as subscribed to; relative names in our namespace
    message_type: type  # message class on the wire
    qos: QoSProfile
    encode_jpeg: bool = False  # written as CompressedImage on <topic>/compressed
    keep_latest: int = 0  # so many of the newest from before belong to an episode
    queue_size: int = QUEUE_SIZE

    def to_bag_topic(self, resolved_name: str) -> BagTopic:
        """Describe the topic in the bag; `resolved` is its full name."""
        kind = CompressedImage if self.encode_jpeg else self.message_type
        package, _, name = kind.__module__.split('.')[0], 'msg', kind.__name__
        type_name = f'{package}/msg/{name}'
        return BagTopic(
            f'{resolved_name}/compressed' if self.encode_jpeg else resolved_name,
            type_name,
            message_definitions.load_definition(type_name),
            message_definitions.load_type_hash(type_name),
            yaml.safe_dump([_to_rosbag2_profile(self.qos)]),
        )


def list_recorded_topics(robot: Embodiment, params: RecorderParams) -> tuple[RecordedTopic, ...]:
    """Return everything that is recorded of a robot, images as the parameters say."""
    transport = (
        image_transport.COMPRESSED if params.images == 'compressed' else image_transport.RAW
    )
    name = partial(add_namespace, params.robot_namespace)
    cameras = [
        RecordedTopic(
            topic,
            kind,
            _IMAGE_QOS,
            encode_jpeg=params.images == 'jpeg' and kind is Image,
            queue_size=IMAGE_QUEUE_SIZE,
        )
        for topic, kind in (
            image_transport.resolve_camera_topic(camera.topic, transport)
            for camera in robot.cameras
        )
    ]
    return (
        RecordedTopic(find_joint_states_topic(params), JointState, _SENSOR_QOS),
        *(
            RecordedTopic(controller.topic, JointTrajectory, _EVENT_QOS)
            for controller in robot.controllers
        ),
        *(
            RecordedTopic(controller.state_topic, JointTrajectoryControllerState, _SENSOR_QOS)
            for controller in robot.controllers
        ),
        RecordedTopic(name('/robot_description'), String, _LATCHED_QOS, keep_latest=1),
        RecordedTopic(
            name('/tf_static'), TFMessage, _LATCHED_QOS, keep_latest=STATIC_FRAME_SOURCES
        ),
        RecordedTopic(name('/tf'), TFMessage, _EVENT_QOS),
        RecordedTopic('action_chunk', ActionChunk, _EVENT_QOS),
        RecordedTopic(INSTRUCTION_TOPIC, String, _EVENT_QOS),
        RecordedTopic('estop_signal', Empty, _SENSOR_QOS),  # best effort: from any publisher
        RecordedTopic('estop', Bool, _LATCHED_QOS, keep_latest=1),
        RecordedTopic('/rosout', Log, _EVENT_QOS),
        RecordedTopic('status', PolicyStatus, _LATCHED_QOS, keep_latest=1),
        RecordedTopic(MOTION_STATUS_TOPIC, MotionStatus, _LATCHED_QOS, keep_latest=1),
        RecordedTopic(name(SIM_STATUS_TOPIC), SimStatus, _EVENT_QOS, keep_latest=1),
        *(
            RecordedTopic(camera.info_topic, CameraInfo, _SENSOR_QOS, keep_latest=1)
            for camera in robot.cameras
        ),
        *cameras,
        *(
            (
                RecordedTopic(
                    'predicted_video', Image, _IMAGE_QOS, True, queue_size=IMAGE_QUEUE_SIZE
                ),
            )
            if params.predicted_video
            else ()
        ),
    )


def _to_rosbag2_profile(qos: QoSProfile) -> dict:
    """Return a profile as rosbag2 writes it; limits in time mean nothing to a replay."""
    return {
        'history': 'keep_last',
        'depth': qos.depth,
        'reliability': qos.reliability.name.lower(),
        'durability': (
            'transient_local' if qos.durability is DurabilityPolicy.TRANSIENT_LOCAL else 'volatile'
        ),
        'deadline': INFINITE_DURATION,
        'lifespan': INFINITE_DURATION,
        'liveliness': 'automatic',
        'liveliness_lease_duration': INFINITE_DURATION,
        'avoid_ros_namespace_conventions': False,
    }

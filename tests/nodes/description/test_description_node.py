"""description_node beside a robot that moves: descriptions, frames, plan, and silence."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import time
from xml.etree import ElementTree

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from nav_msgs.msg import Path
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from wam_msgs.msg import ActionChunk
from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.kinematic_tree import KinematicTree
from wam_policy.core.types import Chunk, JointState
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.description.description_node import DescriptionNode
from wam_policy.nodes.run_node import ExecutorThread

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
ROBOT = embodiment.load_embodiment('yam')
TREE = KinematicTree.from_urdf(embodiment.load_urdf('yam'))
HOME = ROBOT.home_positions(ROBOT.observed)
RAISED = HOME + np.array([0.3, *[0.0] * (len(HOME) - 1)])
WINDOW_S = 20.0


class RobotAndViewer:
    """Publish what a robot and motion_node publish; look at what description_node makes of it."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, args=['--ros-args', '-p', 'embodiment:=yam'])
        self.described = DescriptionNode(context=self.context)
        self.node = rclpy.create_node('viewer', context=self.context)
        new = self.node.create_publisher
        self._joints = new(JointStateMsg, '/joint_states', qos.JOINTS)
        self._chunks = new(ActionChunk, 'action_chunk', qos.CHUNK)
        self._trajectories = [
            new(JointTrajectory, each.topic, qos.TRAJECTORY) for each in ROBOT.controllers
        ]
        self.received = {}
        self._executor = ExecutorThread([self.described, self.node])
        assert self.described.trigger_configure() == self.described.trigger_activate()

    def listen(self, message_type, topic, profile):
        messages = self.received[topic] = []
        return self.node.create_subscription(message_type, topic, messages.append, profile)

    def publish_joints(self, position):
        now_ns = time.time_ns()
        state = JointState(now_ns, ROBOT.observed, position, None, None)
        self._joints.publish(message_conversion.joint_state_to_msg(state))
        return now_ns

    def publish_plan(self, goal, duration_s=2.0):
        rest = np.zeros((2, len(goal)))
        plan = Trajectory(
            ROBOT.commanded,
            time.time_ns(),
            np.array([0, round(duration_s * 1e9)]),
            np.vstack([HOME, goal]),
            rest,
            rest,
        )
        for publisher, each in zip(self._trajectories, ROBOT.controllers, strict=True):
            publisher.publish(message_conversion.trajectory_to_msg(plan, each.joints))

    def publish_chunk(self, target):
        targets = np.linspace(HOME, target, ROBOT.horizon)
        chunk = Chunk(
            time.time_ns(), 'a', 1, ROBOT.step_dt_s, ROBOT.commanded, targets, HOME, '', {}
        )
        self._chunks.publish(
            message_conversion.chunk_to_msg(chunk, 'yam', time.time_ns(), trained=True)
        )

    def wait(self, condition, act=lambda: None):
        end_s = time.monotonic() + WINDOW_S
        while not (found := condition()):
            assert time.monotonic() < end_s, {k: len(v) for k, v in self.received.items()}
            self.publish_joints(HOME)
            act()
            time.sleep(0.02)
        return found

    def close(self):
        self._executor.stop()
        self.described.close()
        self.described.destroy_node()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def robot(ros_domain):
    robot = RobotAndViewer()
    yield robot
    robot.close()


def test_frames_of_the_robot_and_of_its_plan(robot):
    robot.listen(String, '/robot_description', qos.LATCHED)
    robot.listen(TFMessage, '/tf_static', qos.LATCHED)
    robot.listen(TFMessage, '/tf', qos.FRAMES)
    robot.listen(JointStateMsg, 'plan/joint_states', qos.PREVIEW)
    description = robot.wait(lambda: robot.received['/robot_description'])[0].data
    assert ElementTree.fromstring(description).get('name') == 'yam'

    def find_raised():
        messages = robot.received['plan/joint_states']
        ghosts = [dict(zip(each.name, each.position, strict=True)) for each in messages]
        return [ghost for ghost in ghosts if abs(ghost['left_joint1'] - RAISED[0]) < 1e-9]

    robot.wait(find_raised, lambda: robot.publish_plan(RAISED))
    transforms = {}
    for message in robot.received['/tf'] + robot.received['/tf_static']:
        transforms |= {each.child_frame_id: each for each in message.transforms}
    assert set(TREE.links) - {TREE.root} <= set(transforms)
    tips = {}
    for prefix, values in (('', HOME), ('plan/', RAISED)):
        given = dict(zip(ROBOT.observed, values, strict=True))
        (wanted,), _ = TREE.compute_path('left_tool', (), np.zeros((1, 0)), given)
        tips[prefix] = place_frame(transforms, prefix + 'left_tool')
        np.testing.assert_allclose(tips[prefix], wanted, atol=1e-9)
    assert np.linalg.norm(tips[''] - tips['plan/']) > 0.02
    assert {camera.frame_id for camera in ROBOT.cameras} <= set(transforms)


def place_frame(transforms, frame):
    """Return the position of a frame in the world, from messages alone."""
    at = np.zeros(3)
    while frame in transforms:
        message = transforms[frame]
        move, turn = message.transform.translation, message.transform.rotation
        rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w])
        at = rotation.apply(at) + [move.x, move.y, move.z]
        frame = message.header.frame_id
    assert frame == TREE.root
    return at


def test_paths_and_markers_follow_the_plan_and_go_when_it_is_over(robot):
    robot.listen(Path, 'plan/left_path', qos.PREVIEW)
    robot.listen(MarkerArray, 'plan/markers', qos.PREVIEW)
    given = dict(zip(ROBOT.observed, RAISED, strict=True))
    (wanted,), _ = TREE.compute_path('left_tool', (), np.zeros((1, 0)), given)

    def find_complete():  # the first may be made when not all controllers have their part
        paths = [path for path in robot.received['plan/left_path'] if path.poses]
        ends = [path.poses[-1].pose.position for path in paths]
        return [
            path
            for path, end in zip(paths, ends, strict=True)
            if np.allclose([end.x, end.y, end.z], wanted, atol=1e-9)
        ]

    (path, *_) = robot.wait(
        lambda: robot.received['plan/markers'] and find_complete(),
        lambda: robot.publish_plan(RAISED, 1.0),
    )
    assert path.header.frame_id == TREE.root
    stamps = [message_conversion.to_ns(pose.header.stamp) for pose in path.poses]
    assert stamps == sorted(stamps) and stamps[-1] - stamps[0] == 1_000_000_000
    names = {marker.ns for marker in robot.received['plan/markers'][0].markers}
    assert names == {'left_tool', 'right_tool'}
    robot.wait(
        lambda: (
            not robot.received['plan/left_path'][-1].poses
            and robot.received['plan/markers'][-1].markers[0].action == Marker.DELETEALL
        )
    )


def test_a_contact_of_the_chunk_is_marked_where_it_is(robot):
    robot.listen(MarkerArray, 'plan/contacts', qos.PREVIEW)
    low = HOME.copy()
    low[1] += 1.2  # the left arm leans forward into the table
    robot.wait(lambda: robot.received['plan/contacts'], lambda: robot.publish_chunk(low))
    sphere, label = robot.received['plan/contacts'][0].markers
    assert 'table' in label.text and label.text.startswith('left_')
    at = sphere.pose.position
    assert at.y > 0.0 and abs(at.z - 0.75) < 0.05  # the left side, at the top of the table


def test_without_viewers_it_listens_to_nothing(robot):
    def count():
        return robot.node.count_subscribers('/joint_states')

    robot.wait(lambda: count() == 0)
    subscription = robot.listen(TFMessage, '/tf', qos.FRAMES)
    robot.wait(lambda: count() == 1)
    robot.wait(lambda: robot.received['/tf'])
    robot.node.destroy_subscription(subscription)
    robot.wait(lambda: count() == 0)

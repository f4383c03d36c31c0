"""recorder_node on real rclpy, beside a robot that publishes what robots publish."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from wam_msgs.action import RecordEpisode
from wam_msgs.msg import EpisodeStatus, MotionStatus, SimStatus
from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.core.robot import embodiment
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.images import cdr_image, image_conversion
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder import message_definitions
from wam_policy.nodes.recorder.recorder_node import RecorderNode
from wam_policy.nodes.run_node import ExecutorThread
from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import repair
from wam_policy.recording.bag_writer import BagTopic, BagWriter

pytestmark = [pytest.mark.ros, pytest.mark.timeout(90)]
ROBOT = embodiment.load_embodiment('yam')
REST = ROBOT.home_positions(ROBOT.observed)
TEST_IMAGE = np.kron(
    np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, np.ones((16, 16, 1), np.uint8)
)


class FakeRobot:
    """Publish joints at 100 Hz, three small cameras at 20 Hz and a command now and then."""

    def __init__(self, context):
        self.node = rclpy.create_node('robot', namespace='wam', context=context)
        out = self.node.create_publisher
        self.joint_state_publisher = out(
            message_conversion.JointStateMsg, '/joint_states', qos.JOINTS
        )
        self.image_publishers = [out(Image, camera.topic, qos.IMAGE) for camera in ROBOT.cameras]
        self.camera_info_publishers = [
            out(CameraInfo, camera.info_topic, qos.IMAGE) for camera in ROBOT.cameras
        ]
        self.trajectory_publishers = [
            out(JointTrajectory, c.topic, qos.TRAJECTORY) for c in ROBOT.controllers
        ]
        self.instruction_publisher = out(String, 'instruction', qos.REQUEST)
        self.motion_status_publisher = out(MotionStatus, 'motion_status', qos.LATCHED)
        self.sim_status_publisher = out(SimStatus, '/sim/status', qos.REQUEST)
        self.sent_counts = {'joints': 0, 'camera': 0, 'command': 0}
        self.statuses = []
        self.node.create_subscription(EpisodeStatus, 'episode', self.statuses.append, qos.LATCHED)
        self.motion_status_publisher.publish(
            MotionStatus(state_name='HOLDING', reason='said before')
        )
        self.node.create_timer(0.01, self.on_joint_timer)
        self.node.create_timer(0.05, self.on_camera_timer)
        self.encoding = 'rgb8'

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds

    def on_joint_timer(self):
        self.sent_counts['joints'] += 1
        self.joint_state_publisher.publish(
            message_conversion.joint_state_to_msg(JointState(self.now_ns(), ROBOT.observed, REST))
        )

    def on_camera_timer(self):
        self.sent_counts['camera'] += 1
        for camera, out in zip(ROBOT.cameras, self.image_publishers, strict=True):
            msg = image_conversion.image_to_msg(TEST_IMAGE, self.now_ns(), camera.frame_id)
            msg.encoding = self.encoding
            out.publish(msg)
        for out in self.camera_info_publishers:
            out.publish(CameraInfo(width=64, height=64))

    def publish_trajectories(self):
        for out, controller in zip(self.trajectory_publishers, ROBOT.controllers, strict=True):
            out.publish(
                JointTrajectory(
                    joint_names=list(controller.joints),
                    points=[JointTrajectoryPoint(positions=[0.5] * len(controller.joints))],
                )
            )

    def wait(self, condition, timeout_message, timeout_s=45.0):
        end_s = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < end_s, (
                f'{timeout_message}; last status: {self.statuses[-1:]}'
            )
            time.sleep(0.02)
        return found

    def call_service(self, service_type, name, timeout_s=20.0, **fields):
        client = self.node.create_client(service_type, name)
        assert client.wait_for_service(10.0)
        answer = client.call(service_type.Request(**fields), timeout_sec=timeout_s)
        self.node.destroy_client(client)
        return answer


@contextmanager
def start_recorder(folder, **parameters):
    """Give a robot and an active recorder that listens to it."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = RecorderNode(
        context,
        'wam',
        [
            Parameter(name, value=value)
            for name, value in {
                'embodiment': 'yam',
                'output_dir': str(folder),
                'min_free_mb': 0,
                **parameters,
            }.items()
        ],
    )
    robot = FakeRobot(context)
    spinning = ExecutorThread([node, robot.node])
    try:
        node.trigger_configure()
        node.trigger_activate()
        robot.wait(
            lambda: all(
                out.get_subscription_count()
                for out in (
                    *robot.image_publishers,
                    *robot.trajectory_publishers,
                    robot.joint_state_publisher,
                    robot.instruction_publisher,
                )
            ),
            'nobody listens',
        )
        robot.wait(
            lambda: robot.sent_counts['camera'] > 5 and robot.statuses, 'no pictures or status'
        )
        yield robot, node
    finally:
        spinning.stop()
        node.close()
        robot.node.destroy_node()
        node.destroy_node()
        rclpy.shutdown(context=context)


def read_bag(folder):
    """Return topic -> list of (log time, message) and the types, by the rosbags package."""
    found = {}
    with AnyReader([folder]) as reader:
        for connection, stamp, raw in reader.messages():
            found.setdefault(connection.topic, []).append(
                (stamp, reader.deserialize(raw, connection.msgtype))
            )
        return found, {c.topic: c.msgtype for c in reader.connections}


def read_status_counts(robot):
    last = robot.statuses[-1]
    return dict(
        zip(
            last.topic_names,
            zip(last.message_counts, last.dropped_counts, strict=True),
            strict=True,
        )
    )


def test_an_episode_holds_everything_and_says_so(tmp_path):
    with start_recorder(tmp_path) as (robot, _):
        begun = robot.call_service(
            StartEpisode, 'recorder/start', instruction='Wave both arms', labels=['operator=Ada']
        )
        assert begun.success, begun.message
        before = dict(robot.sent_counts)
        robot.publish_trajectories()
        time.sleep(1.5)
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.RECORDING, 'not recording')
        after = dict(robot.sent_counts)
        ended = robot.call_service(
            StopEpisode, 'recorder/stop', keep=True, task_success=True, note='well done'
        )
        assert ended.success and '0 dropped' in ended.message, ended.message
        counts = read_status_counts(robot)
    assert (
        begun.episode_name.endswith('wave_both_arms') and ended.episode_name == begun.episode_name
    )
    folder = tmp_path / begun.episode_name
    about = bag_folder.read_contents(bag_folder.find_mcap_file(folder)).metadata
    assert (about['instruction'], about['success'], about['note']) == (
        'Wave both arms',
        'yes',
        'well done',
    )
    assert about['label.operator'] == 'Ada' and about['robot'] == 'yam'
    assert about['contract'] == ROBOT.config_hash
    found, types = read_bag(folder)
    assert len(found['/joint_states']) >= after['joints'] - before['joints'] - 2
    for camera in ROBOT.cameras:
        pictures = found[f'{camera.topic}/compressed']
        assert len(pictures) >= after['camera'] - before['camera'] - 2
        assert types[f'{camera.topic}/compressed'] == 'sensor_msgs/msg/CompressedImage'
        seen = image_conversion.frame_from_compressed_msg(pictures[0][1], camera.key)
        assert abs(seen.rgb.astype(int) - TEST_IMAGE).max() < 30
        assert pictures[0][1].header.frame_id == camera.frame_id
        assert 0 <= pictures[0][0] - seen.stamp_ns < 1e9  # the camera's own stamp
        assert len(found[camera.info_topic]) > 1
    for controller in ROBOT.controllers:
        ((_, sent),) = found[controller.topic]
        assert list(sent.joint_names) == list(controller.joints)
    assert found['/wam/motion_status'][0][1].reason == 'said before'  # latched, kept
    assert counts['/joint_states'][0] == len(found['/joint_states'])
    assert all(dropped == 0 for _, dropped in counts.values())
    stamps = [stamp for stamp, _ in found['/joint_states']]
    assert stamps == sorted(stamps)


def test_raw_images_are_kept_as_they_came(tmp_path):
    with start_recorder(tmp_path, images='raw') as (robot, node):
        node.start_episode('', [])
        time.sleep(0.5)
        assert robot.call_service(StopEpisode, 'recorder/stop', keep=True).success
    (folder,) = tmp_path.iterdir()
    found, types = read_bag(folder)
    topic = ROBOT.cameras[0].topic
    assert types[topic] == 'sensor_msgs/msg/Image' and len(found[topic]) > 3
    assert (image_conversion.frame_from_msg(found[topic][0][1], 'x').rgb == TEST_IMAGE).all()


def test_a_discarded_episode_is_gone_and_others_stay(tmp_path):
    with start_recorder(tmp_path) as (robot, _):
        for keep in (True, False):
            assert robot.call_service(StartEpisode, 'recorder/start', instruction='wave').success
            assert not robot.call_service(StartEpisode, 'recorder/start').success  # one at a time
            time.sleep(0.2)
            ended = robot.call_service(StopEpisode, 'recorder/stop', keep=keep)
            assert ended.success, ended.message
        assert ended.message == 'discarded'
        assert not robot.call_service(StopEpisode, 'recorder/stop', keep=True).success
        wrong = robot.call_service(StartEpisode, 'recorder/start', labels=['no label'])
        assert not wrong.success and 'key=value' in wrong.message
    assert len(list(tmp_path.iterdir())) == 1


def test_each_instruction_is_an_episode(tmp_path):
    with start_recorder(tmp_path, auto_record=True) as (robot, node):
        for words in ('lift the red cube', 'lift the red cube', 'push the blue ball'):
            robot.instruction_publisher.publish(String(data=words))
            robot.wait(lambda w=words: robot.statuses[-1].instruction == w, words)
            time.sleep(0.3)
        robot.sim_status_publisher.publish(
            SimStatus(instruction='push the blue ball', success=True)
        )
        time.sleep(0.3)
        robot.instruction_publisher.publish(String(data=''))
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.IDLE, 'not idle')
    found = {}
    for folder in tmp_path.iterdir():
        about = bag_folder.read_contents(bag_folder.find_mcap_file(folder)).metadata
        found[about['instruction']] = about
        words = read_bag(folder)[0]['/wam/instruction']
        assert words[0][1].data == about['instruction']  # its own words are in the bag
    assert set(found) == {'lift the red cube', 'push the blue ball'}
    assert found['lift the red cube']['success'] == 'unknown'
    assert found['push the blue ball']['success'] == 'yes'


def test_a_stop_ends_the_episode_of_its_instruction_and_the_same_words_begin_another(tmp_path):
    stopped = MotionStatus(state=MotionStatus.ESTOPPED, state_name='ESTOPPED', reason='of a test')
    with start_recorder(tmp_path, auto_record=True) as (robot, node):
        robot.instruction_publisher.publish(String(data='lift the red cube'))
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.RECORDING, 'not recording')
        first = robot.statuses[-1].episode_name
        robot.motion_status_publisher.publish(stopped)
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.IDLE, 'not idle')
        robot.instruction_publisher.publish(String(data='lift the red cube'))  # still latched
        time.sleep(0.7)
        assert robot.statuses[-1].state == EpisodeStatus.IDLE
        robot.motion_status_publisher.publish(MotionStatus(state_name='DISABLED'))
        time.sleep(0.2)
        robot.instruction_publisher.publish(String(data='lift the red cube'))
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.RECORDING, 'not again')
        assert robot.statuses[-1].episode_name != first
    about = bag_folder.read_contents(bag_folder.find_mcap_file(tmp_path / first)).metadata
    assert about['success'] == 'no' and 'motion is ESTOPPED: of a test' in about.values()


def test_the_action_records_for_a_time(tmp_path):
    with start_recorder(tmp_path) as (robot, _):
        client = ActionClient(robot.node, RecordEpisode, 'record')
        assert client.wait_for_server(5.0)
        feedback = []
        goal = RecordEpisode.Goal(instruction='wave', time_limit=1.0)
        sent = client.send_goal_async(goal, feedback_callback=feedback.append)
        handle = robot.wait(sent.result, 'no answer')
        result = robot.wait(handle.get_result_async().result, 'no result').result
        assert result.outcome == RecordEpisode.Result.TIMED_OUT and result.message_count > 100
        assert feedback and feedback[0].feedback.status.state == EpisodeStatus.RECORDING
        sent = client.send_goal_async(RecordEpisode.Goal(instruction='wave', time_limit=60.0))
        handle = robot.wait(sent.result, 'no answer')
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.RECORDING, 'not recording')
        handle.cancel_goal_async()
        result = robot.wait(handle.get_result_async().result, 'no result').result
        assert result.outcome == RecordEpisode.Result.CANCELED
        refused = client.send_goal_async(RecordEpisode.Goal(time_limit=0.0))
        assert not robot.wait(refused.result, 'no answer').accepted
        client.destroy()
    assert len(list(tmp_path.iterdir())) == 2


def test_pictures_that_cannot_be_compressed_are_dropped_and_named(tmp_path):
    with start_recorder(tmp_path) as (robot, node):
        robot.encoding = '32FC1'
        time.sleep(0.2)
        node.start_episode('wave', [])
        robot.wait(lambda: '32FC1' in robot.statuses[-1].reason, 'no reason')
        topic = f'{ROBOT.cameras[0].topic}/compressed'
        robot.wait(lambda: read_status_counts(robot)[topic][1] > 3, 'not counted')
        assert read_status_counts(robot)['/joint_states'][1] == 0


def test_an_interrupted_episode_is_repaired_at_the_next_start(tmp_path):
    dead = BagWriter(tmp_path / 'dead', [], {'instruction': 'wave'})
    dead.abandon()
    kind = 'std_msgs/msg/String'
    left = BagWriter(
        tmp_path / 'left',
        [BagTopic('/words', kind, message_definitions.load_definition(kind))],
        {'instruction': 'wave'},
    )
    left.write(0, 5, serialize_message(String(data='hello')))
    left.sync()
    left.abandon()
    with start_recorder(tmp_path):
        assert bag_folder.find_interrupted(tmp_path) == [tmp_path / 'dead']  # holds nothing
    assert read_bag(tmp_path / 'left')[0]['/words'][0][1].data == 'hello'


def test_a_nearly_full_disk_ends_the_episode_in_order(tmp_path):
    with start_recorder(tmp_path) as (robot, node):
        node.start_episode('wave', [])
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.RECORDING, 'not recording')
        node._episode_recorder._writer._min_free_bytes = 10**18
        robot.wait(lambda: robot.statuses[-1].state == EpisodeStatus.ERROR, 'no error')
        assert 'min_free_mb' in robot.statuses[-1].reason
        answer = robot.call_service(StopEpisode, 'recorder/stop', keep=True)
        assert not answer.success and 'min_free_mb' in answer.message
    (folder,) = tmp_path.iterdir()
    assert (
        bag_folder.read_contents(bag_folder.find_mcap_file(folder)).metadata['ended']
        == 'the disk was nearly full'
    )


def test_a_killed_recorder_loses_less_than_a_second(tmp_path, started):
    process = started(
        'wam_policy.nodes.recorder.recorder_node',
        '-r',
        '__ns:=/wam',
        '-p',
        'embodiment:=yam',
        '-p',
        f'output_dir:={tmp_path}',
        '-p',
        'auto_record:=true',
        '-p',
        'min_free_mb:=0',
    )
    context = rclpy.Context()
    rclpy.init(context=context)
    robot = FakeRobot(context)
    spinning = ExecutorThread([robot.node])
    try:
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            # an answer may come before its way back is known: ask again
            robot.wait(
                lambda n=number: robot.call_service(
                    ChangeState, 'recorder/change_state', 3.0, transition=Transition(id=n)
                ),
                'no answer',
            )
        robot.wait(robot.instruction_publisher.get_subscription_count, 'nobody listens')
        robot.instruction_publisher.publish(String(data='wave'))
        robot.wait(lambda: robot.statuses and robot.statuses[-1].duration > 2.0, 'not recording')
        process.kill()
        killed_ns = robot.now_ns()
        process.wait()
    finally:
        spinning.stop()
        robot.node.destroy_node()
        rclpy.shutdown(context=context)
    (folder,) = bag_folder.find_interrupted(tmp_path)
    found = repair(folder).contents
    assert found.metadata['instruction'] == 'wave' and found.duration_s > 1.0
    assert killed_ns - found.end_ns < 1e9
    assert len(read_bag(folder)[0]['/joint_states']) > 100


def test_the_program_records_for_a_time(tmp_path):
    context = rclpy.Context()
    rclpy.init(context=context)
    robot = FakeRobot(context)
    spinning = ExecutorThread([robot.node])
    try:
        ended = subprocess.run(
            [
                sys.executable,
                '-m',
                'wam_policy.nodes.recorder.record_command',
                '--robot',
                'yam',
                '--folder',
                str(tmp_path),
                '--instruction',
                'wave',
                '--label',
                'operator=Ada',
                '--seconds',
                '2',
                '--success',
                'yes',
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        spinning.stop()
        robot.node.destroy_node()
        rclpy.shutdown(context=context)
    assert ended.returncode == 0, ended.stderr
    assert 'saved' in ended.stdout and '0 dropped' in ended.stdout
    (folder,) = tmp_path.iterdir()
    about = bag_folder.read_contents(bag_folder.find_mcap_file(folder)).metadata
    assert (about['success'], about['label.operator']) == ('yes', 'Ada')
    assert len(read_bag(folder)[0]['/joint_states']) > 150


def test_a_new_episode_needs_room(tmp_path):
    with (
        start_recorder(tmp_path, min_free_mb=10**9) as (_, node),
        pytest.raises(ValueError, match='free some space'),
    ):
        node.start_episode('wave', [])


@pytest.mark.parametrize('change', [{'images': 'png'}, {'jpeg_quality': 0}, {'output_dir': ''}])
def test_wrong_parameters_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        RecorderParams(**change)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8'])
@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'optical_frame'])
def test_images_are_read_where_they_lie(encoding, frame_id):
    channels = 4 if 'a8' in encoding else 3
    msg = Image(height=5, width=7, encoding=encoding, step=7 * channels + 2)
    msg.header.stamp.sec, msg.header.stamp.nanosec = 12, 34
    msg.header.frame_id = frame_id
    msg.data = list(np.random.default_rng(1).integers(0, 256, msg.step * 5, dtype=np.uint8))
    raw = serialize_message(msg)
    seen = cdr_image.read_image(raw)
    assert (seen.height, seen.width, seen.step, seen.encoding) == (5, 7, msg.step, encoding)
    assert (
        image_conversion.frame_from_msg(seen, 'x').rgb
        == image_conversion.frame_from_msg(msg, 'x').rgb
    ).all()
    small = deserialize_message(cdr_image.compress_image(raw, 100), CompressedImage)
    assert small.header == msg.header
    with pytest.raises(ValueError, match='ends within'):
        cdr_image.read_image(raw[:-1])


def test_definitions_stand_alone():
    text = message_definitions.load_definition('wam_msgs/msg/ActionChunk')
    assert 'MSG: std_msgs/Header' in text and 'MSG: builtin_interfaces/Time' in text
    assert message_definitions.load_type_hash('std_msgs/msg/String').startswith('RIHS01_')

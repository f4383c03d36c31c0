"""From a bag to a data set, and that both see what the live policy sees."""
# ruff: noqa: E402 - what follows needs the message types

import json

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
import pyarrow.parquet as pq
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from tests.learning import played
from wam_learning.data import bag_reader, export_dataset
from wam_learning.data.bag_replay import BagReplay
from wam_learning.data.time_sync import SynchronizedSample
from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.observation.frame_history import BlockTiming
from wam_policy.core.robot import embodiment, transforms
from wam_policy.core.session.policy_session import (
    CacheStatus,
    Commit,
    PolicySession,
    Query,
    QueryResult,
    Reset,
    SessionSettings,
)
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion
from wam_policy.nodes.images import cdr_image, image_conversion
from wam_policy.nodes.recorder import message_definitions
from wam_policy.recording.bag_writer import BagTopic, BagWriter
from wam_policy.recording.episode_info import EpisodeEnd, EpisodeMetadata, TaskSuccess

pytestmark = pytest.mark.ros
MS = 1_000_000
ROBOT = embodiment.load_embodiment('yam')
REST = ROBOT.home_positions(ROBOT.observed)
START_NS = 1_767_268_800_000_000_000
PERIOD_NS = 1_000_000_000 / 30
CAMERA_LATENCY_MS = {
    camera.key: late for camera, late in zip(ROBOT.cameras, (25, 31, 12), strict=True)
}
CAMERA_OFFSET_NS = {
    camera.key: early * MS for camera, early in zip(ROBOT.cameras, (0, 3, 7), strict=True)
}


def make_image(number, camera, size=(64, 48)):
    """Return an image that tells its number and camera."""
    rgb = np.zeros((*size[::-1], 3), np.uint8)
    rgb[:, :, camera] = 40 + number * 2 % 200
    return rgb


def make_messages(seconds, camera_gaps, size):
    """Return (log time, topic, message) of an episode: 30 Hz cameras, 100 Hz joints, commands.

    `dark` maps a camera's number to the span in s in which it shows nothing.
    """
    events = []
    for k in range(int(seconds * 30)):
        for number, camera in enumerate(ROBOT.cameras):
            low, high = camera_gaps.get(number, (0, 0))
            if low <= k / 30 < high:
                continue
            stamp_ns = START_NS + round(k * PERIOD_NS) - CAMERA_OFFSET_NS[camera.key]
            log_ns = stamp_ns + CAMERA_LATENCY_MS[camera.key] * MS + k * 7919 % 4 * MS
            events.append(
                (
                    log_ns,
                    camera.topic,
                    image_conversion.image_to_msg(make_image(k, number, size), stamp_ns, 'c'),
                )
            )
    for k in range(int(seconds * 100)):
        stamp_ns = START_NS + k * 10 * MS
        state = JointState(stamp_ns, ROBOT.observed, REST + 0.1 * np.sin(k / 50))
        events.append(
            (stamp_ns + 2 * MS, '/joint_states', message_conversion.joint_state_to_msg(state))
        )
    for k in range(2, int(seconds * 7)):
        at_ns = START_NS + round(k / 7 * 1e9)
        target = REST + 0.1 * np.sin(k / 3)
        plan = Trajectory(
            ROBOT.observed,
            at_ns,
            np.array([0, 200 * MS]),
            np.stack([REST, target]),
            *np.zeros((2, 2, len(REST))),
        )
        events += [
            (at_ns, c.topic, message_conversion.trajectory_to_msg(plan, c.joints))
            for c in ROBOT.controllers
        ]
    events.append((START_NS + 1500 * MS, '/wam/instruction', String(data='push the blue ball')))
    return sorted(events, key=lambda event: event[0])


def write_bag(
    folder,
    *,
    images='raw',
    seconds=4.0,
    camera_gaps=None,
    success=TaskSuccess.YES,
    size=(64, 48),
    damage=lambda topic, raw: raw,
):
    """Write an episode as the recorder does; `damage` may change serialized messages."""
    kinds = {
        '/joint_states': 'sensor_msgs/msg/JointState',
        '/wam/instruction': 'std_msgs/msg/String',
        **{c.topic: 'trajectory_msgs/msg/JointTrajectory' for c in ROBOT.controllers},
    }
    jpeg = images == 'jpeg'
    kinds |= {
        camera.topic: f'sensor_msgs/msg/{"CompressedImage" if jpeg else "Image"}'
        for camera in ROBOT.cameras
    }
    cameras = {camera.topic for camera in ROBOT.cameras}
    topics = [
        BagTopic(
            f'{name}/compressed' if jpeg and name in cameras else name,
            kind,
            message_definitions.load_definition(kind),
            message_definitions.load_type_hash(kind),
        )
        for name, kind in kinds.items()
    ]
    lane = {name: i for i, name in enumerate(kinds)}
    begun = EpisodeMetadata(folder.name, 'yam', ROBOT.config_hash, 'lift the red cube', START_NS)
    out = BagWriter(folder, topics, begun.to_dict())
    for log_ns, topic, msg in make_messages(seconds, camera_gaps or {}, size):
        raw = serialize_message(msg)
        if jpeg and isinstance(msg, Image):
            raw = cdr_image.compress_image(raw, 95)
        out.write(lane[topic], log_ns, damage(topic, raw))
    out.close(EpisodeEnd('stopped', success).to_dict())
    return folder


class LiveSession:
    """Be policy_node without its threads: the same door, the same policy, workers at once."""

    def __init__(self):
        self.policy = PolicySession(ROBOT, SessionSettings(query_period_ns=0), session_prefix='t')
        self.policy.on_instruction('lift the red cube')
        self.policy.on_workers_ready(
            BlockTiming(frames_per_block=8, frame_period_ns=100 * MS, window_blocks=99)
        )
        self.blocks, self.queries = [], []

    def run(self, folder, read_image):
        cameras = {camera.topic: camera.key for camera in ROBOT.cameras}
        for message in bag_reader.read_messages(folder, set(bag_reader.read_topics(folder))):
            topic = message.topic.removesuffix('/compressed')
            if topic in cameras:
                self.policy.on_frame(read_image(message.content, cameras[topic]), message.log_ns)
            elif topic == '/joint_states':
                self.policy.on_joints(
                    message_conversion.joint_state_from_msg(message.content, ROBOT.observed),
                    message.log_ns,
                )
            while request := self.policy.next_request(message.log_ns):
                self.answer_request(request, message.log_ns)

    def answer_request(self, request, now_ns):
        if isinstance(request, Reset):
            self.policy.on_reset_done(request)
        elif isinstance(request, Commit):
            self.blocks.append(request.block)
            self.policy.on_commit_done(request, CacheStatus(blocks=request.number + 1))
        elif isinstance(request, Query):
            self.queries.append(request.observation)
            self.policy.on_query_result(
                request, QueryResult(1 / 30, np.zeros((24, 14)), np.zeros(14), {}), now_ns
            )


@pytest.mark.parametrize(
    ('images', 'read'),
    [
        ('raw', image_conversion.frame_from_msg),
        ('jpeg', image_conversion.frame_from_compressed_msg),
    ],
)
def test_live_and_export_see_the_same(tmp_path, images, read):
    folder = write_bag(tmp_path / 'one', images=images)
    live = LiveSession()
    live.run(folder, read)
    rows = {
        row.observation.stamp_ns: row
        for row in BagReplay(folder, ROBOT).read_samples()
        if isinstance(row, SynchronizedSample)
    }
    remembered = compared = 0
    for block in live.blocks:
        for i, stamp_ns in enumerate(block.stamps_ns):
            if stamp_ns not in rows:  # before the first command
                continue
            for frame in rows[stamp_ns].observation.frames:
                seen = block.views[frame.camera][i]
                assert seen.stamp_ns == frame.stamp_ns
                assert np.array_equal(seen.rgb, frame.rgb)
                remembered += 1
    for observation in live.queries:
        row = rows.get(observation.stamp_ns)
        if row is None:
            continue
        compared += 1
        for seen, frame in zip(observation.frames, row.observation.frames, strict=True):
            assert (seen.camera, seen.stamp_ns) == (frame.camera, frame.stamp_ns)
            assert np.array_equal(seen.rgb, frame.rgb)
        assert observation.joints.stamp_ns == row.observation.joints.stamp_ns
        assert np.array_equal(observation.joints.position, row.observation.joints.position)
    assert remembered > 60 and compared > 60  # of some 100 rows


def run_export(tmp_path, *arguments):
    return export_dataset.main([*map(str, arguments), str(tmp_path / 'out')])


def test_a_data_set_holds_what_the_bag_held(tmp_path, capsys):
    folder = write_bag(tmp_path / 'bags' / 'one')
    assert run_export(tmp_path, folder) == 0
    said = capsys.readouterr().out
    assert 'nothing was commanded yet' in said and 'error' not in said
    rows = [
        row
        for row in BagReplay(folder, ROBOT).read_samples()
        if isinstance(row, SynchronizedSample)
    ]
    table = pq.read_table(tmp_path / 'out/data/chunk-000/episode_000000.parquet')
    assert len(table) == len(rows) > 90
    state = np.stack(table['observation.state'].to_numpy())
    action = np.stack(table['action'].to_numpy())
    for i, row in enumerate(rows):
        wanted = transforms.to_model_state(ROBOT, row.observation.joints.position)
        assert np.array_equal(state[i], np.concatenate(list(wanted.values())).astype(np.float32))
        wanted = transforms.to_model_actions(ROBOT, row.targets)
        assert np.array_equal(action[i], np.concatenate(list(wanted.values())).astype(np.float32))
    tasks = [
        json.loads(line)['task']
        for line in (tmp_path / 'out/meta/tasks.jsonl').read_text().splitlines()
    ]
    assert tasks == ['lift the red cube', 'push the blue ball']
    asked = table['annotation.task'].to_pylist()
    assert asked == sorted(asked) and set(asked) == {0, 1}
    for number, camera in enumerate(ROBOT.cameras):
        seen = played.read_frames(
            tmp_path
            / 'out/videos/chunk-000'
            / f'observation.images.{camera.key}'
            / 'episode_000000.mp4',
        )
        shown = np.stack([row.observation.frames[number].rgb for row in rows])
        assert seen.shape == shown.shape
        assert abs(seen[:, 24, 32].astype(int) - shown[:, 24, 32]).max() <= 6
    made_from = json.loads((tmp_path / 'out/meta/provenance.json').read_text())
    assert made_from['bags'][0]['rows'] == len(rows) and made_from['contract'] == ROBOT.config_hash


def test_a_blind_camera_cuts_the_episode_in_two(tmp_path, capsys):
    folder = write_bag(tmp_path / 'bags' / 'one', seconds=5.0, camera_gaps={1: (2.2, 3.2)})
    assert run_export(tmp_path, tmp_path / 'bags') == 0
    said = capsys.readouterr().out
    assert f'(camera {ROBOT.cameras[1].key})' in said and '2 episodes' in said
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert info['total_episodes'] == 2
    rows = [
        row.observation.stamp_ns
        for row in BagReplay(folder, ROBOT).read_samples()
        if isinstance(row, SynchronizedSample)
    ]
    assert info['total_frames'] == len(rows)
    gaps = np.diff(rows)
    assert (gaps > 0.5e9).sum() == 1 and gaps.max() < 0.7e9  # 1 s, bridged 0.2 s on each side


def test_only_what_is_long_enough_and_wanted(tmp_path, capsys):
    write_bag(tmp_path / 'bags' / 'bad', success=TaskSuccess.NO, seconds=2.0)
    write_bag(tmp_path / 'bags' / 'good', seconds=2.0)
    assert run_export(tmp_path, tmp_path / 'bags', '--success-only') == 0
    assert 'bad: skipped: success is no' in capsys.readouterr().out
    assert (
        export_dataset.main(
            [str(tmp_path / 'bags'), str(tmp_path / 'long'), '--min-samples', '999']
        )
        == 1
    )
    assert 'no episode to write' in capsys.readouterr().err
    assert not (tmp_path / 'long').exists() and not (tmp_path / 'long.part').exists()


def test_wrong_arguments_are_explained(tmp_path, capsys):
    folder = write_bag(tmp_path / 'bags' / 'one', seconds=1.0)
    assert run_export(tmp_path, folder, '--robot', 'agibot_g1') == 1
    assert 'recorded from yam' in capsys.readouterr().err
    (folder / 'metadata.yaml').unlink()
    assert run_export(tmp_path, tmp_path / 'bags') == 1
    assert './wam bag repair' in capsys.readouterr().err
    assert run_export(tmp_path, tmp_path / 'nowhere') == 2
    assert 'no bag' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_bag_of_another_robot_is_refused_by_its_topics(tmp_path):
    folder = write_bag(tmp_path / 'one', seconds=1.0)
    with pytest.raises(ValueError, match=r'no /camera/head_color\[/compressed\].*agibot_g1'):
        BagReplay(folder, embodiment.load_embodiment('agibot_g1'))

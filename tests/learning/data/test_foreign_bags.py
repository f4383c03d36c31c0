"""Bags of others, and bags that are damaged or do not fit: used, or left out by name."""
# ruff: noqa: E402 - what follows needs the message types

import json

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from std_msgs.msg import String

from tests.learning.data.test_export_dataset import ROBOT, START_NS, run_export, write_bag
from wam_learning.data import export_dataset
from wam_policy.recording import bag_command
from wam_policy.recording.bag_writer import BagTopic, BagWriter
from wam_policy.recording.episode_info import EpisodeEnd, EpisodeMetadata, TaskSuccess


def write_other_robot(folder):
    """Write a bag that says that an AgiBot G1 was recorded."""
    topics = [BagTopic('/x', 'std_msgs/msg/String', 'string data\n', '')]
    about = EpisodeMetadata(folder.name, 'agibot_g1', '', 'lift', START_NS)
    out = BagWriter(folder, topics, about.to_dict())
    out.write(0, START_NS, serialize_message(String(data='x')))
    out.close(EpisodeEnd('stopped', TaskSuccess.YES).to_dict())


def write_truncated_bag(folder):
    """Write a bag whose file ends in the middle, as a full disk leaves it."""
    file = next(write_bag(folder).glob('*.mcap'))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


UNFIT_BAGS = {
    'another size': (
        lambda folder: write_bag(folder, size=(32, 32)),
        'all images of a camera must have one size',
    ),
    'truncated': (write_truncated_bag, 'bag repair'),
    'another robot': (write_other_robot, 'recorded from agibot_g1'),
    'interrupted': (lambda folder: (write_bag(folder) / 'metadata.yaml').unlink(), 'bag repair'),
}


@pytest.mark.parametrize(('write_unfit', 'words'), UNFIT_BAGS.values(), ids=UNFIT_BAGS)
def test_a_bag_that_does_not_fit_is_left_out_and_named(tmp_path, capsys, write_unfit, words):
    write_bag(tmp_path / 'bags' / 'one', seconds=4.0)
    write_unfit(tmp_path / 'bags' / 'two')
    write_bag(tmp_path / 'bags' / 'zero', seconds=4.0)
    assert run_export(tmp_path, tmp_path / 'bags', '--robot', 'yam') == 1
    said = capsys.readouterr().err
    assert 'two: left out' in said and words in said and 'Traceback' not in said
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert info['total_episodes'] == 2
    bags = json.loads((tmp_path / 'out/meta/provenance.json').read_text())['bags']
    assert {bag['bag']: bool(bag['error']) for bag in bags} == {
        'one': False,
        'two': True,
        'zero': False,
    }


def test_a_damaged_message_is_counted_and_the_rest_is_used(tmp_path, capsys):
    camera, count = ROBOT.cameras[1].topic, iter(range(1000))

    def damage(topic, raw):
        return raw[: len(raw) // 2] if topic == camera and next(count) == 40 else raw

    write_bag(tmp_path / 'bags' / 'one', damage=damage)
    assert run_export(tmp_path, tmp_path / 'bags') == 0
    assert f'invalid messages: 1 ({camera}: cannot be decoded' in capsys.readouterr().out
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert info['total_episodes'] == 1


def test_an_export_in_the_v30_layout_is_in_order(tmp_path):
    write_bag(tmp_path / 'bags' / 'one', seconds=4.0)
    assert run_export(tmp_path, tmp_path / 'bags', '--format', 'v3.0') == 0
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert info['codebase_version'] == 'v3.0'


def rewrite_as_sqlite(folder, target, prefix=''):
    """Write the messages of a bag as rosbag2's sqlite3 storage."""
    with (
        AnyReader([folder]) as reader,
        Writer(target, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        made = {
            c.id: writer.add_connection(prefix + c.topic, c.msgtype, typestore=reader.typestore)
            for c in reader.connections
        }
        for connection, log_ns, raw in reader.messages():
            writer.write(made[connection.id], log_ns, raw)


@pytest.mark.parametrize('kind', ['sqlite3', 'one file', 'sqlite3 file'])
def test_bags_of_others_are_read(tmp_path, kind):
    folder = write_bag(tmp_path / 'bags' / 'one')
    given = folder
    if kind.startswith('sqlite3'):
        given = tmp_path / 'theirs'
        rewrite_as_sqlite(folder, given)
    if kind.endswith('file'):
        given = next(path for path in given.iterdir() if path.suffix in ('.mcap', '.db3'))
    assert run_export(tmp_path, given, '--robot', 'yam', '--instruction', 'lift') == 0
    ours = [str(folder), str(tmp_path / 'ours'), '--instruction', 'lift']
    assert export_dataset.main(ours) == 0
    for name in ('total_episodes', 'total_frames'):
        infos = [
            json.loads((tmp_path / n / 'meta/info.json').read_text()) for n in ('out', 'ours')
        ]
        assert infos[0][name] == infos[1][name] > 0


def test_a_named_path_that_is_no_bag_is_refused_by_name(tmp_path, capsys):
    (tmp_path / 'notes.txt').write_text('x')
    (tmp_path / 'empty').mkdir()
    for path in (tmp_path / 'notes.txt', tmp_path / 'empty', tmp_path / 'nowhere'):
        assert run_export(tmp_path, path) == 2
        assert f'{path}: no bag' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['ours', 'sqlite3'])
def test_info_shows_rates_gaps_delays_and_skew(tmp_path, capsys, kind):
    folder = write_bag(tmp_path / 'one', camera_gaps={1: (2.0, 2.5)})
    if kind == 'sqlite3':
        rewrite_as_sqlite(folder, tmp_path / 'theirs')
        folder = tmp_path / 'theirs'
    assert bag_command.main(['info', str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    by_topic = {line.split()[1]: line for line in lines if '_msgs/' in line}
    assert '400  /joint_states' in by_topic['/joint_states']
    assert '100.0 Hz, longest gap 0.010 s' in by_topic['/joint_states']
    assert 'received 2 ms after the stamp (2 to 2)' in by_topic['/joint_states']
    dark = by_topic[ROBOT.cameras[1].topic]
    assert '30.0 Hz, longest gap 0.533 s' in dark
    assert 'ms apart (largest 7 ms)' in lines[-1]  # they are stamped 0, 3 and 7 ms early
    assert '1  /wam/instruction  std_msgs/msg/String' in by_topic['/wam/instruction']


def test_what_cannot_be_described_or_repaired_is_refused_by_name(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    for command in ('info', 'repair'):
        assert bag_command.main([command, str(tmp_path / 'empty')]) == 1
        assert 'empty: no bag' in capsys.readouterr().err
    rewrite_as_sqlite(write_bag(tmp_path / 'one'), tmp_path / 'theirs')
    assert bag_command.main(['repair', str(tmp_path / 'theirs')]) == 1
    assert 'theirs: only MCAP can be repaired, theirs.db3 is sqlite3' in capsys.readouterr().err


def test_a_bag_of_a_robot_in_a_namespace_is_read_as_one_without(tmp_path, capsys):
    rewrite_as_sqlite(write_bag(tmp_path / 'bags' / 'one'), tmp_path / 'theirs', '/robot_1')
    given = tmp_path / 'theirs', '--robot', 'yam', '--instruction', 'lift'
    assert run_export(tmp_path, *given) == 1
    assert 'has no' in capsys.readouterr().err
    assert run_export(tmp_path, *given, '--robot-namespace', 'robot_1') == 0
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert info['total_episodes'] == 1

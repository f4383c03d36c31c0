"""Bags as people have them: `bag info`, `bag repair` and `export` work, or refuse in one sentence.

Nothing that existed is changed, except by a repair that succeeds.
"""
# ruff: noqa: E402 - what follows needs the message types

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from tests.field import bag_kinds
from tests.learning.data.test_export_dataset import ROBOT, write_bag
from wam_learning.data import export_dataset
from wam_policy.recording import bag_command

pytestmark = pytest.mark.ros
SECONDS = 2.0
# each file is finished and as it was written: nothing to repair
SOUND_FILES = ('a file of a split is missing', 'MCAP of another system')
COMMANDS = [controller.topic for controller in ROBOT.controllers]


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    """Give the MCAP file of a bag of two seconds, and the number of rows it makes."""
    root = tmp_path_factory.mktemp('recorded')
    folder = write_bag(root / 'one', seconds=SECONDS)
    assert export(folder, root / 'set') == 0
    return next(folder.glob('*.mcap')), read_info(root / 'set')['total_frames']


def export(bag, out, *options):
    return export_dataset.main(
        [str(bag), str(out), '--robot', 'yam', '--instruction', 'lift', *options]
    )


def read_info(folder):
    return json.loads((folder / 'meta/info.json').read_text())


def read_table(folder):
    table = pq.read_table(next(folder.glob('data/*/*.parquet')))
    return {name: np.stack(table[name].to_numpy()) for name in ('observation.state', 'action')}


def list_content(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def require_one_sentence(capsys, word):
    said = capsys.readouterr()
    assert word in said.err and 'Traceback' not in said.err
    assert len(said.err.strip().splitlines()) == 1, said.err


@pytest.mark.parametrize('kind', bag_kinds.KINDS)
def test_a_bag_of_any_storage_is_described_and_exported(recorded, tmp_path, capsys, kind):
    source, rows = recorded
    bag = bag_kinds.KINDS[kind](source, tmp_path / 'theirs')
    before = list_content(tmp_path)
    assert bag_command.main(['info', str(bag)]) == 0
    said = capsys.readouterr().out
    assert f'{int(SECONDS * 100)}  /joint_states' in said and '100.0 Hz' in said
    assert export(bag, tmp_path / 'set') == 0, capsys.readouterr().err
    assert read_info(tmp_path / 'set')['total_frames'] == rows
    shutil.rmtree(tmp_path / 'set')
    assert list_content(tmp_path) == before


@pytest.mark.parametrize('kind', bag_kinds.KINDS)
def test_repair_says_finished_or_refuses_by_name(recorded, tmp_path, capsys, kind):
    bag = bag_kinds.KINDS[kind](recorded[0], tmp_path / 'theirs')
    before = list_content(tmp_path)
    status = bag_command.main(['repair', str(bag)])
    said = capsys.readouterr()
    assert list_content(tmp_path) == before
    if status:
        assert 'only MCAP can be repaired' in said.err
        assert '.db3' in said.err or '.zst' in said.err
    else:
        assert 'finished' in said.out


@pytest.mark.parametrize('kind', bag_kinds.UNREADABLE)
def test_what_cannot_be_read_is_refused_in_one_sentence(recorded, tmp_path, capsys, kind):
    make, word = bag_kinds.UNREADABLE[kind]
    bag = make(recorded[0], tmp_path / 'theirs')
    before = list_content(tmp_path)
    assert bag_command.main(['info', str(bag)]) == 1
    require_one_sentence(capsys, word)
    assert export(bag, tmp_path / 'set') in (1, 2)
    said = capsys.readouterr().err
    assert word in said and str(bag.name) in said
    assert list_content(tmp_path) == before


@pytest.mark.parametrize('kind', bag_kinds.UNREADABLE)
def test_repair_mends_what_it_can_and_refuses_the_rest(recorded, tmp_path, capsys, kind):
    source, rows = recorded
    bag = bag_kinds.UNREADABLE[kind][0](source, tmp_path / 'theirs')
    before = list_content(tmp_path)
    status = bag_command.main(['repair', str(bag)])
    said = capsys.readouterr()
    assert 'Traceback' not in said.err
    if kind not in bag_kinds.REPAIRABLE:
        assert status == (kind not in SOUND_FILES)
        assert list_content(tmp_path) == before
        return
    assert status == 0, said.err
    if kind.startswith('damaged'):
        assert [path for path in tmp_path.rglob('*.damaged') if path.read_bytes()]
    assert bag_command.main(['info', str(bag)]) == 0
    assert export(bag, tmp_path / 'set', '--min-samples', '2') == 0
    frames = read_info(tmp_path / 'set')['total_frames']
    assert frames == rows if 'metadata' in kind else 0.2 * rows < frames <= rows


def test_the_bags_of_a_folder_are_found_whatever_their_form(recorded, tmp_path):
    source, rows = recorded
    day = tmp_path / 'bags' / 'monday'
    day.mkdir(parents=True)
    bag_kinds.make_split(source, day / 'split')
    bag_kinds.make_humble(source, tmp_path / 'bags' / 'humble')
    (tmp_path / 'bags' / 'loose').mkdir()
    for name in ('morning', 'evening'):
        bag_kinds.write_mcap(source, tmp_path / 'bags' / 'loose' / f'{name}.mcap')
    assert export(tmp_path / 'bags', tmp_path / 'set') == 0
    assert read_info(tmp_path / 'set')['total_frames'] == 4 * rows


# ---- teleoperation


def add_commanded_states(name, raw):
    """Turn the measured joint states into what a leader arm would have commanded."""
    msg = deserialize_message(raw, JointState)
    msg.position = [value + 0.01 for value in msg.position]
    return serialize_message(msg)


@pytest.fixture(scope='module')
def teleoperated(recorded, tmp_path_factory):
    """Give a bag without trajectories, with the states of a leader arm."""
    folder = tmp_path_factory.mktemp('teleoperated') / 'leader'
    source = bag_kinds.make_folder(
        recorded[0], folder.with_name('plain'), rename=dict.fromkeys(COMMANDS)
    )
    channels, messages, typestore = bag_kinds.read_raw(source)
    with bag_kinds.Writer(
        folder, version=9, storage_plugin=bag_kinds.StoragePlugin.MCAP
    ) as writer:
        made = {
            key: writer.add_connection(c.topic, c.msgtype, typestore=typestore)
            for key, c in channels.items()
        }
        leader = writer.add_connection(
            '/leader/joint_states', 'sensor_msgs/msg/JointState', typestore=typestore
        )
        for key, time_ns, raw in messages:
            writer.write(made[key], time_ns, raw)
            if channels[key].topic == '/joint_states':
                writer.write(leader, time_ns, add_commanded_states('', raw))
    return folder


def test_teleoperation_without_trajectories_is_refused_with_the_choices(
    teleoperated, tmp_path, capsys
):
    assert export(teleoperated, tmp_path / 'set') == 1
    said = capsys.readouterr().err
    assert f'has no {COMMANDS[0]}' in said
    assert '--actions /leader/joint_states or --actions next-state' in said
    assert not (tmp_path / 'set').exists()


@pytest.mark.parametrize(
    ('source', 'label'),
    [
        ('/leader/joint_states', 'commanded joint states of /leader/joint_states'),
        ('next-state', 'joint positions measured one row later'),
    ],
)
def test_actions_come_from_what_teleoperation_recorded_and_say_so(
    teleoperated, tmp_path, source, label
):
    assert export(teleoperated, tmp_path / 'set', '--actions', source) == 0
    provenance = json.loads((tmp_path / 'set/meta/provenance.json').read_text())
    assert provenance['actions'] == label
    found = read_table(tmp_path / 'set')
    state, action = found['observation.state'], found['action']
    joints = [i for i, n in enumerate(ROBOT.commanded) if 'gripper' not in n]
    if source == 'next-state':
        assert np.allclose(action[:-1, joints], state[1:, joints], atol=1e-6)
        assert not np.allclose(action[:, joints], state[:, joints], atol=1e-4)
    else:
        assert np.allclose((action - state)[:, joints], 0.01, atol=0.005)


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (('--actions', 'leader'), 'want trajectories, next-state or a /topic'),
        (('--actions', '/nowhere'), 'has no /nowhere'),
        (('--actions', ROBOT.cameras[0].topic), 'is sensor_msgs/msg/Image'),
        (('--actions', '/leader/joint_states', '--actions', 'next-state'), 'go with nothing'),
        (('--remap', '/a=/b'), 'want /TOPIC/IN/BAG:=/TOPIC/OF/ROBOT'),
    ],
)
def test_sources_of_actions_that_do_not_fit_are_refused(
    teleoperated, tmp_path, capsys, options, word
):
    assert export(teleoperated, tmp_path / 'set', *options) in (1, 2)
    assert word in capsys.readouterr().err


# ---- topics and stamps


def test_topics_under_other_names_are_remapped(recorded, tmp_path, capsys):
    source, rows = recorded
    camera, theirs = ROBOT.cameras[0].topic, '/cam_high/color/image_raw'
    bag = bag_kinds.make_folder(source, tmp_path / 'theirs', rename={camera: theirs})
    assert export(bag, tmp_path / 'set') == 1
    said = capsys.readouterr().err
    assert f'has no {camera}[/compressed]' in said and '--remap' in said
    assert export(bag, tmp_path / 'set', '--remap', f'{theirs}:={camera}') == 0
    assert read_info(tmp_path / 'set')['total_frames'] == rows


def restamp(change):
    """Return a change of serialized messages: another stamp for images and joint states."""

    def damage(topic, raw):
        for kind in (Image, JointState):
            if topic == '/joint_states' or topic in {c.topic for c in ROBOT.cameras}:
                is_image = topic != '/joint_states'
                if is_image == (kind is Image):
                    msg = deserialize_message(raw, kind)
                    change(msg.header.stamp)
                    return serialize_message(msg)
        return raw

    return damage


def set_zero(stamp):
    stamp.sec = stamp.nanosec = 0


def set_simulated(stamp):
    stamp.sec -= 1_767_000_000


@pytest.mark.parametrize(
    ('change', 'words'),
    [(set_zero, 'have stamp 0'), (set_simulated, 'after the stamp')],
    ids=['stamp 0', 'another clock'],
)
def test_stamps_that_cannot_be_used_are_named_and_replaced_on_request(
    tmp_path, capsys, change, words
):
    bag = write_bag(tmp_path / 'theirs', seconds=SECONDS, damage=restamp(change))
    assert bag_command.main(['info', str(bag)]) == 0
    assert words in capsys.readouterr().out
    assert export(bag, tmp_path / 'set') == 1
    assert '--use-reception-time' in capsys.readouterr().err
    assert export(bag, tmp_path / 'set', '--use-reception-time') == 0
    provenance = json.loads((tmp_path / 'set/meta/provenance.json').read_text())
    assert provenance['stamps'] == 'time of reception'


def test_info_names_a_camera_without_an_image(tmp_path, capsys):
    bag = write_bag(tmp_path / 'theirs', seconds=SECONDS, camera_gaps={1: (0, 99)})
    assert bag_command.main(['info', str(bag)]) == 0
    said = capsys.readouterr().out
    assert f'cameras without an image: {ROBOT.cameras[1].topic}' in said
    assert 'the nearest images are' in said  # of the other two
    assert export(bag, tmp_path / 'set') == 1
    assert 'no usable row' in capsys.readouterr().err


def test_info_measures_compressed_images(tmp_path, capsys):
    bag = write_bag(tmp_path / 'theirs', seconds=SECONDS, images='jpeg')
    assert bag_command.main(['info', str(bag)]) == 0
    said = capsys.readouterr().out
    assert '/compressed  sensor_msgs/msg/CompressedImage  30.0 Hz' in said
    assert 'the nearest images are' in said

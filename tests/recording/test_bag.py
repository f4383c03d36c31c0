"""Bags that are written, killed, repaired and read back by somebody else's reader."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import yaml
from rosbags.rosbag2 import Reader

from wam_policy.recording import bag_command as program
from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import BagInUse, repair
from wam_policy.recording.bag_writer import BagTopic, BagWriter

TEXT_TOPIC = BagTopic(
    '/words',
    'std_msgs/msg/String',
    'string data\n',
    'RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18',
    yaml.safe_dump(
        [
            {
                'history': 'keep_last',
                'depth': 5,
                'reliability': 'reliable',
                'durability': 'transient_local',
                'deadline': {'sec': 1, 'nsec': 0},
                'lifespan': {'sec': 1, 'nsec': 0},
                'liveliness': 'automatic',
                'liveliness_lease_duration': {'sec': 1, 'nsec': 0},
                'avoid_ros_namespace_conventions': False,
            }
        ]
    ),
)
OTHER_TOPIC = BagTopic('/more', 'std_msgs/msg/String', 'string data\n')


def make_message(number):
    text = f'{number:06d}'.encode() + b'\0'
    return b'\0\1\0\0' + len(text).to_bytes(4, 'little') + text


def write_bag(folder, count=100):
    bag = BagWriter(
        folder, [TEXT_TOPIC, OTHER_TOPIC], {'episode': folder.name, 'instruction': 'wave'}
    )
    for number in range(count):
        bag.write(number % 2, number * 1000, make_message(number))
    return bag


def read_bag(folder):
    """Return (topic, time, data) of every message, by the rosbags package."""
    with Reader(folder) as reader:
        return [
            (connection.topic, stamp, bytes(data)) for connection, stamp, data in reader.messages()
        ]


def make_expected(numbers):
    return [(('/words', '/more')[n % 2], n * 1000, make_message(n)) for n in numbers]


def test_a_bag_is_a_rosbag2_folder_with_definitions_inside(tmp_path):
    saved = write_bag(tmp_path / 'one').close(
        {'ended': 'stopped', 'success': 'yes', 'ros_distro': 'jazzy'}
    )
    assert read_bag(tmp_path / 'one') == make_expected(range(100))
    with Reader(tmp_path / 'one') as reader:
        assert reader.message_count == 100
        first = reader.connections[0]
        assert first.digest == TEXT_TOPIC.type_hash and first.msgdef.data == 'string data\n'
        assert first.ext.offered_qos_profiles[0].durability.name == 'TRANSIENT_LOCAL'
    assert saved.message_count == 100 and saved.duration_s == pytest.approx(99e-6)
    text = (tmp_path / 'one' / 'metadata.yaml').read_text()
    known = yaml.safe_load(text)['rosbag2_bagfile_information']
    assert known['ros_distro'] == 'jazzy' and known['version'] == 9
    assert known['custom_data'] == {
        'episode': 'one',
        'instruction': 'wave',
        'ended': 'stopped',
        'success': 'yes',
    }
    assert set(known) == {
        'version',
        'storage_identifier',
        'duration',
        'starting_time',
        'message_count',
        'topics_with_message_count',
        'compression_format',
        'compression_mode',
        'relative_file_paths',
        'files',
        'custom_data',
        'ros_distro',
    }


def test_an_existing_episode_is_never_overwritten(tmp_path):
    write_bag(tmp_path / 'one').close({})
    before = read_bag(tmp_path / 'one')
    with pytest.raises(FileExistsError):
        BagWriter(tmp_path / 'one', [TEXT_TOPIC], {})
    assert read_bag(tmp_path / 'one') == before


def test_repair_does_not_change_a_finished_episode(tmp_path):
    write_bag(tmp_path / 'one').close({'success': 'yes'})
    stamp = (tmp_path / 'one' / 'one_0.mcap').stat()
    found = repair(tmp_path / 'one')
    assert not found.rebuilt and found.contents.message_count == 100
    assert (tmp_path / 'one' / 'one_0.mcap').stat().st_ino == stamp.st_ino
    assert bag_folder.find_interrupted(tmp_path) == []


def test_repair_writes_missing_metadata(tmp_path):
    write_bag(tmp_path / 'one').close({'success': 'yes'})
    (tmp_path / 'one' / 'metadata.yaml').unlink()
    assert bag_folder.find_interrupted(tmp_path) == [tmp_path / 'one']
    assert not repair(tmp_path / 'one').rebuilt
    assert read_bag(tmp_path / 'one') == make_expected(range(100))


def test_a_bag_being_recorded_is_not_repaired(tmp_path):
    bag = write_bag(tmp_path / 'one')
    with pytest.raises(BagInUse, match='being recorded'):
        repair(tmp_path / 'one')
    bag.sync()
    bag.abandon()
    assert repair(tmp_path / 'one').rebuilt


RECORDER_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from test_bag import OTHER_TOPIC, TEXT_TOPIC, make_message
from wam_policy.recording.bag_writer import BagWriter
bag = BagWriter(Path(sys.argv[1]), [TEXT_TOPIC, OTHER_TOPIC], {{'instruction': 'wave'}})
for number in range(10**9):
    bag.write(number % 2, number * 1000, make_message(number))
    if number % 100 == 99:
        bag.sync()
        print(number, flush=True)
    if number == 999:
        time.sleep(60)
"""


def test_a_killed_recorder_loses_nothing_that_was_synced(tmp_path):
    here = os.path.dirname(__file__)
    code = textwrap.dedent(RECORDER_SCRIPT.format(paths=[here, *sys.path]))
    process = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path / 'one')], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.strip() == '999':
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert bag_folder.find_interrupted(tmp_path) == [tmp_path / 'one']
    found = repair(tmp_path / 'one')
    assert found.rebuilt and found.contents.metadata['ended'] == 'interrupted'
    assert found.contents.metadata['instruction'] == 'wave'
    assert read_bag(tmp_path / 'one') == make_expected(range(1000))
    assert not list((tmp_path / 'one').glob('*.part'))


def test_every_cut_of_a_file_gives_a_readable_prefix(tmp_path):
    bag = write_bag(tmp_path / 'whole', 0)
    ends = []
    for number in range(60):
        bag.write(number % 2, number * 1000, make_message(number))
        if number % 20 == 19:
            bag.sync()
            ends.append(bag.size_bytes)
    bag.close({})
    file = tmp_path / 'whole' / 'whole_0.mcap'
    whole = file.read_bytes()
    for cut in [*range(ends[0], len(whole), 97), ends[0], ends[1], len(whole) - 1]:
        torn = tmp_path / f'cut{cut}'
        torn.mkdir()
        (torn / 'whole_0.mcap').write_bytes(whole[:cut])
        repair(torn)
        got = read_bag(torn)
        synced = 20 * sum(end <= cut for end in ends)
        assert got == make_expected(range(len(got))) and len(got) >= synced, cut
        shutil.rmtree(torn)


def test_a_damaged_tail_is_cut_off(tmp_path):
    bag = write_bag(tmp_path / 'one', 50)
    bag.sync()
    good = bag.size_bytes
    bag.write(0, 50_000, make_message(50))
    bag.sync()
    bag.abandon()
    file = tmp_path / 'one' / 'one_0.mcap'
    content = bytearray(file.read_bytes())
    content[good + 80] ^= 0xFF
    file.write_bytes(content)
    assert repair(tmp_path / 'one').lost_bytes > 0
    assert read_bag(tmp_path / 'one') == make_expected(range(50))


def test_a_file_without_a_complete_message_is_not_changed(tmp_path):
    folder = tmp_path / 'one'
    folder.mkdir()
    (folder / 'one_0.mcap').write_bytes(b'\x89MCAP0\r\n\x01\x05')
    with pytest.raises(ValueError, match='no complete message'):
        repair(folder)
    assert [path.name for path in folder.iterdir()] == ['one_0.mcap']


def test_a_repair_on_a_full_disk_keeps_the_original(tmp_path, monkeypatch):
    bag = write_bag(tmp_path / 'one')
    bag.sync()
    bag.abandon()
    before = (tmp_path / 'one' / 'one_0.mcap').read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        repair(tmp_path / 'one')
    monkeypatch.undo()
    assert (tmp_path / 'one' / 'one_0.mcap').read_bytes() == before
    assert len(list((tmp_path / 'one').iterdir())) == 1
    assert repair(tmp_path / 'one').contents.message_count == 100


def test_two_repairs_exclude_each_other(tmp_path):
    write_bag(tmp_path / 'one').close({})
    with (tmp_path / 'one' / 'one_0.mcap').open('rb') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BagInUse):
            repair(tmp_path / 'one')


def test_the_command_repairs_and_lists(tmp_path, capsys):
    write_bag(tmp_path / 'whole').close({'success': 'yes'})
    torn = write_bag(tmp_path / 'torn', 40)
    torn.sync()
    torn.abandon()
    assert program.main(['info', str(tmp_path)]) == 1
    assert 'not a finished MCAP file' in capsys.readouterr().err
    assert program.main(['repair', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert 'torn: repaired, 40 messages' in said and 'whole: finished' in said
    assert program.main(['info', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert 'ended: interrupted' in said and '/words  std_msgs/msg/String' in said
    assert program.main(['repair', str(tmp_path / 'nowhere')]) == 1

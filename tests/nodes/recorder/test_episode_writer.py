"""Tapes: what is slow or refused is counted, and a full disk costs no more than the rest."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import subprocess
import time

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.nodes.recorder.episode_writer import Lane, Tape
from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import repair
from wam_policy.recording.bag_writer import BagWriter, Topic
from wam_policy.recording.episode_info import Ending

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
TOPIC = Topic('/words', 'std_msgs/msg/String', 'string data\n')


def tape(folder, *lanes):
    topics = [Topic(lane.topic, TOPIC.type, TOPIC.definition) for lane in lanes]
    return Tape(BagWriter(folder, topics, {}), lanes, 2, 0, 'jazzy')


def test_order_survives_encoders_of_different_speed(tmp_path):
    def slow(raw):
        time.sleep(0.01 * (raw[0] % 3))
        return raw

    made = tape(tmp_path / 'one', Lane('/a', 100, slow), Lane('/b', 100))
    for number in range(30):
        made.put(number % 2, number, bytes([number]))
    made.finish(Ending('stopped'))
    assert made.join()
    progress = made.progress()
    assert progress.messages == (15, 15) and progress.dropped == (0, 0)
    assert progress.saved.messages == 30 and not progress.fault
    assert progress.saved.about['ended'] == 'stopped'


def test_a_full_queue_refuses_and_counts(tmp_path):
    def stuck(raw):
        time.sleep(0.2)
        return raw

    made = tape(tmp_path / 'one', Lane('/a', 3, stuck), Lane('/b', 100))
    start_s = time.monotonic()
    for number in range(10):
        made.put(0, number, b'x')
        made.put(1, number, b'y')
    assert time.monotonic() - start_s < 0.1  # nobody waits
    made.lose(1, 4)
    made.finish(Ending('stopped'))
    assert made.join()
    progress = made.progress()
    assert progress.dropped == (7, 4) and progress.messages == (3, 10)
    about = progress.saved.about
    assert (about['dropped'], about['dropped./a'], about['dropped./b']) == ('11', '7', '4')


def test_what_comes_after_the_end_is_not_written(tmp_path):
    made = tape(tmp_path / 'one', Lane('/a', 3))
    made.put(0, 1, b'x')
    made.finish(Ending('stopped'))
    made.put(0, 2, b'y')
    assert made.join()
    assert made.progress().messages == (1,) and made.progress().dropped == (1,)


@pytest.fixture
def small_disk(tmp_path):
    """Give a file system of 3 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'none', folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip('mounting a small file system needs root')
    yield folder
    subprocess.run(['umount', folder], check=True)


def test_a_full_disk_keeps_what_it_took(small_disk):
    made = tape(small_disk / 'one', Lane('/a', 10_000))
    for number in range(60):
        made.put(0, number, os.urandom(100_000))
        time.sleep(0.03)
        if made.over:
            break
    assert made.over, 'a full disk was not noticed'
    progress = made.progress()
    assert 'disk is full' in progress.fault and progress.saved is None
    assert sum(progress.dropped) >= 0 and progress.messages[0] > 10
    made.put(0, 99, b'x')
    assert made.progress().dropped[0] == progress.dropped[0] + 1
    with pytest.raises(OSError, match='No space'):
        repair(small_disk / 'one')  # no room for the copy: the original stays
    assert bag_folder.interrupted(small_disk) == [small_disk / 'one']
    subprocess.run(['mount', '-o', 'remount,size=30m', small_disk], check=True)
    found = repair(small_disk / 'one')
    assert found.rebuilt and found.contents.messages >= 10

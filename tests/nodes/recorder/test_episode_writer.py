"""Tapes: what is slow or refused is counted, and a full disk costs no more than the rest."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import subprocess
import time

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.nodes.recorder.episode_writer import EpisodeWriter, TopicQueue
from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import repair
from wam_policy.recording.bag_writer import BagTopic, BagWriter
from wam_policy.recording.episode_info import EpisodeEnd

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
TOPIC = BagTopic('/words', 'std_msgs/msg/String', 'string data\n')


def make_writer(folder, *topic_queues):
    topics = [BagTopic(lane.topic, TOPIC.type, TOPIC.definition) for lane in topic_queues]
    return EpisodeWriter(BagWriter(folder, topics, {}), topic_queues, 2, 0, 'jazzy')


def test_order_survives_encoders_of_different_speed(tmp_path):
    def slow(raw):
        time.sleep(0.01 * (raw[0] % 3))
        return raw

    made = make_writer(tmp_path / 'one', TopicQueue('/a', 100, slow), TopicQueue('/b', 100))
    for number in range(30):
        made.put(number % 2, number, bytes([number]))
    made.finish(EpisodeEnd('stopped'))
    assert made.join()
    progress = made.progress()
    assert progress.written_counts == (15, 15) and progress.dropped_counts == (0, 0)
    assert progress.contents.message_count == 30 and not progress.write_error
    assert progress.contents.metadata['ended'] == 'stopped'


def test_a_full_queue_refuses_and_counts(tmp_path):
    def stuck(raw):
        time.sleep(0.2)
        return raw

    made = make_writer(tmp_path / 'one', TopicQueue('/a', 3, stuck), TopicQueue('/b', 100))
    start_s = time.monotonic()
    for number in range(10):
        made.put(0, number, b'x')
        made.put(1, number, b'y')
    assert time.monotonic() - start_s < 0.1  # nobody waits
    made.count_lost(1, 4)
    made.finish(EpisodeEnd('stopped'))
    assert made.join()
    progress = made.progress()
    assert progress.dropped_counts == (7, 4) and progress.written_counts == (3, 10)
    about = progress.contents.metadata
    assert (about['dropped'], about['dropped./a'], about['dropped./b']) == ('11', '7', '4')


def test_what_comes_after_the_end_is_not_written(tmp_path):
    made = make_writer(tmp_path / 'one', TopicQueue('/a', 3))
    made.put(0, 1, b'x')
    made.finish(EpisodeEnd('stopped'))
    made.put(0, 2, b'y')
    assert made.join()
    assert made.progress().written_counts == (1,) and made.progress().dropped_counts == (1,)


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
    made = make_writer(small_disk / 'one', TopicQueue('/a', 10_000))
    for number in range(60):
        made.put(0, number, os.urandom(100_000))
        time.sleep(0.03)
        if made.is_finished:
            break
    assert made.is_finished, 'a full disk was not noticed'
    progress = made.progress()
    assert 'disk is full' in progress.write_error and progress.contents is None
    assert sum(progress.dropped_counts) >= 0 and progress.written_counts[0] > 10
    made.put(0, 99, b'x')
    assert made.progress().dropped_counts[0] == progress.dropped_counts[0] + 1
    with pytest.raises(OSError, match='No space'):
        repair(small_disk / 'one')  # no room for the copy: the original stays
    assert bag_folder.find_interrupted(small_disk) == [small_disk / 'one']
    subprocess.run(['mount', '-o', 'remount,size=30m', small_disk], check=True)
    found = repair(small_disk / 'one')
    assert found.rebuilt and found.contents.message_count >= 10

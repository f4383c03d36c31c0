"""Two simulated robots in one ROS domain, each in a namespace of its own."""

import os
import re
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import Empty
from std_srvs.srv import SetBool, Trigger

from tests.stack_fixtures import StackProbe
from wam_learning.data import export_dataset
from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.nodes import qos
from wam_policy.nodes.sole_node import ALREADY_RUNNING
from wam_policy.recording import bag_access
from wam_tools.launch_process import LaunchProcess

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(240)]
NAMES = ('robot_1', 'robot_2')
STOP_TIMEOUT_S = 15.0
MOVED_RAD, AT_REST_RAD = 0.02, 2e-3


def make_command(namespace, folder, *arguments):
    return [
        *('ros2', 'launch', 'wam_bringup', 'yam.launch.py', f'robot_namespace:={namespace}'),
        *('sim:=true', 'console:=false', 'camera_size:=160x120', 'devices:=cpu'),
        *('checkpoint:=preset:tiny', 'steps:=2', 'record:=manual', f'record_dir:={folder}'),
        *arguments,
    ]


def stop_all(launches):
    """End all in order: the end of one kills what is left of this test's processes."""
    for launch in launches:
        os.kill(launch.pid, signal.SIGINT)
    end_s = time.monotonic() + STOP_TIMEOUT_S
    while any(each.returncode is None for each in launches) and time.monotonic() < end_s:
        time.sleep(0.1)
    for launch in launches:
        launch.stop(threading.Event())


@pytest.fixture(scope='module')
def robots(tmp_path_factory):
    """Give the probes of two robots that hold their pose; `launch` and `folder` are in each."""
    probes = []
    try:
        for name in NAMES:
            probes.append(StackProbe('yam', name))
            folder = probes[-1].folder = tmp_path_factory.mktemp(name)
            probes[-1].launch = LaunchProcess(make_command(name, folder), folder / 'log')
        for probe in probes:
            probe.wait(lambda p=probe: p.policy.state_name == 'IDLE', 'workers not ready', 120)
            probe.wait_motion('HOLDING')
        yield probes
    finally:
        for probe in probes:
            probe.close()
        stop_all([probe.launch for probe in probes])


def enable(probe):
    assert probe.call_service(Trigger, 'reset').success
    assert probe.call_service(SetBool, 'enable', data=True).success
    probe.wait_motion('HOLDING')


def test_each_is_seen_under_its_own_names_only(robots):
    probe = robots[0]
    names = [name for name, _ in probe.get_topic_names_and_types()]
    shared = {'/rosout', '/parameter_events', '/diagnostics'}
    assert [name for name in names if not name.startswith(('/robot_1/', '/robot_2/'))] == sorted(
        shared.intersection(names)
    )
    rows = set()
    probe.create_subscription(
        DiagnosticArray,
        '/diagnostics',
        lambda msg: rows.update(status.name.partition(': ')[0] for status in msg.status),
        10,
    )
    wanted = {
        f'/{name}/{node}'
        for name in NAMES
        for node in ('sim', 'wam/motion', 'wam/policy', 'wam/recorder', 'wam/description')
    }
    probe.wait(lambda: rows >= wanted, f'no diagnostics of {wanted - rows}')
    assert rows == wanted


@pytest.mark.parametrize('moving', [0, 1])
def test_an_instruction_moves_one_robot_only(robots, moving):
    mover, other = robots[moving], robots[1 - moving]
    start, other_start = mover.joint_state.position, other.joint_state.position
    mover.publish_instruction('lift the cup')
    mover.wait_running()
    mover.wait(
        lambda: np.abs(mover.joint_state.position - start).max() > MOVED_RAD, 'it does not move'
    )
    assert np.abs(other.joint_state.position - other_start).max() < AT_REST_RAD
    assert other.policy.instruction == '' and not other.chunks
    mover.publish_instruction('')
    mover.wait_motion('HOLDING')
    mover.wait_rest()
    other.chunks.clear()
    mover.chunks.clear()


@pytest.mark.parametrize('way', ['service', 'signal'])
def test_an_e_stop_stops_one_robot_only(robots, way):
    stopped, other = robots
    for probe in robots:
        probe.publish_instruction('lift the cup')
    for probe in robots:
        probe.wait_running()
        probe.wait_motion('FIRST_MOVE', 'TRACKING')
    stops = other.motion.stops
    if way == 'service':
        assert stopped.call_service(Trigger, 'estop').success
    else:
        stopped.create_publisher(Empty, 'estop_signal', qos.REQUEST).publish(Empty())
    stopped.wait_motion('ESTOPPED')
    stopped.wait_rest()
    chunks = len(other.chunks)
    other.wait(lambda: len(other.chunks) > chunks + 2, 'the other one has no chunks any more')
    other.wait_motion('FIRST_MOVE', 'TRACKING')
    assert not other.motion.estop and other.motion.stops == stops
    other.publish_instruction('')
    other.wait_motion('HOLDING')
    enable(stopped)
    for probe in robots:
        probe.chunks.clear()


def test_an_episode_of_one_robot_becomes_a_data_set(robots, tmp_path):
    probe = robots[1]
    assert probe.call_service(StartEpisode, 'recorder/start', instruction='lift the cup').success
    probe.publish_instruction('lift the cup')
    probe.wait_running()
    chunks = len(probe.chunks)
    probe.wait(lambda: len(probe.chunks) > chunks + 15, 'too few chunks')
    ended = probe.call_service(StopEpisode, 'recorder/stop', 30.0, keep=True)
    assert ended.success, ended.message
    probe.publish_instruction('')
    bag = probe.folder / ended.episode_name
    assert bag_access.read_metadata(bag)['robot_namespace'] == 'robot_2'
    assert export_dataset.main([str(bag), str(tmp_path / 'out')]) == 0


def test_a_second_launch_of_the_same_robot_is_refused_and_leaves_it_alone(robots, tmp_path):
    second = run_launch(make_command('robot_1', tmp_path))
    assert second.returncode == ALREADY_RUNNING, second.stdout
    assert 'found a stack that is already running in this ROS domain' in second.stdout
    assert re.search(r'/robot_1/\S+: another node of this name answers', second.stdout)
    assert robots[0].call_service(SetBool, 'enable', data=True).message == 'already enabled'
    assert all(each.launch.returncode is None for each in robots)


@pytest.mark.parametrize(
    ('name', 'further', 'words'),
    [
        ('robot-3', (), 'robot_namespace:=robot-3: want one word'),
        ('robot_3', ('use_sim_time:=true',), 'would all publish /clock'),
        ('robot_3', ('namespace:=/wam',), 'it must be relative'),
    ],
)
def test_what_cannot_be_is_refused_by_the_launch(tmp_path, name, further, words):
    done = run_launch(make_command(name, tmp_path, *further))
    assert done.returncode == 1 and words in done.stdout, done.stdout


def run_launch(command):
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90
    )

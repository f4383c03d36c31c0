"""The simulated robots, driven by a double of the released server that fails, dies and returns.

The recorder runs all the while: whatever the server does, the robot never jumps and the episode
is whole, with the hold in it.
"""

import os
import signal
import threading

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rosbags.highlevel import AnyReader

from tests.servers.released_double import FakeProfileServer
from tests.stack_fixtures import StackProbe
from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.recording import bag_folder

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(180)]
SWAY_RAD = 0.08
SERVER_PROFILES = {'agibot_g1': 'dreamzero_agibot', 'yam': 'dreamzero_yam'}
MAX_JOINT_STATE_GAP_S = 0.5  # between two joint states in a bag, on a machine that is busy


class RemoteStack:
    """Hold a launched stack, its watch and the server it is driven by."""

    def __init__(self, robot, launched, folder):
        self.server, self.folder = (
            FakeProfileServer(SERVER_PROFILES[robot], sway_rad=SWAY_RAD),
            folder,
        )
        self.port = self.server.port
        self.probe = StackProbe(robot)
        self.launch = launched(
            robot,
            'sim:=true',
            'camera_size:=160x120',
            'backend:=remote',
            'record:=manual',
            f'record_dir:={folder}',
            f'server:=ws://127.0.0.1:{self.port}',
        )

    def stop_server(self):
        """Die in the middle of a request."""
        self.server.fault = 'vanish'
        self.server.close()

    def start_server(self):
        robot = self.probe.robot.name
        self.server = FakeProfileServer(SERVER_PROFILES[robot], self.port, SWAY_RAD)


@pytest.fixture(scope='module', params=['yam', pytest.param('agibot_g1', marks=pytest.mark.slow)])
def stage(request, launched, tmp_path_factory):
    made = RemoteStack(request.param, launched, tmp_path_factory.mktemp('episodes'))
    watch = made.probe
    try:
        watch.wait(lambda: watch.policy.state_name == 'IDLE', 'the server was not found', 60)
        watch.wait_motion('HOLDING')
        begun = watch.call_service(StartEpisode, 'recorder/start', instruction='lift the cup')
        assert begun.success, begun.message
        yield made
    finally:
        watch.close()
        made.server.close()
        made.launch.stop(threading.Event())  # if a test failed: the next robot needs the place


def wait_until_following(stage):
    """Wait until the robot follows the server's newest session."""
    stage.probe.wait_running()
    stage.probe.wait_motion('FIRST_MOVE', 'TRACKING')


def test_the_server_moves_the_robot_with_one_query_per_block(stage):
    watch, view = stage.probe, stage.server.view_keys[0]
    watch.publish_instruction('lift the cup')
    wait_until_following(stage)
    start = watch.joint_state.position
    watch.wait(
        lambda: np.abs(watch.joint_state.position - start).max() > SWAY_RAD / 4, 'no motion'
    )
    watch.wait(lambda: len(stage.server.observations) > 2, 'asked once only')
    assert [len(shown[view]) for _, shown in stage.server.observations[:3]] == [1, 4, 4]
    assert {prompt for prompt, _ in stage.server.observations} == {'lift the cup'}
    assert stage.server.calls[:2] == ['reset', 'infer']


@pytest.mark.parametrize(
    ('act', 'words'),
    [('nan', 'NaN or infinity'), ('garbage', 'invalid answer'), ('crash', 'CUDA error')],
)
def test_invalid_answers_do_not_move_the_robot(stage, act, words):
    watch = stage.probe
    wait_until_following(stage)
    watch.jumps.clear()
    session, stage.server.fault = watch.policy.session, act
    watch.wait(lambda: words in watch.policy.reason, f'{words} not named')
    stage.server.fault = ''
    watch.wait_running(session)
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    assert not watch.jumps


def test_it_holds_while_the_server_is_down_and_recovers(stage):
    watch = stage.probe
    wait_until_following(stage)
    watch.jumps.clear()
    session = watch.policy.session
    stage.stop_server()
    watch.wait(
        lambda: watch.policy.state_name == 'HOLDING' and 'no server at' in watch.policy.reason,
        'not noticed',
    )
    watch.wait_motion('HOLDING')
    watch.wait_rest()
    stage.start_server()
    # by now it may wait ten seconds between two tries
    watch.wait(lambda: watch.policy.state_name == 'RUNNING', 'does not go on', 90)
    watch.wait_running(session)
    wait_until_following(stage)
    assert not watch.jumps


def test_the_episode_is_complete(stage):
    watch = stage.probe
    watch.publish_instruction('')
    watch.wait_motion('HOLDING')
    ended = watch.call_service(StopEpisode, 'recorder/stop', 30.0, keep=True)
    assert ended.success, ended.message
    folder = stage.folder / ended.episode_name
    assert (folder / bag_folder.METADATA_FILE).exists() and bag_folder.find_interrupted(
        stage.folder
    ) == []
    joints_ns, states, held_ns = [], [], []
    with AnyReader([folder]) as reader:
        for connection, stamp_ns, raw in reader.messages():
            if connection.topic == '/joint_states':
                joints_ns.append(stamp_ns)
            elif connection.topic == '/wam/status':
                status = reader.deserialize(raw, connection.msgtype)
                states += [status.state_name] if states[-1:] != [status.state_name] else []
                held_ns += [stamp_ns] if 'no server at' in status.reason else []
    assert np.diff(joints_ns).max() < MAX_JOINT_STATE_GAP_S * 1e9
    assert held_ns and joints_ns[0] < held_ns[0] < joints_ns[-1]
    first = states.index('RUNNING')
    assert 'HOLDING' in states[first:] and states[first:].count('RUNNING') >= 2
    assert (
        max(
            *watch.sim.max_velocity_ratio,
            *watch.sim.max_acceleration_ratio,
            *watch.sim.max_jerk_ratio,
        )
        <= 1.0 + 1e-6
    )


def test_all_processes_exit_cleanly(stage):
    watch, launch = stage.probe, stage.launch
    os.kill(launch.pid, signal.SIGINT)
    watch.wait(lambda: launch.returncode is not None, 'the launch does not end', 40)
    assert launch.returncode == 0, launch.read_log_tail()
    nodes = ('policy', 'motion', 'sim', 'recorder', 'description')
    assert launch.exit_codes() == {f'{name}_node': 0 for name in nodes}

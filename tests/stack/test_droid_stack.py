"""The simulated DROID robot, driven in turn by the servers that speak DROID.

An openpi server that answers joint velocities (the scripted policy of examples/), doubles of the
released DreamZero server and of vLLM-Omni's endpoint that answer positions, and our own server.
One stack: policy_node is configured again for each server, as an operator would.
"""

import os
import signal
import threading

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from openpi_client import msgpack_numpy

from examples import scripted_droid_server
from tests.servers.fake_engine import ServerThread
from tests.servers.released_double import FakeProfileServer
from tests.stack_fixtures import run_remote_stack, use_server

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(180)]
SWAY_RAD = 0.08


class FakeVllmOmniServer(FakeProfileServer):
    """Answer a reset in binary, as newer versions do, at the one path that is served."""

    def __init__(self):
        self.paths = set()
        super().__init__('vllm_omni', sway_rad=SWAY_RAD)

    def handle_connection(self, connection):
        self.paths.add(connection.request.path)
        send = connection.send
        connection.send = lambda message: send(
            msgpack_numpy.packb({'status': message}) if isinstance(message, str) else message
        )
        super().handle_connection(connection)


class ScriptedServer:
    """Run the scripted openpi server in a thread."""

    def __init__(self):
        self.policy = scripted_droid_server.ScriptedDroidPolicy()
        self._server = scripted_droid_server.make_server(self.policy, '127.0.0.1', 0)
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()


@pytest.fixture(scope='module')
def scripted():
    made = ScriptedServer()
    yield made
    made.close()


@pytest.fixture(scope='module')
def stage(launched, scripted):
    address = f'ws://127.0.0.1:{scripted.port}'
    with run_remote_stack(launched, 'droid', 'openpi', address) as probe:
        yield probe


def wait_moved(stage, distance_rad):
    """Instruct, and wait until a joint of the arm has moved by `distance_rad`."""
    stage.jumps.clear()
    start = stage.joint_state.position[:7]
    session = stage.policy.session
    stage.publish_instruction('put the cube on the pad')
    stage.wait_running(session)
    stage.wait(
        lambda: np.abs(stage.joint_state.position[:7] - start).max() > distance_rad, 'no motion'
    )
    assert not stage.jumps


def test_an_openpi_policy_of_joint_velocities_reaches_its_waypoints(stage, scripted):
    stage.publish_instruction('put the cube on the pad')
    stage.wait_running()
    stage.wait(lambda: scripted.policy.waypoint >= 2, 'waypoints are not reached')
    goal_rad, gripper = scripted.policy.find_goal()
    home_rad = stage.robot.home_positions(stage.robot.commanded)
    assert np.abs(stage.joint_state.position[:7] - home_rad[:7]).max() > 0.1
    assert np.abs(goal_rad - home_rad[:7]).max() > 0.3 and gripper in (0.0, 1.0)
    stage.wait(lambda: stage.joint_state.position[7] < 0.1, 'the gripper does not close')
    assert not stage.jumps and 'UNTRAINED' not in stage.policy.model


def test_the_released_server_moves_it_with_absolute_positions(stage):
    server = FakeProfileServer('dreamzero_droid', sway_rad=SWAY_RAD)
    try:
        use_server(stage, 'dreamzero_droid', f'ws://127.0.0.1:{server.port}')
        wait_moved(stage, SWAY_RAD / 4)
        stage.wait(lambda: len(server.observations) > 1, 'asked once only')
        (_, first), (_, second), *_ = server.observations
        for view in server.view_keys:
            assert np.shape(first[view]) == (1, 180, 320, 3)
            assert np.shape(second[view]) == (4, 180, 320, 3)
    finally:
        server.close()


def test_vllm_omni_moves_it(stage):
    server = FakeVllmOmniServer()
    try:
        use_server(stage, 'vllm_omni', f'ws://127.0.0.1:{server.port}')
        wait_moved(stage, SWAY_RAD / 4)
        assert server.paths == {'/v1/realtime/robot/openpi'}
    finally:
        server.close()


def test_our_own_server_moves_it(stage):
    server = ServerThread('dreamzero_droid')
    try:
        use_server(stage, 'dreamzero_droid', f'ws://127.0.0.1:{server.port}')
        wait_moved(stage, 0.01)
        assert [call for _, (call, *_) in server.backend.calls if call == 'commit']
    finally:
        server.stop()


def test_no_limit_was_exceeded_and_all_processes_exit_cleanly(stage):
    sim = stage.sim
    ratios = (sim.max_velocity_ratio, sim.max_acceleration_ratio, sim.max_jerk_ratio)
    assert max(max(ratio) for ratio in ratios) <= 1.0 + 1e-6
    os.kill(stage.launch.pid, signal.SIGINT)
    stage.wait(lambda: stage.launch.returncode is not None, 'the launch does not end', 40)
    assert stage.launch.returncode == 0, stage.launch.read_log_tail()
    assert set(stage.launch.exit_codes().values()) == {0}

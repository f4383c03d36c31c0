"""policy_node with a policy server elsewhere: it runs, holds while that is away, and resumes."""

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from tests.nodes.policy.test_policy_node import ROBOT, start_policy_node
from tests.servers.released_double import FakeProfileServer
from wam_policy.servers import server_profile

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
VIEWS = [key[0] for key in server_profile.load('dreamzero_yam').cameras.values()]


def make_server_double(port=0):
    return FakeProfileServer('dreamzero_yam', port)


@pytest.fixture
def stage():
    server = make_server_double()
    try:
        with start_policy_node(
            'backend:=remote', f'server:=ws://127.0.0.1:{server.port}', 'query_timeout_s:=1.5'
        ) as (_, bench):
            yield server, bench
    finally:
        server.close()


def assert_robot_held(bench):
    """Tell that every chunk keeps the robot where it was: nothing was made up."""
    rest = ROBOT.home_positions(ROBOT.commanded)
    for chunk in bench.chunks:
        targets = np.array(chunk.positions).reshape(-1, len(ROBOT.commanded))
        np.testing.assert_allclose(targets, np.tile(rest, (24, 1)), atol=1e-5)
    return True


def test_it_queries_once_per_block_as_the_released_client(stage):
    server, bench = stage
    bench.publish_instruction('lift the cup')
    bench.wait(lambda: len(server.observations) >= 4, 20)
    bench.wait_running()
    assert [len(shown[VIEWS[0]]) for _, shown in server.observations[:4]] == [1, 4, 4, 4]
    assert {prompt for prompt, _ in server.observations} == {'lift the cup'} and assert_robot_held(
        bench
    )
    seconds = bench.chunks[-1].header.stamp.sec - bench.chunks[0].header.stamp.sec
    assert len(bench.chunks) <= 2 + seconds / 0.8 + 1 / 0.8  # 24 steps at 30 Hz
    before = bench.status.session
    bench.publish_instruction('put it down')
    bench.wait_running(before)
    bench.wait(lambda: server.observations[-1][0] == 'put it down')
    assert server.calls.count('reset') == 2


@pytest.mark.parametrize(
    ('act', 'words'),
    [
        ('crash', 'CUDA error'),
        ('nan', 'NaN or infinity'),
        ('horizon', 'want actions'),
        ('garbage', 'invalid answer'),
        ('slow', 'did not answer within'),
    ],
)
def test_faults_are_in_the_status_and_it_recovers(stage, act, words):
    server, bench = stage
    bench.publish_instruction('lift the cup')
    bench.wait_running()
    before, server.fault = bench.status.session, act
    bench.wait(lambda: words in bench.status.reason, 10)
    assert bench.status.state_name != 'RUNNING'
    count = len(bench.chunks)
    server.fault = ''
    bench.wait(lambda: len(bench.chunks) > count + 1, 15)
    assert (
        bench.status.session != before
        and bench.status.worker_restarts == 0
        and assert_robot_held(bench)
    )


def test_it_holds_while_the_server_is_down_and_resumes(stage):
    server, bench = stage
    bench.publish_instruction('lift the cup')
    bench.wait_running()
    server.fault = 'vanish'
    server.close()
    bench.wait(
        lambda: bench.status.state_name == 'HOLDING' and 'no server at' in bench.status.reason, 15
    )
    count = len(bench.chunks)
    again = make_server_double(server.port)
    bench.wait(lambda: bench.status.state_name == 'RUNNING' and len(bench.chunks) > count, 30)
    assert bench.status.worker_restarts >= 1 and assert_robot_held(bench)
    again.close()

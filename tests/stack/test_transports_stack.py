"""Each simulated robot, driven in turn through WebSocket, HTTP and ZeroMQ, each with its memory.

One stack per robot: policy_node is configured again for each server, as an operator would.
"""

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from tests.servers.lingbot_double import ROWS, LingBotDouble
from tests.servers.profile_double import ProfileDouble
from tests.stack_fixtures import run_remote_stack, use_server

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(240)]
SWAY_RAD = 0.08
DRIVEN = [  # over HTTP, ZeroMQ, WebSocket
    ('yam', 'molmoact2_yam'),
    ('yam', 'groot_yam'),
    ('yam', 'openpi_yam'),
    ('yam', 'xpolicylab_yam'),
    ('yam', 'praxis1_yam'),
    ('agibot_g1', 'go1'),
    ('agibot_g1', 'groot_agibot'),
    ('agibot_g1', 'openpi_agibot'),
    ('droid', 'molmoact2_droid'),
    ('droid', 'groot_droid'),
    ('droid', 'cosmos3_droid'),
]
LINGBOT = [('yam', 'lingbot_va_yam'), ('agibot_g1', 'lingbot_va_agibot')]
ALWAYS = ('groot_yam',)  # others repeat what differs in the transport only


def mark_slow(cases):
    """Return the cases; those that need another stack or repeat a transport are slow."""
    return [
        case if case[1] in ALWAYS else pytest.param(*case, marks=pytest.mark.slow)
        for case in cases
    ]


@pytest.fixture(scope='module')
def stage(request, launched):
    robot = request.param
    server = ProfileDouble(dict(reversed(DRIVEN))[robot], sway_rad=SWAY_RAD)
    try:
        with run_remote_stack(launched, robot, server.profile.name, server.url) as probe:
            yield probe
    finally:
        server.close()


def wait_moved(stage):
    """Wait until the robot follows the server and a joint has moved."""
    start = stage.joint_state.position
    stage.wait_running()
    stage.wait_motion('FIRST_MOVE', 'TRACKING')
    stage.wait(
        lambda: np.abs(stage.joint_state.position - start).max() > SWAY_RAD / 4, 'no motion'
    )


@pytest.mark.parametrize(('stage', 'name'), mark_slow(DRIVEN), indirect=['stage'])
def test_every_transport_moves_the_robot_and_is_refused_before_a_jump(stage, name):
    server = ProfileDouble(name, sway_rad=SWAY_RAD)
    try:
        use_server(stage, name, server.url)
        stage.jumps.clear()
        start = stage.joint_state.position
        # the first answer is of another robot: nothing moves
        server.fault = 'far'
        stage.publish_instruction('fold the towel')
        stage.wait(lambda: 'rad from joint' in stage.policy.reason, 'not refused', 40)
        assert np.abs(stage.joint_state.position - start).max() < 0.01
        assert stage.motion.state_name == 'HOLDING'
        server.fault = ''
        wait_moved(stage)
        assert set(server.prompts) == {'fold the towel'} and not stage.jumps
        # it goes away in the middle of a request
        session = stage.policy.session
        server.fault = 'vanish'
        stage.wait(lambda: stage.policy.state_name != 'RUNNING', 'not noticed', 30)
        stage.wait_rest()
        server.fault = ''
        stage.wait_running(session)
        assert not stage.jumps
    finally:
        server.close()


@pytest.mark.parametrize(('stage', 'name'), mark_slow(LINGBOT), indirect=['stage'])
def test_lingbot_gets_back_what_the_robot_executed(stage, name):
    server = LingBotDouble(name, sway_rad=SWAY_RAD)
    try:
        use_server(stage, name, server.url)
        stage.jumps.clear()
        stage.publish_instruction('fold the towel')
        wait_moved(stage)
        stage.wait(lambda: len(server.states) >= 3, 'rows are not sent back', 40)
        assert server.inferences[:3] == [0, 2, 4] and server.prompts == ['fold the towel']
        sent = server.states[1].reshape(len(server.home), -1)
        assert sent.shape[1] == 2 * ROWS
        # all of it was executed: the arm was at the end of the sway when its rows were over
        assert np.abs(sent - server.home[:, None]).max() <= SWAY_RAD + 1e-6
        assert not stage.jumps
    finally:
        server.close()

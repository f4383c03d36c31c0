"""The simulated robots over HTTP and ZeroMQ; by WebSocket they are in test_remote_stack."""

import threading

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from tests.servers.profile_double import ProfileDouble
from tests.stack_fixtures import StackProbe

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(240)]
SWAY_RAD = 0.08


class DrivenStack:
    """Hold a launched stack, its watch and the server it is driven by."""

    def __init__(self, profile, launched):
        self.server = ProfileDouble(profile, sway_rad=SWAY_RAD)
        robot = self.server.robot.name
        self.probe = StackProbe(robot)
        self.launch = launched(
            robot,
            'sim:=true',
            'camera_size:=160x120',
            'backend:=remote',
            f'server:={self.server.url}',
            f'server_profile:={profile}',
        )


@pytest.fixture(scope='module', params=['molmoact2_yam', 'groot_agibot'])
def stage(request, launched):
    made = DrivenStack(request.param, launched)
    try:
        made.probe.wait(lambda: made.probe.policy.state_name == 'IDLE', 'no server found', 90)
        made.probe.wait_motion('HOLDING')
        yield made
    finally:
        made.probe.close()
        made.server.close()
        made.launch.stop(threading.Event())


def test_the_server_moves_the_robot_and_is_refused_before_a_jump(stage):
    watch, server = stage.probe, stage.server
    start = watch.joint_state.position
    # the first answer is of another robot: nothing moves
    server.fault = 'far'
    watch.publish_instruction('fold the towel')
    watch.wait(lambda: 'row 0 is 1.50 rad from joint' in watch.policy.reason, 'not refused', 40)
    assert np.abs(watch.joint_state.position - start).max() < 0.01
    assert watch.motion.state_name == 'HOLDING'
    server.fault = ''
    watch.wait_running()
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    watch.wait(
        lambda: np.abs(watch.joint_state.position - start).max() > SWAY_RAD / 4, 'no motion'
    )
    assert set(server.prompts) == {'fold the towel'} and not watch.jumps
    # it goes away in the middle of a request
    session = watch.policy.session
    server.fault = 'vanish'
    watch.wait(lambda: watch.policy.state_name != 'RUNNING', 'not noticed', 30)
    watch.wait_rest()
    server.fault = ''
    watch.wait_running(session)
    assert not watch.jumps

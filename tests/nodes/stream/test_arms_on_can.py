"""The launch on two emulated YAM arms: whatever is killed in motion, no motor loses its torque.

The motors live in this process and the driver is a double of i2rt (wam_tools/can_emulation): what
is killed here is the real launch, the real nodes and the real starter of stream_node.
"""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import signal
import time

import psutil
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State

from wam_tools.can_emulation.arms_on_can import CHANNELS

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.mark.slow
def test_kill_9_of_recorder_then_motion_leaves_the_arms_held_until_their_release(arms):
    launch = arms.bring_up()
    arms.start_moving()
    arms.find_process('recorder_node').kill()
    arms.wait(
        lambda: (
            'recorder: process' in arms.bench.diagnostics
            and arms.bench.diagnostics['recorder: process'].level == DiagnosticStatus.ERROR
        )
    )
    assert launch.poll() is None and arms.read_state('stream') == State.PRIMARY_STATE_ACTIVE
    arms.wait_rest()
    arms.start_moving()
    arms.find_process('motion_node').kill()
    assert launch.wait(60) == 1
    assert 'motion_node' in arms.read_log() and 'exited with code -9' in arms.read_log()
    arms.wait_rest()
    time.sleep(1.0)  # longer than the motors' time-out
    arms.check_held()
    assert arms.stream.is_running() and 'held up by this process alone' in arms.read_log()

    second = arms.launch()  # a dry run: not what the arms are held for
    assert second.wait(60) == 1
    log = arms.read_log()
    assert f'process {arms.stream.pid} of an earlier start still runs' in log
    assert 'it differs: enable_motion was True, now False' in log and '/wam/stream/release' in log
    arms.check_held()

    assert arms.release().message == 'released: the arms have no torque'
    arms.stream.wait(30)
    arms.wait(arms.have_lost_torque)


@pytest.mark.parametrize(
    'victim',
    [
        'policy_node',
        pytest.param('stream.detached_process', marks=pytest.mark.slow),
        pytest.param('launch', marks=pytest.mark.slow),
        pytest.param('ctrl-c', marks=pytest.mark.slow),
    ],
)
def test_whatever_else_ends_in_motion_the_arms_come_to_rest_and_are_held(arms, victim):
    launch = arms.bring_up()
    arms.start_moving()
    if victim == 'launch':
        launch.kill()
    elif victim == 'ctrl-c':
        os.killpg(launch.pid, signal.SIGINT)
    else:
        name = 'lib/wam_policy/stream_node' if 'detached' in victim else victim
        arms.find_process(name).kill()
    launch.wait(60)
    if victim == 'launch':  # its nodes stay: as a terminal that is closed, end them
        os.killpg(launch.pid, signal.SIGINT)
    arms.wait_rest()
    time.sleep(1.0)
    arms.check_held()
    assert arms.stream.is_running()
    arms.release()
    arms.stream.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize('victim', ['ctrl-c', 'motion_node'])
def test_the_next_launch_takes_the_held_arms_over_and_moves_them(arms, victim):
    launch = arms.bring_up()
    arms.start_moving()
    if victim == 'ctrl-c':
        os.killpg(launch.pid, signal.SIGINT)
    else:
        arms.find_process(victim).kill()
    launch.wait(60)
    arms.wait_rest()
    first = arms.stream
    second = arms.bring_up()
    assert arms.stream.pid == first.pid and first.is_running()
    assert f'process {first.pid} holds the arms and is taken over' in arms.read_log()
    arms.start_moving()
    arms.wait_rest()
    arms.check_held()
    # a third start finds a stack that runs, and leaves it alone
    third = arms.launch('enable_motion:=true')
    assert third.wait(60) in (1, 3)
    assert second.poll() is None and arms.read_state('stream') == State.PRIMARY_STATE_ACTIVE
    # its starter killed: the arms rest and are held, as after the first one's end
    arms.start_moving()
    starter = next(
        each
        for each in psutil.Process(second.pid).children(recursive=True)
        if 'lib/wam_policy/stream_node' in ' '.join(each.cmdline())
    )
    starter.kill()
    second.wait(60)
    arms.wait_rest()
    time.sleep(1.0)
    arms.check_held()
    arms.release()
    first.wait(30)


def test_kill_9_of_the_process_that_holds_is_what_lets_the_arms_down(arms):
    """The emulation sees what it is there to see."""
    arms.bring_up()
    arms.stream.kill()
    arms.wait(arms.have_lost_torque)


@pytest.mark.parametrize(
    ('failure', 'sentence'),
    [
        (
            ('cut_power', 3),
            'right arm on can_follower_r does not open: fail to communicate with the motor 3',
        ),
        (('remove',), 'right arm on can_follower_r does not open: [Errno 19] No such device'),
    ],
)
def test_an_arm_that_does_not_open_ends_the_launch_with_its_reason(arms, failure, sentence):
    arms.bus.call(CHANNELS[1], *failure)
    launch = arms.launch()
    assert launch.wait(90) == 1
    log = arms.read_log()
    assert sentence in log and 'stream failed to start, see its log messages' in log
    assert not any(
        line.startswith('[stream_node') and 'Traceback' in line for line in log.splitlines()
    )
    arms.wait(lambda: not any(arm.client_count for arm in arms.bus.states()))  # all was closed

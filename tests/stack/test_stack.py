"""The stack as it is launched: a simulated AgiBot G1, two workers, real middleware, pictures."""

import os
import signal
import subprocess
import time

import psutil
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import SetBool, Trigger

from tests.stack_fixtures import find_worker_processes
from wam_msgs.msg import ActionChunk
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.sole_node import ALREADY_RUNNING
from wam_tools.launch_process import LaunchProcess

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(120)]
PICK, OPEN = 'pick up the red cube', 'open the left hand'


def launch_stack(launched, watch):
    """Launch a guided stack (two workers) and wait until it is ready."""
    launch = launched(
        'agibot_g1', 'sim:=true', 'camera_size:=160x120', 'checkpoint:=preset:tiny', 'steps:=4'
    )
    watch.wait(lambda: watch.policy.state_name == 'IDLE', 'workers are not ready', 90)
    watch.wait_motion('HOLDING')
    return launch


@pytest.fixture(scope='module')
def stack(launched, watching):
    """Give one launch and its watch; the tests below use it in their order."""
    watch = watching('agibot_g1')
    return launch_stack(launched, watch), watch


@pytest.fixture
def running(stack):
    """Give the stack while it follows an instruction; no joint may have jumped afterwards."""
    _, watch = stack
    watch.publish_instruction(PICK)
    watch.wait_running()
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    watch.jumps.clear()
    yield stack
    assert not watch.jumps
    assert max(watch.sim.max_velocity_ratio) <= 1.0 + 1e-6


def ros2(*arguments):
    """Run the command a user types and return what it prints."""
    done = subprocess.run(['ros2', *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_driven_with_topic_and_service_commands_alone(stack):
    _, watch = stack
    ros2(
        'topic', 'pub', '--once', '/wam/instruction', 'std_msgs/msg/String', f"{{data: '{PICK}'}}"
    )
    watch.wait_running()
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    status = ros2(
        'topic', 'echo', '--no-daemon', '--once', '/wam/status', 'wam_msgs/msg/PolicyStatus'
    )
    assert f'instruction: {PICK}' in status and 'model: UNTRAINED tiny' in status
    assert 'success=True' in ros2('service', 'call', '/wam/estop', 'std_srvs/srv/Trigger')
    watch.wait_motion('ESTOPPED')
    watch.wait_rest()
    assert 'success=True' in ros2('service', 'call', '/wam/reset', 'std_srvs/srv/Trigger')
    assert 'success=True' in ros2(
        'service', 'call', '/wam/enable', 'std_srvs/srv/SetBool', '{data: true}'
    )
    watch.wait_motion('HOLDING')
    chunks = watch.policy.chunks_published
    time.sleep(1.0)  # enabling alone moves nothing
    assert watch.motion.state_name == 'HOLDING' and watch.policy.chunks_published == chunks
    assert watch.policy.instruction == '' and 'instruction is gone' in watch.policy.reason
    watch.publish_instruction(PICK)
    watch.wait_motion('FIRST_MOVE', 'TRACKING')


def test_new_words_in_the_middle_of_a_chunk_are_followed_at_once(running):
    _, watch = running
    for text in (OPEN, PICK, OPEN):
        session, chunks = watch.policy.session, len(watch.chunks)
        watch.publish_instruction(text)
        watch.wait_running(session)
        later = [chunk.session for chunk in watch.chunks[chunks + 1 :]]
        assert watch.policy.instruction == text
        assert sorted(later, key=lambda s: int(s.split('-')[1])) == later
    watch.wait_motion('FIRST_MOVE', 'TRACKING')


def test_empty_words_bring_it_to_rest_and_others_move_it_again(running):
    _, watch = running
    watch.publish_instruction('')
    watch.wait(lambda: watch.policy.state_name == 'HOLDING')
    watch.wait_motion('HOLDING')
    watch.wait_rest()
    watch.publish_instruction(PICK)
    watch.wait_running()
    watch.wait_motion('FIRST_MOVE', 'TRACKING')


def test_a_killed_worker_makes_it_hold_and_the_next_one_remembers(running):
    launch, watch = running
    watch.wait(lambda: watch.policy.kv_commits >= 2)
    rebuilds, session = watch.policy.kv_rebuilds, watch.policy.session
    workers = find_worker_processes(launch.pid)
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    watch.wait(lambda: watch.policy.state_name == 'HOLDING' and 'SIGKILL' in watch.policy.reason)
    watch.wait_motion('HOLDING')
    watch.wait_rest()
    watch.wait(
        lambda: watch.policy.state_name == 'RUNNING' and watch.policy.session != session,
        'the workers did not come back',
        120,
    )
    assert watch.policy.kv_rebuilds > rebuilds and watch.policy.worker_restarts == 1
    assert watch.policy.kv_window_fill > 0  # a window that had just begun holds one frame
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    assert {worker.pid for worker in workers}.isdisjoint(
        w.pid for w in find_worker_processes(launch.pid)
    )


def rename_joint(chunk):
    chunk.joint_names[3] = 'elbow'


def set_nan_target(chunk):
    chunk.positions[17] = float('nan')


@pytest.mark.parametrize(('spoil', 'words'), [(rename_joint, 'elbow'), (set_nan_target, 'finite')])
def test_a_wrong_chunk_is_rejected_whole_and_said_so(running, spoil, words):
    _, watch = running
    inject = watch.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)
    watch.wait(lambda: inject.get_subscription_count() >= 2)
    rejected, before = watch.motion.chunks_rejected, watch.chunks[-1]
    chunk = message_conversion.chunk_to_msg(
        message_conversion.chunk_from_msg(before), 'agibot_g1', 0, trained=False
    )
    chunk.sequence = before.sequence + 1000
    spoil(chunk)
    watch.motion_reasons.clear()
    inject.publish(chunk)
    watch.wait(lambda: watch.motion.chunks_rejected > rejected)
    watch.wait(
        lambda: any(words in reason for reason in watch.motion_reasons), f'{words} not named'
    )
    watch.wait_motion('FIRST_MOVE', 'TRACKING')
    watch.destroy_publisher(inject)


def test_disabled_it_rests_and_enabled_it_goes_on_with_a_new_instruction(running):
    _, watch = running
    assert watch.call_service(SetBool, 'enable', data=False).success
    watch.wait_motion('DISABLED')
    watch.wait_rest()
    assert watch.call_service(SetBool, 'enable', data=True).success
    watch.wait_motion('HOLDING')
    watch.publish_instruction(PICK)
    watch.wait_motion('FIRST_MOVE', 'TRACKING')


def test_an_e_stop_stays_until_it_is_reset(running):
    _, watch = running
    assert watch.call_service(Trigger, 'estop').success
    watch.wait_motion('ESTOPPED')
    assert not watch.call_service(SetBool, 'enable', data=True).success
    watch.wait_rest()
    assert watch.motion.state_name == 'ESTOPPED'
    watch.wait(lambda: watch.call_service(Trigger, 'reset').success, 'still decelerating')
    assert watch.call_service(SetBool, 'enable', data=True).success


def test_a_second_launch_finds_the_first_and_leaves_it_alone(running, tmp_path):
    launch, watch = running
    session, sequence = watch.policy.session, watch.policy.sequence
    before = {process.pid for process in launch.find_processes()}  # of this test process
    second = LaunchProcess(
        ['ros2', 'launch', 'wam_bringup', 'agibot_g1.launch.py', 'sim:=true'], tmp_path / 'log'
    )
    motions = set()
    watch.wait(
        lambda: motions.add(watch.motion.state_name) or second.returncode is not None,
        'the second does not end',
    )
    log = (tmp_path / 'log').read_text()
    assert second.returncode == ALREADY_RUNNING, log
    assert 'found a stack that is already running in this ROS domain' in log
    assert 'another node of this name answers' in log
    watch.wait(
        lambda: {process.pid for process in second.find_processes()} <= before,
        'a process of the second launch is left',
    )
    assert motions <= {'FIRST_MOVE', 'TRACKING'} and launch.returncode is None
    assert watch.policy.session == session
    watch.wait(lambda: watch.policy.sequence > sequence, 'no more queries')


def test_requests_that_do_not_fit_are_refused_and_change_nothing(running):
    launch, watch = running
    for node in ('policy', 'motion'):
        for label in ('configure', 'activate', 'cleanup', 'transition_error', 'nonsense'):
            asked = Transition(label=label)
            answer = watch.call_service(ChangeState, f'{node}/change_state', transition=asked)
            assert not answer.success, f'{node} {label}'
    assert watch.motion.state_name in ('FIRST_MOVE', 'TRACKING') and launch.returncode is None


def test_no_limit_was_exceeded(stack):
    _, watch = stack
    assert max(*watch.sim.max_acceleration_ratio, *watch.sim.max_jerk_ratio) <= 1.0 + 1e-6


def test_ctrl_c_ends_every_node_with_status_0(stack, launched):
    launch, watch = stack
    if launch.returncode is not None:  # a try before this one ended it
        launch = launch_stack(launched, watch)
    watch.policy.state_name = ''  # the next status counts
    watch.wait(lambda: watch.policy.state_name, 'the stack publishes no status')
    started = psutil.Process(launch.pid).children(recursive=True)
    os.kill(launch.pid, signal.SIGINT)
    watch.wait(lambda: launch.returncode is not None, 'the launch does not end')
    assert launch.returncode == 0, launch.read_log_tail()
    nodes = ('policy_node', 'motion_node', 'sim_node', 'description_node')
    assert launch.exit_codes() == dict.fromkeys(nodes, 0)
    _, left = psutil.wait_procs(started, timeout=30)
    assert not left

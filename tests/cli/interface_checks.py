"""Our own interfaces, built here, cross the wire between two processes on real middleware.

Headers that do not fit the libraries would compile and crash here; see tools/ros_prefix/README.md.
test_interfaces.py runs this file once per RMW implementation: a process has only one.
"""

import subprocess
import sys
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
pytest.importorskip('wam_msgs', reason='src/ is not built: run ./wam test')

from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor

from wam_msgs.action import RunInstruction
from wam_msgs.msg import ActionChunk
from wam_msgs.srv import StartEpisode

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]

PEER_SCRIPT = """
import time
import rclpy
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from wam_msgs.action import RunInstruction
from wam_msgs.msg import ActionChunk
from wam_msgs.srv import StartEpisode

rclpy.init()
node = rclpy.create_node('peer')
echo = node.create_publisher(ActionChunk, 'chunk_back', 1)
node.create_subscription(ActionChunk, 'chunk', echo.publish, 1)

def start(request, response):
    response.success, response.episode_name = True, request.instruction + '/' + request.labels[0]
    return response

def run(goal):
    Result = RunInstruction.Result
    end = time.monotonic() + goal.request.time_limit
    while time.monotonic() < end:
        # again and again: the client's subscription may not have been discovered yet
        goal.publish_feedback(RunInstruction.Feedback(elapsed=0.5, chunks_published=3))
        if goal.is_cancel_requested:
            goal.canceled()
            return Result(outcome=Result.CANCELED, message=goal.request.instruction)
        time.sleep(0.05)
    goal.succeed()
    return Result(outcome=Result.SUCCEEDED, message=goal.request.instruction)

node.create_service(StartEpisode, 'start', start)
server = ActionServer(node, RunInstruction, 'run', run, callback_group=ReentrantCallbackGroup(),
                      cancel_callback=lambda _: CancelResponse.ACCEPT)
executor = MultiThreadedExecutor(2)
executor.add_node(node)
try:
    executor.spin()
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""


@pytest.fixture(scope='module')
def node():
    """Start the peer in a process of its own and give a node to talk to it."""
    peer = subprocess.Popen([sys.executable, '-c', PEER_SCRIPT])
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('test_interfaces', context=context)
    executor = SingleThreadedExecutor(context=context)  # a node only refers to it weakly
    executor.add_node(node)
    yield node
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()
    peer.kill()  # how a node ends is tested with our own nodes; this one holds nothing
    peer.wait()


def spin_until(node, is_done, limit_s=20.0):
    """Turn the executor until `is_done()`; fail after the limit."""
    end = time.monotonic() + limit_s
    while not is_done():
        assert time.monotonic() < end, f'nothing came within {limit_s} s'
        node.executor.spin_once(timeout_sec=0.05)


def wait_for_result(node, future):
    """Turn the executor until a future is done."""
    spin_until(node, future.done)
    return future.result()


def test_a_message_comes_back_equal(node):
    sent = ActionChunk(
        session='s',
        sequence=2**63,
        step_dt=1 / 30,
        horizon=2,
        trained=True,
        joint_names=['left_ä', 'right'],
        positions=[0.1, -2.0, 3e-9, 4.0],
        reference_positions=[1.0, 2.0],
        embodiment_hash='f' * 64,
        stage_names=['denoise'],
        stage_ms=[12.5],
    )
    sent.header.stamp.sec, sent.header.stamp.nanosec = 2**31 - 1, 999_999_999
    sent.header.frame_id = 'agibot_g1'
    came = []
    node.create_subscription(ActionChunk, 'chunk_back', came.append, 1)
    publisher = node.create_publisher(ActionChunk, 'chunk', 1)
    spin_until(node, lambda: publisher.get_subscription_count() > 0)
    end = time.monotonic() + 20
    while not came and time.monotonic() < end:
        publisher.publish(sent)
        node.executor.spin_once(timeout_sec=0.1)
    assert came[0] == sent


def test_a_service_answers(node):
    client = node.create_client(StartEpisode, 'start')
    spin_until(node, client.service_is_ready)
    request = StartEpisode.Request(instruction='pick', labels=['who=me', 'x=y'])
    response = wait_for_result(node, client.call_async(request))
    assert (response.success, response.episode_name) == (True, 'pick/who=me')


def test_an_action_gives_feedback_until_it_is_cancelled_and_a_result(node):
    client = ActionClient(node, RunInstruction, 'run')
    spin_until(node, client.server_is_ready)
    heard = []
    goal = wait_for_result(
        node,
        client.send_goal_async(
            RunInstruction.Goal(instruction='pick', time_limit=40.0), heard.append
        ),
    )
    assert goal.accepted
    spin_until(node, lambda: heard)
    assert heard[0].feedback == RunInstruction.Feedback(elapsed=0.5, chunks_published=3)
    assert wait_for_result(node, goal.cancel_goal_async()).goals_canceling
    result = wait_for_result(node, goal.get_result_async()).result
    assert (result.outcome, result.message) == (RunInstruction.Result.CANCELED, 'pick')


def test_the_command_line_knows_our_types(node):
    command = [
        'ros2',
        'service',
        'call',
        '/start',
        'wam_msgs/srv/StartEpisode',
        "{instruction: 'pick', labels: ['a=b']}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr
    assert "episode_name='pick/a=b'" in result.stdout


def test_goals_can_be_sent_from_the_command_line(node):
    command = [
        'ros2',
        'action',
        'send_goal',
        '--feedback',
        '/run',
        'wam_msgs/action/RunInstruction',
        "{instruction: 'pick', time_limit: 0.2}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr
    assert 'message: pick' in result.stdout
    assert 'SUCCEEDED' in result.stdout


def test_actions_are_listed(node):
    result = subprocess.run(
        ['ros2', 'action', 'list', '-t'], capture_output=True, text=True, timeout=90, check=False
    )
    assert '/run [wam_msgs/action/RunInstruction]' in result.stdout, result.stderr

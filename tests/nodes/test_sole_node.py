"""Another node of our name counts while it answers: a killed one does not stand in the way."""

import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.nodes.run_node import ExecutorThread
from wam_policy.nodes.sole_node import ALREADY_RUNNING, ANSWER_S, find_running_node

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]

NODE_SCRIPT = textwrap.dedent("""
    import sys
    from diagnostic_updater import Updater
    from rclpy.node import Node
    from wam_policy.nodes.callback_guard import CallbackGuard
    from wam_policy.nodes.run_node import run_node

    class Twin(Node):
        def __init__(self):
            super().__init__('twin')
            print('made', flush=True)
            self.guard = CallbackGuard(self, Updater(self))

        def close(self):
            pass

    run_node(Twin, 'twin', sys.argv)
""")


@pytest.fixture
def default_context(ros_domain):
    rclpy.init(args=['--ros-args', '-r', '__ns:=/wam'])
    yield
    rclpy.shutdown()


@contextmanager
def other_node(name, namespace, answers):
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(name, namespace=namespace, context=context)
    spinning = ExecutorThread([node]) if answers else None
    try:
        yield
    finally:
        if spinning is not None:
            spinning.stop()
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ('name', 'namespace', 'answers', 'found'),
    [
        ('motion', '/wam', True, True),
        ('motion', '/wam', False, False),  # as one that was killed, or hangs
        ('motion', '/other', True, False),
        ('policy', '/wam', True, False),
    ],
)
def test_only_a_node_of_our_name_that_answers_counts(
    default_context, name, namespace, answers, found
):
    with other_node(name, namespace, answers):
        assert find_running_node('motion') == ('/wam/motion', found)


def test_a_process_that_gets_little_time_looks_for_longer(default_context):
    def come_late():
        time.sleep(2 * ANSWER_S)
        with other_node('motion', '/wam', True):
            is_seen.wait(30.0)

    is_seen = threading.Event()
    other = threading.Thread(target=come_late)
    other.start()
    # each poll takes 0.2 s: it is over after as many as otherwise, not after as much time
    assert find_running_node('motion', stop=lambda: time.sleep(0.2)) == ('/wam/motion', True)
    is_seen.set()
    other.join()


def test_the_look_leaves_no_node_and_ends_when_asked(default_context):
    assert find_running_node('motion', stop=lambda: True) == ('/wam/motion', False)
    with other_node('motion', '/wam', True):
        assert find_running_node('motion', stop=lambda: True) == ('/wam/motion', False)
        assert find_running_node('motion') == ('/wam/motion', True)


def start_twin(*arguments):
    return subprocess.Popen(
        [sys.executable, '-c', NODE_SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_second_of_a_name_leaves_and_a_killed_one_is_replaced_at_once(ros_domain):
    first = start_twin()
    try:
        assert first.stdout.readline() == 'made\n'
        assert first.stdout.readline() == '/twin is the only node of its name\n'
        second = start_twin()
        printed, said = second.communicate(timeout=30)
        assert second.returncode == ALREADY_RUNNING and printed == ''
        assert f'/twin: another node of this name answers in ROS domain {ros_domain}' in said
        assert first.poll() is None
        elsewhere = start_twin('--ros-args', '-r', '__ns:=/b')
        assert elsewhere.stdout.readline() == 'made\n'
        elsewhere.kill()
        elsewhere.communicate()
        first.kill()
        first.communicate()
        first = start_twin()
        assert first.stdout.readline() == 'made\n'
    finally:
        first.kill()
        first.communicate()

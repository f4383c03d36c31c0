"""A node as a program: a signal ends it in order, and also when it is stuck."""

import signal
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

NODE_SCRIPT = textwrap.dedent("""
    import sys, threading
    from diagnostic_updater import Updater
    from rclpy.node import Node
    from wam_policy.nodes.callback_guard import CallbackGuard
    from wam_policy.nodes.run_node import run_node

    class Stuck(Node):
        def __init__(self):
            super().__init__('stuck')
            self.guard = CallbackGuard(self, Updater(self))
            if sys.argv[1] == 'callback':
                self.create_timer(0.01, self.never_ends)
            else:
                print('up', flush=True)

        def never_ends(self):
            # in one piece: print writes text and end of line apart, and run_node writes beside it
            sys.stdout.write('up\\n')
            sys.stdout.flush()
            threading.Event().wait()

        def close(self):
            if sys.argv[1] == 'close':
                self.never_ends()

    run_node(Stuck, 'stuck', shutdown_timeout_s=float(sys.argv[2]))
""")


def run_and_signal(place, shutdown_timeout_s, *numbers):
    """Start the node, signal it once it is up, and return its exit status and stderr."""
    process = subprocess.Popen(
        [sys.executable, '-c', NODE_SCRIPT, place, str(shutdown_timeout_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert 'up\n' in iter(process.stdout.readline, '')
        for number in numbers:
            process.send_signal(number)
        return process.wait(timeout=30), process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('place', ['callback', 'close'])
def test_a_stuck_node_leaves_by_force_and_says_where_it_was(place):
    status, said = run_and_signal(place, 0.3, signal.SIGINT, signal.SIGTERM)
    assert status == 1
    assert 'in never_ends' in said


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_with_status_0(number):
    status, said = run_and_signal('nowhere', 30.0, number)
    assert (status, said) == (0, '')


KEEPING_SCRIPT = textwrap.dedent("""
    from diagnostic_updater import Updater
    from rclpy.node import Node
    from wam_policy.nodes.callback_guard import CallbackGuard
    from wam_policy.nodes.run_node import run_node

    class Keeping(Node):
        def __init__(self):
            super().__init__('keeping')
            self.guard = CallbackGuard(self, Updater(self))
            self.asked, self.calls = False, 0
            self.create_timer(0.01, self.fail_once)
            print('up', flush=True)

        def fail_once(self):
            self.calls += 1
            if self.asked and self.calls < 10**6:
                self.calls = 10**6
                raise ValueError('of a callback')

        def may_exit(self):
            self.asked = True
            return self.calls > 10**6 + 20  # the executor goes on after the failure

        def close(self):
            pass

    run_node(Keeping, 'keeping', shutdown_timeout_s=30.0, may_exit=Keeping.may_exit)
""")


def test_a_node_that_must_not_exit_yet_goes_on_after_signals_and_a_failed_callback():
    process = subprocess.Popen(
        [sys.executable, '-c', KEEPING_SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert 'up\n' in iter(process.stdout.readline, '')
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert 'of a callback' in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_a_node_without_guard_and_close_is_refused():
    script = """
from rclpy.node import Node
from wam_policy.nodes.run_node import run_node

run_node(lambda: Node('bare'), 'bare')
"""
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert 'TypeError: Node lacks what run_node needs: guard and close()' in done.stderr

"""Stacks for tests: a whole launch, or its nodes one by one."""

import contextlib
import subprocess
import sys
import threading
import time

import psutil
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from wam_msgs.msg import ActionChunk
from wam_policy.core.robot import embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools.can_emulation.arms_on_can import ArmsOnCan
from wam_tools.launch_process import LaunchProcess
from wam_tools.stack_node import StackNode

MAX_JUMP_RATIO = 1.5  # of the way that the velocity limit allows per sample


class StackProbe(StackNode):
    """Listen to a stack from outside and speak to it as a user would."""

    launch: LaunchProcess  # where it is known

    def __init__(self, robot, robot_namespace=''):
        self.policy_states, self.chunks, self.motion_reasons = [], [], []
        self.joint_state, self.jumps = None, []
        context = rclpy.Context()
        rclpy.init(context=context)
        super().__init__('watch', embodiment.load_embodiment(robot), context, robot_namespace)
        self._velocity_limit = self.robot.limits().velocity
        self.create_subscription(ActionChunk, 'action_chunk', self.chunks.append, qos.CHUNK)
        joint_states = self.name_of('/joint_states')
        self.create_subscription(JointState, joint_states, self._on_joint_state, qos.JOINTS)
        self._executor_thread = ExecutorThread([self])

    def close(self):
        self._executor_thread.stop()
        self.destroy_node()
        rclpy.shutdown(context=self.context)

    def publish_instruction(self, text):
        self.wait(
            self._instruction_publisher.get_subscription_count, 'nobody listens to instructions'
        )
        return super().publish_instruction(text)

    def wait(self, condition, timeout_message='', timeout_s=60.0):
        end_s = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < end_s, f'{timeout_message}; {self.reason}'
            time.sleep(0.02)
        return found

    def wait_running(self, previous_session=''):
        self.wait(
            lambda: (
                self.policy.state_name == 'RUNNING'
                and self.chunks
                and self.chunks[-1].session == self.policy.session != previous_session
            ),
            'not running',
        )

    def wait_motion(self, *states):
        self.wait(lambda: self.motion.state_name in states, f'motion is not {states}')

    def wait_rest(self, timeout_s=5.0):
        """Wait until the joints have rested for a third of a second."""
        seen = [(time.monotonic(), self.joint_state.position)]

        def resting():
            now_s, position = time.monotonic(), self.joint_state.position
            if np.abs(position - seen[0][1]).max() > 2e-3:
                seen[0] = (now_s, position)
            return now_s - seen[0][0] > 0.33

        self.wait(resting, 'the joints do not rest', timeout_s)

    def on_policy_status(self, msg):
        super().on_policy_status(msg)
        if not self.policy_states or self.policy_states[-1] != msg.state_name:
            self.policy_states.append(msg.state_name)

    def on_motion_status(self, msg):
        super().on_motion_status(msg)
        if not self.motion_reasons or self.motion_reasons[-1] != msg.reason:
            self.motion_reasons.append(msg.reason)

    def _on_joint_state(self, msg):
        try:
            state = message_conversion.joint_state_from_msg(msg, self.robot.commanded)
        except ValueError:  # a test publishes what no robot would
            return
        if self.joint_state is not None and state.stamp_ns > self.joint_state.stamp_ns:
            passed_s = (state.stamp_ns - self.joint_state.stamp_ns) / 1e9
            way = np.abs(state.position - self.joint_state.position)
            if (way > MAX_JUMP_RATIO * self._velocity_limit * max(passed_s, 0.01)).any():
                self.jumps.append((state.stamp_ns, float(way.max()), passed_s))
        self.joint_state = state


@pytest.fixture(scope='module', autouse=True)
def isolate_ros_domain(ros_domain):
    """Run each file in a ROS domain of its own."""


@pytest.fixture(scope='module')
def launched(tmp_path_factory):
    """Give a function that launches a stack in place of the one before; the last one is ended."""
    running = []

    def launch(robot, *arguments):
        while running:  # a first try that failed: two in one domain disturb both
            running.pop().stop(_make_set_event())
        log = tmp_path_factory.mktemp('launch') / 'log'
        running.append(
            LaunchProcess(
                [
                    'ros2',
                    'launch',
                    'wam_bringup',
                    f'{robot}.launch.py',
                    'console:=false',
                    *arguments,
                ],
                log,
            )
        )
        return running[-1]

    yield launch
    for stack in running:
        stack.stop(_make_set_event())


@pytest.fixture(scope='module')
def started():
    """Give a function that starts one node as a process; all are ended at the end."""
    running = []

    def start(module, *ros_arguments):
        running.append(
            subprocess.Popen([sys.executable, '-m', module, '--ros-args', *ros_arguments])
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        process.wait(timeout=15)


@pytest.fixture(scope='module')
def watching():
    """Give a function that listens to the stack of a robot."""
    open_ = []

    def watch(robot):
        open_.append(StackProbe(robot))
        return open_[-1]

    yield watch
    for each in open_:
        each.close()


def find_worker_processes(stack_pid):
    """Return the worker processes below a process."""
    return [
        process
        for process in psutil.Process(stack_pid).children(recursive=True)
        if 'wam_policy.workers.run_worker' in process.cmdline()
    ]


def _make_set_event():
    event = threading.Event()
    event.set()
    return event


@contextlib.contextmanager
def run_remote_stack(launched, robot, profile, address):
    """Give the probe of a simulated robot that holds its pose and has found its policy server."""
    probe = StackProbe(robot)
    probe.launch = launched(
        robot,
        'sim:=true',
        'camera_size:=160',
        'backend:=remote',
        f'server:={address}',
        f'server_profile:={profile}',
    )
    try:
        probe.wait(lambda: probe.policy.state_name == 'IDLE', 'the server was not found', 90)
        probe.wait_motion('HOLDING')
        yield probe
    finally:
        probe.close()
        probe.launch.stop(threading.Event())


def use_server(stage, profile, address):
    """Configure policy_node for another server; the launch activates it then."""
    stage.publish_instruction('')
    stage.wait(lambda: stage.policy.state_name in ('HOLDING', 'IDLE'), 'still running')
    stage.wait_rest()

    def change(transition):
        done = stage.call_service(
            ChangeState, 'policy/change_state', 30.0, transition=Transition(id=transition)
        )
        assert done is not None and done.success, transition

    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_CLEANUP)
    given = {'server': address, 'server_profile': profile}
    parameters = [Parameter(name, value=text).to_parameter_msg() for name, text in given.items()]
    done = stage.call_service(SetParameters, 'policy/set_parameters', parameters=parameters)
    assert [result.reason for result in done.results if not result.successful] == []
    before = stage.policy  # it may have been idle
    change(Transition.TRANSITION_CONFIGURE)
    stage.wait(
        lambda: stage.policy is not before and stage.policy.state_name == 'IDLE',
        f'{profile}: not found',
    )


@pytest.fixture
def arms(tmp_path, ros_domain):
    """Give two emulated arms on a CAN bus, and what launches and commands them."""
    context = rclpy.Context()
    rclpy.init(context=context)
    made = ArmsOnCan(tmp_path, context)
    spinning = ExecutorThread([made.bench.node])
    try:
        with made.bus:
            yield made
            made.close()
    finally:
        made.close()
        spinning.stop()
        made.bench.node.destroy_node()
        rclpy.shutdown(context=context)

"""The launch on two emulated YAM arms: whatever is killed in motion, no motor loses its torque.

The motors live in this process and the driver is a double of i2rt (emulation/): what is killed
here is the real launch, the real nodes and the real starter of stream_node.
"""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from std_srvs.srv import Trigger

from tests.nodes.stream.emulation.can_bus import EmulatedCanBus
from tests.nodes.stream.emulation.dm_motors import ENABLED, LOST_COMMUNICATION
from tests.nodes.stream.stream_test_bench import StreamTestBench
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes.run_node import ExecutorThread

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parents[3]
CHANNELS = ('can_follower_l', 'can_follower_r')
OFFSET = np.array([0.3, 0.5, 0.5, 0.2, 0.2, 0.2] * 2 + [-0.3] * 2)
MAX_SPEED_RAD_S = 1.0  # of moves that are planned at up to 0.4 rad/s


class ArmsOnCan:
    """Two arms on an emulated bus, and one launch after another that drives them."""

    def __init__(self, folder, context):
        self.bus = EmulatedCanBus(folder, CHANNELS)
        self.bench = StreamTestBench(context, load_embodiment('yam'), reports_enabled=False)
        self.wait = self.bench.wait
        self._folder, self._env = (
            folder,
            os.environ
            | {
                'WAM_EMULATED_CAN': str(folder),
                'ROS_HOME': str(folder),
                'PYTHONPATH': os.pathsep.join(
                    (
                        str(Path(__file__).with_name('emulation') / 'driver'),
                        str(ROOT),
                        os.environ['PYTHONPATH'],
                    )
                ),
                'PYTHONUNBUFFERED': '1',
            },
        )
        self.launches = []
        self.stream = None  # its process

    def launch(self, *arguments):
        log = self._folder / f'launch{len(self.launches)}.log'
        command = ('ros2', 'launch', 'wam_bringup', 'yam.launch.py', 'sim:=false', *arguments)
        with log.open('wb') as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        self.launches.append((process, log))
        return process

    def read_log(self):
        return self.launches[-1][1].read_text(errors='replace')

    def bring_up(self):
        """Launch, and wait until stream and motion are active and the arms are held."""
        process = self.launch(
            'enable_motion:=true', 'record:=manual', 'backend:=remote', 'server:=ws://127.0.0.1:9'
        )
        self.wait(lambda: self.read_state('stream') == State.PRIMARY_STATE_ACTIVE, 90)
        self.wait(lambda: self.read_state('motion') == State.PRIMARY_STATE_ACTIVE, 60)
        self.wait(lambda: all(arm.holds for arm in self.bus.states()))
        self.stream = self.find_process('stream.stream_node', psutil.process_iter())
        for name in CHANNELS:
            self.bus.call(name, 'forget_speed')
        return process

    def find_process(self, words, among=None):
        """Return the process of the launch (or `among`) whose command line has `words`."""
        among = among or psutil.Process(self.launches[-1][0].pid).children(recursive=True)
        for process in among:
            try:
                if words in ' '.join(process.cmdline()) and self._is_own(process):
                    return process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        raise AssertionError(f'no process {words} of this test')

    def _is_own(self, process):
        return process.environ().get('WAM_EMULATED_CAN') == str(self._folder)

    def call(self, kind, name, request):
        client = self.bench.node.create_client(kind, name)
        try:
            if not client.wait_for_service(1.0):
                return None
            future = client.call_async(request)
            end_s = time.monotonic() + 5.0
            while not future.done() and time.monotonic() < end_s:
                time.sleep(0.01)
            return future.result() if future.done() else None
        finally:
            self.bench.node.destroy_client(client)

    def read_state(self, node):
        answer = self.call(GetState, f'/wam/{node}/get_state', GetState.Request())
        return answer and answer.current_state.id

    def start_moving(self):
        """Send both arms on a way of three seconds; return once they are on it."""
        self.wait(lambda: self.bench.joint_states)
        sign = 1.0 if self.bench.positions[1] < 0.6 else -1.0
        self.bench.move(sign * OFFSET, rows=90)
        before = self.bus.states()
        self.wait(
            lambda: all(
                abs(arm.position[1] - start.position[1]) > 0.05
                for arm, start in zip(self.bus.states(), before, strict=True)
            )
        )

    def wait_rest(self):
        """Wait until no motor moves."""
        self.wait(lambda: all(max(map(abs, arm.velocity)) < 0.02 for arm in self.bus.states()))

    def check_held(self):
        """Check that every motor has had torque since it was enabled, and did not jump."""
        for arm in self.bus.states():
            assert arm.holds and arm.errors == [[ENABLED]] * 7
            assert arm.max_speed < MAX_SPEED_RAD_S

    def have_lost_torque(self):
        return all(arm.errors == [[ENABLED, LOST_COMMUNICATION]] * 7 for arm in self.bus.states())

    def release(self):
        """Ask for the arms' release until they rest; return the last answer's message."""

        def is_released():
            answer = self.call(Trigger, '/wam/stream/release', Trigger.Request())
            return answer and answer.success and answer

        return self.wait(is_released)

    def close(self):
        for process, _ in self.launches:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and self._is_own(process):
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


@pytest.fixture
def arms(tmp_path, ros_domain):
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


@pytest.mark.parametrize('victim', ['policy_node', 'stream.detached_process', 'launch', 'ctrl-c'])
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

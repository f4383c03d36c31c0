"""policy_node on real rclpy with played cameras and a worker program that has no model."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State as Lifecycle
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from std_msgs.msg import String

from wam_msgs.action import RunInstruction
from wam_msgs.msg import ActionChunk, MotionStatus, PolicyStatus, SimStatus
from wam_msgs.srv import Reload
from wam_policy.core.robot import embodiment
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.images import image_conversion
from wam_policy.nodes.policy import worker_backend
from wam_policy.nodes.policy.policy_node import PolicyNode
from wam_policy.nodes.run_node import ExecutorThread
from wam_policy.workers.supervisor import WorkerSpec

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
ROBOT = embodiment.load_embodiment('yam')
STUB_WORKER = Path(__file__).parents[1] / 'toy_worker.py'
OUTCOME = RunInstruction.Result


def build_stub_worker_spec(params, checkpoint, base):
    return WorkerSpec(
        devices=('cpu',),
        arguments=('--embodiment', params.embodiment),
        program=(sys.executable, str(STUB_WORKER)),
        restart_delay_s=0.2,
    )


class PolicyTestBench:
    """Play the robot's senses and listen to the node, all in one spun thread."""

    def __init__(self, context):
        self.node = rclpy.create_node('bench', context=context)
        self.disabled_cameras, self.image_size, self.joints_enabled = set(), (8, 6), True
        self.chunks, self.statuses = [], []
        self.diagnostics, self.video_frames = {}, []
        new = self.node.create_subscription
        new(ActionChunk, 'action_chunk', self.chunks.append, qos.CHUNK)
        new(PolicyStatus, 'status', self.statuses.append, qos.LATCHED)
        new(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)
        self.image_publishers = {
            c.key: self.node.create_publisher(Image, c.topic, qos.IMAGE) for c in ROBOT.cameras
        }
        self.joint_state_publisher = self.node.create_publisher(
            message_conversion.JointStateMsg, '/joint_states', qos.JOINTS
        )
        self.instruction_publisher = self.node.create_publisher(String, 'instruction', qos.REQUEST)
        self.motion_status_publisher = self.node.create_publisher(
            MotionStatus, 'motion_status', qos.LATCHED
        )
        self.sim_status_publisher = self.node.create_publisher(
            SimStatus, '/sim/status', qos.REQUEST
        )
        self.random = np.random.default_rng(1)
        self.frozen_images = {}  # camera -> the picture it repeats
        # a period below the skew limit: between two arrivals one camera is a period ahead
        self.node.create_timer(0.042, self.on_camera_timer)
        self.node.create_timer(0.01, self.on_joint_timer)

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds

    def on_camera_timer(self):
        for key in set(self.image_publishers) - self.disabled_cameras:
            shape = (self.image_size[1], self.image_size[0], 3)
            pixels = self.frozen_images.get(key)
            if pixels is None:
                pixels = self.random.integers(0, 255, shape, np.uint8)
            self.image_publishers[key].publish(
                image_conversion.image_to_msg(pixels, self.now_ns(), key)
            )

    def on_joint_timer(self):
        if self.joints_enabled:
            state = JointState(self.now_ns(), ROBOT.observed, ROBOT.home_positions(ROBOT.observed))
            self.joint_state_publisher.publish(message_conversion.joint_state_to_msg(state))

    def on_diagnostics(self, msg):
        self.diagnostics |= {status.name: status for status in msg.status}

    def publish_instruction(self, text):
        self.instruction_publisher.publish(String(data=text))

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else PolicyStatus()

    def wait(self, condition, timeout_s=45.0):
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, (
                f'still {self.status.state_name}: {self.status.reason}'
            )
            time.sleep(0.01)

    def wait_running(self, session=''):
        self.wait(
            lambda: (
                self.status.state_name == 'RUNNING'
                and self.status.session != session
                and self.chunks
                and self.chunks[-1].session == self.status.session
            )
        )


@contextmanager
def start_policy_node(*parameters):
    """Give an active node for a YAM with parameters like `a:=1`, and the bench around it."""
    context = rclpy.Context()
    given = [word for each in ('embodiment:=yam', *parameters) for word in ('-p', each)]
    rclpy.init(context=context, args=['--ros-args', *given])
    node, bench = PolicyNode(context=context), PolicyTestBench(context)
    spinning = ExecutorThread([node, bench.node], on_error=node.guard.record)
    try:
        assert node.trigger_configure() == node.trigger_activate()
        bench.wait(lambda: bench.status.state_name == 'IDLE', 30)
        yield node, bench
    finally:
        spinning.stop()
        node.close()
        for made in (node, bench.node):
            made.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture
def stage(monkeypatch):
    """Give a node that waits for words, on workers without a model."""
    monkeypatch.setattr(worker_backend, 'build_worker_spec', build_stub_worker_spec)
    with start_policy_node() as made:
        yield made


@pytest.fixture
def running(stage):
    stage[1].publish_instruction('lift the cup')
    stage[1].wait_running()
    return stage


def test_chunks_carry_what_the_motion_side_checks(running):
    _, bench = running
    bench.wait(lambda: len(bench.chunks) > 10)
    chunk = message_conversion.chunk_from_msg(bench.chunks[-1])
    assert chunk.names == ROBOT.commanded and chunk.embodiment_hash == ROBOT.config_hash
    assert chunk.targets.shape == (24, 14) and not bench.chunks[-1].trained
    np.testing.assert_allclose(chunk.targets[0], ROBOT.home_positions(ROBOT.commanded))
    assert list(chunk.timings_ms) == ['image_transport', 'queue', 'denoise', 'transport']
    numbers = [c.sequence for c in bench.chunks]
    assert numbers == sorted(set(numbers))
    assert all(
        message_conversion.to_ns(c.header.stamp) <= message_conversion.to_ns(c.inference_end_stamp)
        for c in bench.chunks
    )


def test_the_status_is_whole_and_honest(running):
    _, bench = running
    bench.wait(lambda: bench.status.kv_commits >= 3)
    status = bench.status
    assert (status.robot, status.instruction, status.memory_update) == (
        'yam',
        'lift the cup',
        'streaming',
    )
    assert status.model == 'UNTRAINED toy' and not status.trained
    assert 6.0 < status.query_rate_hz <= 13.0  # max_query_rate_hz is 12.5
    assert status.stage_names == [
        'image_transport',
        'queue',
        'denoise',
        'transport',
        'publish',
        'total',
    ]
    p50 = dict(zip(status.stage_names, status.stage_p50_ms, strict=True))
    assert p50['denoise'] == 20.0 and 20.0 < p50['total'] < 200.0
    assert list(status.camera_names) == [c.key for c in ROBOT.cameras]
    assert all(15 < rate < 25 for rate in status.camera_rate_hz)
    assert all(0 <= age < 200 for age in status.camera_age_ms) and 0 <= status.joints_age_ms < 100
    assert status.kv_cached_blocks == status.kv_commits and 0.5 < status.kv_window_fill <= 1.0
    assert status.dropped_frames > 0 and status.worker_restarts == status.kv_rebuilds == 0


def test_new_words_open_a_session_and_no_chunk_of_the_old_one_follows(running):
    _, bench = running
    for i in range(5):
        old = bench.status.session
        bench.publish_instruction(f'open drawer {i}')
        bench.wait_running(old)
    sessions = [chunk.session for chunk in bench.chunks]
    assert len(set(sessions)) == 6
    assert sessions == sorted(sessions, key=lambda s: int(s.split('-')[1]))


def test_a_flood_of_words_is_survived(running):
    _, bench = running
    for i in range(1000):
        bench.publish_instruction(f'task {i}')
        time.sleep(0.001)
    bench.publish_instruction('lift the cup')
    bench.wait(
        lambda: bench.status.instruction == 'lift the cup' and bench.status.state_name == 'RUNNING'
    )
    assert len(bench.statuses) < 100


def test_empty_words_stop_and_bad_words_are_explained(running):
    _, bench = running
    bench.publish_instruction('\x1b[2J' + 'x' * 5000)
    bench.wait(lambda: 'limit 400' in bench.status.reason)
    assert bench.status.state_name == 'RUNNING' and bench.status.instruction == 'lift the cup'
    bench.publish_instruction('  \n')
    bench.wait(lambda: bench.status.state_name == 'HOLDING')
    assert bench.status.reason == 'the instruction is empty'
    time.sleep(0.2)
    chunks = len(bench.chunks)
    time.sleep(0.5)
    assert len(bench.chunks) == chunks


def test_a_dark_camera_stops_queries_and_light_brings_them_back(running):
    _, bench = running
    dark = ROBOT.cameras[1]
    bench.disabled_cameras = {dark.key}
    bench.wait(lambda: bench.status.state_name == 'STALE_OBSERVATION')
    assert dark.key in bench.status.reason and 'limit 0.2 s' in bench.status.reason
    time.sleep(0.1)
    chunks = len(bench.chunks)
    time.sleep(0.5)
    assert len(bench.chunks) == chunks
    bench.wait(lambda: bench.diagnostics[f'policy: camera {dark.key} rate and age'].level == b'\2')
    bench.disabled_cameras = set()
    bench.wait_running()


def test_a_frozen_camera_stops_queries_and_a_new_picture_brings_them_back(running):
    _, bench = running
    frozen = ROBOT.cameras[2].key
    bench.frozen_images = {frozen: np.full((6, 8, 3), [10, 200, 30], np.uint8)}
    bench.wait(lambda: bench.status.state_name == 'STALE_OBSERVATION')
    assert frozen in bench.status.reason and 'the same picture' in bench.status.reason
    bench.frozen_images = {}
    bench.wait_running()


def test_silent_joints_stop_queries_too(running):
    _, bench = running
    bench.joints_enabled = False
    bench.wait(lambda: bench.status.state_name == 'STALE_OBSERVATION')
    assert 'joint' in bench.status.reason
    bench.joints_enabled = True
    bench.wait_running()


def test_a_killed_worker_is_replaced_and_gets_the_real_past_again(running):
    node, bench = running
    bench.wait(lambda: bench.status.kv_commits >= 3)
    old = bench.status.session
    os.kill(node._inference_loop._backend._supervisor.status.info['pid'], signal.SIGKILL)
    bench.wait(lambda: bench.status.state_name == 'HOLDING')
    assert 'SIGKILL' in bench.status.reason
    bench.wait_running(old)
    assert bench.status.worker_restarts == 1 and bench.status.kv_rebuilds == 1
    bench.wait(lambda: bench.status.kv_cached_blocks >= 4)


def test_a_worker_that_refuses_is_asked_again_and_said_so(stage):
    _, bench = stage
    bench.publish_instruction('refuse')
    bench.wait(lambda: bench.status.state_name == 'ERROR')
    assert 'out of memory' in bench.status.reason
    bench.publish_instruction('lift the cup')
    bench.wait_running()


def test_chunks_that_are_not_finite_are_dropped_and_counted(stage):
    _, bench = stage
    bench.publish_instruction('nan')
    bench.wait(
        lambda: bench.status.dropped_chunks >= 3 and 'NaN or infinity' in bench.status.reason
    )
    assert not bench.chunks


@pytest.mark.parametrize('place', ['next_request', 'on_frame'])
def test_a_fault_of_the_node_itself_is_an_error_for_a_while(running, place):
    """In the inference loop and in a callback: motion_node holds while the state is ERROR."""
    node, bench = running
    session = bench.status.session

    def fail_once(*arguments):
        delattr(policy, place)
        raise ZeroDivisionError('of a test')

    with node._locked_policy as policy:
        setattr(policy, place, fail_once)
    bench.wait(lambda: bench.status.state_name == 'ERROR')
    assert bench.status.reason == 'fault in policy_node: ZeroDivisionError: of a test'
    bench.wait(lambda: '1 faults' in str(bench.diagnostics.get('policy: callbacks')))
    bench.wait_running(session)


def test_reload_restarts_the_workers_and_names_a_wrong_folder(running, monkeypatch):
    _, bench = running
    client = bench.node.create_client(Reload, 'reload')
    old = bench.status.session
    answer = client.call(Reload.Request())
    assert answer.success and 'mini_yam' in answer.message
    bench.wait_running(old)

    def refuses(params, checkpoint, base):
        raise ValueError(f'checkpoint: {checkpoint!r} on {base!r} is no folder')

    monkeypatch.setattr(worker_backend, 'build_worker_spec', refuses)
    answer = client.call(Reload.Request(checkpoint='/nowhere', base='/base'))
    assert not answer.success and "'/nowhere' on '/base'" in answer.message


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match='/nowhere'):
        worker_backend.build_worker_spec(PARAMS, '/nowhere')
    made = worker_backend.build_worker_spec(PARAMS, 'preset:tiny')
    assert made.roles == ('cond', 'uncond')
    assert {'--checkpoint', '--embodiment', '--guidance-scale'} <= set(made.arguments)


PARAMS = worker_backend.PolicyParams()


def test_video_is_decoded_only_for_those_who_watch(running):
    _, bench = running
    watch = bench.node.create_subscription(
        Image, 'predicted_video', bench.video_frames.append, qos.IMAGE
    )
    bench.wait(lambda: bench.video_frames)
    stamps = [message_conversion.to_ns(image.header.stamp) for image in bench.video_frames[:2]]
    # a slow reader misses pictures, it never gets one twice or one of another grid
    apart_ns = [after - before for before, after in pairwise(stamps)]
    assert all(ns > 0 and ns % 200_000_000 == 0 for ns in apart_ns)
    bench.node.destroy_subscription(watch)


def test_diagnostics_name_every_part(running):
    node, bench = running
    wanted = {
        'policy: loop',
        'policy: query latency and rate',
        'policy: workers',
        'policy: other RMWs',
        *(f'policy: camera {camera.key} rate and age' for camera in ROBOT.cameras),
    }
    bench.wait(lambda: wanted <= set(bench.diagnostics))
    bench.wait(lambda: bench.diagnostics['policy: query latency and rate'].message[0].isdigit())
    assert 'random weights' in bench.diagnostics['policy: workers'].message
    assert 'no node with another DDS' in bench.diagnostics['policy: other RMWs'].message
    camera = f'policy: camera {ROBOT.cameras[0].key} rate and age'
    bench.wait(lambda: bench.diagnostics[camera].level == b'\0')  # the rate needs some frames
    with node._locked_policy as policy:  # the limit that observations are judged by
        policy.observations.age_limit_ns = lambda _: 1e6
    bench.wait(lambda: 'limit 0.001 s' in bench.diagnostics[camera].message)


def send_run_goal(bench, instruction, time_limit_s, feedback=None):
    client = ActionClient(bench.node, RunInstruction, 'run')
    assert client.wait_for_server(5)
    goal = wait_for_result(
        client.send_goal_async(
            RunInstruction.Goal(instruction=instruction, time_limit=time_limit_s), feedback
        )
    )
    return goal, goal.get_result_async() if goal.accepted else None


def wait_for_result(future, timeout_s=20.0):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(timeout_s)
    return future.result()


LATCHED = MotionStatus(state=MotionStatus.ESTOPPED, state_name='ESTOPPED', stops=1)
MISSED = MotionStatus(state=MotionStatus.HOLDING, state_name='HOLDING', stops=2)


@pytest.mark.parametrize('status', [LATCHED, MISSED], ids=['latched', 'short'])
def test_a_stop_takes_the_instruction_away_and_the_same_words_bring_it_back(running, status):
    _, bench = running
    bench.motion_status_publisher.publish(
        MotionStatus(state=MotionStatus.TRACKING, state_name='TRACKING')
    )
    time.sleep(0.3)
    session = bench.status.session
    assert bench.status.state_name == 'RUNNING'
    bench.motion_status_publisher.publish(status)
    bench.wait(lambda: bench.status.state_name == 'HOLDING')
    assert bench.status.instruction == '' and status.state_name in bench.status.reason
    assert 'the instruction is gone, give a new one' in bench.status.reason
    chunks = bench.status.chunks_published
    bench.motion_status_publisher.publish(MotionStatus(stops=status.stops))  # released
    time.sleep(0.5)
    assert bench.status.state_name == 'HOLDING' and bench.status.chunks_published == chunks
    bench.publish_instruction('lift the cup')
    bench.wait_running(session)


def test_an_instruction_given_while_a_stop_is_latched_is_dropped(stage):
    _, bench = stage
    bench.motion_status_publisher.publish(LATCHED)
    time.sleep(0.2)
    _, result = send_run_goal(bench, 'lift the cup', 5.0)
    bench.motion_status_publisher.publish(LATCHED)  # as motion_node does ten times a second
    answer = wait_for_result(result).result
    assert answer.outcome == OUTCOME.FAILED and 'motion is ESTOPPED' in answer.message
    bench.wait(lambda: bench.status.instruction == '')


def test_errors_that_may_heal_do_not_end_a_run_before_its_time(stage):
    _, bench = stage
    _, result = send_run_goal(bench, 'refuse', 2.5)  # fails twice and more, a second apart
    answer = wait_for_result(result).result
    assert answer.outcome == OUTCOME.TIMED_OUT and 'out of memory' in answer.message


def test_a_run_ends_with_its_time_and_the_robot_holds(stage):
    _, bench = stage
    feedback = []
    _, result = send_run_goal(bench, 'lift the cup', 1.5, feedback.append)
    answer = wait_for_result(result)
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert answer.result.outcome == OUTCOME.TIMED_OUT and answer.result.chunks_published > 3
    assert 1.4 < answer.result.duration < 2.0 and len(feedback) > 5
    bench.wait(lambda: bench.status.state_name == 'HOLDING')


def test_a_run_can_be_cancelled_replaced_or_succeed(stage):
    _, bench = stage
    goal, result = send_run_goal(bench, 'lift the cup', 30.0)
    bench.wait_running()
    wait_for_result(goal.cancel_goal_async())
    answer = wait_for_result(result)
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert answer.result.outcome == OUTCOME.CANCELED
    bench.wait(lambda: bench.status.instruction == '')

    _, first = send_run_goal(bench, 'lift the cup', 30.0)
    _, second = send_run_goal(bench, 'open the drawer', 30.0)
    assert wait_for_result(first).result.outcome == OUTCOME.PREEMPTED
    bench.wait(lambda: bench.status.instruction == 'open the drawer')
    bench.sim_status_publisher.publish(SimStatus(instruction='lift the cup', success=True))
    bench.sim_status_publisher.publish(SimStatus(instruction='open the drawer', success=True))
    answer = wait_for_result(second)
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert answer.result.outcome == OUTCOME.SUCCEEDED


@pytest.mark.parametrize(('instruction', 'limit_s'), [('', 3.0), (' ', 3.0), ('lift', 0.0)])
def test_a_run_without_words_or_time_is_refused(stage, instruction, limit_s):
    goal, _ = send_run_goal(stage[1], instruction, limit_s)
    assert not goal.accepted


def test_life_can_be_gone_through_twice_and_leaves_no_worker(running):
    node, bench = running
    pid = node._inference_loop._backend._supervisor.status.info['pid']
    node.trigger_deactivate()
    time.sleep(0.1)
    chunks = len(bench.chunks)
    node.trigger_cleanup()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(bench.chunks) == chunks
    node.trigger_configure()
    node.trigger_activate()
    bench.wait(lambda: bench.status.state_name == 'IDLE')
    bench.publish_instruction('lift the cup')
    bench.wait_running()


def test_a_robot_that_does_not_exist_stops_the_configuration(monkeypatch):
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '-p', 'embodiment:=yamm'])
    node = PolicyNode(context=context)
    try:
        node.trigger_configure()
        assert node._state_machine.current_state[0] == Lifecycle.PRIMARY_STATE_UNCONFIGURED
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)

"""A thousand random requests and messages: every process stays, every limit is kept."""

import sys
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Empty, String
from std_srvs.srv import SetBool, Trigger

from tests.stack.random_requests import (
    ANSWER_S,
    NUMBERS,
    PICK,
    TEXTS,
    RandomRequests,
    bring_up_node,
)
from wam_msgs.action import RecordEpisode, RunInstruction
from wam_msgs.msg import ActionChunk, SimGoal
from wam_msgs.srv import BeginEpisode, Reload, StartEpisode, StopEpisode
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes import qos

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(240)]
REQUESTS, SEED = 1000, 16
LIFECYCLE_NODES = ('policy', 'motion', 'recorder')
WORKER_SCRIPT = """#!/bin/sh
shift 2
exec {python} -m wam_tools.fault_injection.stub_worker "$@"
"""


class RandomClient(RandomRequests):
    """Send random requests to policy, motion, recorder and simulator."""

    def __init__(self, probe, seed):
        super().__init__(probe, seed, LIFECYCLE_NODES, (*LIFECYCLE_NODES, '/sim'))
        out = probe.create_publisher
        self.publishers = [
            (out(String, 'instruction', qos.REQUEST), self.draw_string),
            (out(Empty, 'estop_signal', 10), Empty),
            (out(ActionChunk, 'action_chunk', qos.CHUNK), self.draw_chunk),
            (out(JointState, '/joint_states', qos.JOINTS), self.draw_joint_state),
            (out(Joy, 'joy', 10), self.draw_joy),
            *[
                (out(Image, camera.topic, qos.IMAGE), self.draw_image)
                for camera in load_embodiment('yam').cameras
            ],
        ]
        self.actions = [
            (ActionClient(probe, RunInstruction, 'run'), self.draw_run),
            (ActionClient(probe, RecordEpisode, 'record'), self.draw_recording),
        ]

    def draw_string(self):
        return String(data=self.draw_text())

    def draw_chunk(self):
        return ActionChunk(joint_names=['a'], positions=self.dice.choices(NUMBERS, k=3))

    def draw_joy(self):
        return Joy(
            header=self.draw_header(),
            axes=[min(max(x, -1e38), 1e38) for x in self.dice.choices(NUMBERS, k=2)],
            buttons=[self.dice.choice((0, 1, -1, 2**31 - 1))] * self.dice.choice((0, 1, 5000)),
        )

    def draw_image(self):
        """Return a picture whose sizes, encoding and bytes need not fit each other."""
        dice = self.dice
        return Image(
            header=self.draw_header(),
            height=dice.choice((0, 1, 120, 2**32 - 1)),
            width=dice.choice((0, 1, 160, 2**32 - 1)),
            step=dice.choice((0, 480, 2**32 - 1)),
            encoding=dice.choice(('rgb8', 'mono8', 'rgb8', '16UC1', 'x', '')),
            data=bytes(dice.choice((0, 3, 160 * 120 * 3, 2_000_000))),
        )

    def draw_run(self):
        return RunInstruction.Goal(
            instruction=self.draw_text(), time_limit=self.dice.choice(NUMBERS)
        )

    def draw_recording(self):
        return RecordEpisode.Goal(
            instruction=self.draw_text(),
            labels=[self.draw_text()],
            time_limit=self.dice.choice(NUMBERS),
        )

    def draw_service_call(self):
        dice = self.dice
        goal = SimGoal(
            task_family=dice.choice(('touch', 'stack', 'x')),
            slot=dice.choice(('red', 'x', '')),
            side=dice.choice(('left', '')),
            target=self.draw_text(),
        )
        return dice.choice(
            (
                (SetBool, 'enable', {'data': dice.random() < 0.8}),
                (Trigger, 'estop', {}),
                *[(Trigger, 'reset', {})] * 3,
                (Reload, 'reload', {'checkpoint': dice.choice((*TEXTS, 'preset:toy'))}),
                (
                    StartEpisode,
                    'recorder/start',
                    {'instruction': self.draw_text(), 'labels': [self.draw_text()]},
                ),
                (StopEpisode, 'recorder/stop', {'keep': False, 'note': self.draw_text()}),
                (Trigger, '/sim/reset', {}),
                (
                    BeginEpisode,
                    '/sim/begin',
                    {
                        'seed': dice.choice((0, -1, 2**62, -(2**63))),
                        'task_family': dice.choice(('any', 'touch', 'x', '')),
                        'task_split': dice.choice(('all', 'y', '')),
                        'goals': [goal] * dice.randrange(3),
                    },
                ),
            )
        )


@pytest.fixture(scope='module')
def stack(started, watching, tmp_path_factory):
    folder = tmp_path_factory.mktemp('requests')
    worker = folder / 'worker'
    worker.write_text(WORKER_SCRIPT.format(python=sys.executable))
    worker.chmod(0o700)
    probe = watching('yam')
    faults = {}

    def on_diagnostics(msg):
        for status in msg.status:
            if status.name.endswith(': callbacks') and status.level != DiagnosticStatus.OK:
                faults[status.name] = status.message

    probe.create_subscription(DiagnosticArray, '/diagnostics', on_diagnostics, 10)
    common = ('-r', '__ns:=/wam', '-p', 'embodiment:=yam')
    toy = ('-p', 'checkpoint:=preset:toy', '-p', f'worker_python:={worker}')
    size = ('-p', 'image_width:=160', '-p', 'image_height:=120')
    modules = {
        'sim': ('wam_sim.sim_node', '-p', 'robot:=yam', *size),
        'policy': ('wam_policy.nodes.policy.policy_node', *common, *toy, '-p', "devices:=['cpu']"),
        'motion': ('wam_policy.nodes.motion.motion_node', *common, '-p', 'enable_motion:=true'),
        'recorder': (
            'wam_policy.nodes.recorder.recorder_node',
            *common,
            *('-p', f'output_dir:={folder}/episodes', '-p', 'min_free_mb:=0'),
        ),
    }
    nodes = {name: started(*arguments) for name, arguments in modules.items()}
    for name in LIFECYCLE_NODES:
        bring_up_node(probe, name)
    probe.wait(lambda: probe.policy.state_name == 'IDLE', 'workers are not ready', 90)
    return nodes, probe, faults


def test_random_requests_end_no_process_and_break_no_limit(stack):
    nodes, probe, faults = stack
    probe.publish_instruction(PICK)
    probe.wait_motion('FIRST_MOVE', 'TRACKING')
    client = RandomClient(probe, SEED)
    ratios = [0.0]
    while client.count < REQUESTS:
        client.send_one()
        dead = {name: each.returncode for name, each in nodes.items() if each.poll() is not None}
        assert not dead, f'{dead} after {client.count} requests'
        sim = probe.sim
        ratios += [*sim.max_velocity_ratio, *sim.max_acceleration_ratio, *sim.max_jerk_ratio]
    assert client.unanswered == []
    assert max(ratios) <= 1.0 + 1e-6
    time.sleep(1.5)  # until diagnostics have told of the last one
    assert faults == {}


def test_after_a_shutdown_a_node_still_answers(stack):
    nodes, probe, _ = stack
    for node in LIFECYCLE_NODES:
        probe.call_service(
            ChangeState, f'{node}/change_state', ANSWER_S, transition=Transition(label='shutdown')
        )
        refused = probe.call_service(
            ChangeState, f'{node}/change_state', ANSWER_S, transition=Transition(id=1)
        )
        assert not refused.success
        state = probe.call_service(GetState, f'{node}/get_state', ANSWER_S).current_state
        assert state.label == 'finalized' and nodes[node].poll() is None

"""A thousand random requests and messages: every process stays, every limit is kept."""

import random
import sys
import time
from functools import partial

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.action import ActionClient
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Empty, Header, String
from std_srvs.srv import SetBool, Trigger

from wam_msgs.action import RecordEpisode, RunInstruction
from wam_msgs.msg import ActionChunk, SimGoal
from wam_msgs.srv import BeginEpisode, Reload, StartEpisode, StopEpisode
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes import qos

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(240)]
REQUESTS, SEED = 1000, 16
ANSWER_S = 20.0  # saving an episode or ending workers takes seconds on a busy machine
LIFECYCLE_NODES = ('policy', 'motion', 'recorder')
PICK = 'pick up the red cube'
TEXTS = ('', PICK, 'x' * 5000, 'a\x00b', '\n\t', '../../etc', '💥 \u202e', 'key=value', '=')
NUMBERS = (0.0, -1.0, 0.2, 1e300, float('nan'), float('inf'), -float('inf'))
# no shutdown: it ends what a node can be asked for; tried at the end
TRANSITIONS = (0, 1, 2, 3, 4, 8, 9, 10, 50, 97, 255)
LABELS = ('configure', 'cleanup', 'activate', 'deactivate', 'transition_error', 'create', 'x y')
PARAMETERS = (
    *('use_sim_time', 'embodiment', 'joint_states_topic', 'speed_scale', 'max_query_rate_hz'),
    *('images', 'jpeg_quality', 'auto_record', 'rate_hz', 'diagnostic_updater.period', 'nothing'),
    *('start_type_description_service', 'seed', 'devices', 'collision_check', ''),
)
WORKER_SCRIPT = """#!/bin/sh
shift 2
exec {python} -m wam_tools.fault_injection.stub_worker "$@"
"""


def bring_up_node(probe, node):
    """Configure and activate a lifecycle node of the stack."""
    for number, goal in (
        (Transition.TRANSITION_CONFIGURE, 'inactive'),
        (Transition.TRANSITION_ACTIVATE, 'active'),
    ):
        # a node that was killed is discovered for some seconds more: it does not answer
        answer = probe.wait(
            partial(
                probe.call_service,
                ChangeState,
                f'{node}/change_state',
                3.0,
                transition=Transition(id=number),
            ),
            f'{node} does not answer',
        )
        if not answer.success:  # unless an answer was late, and this one refuses to do it twice
            state = probe.call_service(GetState, f'{node}/get_state').current_state.label
            assert state == goal, f'{node} refused transition {number} and is {state}'


class RandomClient:
    """Send requests drawn from a seed, each with an answer to wait for."""

    def __init__(self, probe, seed):
        self.probe, self.dice = probe, random.Random(seed)
        self.clients, self.unanswered, self.count = {}, [], 0
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

    def draw_text(self):
        return self.dice.choice(TEXTS)

    def draw_string(self):
        return String(data=self.draw_text())

    def draw_chunk(self):
        return ActionChunk(joint_names=['a'], positions=self.dice.choices(NUMBERS, k=3))

    def draw_header(self):
        """Return a stamp of now, the past, the future, none, or nonsense."""
        now = self.probe.get_clock().now().to_msg()
        shift = self.dice.choice((0, 0, -3600, 3600, -now.sec, 2**31 - 1 - now.sec))
        return Header(
            stamp=Time(sec=now.sec + shift, nanosec=self.dice.choice((0, now.nanosec, 2**32 - 1))),
            frame_id=self.draw_text().replace('\x00', ''),
        )

    def draw_joint_state(self):
        """Return names that are right, empty, twice or too many, with values that do not fit."""
        joints = list(load_embodiment('yam').observed)
        names = self.dice.choice((joints, [], [''] * 3, joints * 2, joints[:3], ['a'] * 10_000))
        count = self.dice.choice((len(names), 0, len(names) + 1))
        return JointState(
            header=self.draw_header(),
            name=names,
            position=self.dice.choices(NUMBERS, k=count),
            velocity=self.dice.choices(NUMBERS, k=self.dice.choice((0, count))),
            effort=self.dice.choices(NUMBERS, k=self.dice.choice((0, count, 1))),
        )

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

    def draw_value(self):
        dice = self.dice
        return ParameterValue(
            type=dice.choice((*range(10), 10, 200)),
            bool_value=dice.random() < 0.5,
            integer_value=dice.choice((0, 1, -(2**63), 2**63 - 1)),
            double_value=dice.choice(NUMBERS),
            string_value=self.draw_text(),
            double_array_value=dice.choices(NUMBERS, k=2),
            string_array_value=[self.draw_text()],
        )

    def draw_parameters(self):
        return [
            Parameter(name=self.dice.choice(PARAMETERS), value=self.draw_value())
            for _ in range(self.dice.randrange(4))
        ]

    def draw_transition(self):
        if self.dice.random() < 0.5:
            return Transition(id=self.dice.choice(TRANSITIONS))
        return Transition(label=self.dice.choice(LABELS))

    def draw_lifecycle_call(self):
        node, kind = self.dice.choice(LIFECYCLE_NODES), self.dice.random()
        if kind < 0.6:
            fields = {'transition': self.draw_transition()}
            return ChangeState, f'{node}/change_state', fields
        if kind < 0.8:
            return GetState, f'{node}/get_state', {}
        return GetAvailableTransitions, f'{node}/get_transition_graph', {}

    def draw_parameter_call(self):
        node = self.dice.choice((*LIFECYCLE_NODES, '/sim'))
        names = self.dice.choices((*PARAMETERS, *TEXTS), k=2)
        return self.dice.choice(
            (
                (SetParameters, f'{node}/set_parameters', {'parameters': self.draw_parameters()}),
                (
                    SetParametersAtomically,
                    f'{node}/set_parameters_atomically',
                    {'parameters': self.draw_parameters()},
                ),
                (GetParameters, f'{node}/get_parameters', {'names': names}),
                (DescribeParameters, f'{node}/describe_parameters', {'names': names}),
                (ListParameters, f'{node}/list_parameters', {'prefixes': names, 'depth': 2**63}),
            )
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

    def send_one(self):
        """Send one request; a service that is not there now, as of a cleaned node, is skipped."""
        kind = self.dice.random()
        self.count += 1
        if kind < 0.15:
            publisher, draw = self.dice.choice(self.publishers)
            publisher.publish(draw())
            return
        if kind < 0.2:
            action, draw = self.dice.choice(self.actions)
            if action.server_is_ready():
                action.send_goal_async(draw())
            return
        draw = (
            self.draw_lifecycle_call
            if kind < 0.35
            else self.draw_parameter_call
            if kind < 0.7
            else self.draw_service_call
        )
        service_type, name, fields = draw()
        if name not in self.clients:
            self.clients[name] = self.probe.create_client(service_type, name)
        client = self.clients[name]
        if not client.service_is_ready():
            return
        future = client.call_async(service_type.Request(**fields))
        end_s = time.monotonic() + ANSWER_S
        while not future.done() and time.monotonic() < end_s and client.service_is_ready():
            time.sleep(0.001)
        if not future.done() and client.service_is_ready():
            self.unanswered.append((name, str(fields)[:200]))


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

"""Random requests and values from a seed, for tests that send a thousand of them to nodes."""

import random
import time
from functools import partial

from builtin_interfaces.msg import Time
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
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from wam_policy.core.robot.embodiment import load_embodiment

ANSWER_S = 20.0  # saving an episode or ending workers takes seconds on a busy machine
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


class RandomRequests:
    """Send requests drawn from a seed, each with an answer to wait for.

    A subclass fills `publishers` and `actions`, each with a function that draws what is sent, and
    has `draw_service_call`.
    """

    def __init__(self, node, seed, lifecycle_nodes, parameter_nodes):
        self.node, self.dice = node, random.Random(seed)
        self.lifecycle_nodes, self.parameter_nodes = lifecycle_nodes, parameter_nodes
        self.clients, self.unanswered, self.count = {}, [], 0
        self.publishers, self.actions = [], []

    def draw_text(self):
        return self.dice.choice(TEXTS)

    def draw_header(self):
        """Return a stamp of now, the past, the future, none, or nonsense."""
        now = self.node.get_clock().now().to_msg()
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
        node, kind = self.dice.choice(self.lifecycle_nodes), self.dice.random()
        if kind < 0.6:
            fields = {'transition': self.draw_transition()}
            return ChangeState, f'{node}/change_state', fields
        if kind < 0.8:
            return GetState, f'{node}/get_state', {}
        return GetAvailableTransitions, f'{node}/get_transition_graph', {}

    def draw_parameter_call(self):
        node = self.dice.choice(self.parameter_nodes)
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

    def send_one(self):
        """Send one request; a service that is not there now, as of a cleaned node, is skipped."""
        kind = self.dice.random()
        self.count += 1
        if kind < 0.15:
            publisher, draw = self.dice.choice(self.publishers)
            publisher.publish(draw())
            return
        if kind < 0.2 and self.actions:
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
        self.call(service_type, name, fields)

    def call(self, service_type, name, fields):
        """Return the answer; None where the service is not there, or went while it was asked."""
        if name not in self.clients:
            self.clients[name] = self.node.create_client(service_type, name)
        client = self.clients[name]
        if not client.service_is_ready():
            return None
        future = client.call_async(service_type.Request(**fields))
        end_s = time.monotonic() + ANSWER_S
        while not future.done() and time.monotonic() < end_s and client.service_is_ready():
            time.sleep(0.001)
        if not future.done() and client.service_is_ready():
            self.unanswered.append((name, str(fields)[:200]))
        return future.result() if future.done() else None

"""Whatever a request asks for and a callback raises: an answer, a record, and the node goes on."""

import threading

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from diagnostic_updater import Updater
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wam_policy.nodes.callback_guard import CallbackGuard, NotConfiguredError
from wam_policy.nodes.run_node import ExecutorThread, NodeFailure

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
UNKNOWN_TYPE = 200  # of a parameter; rclpy knows 0 to 9


class FragileNode(LifecycleNode):
    """Raise wherever a message tells to."""

    def __init__(self, context):
        super().__init__('fragile', context=context)
        self.reasons, self.received, self.raise_on_activate = [], [], False
        updater = Updater(self, period=0.05)
        updater.setHardwareID('none')
        self.guard = CallbackGuard(self, updater, self.reasons.append)
        self.declare_parameter('size', 1)
        self.guard.create_service(Trigger, 'break', self.on_break)
        self.create_subscription(String, 'words', self.on_words, 10)

    def on_activate(self, state):
        if self.raise_on_activate:
            raise LookupError('no map')
        return TransitionCallbackReturn.SUCCESS

    def on_words(self, msg):
        self.received.append(msg.data)
        if msg.data == 'late':
            raise NotConfiguredError('fragile: not configured; configure it first')
        if msg.data == 'fail':
            raise NodeFailure('cannot go on')
        raise ZeroDivisionError(msg.data)

    def on_break(self, request, response):
        raise KeyError('drawer')


@pytest.fixture
def pair(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context)
    node, client = FragileNode(context), rclpy.create_node('client', context=context)
    ended = threading.Event()
    spinning = [ExecutorThread([node], ended.set, node.guard.record), ExecutorThread([client])]
    node.ended = ended
    yield node, client
    for each in reversed(spinning):
        try:
            each.stop()
        except NodeFailure:
            assert ended.is_set()
    for each in (node, client):
        each.destroy_node()
    rclpy.shutdown(context=context)


def call(client, service_type, name, **fields):
    caller = client.create_client(service_type, name)
    assert caller.wait_for_service(10.0)
    answer = caller.call(service_type.Request(**fields), timeout_sec=10.0)
    client.destroy_client(caller)
    assert answer is not None, f'{name} did not answer'
    return answer


def change_state(client, number=0, label=''):
    transition = Transition(id=number, label=label)
    return call(client, ChangeState, 'fragile/change_state', transition=transition).success


def read_state(client):
    return call(client, GetState, 'fragile/get_state').current_state.label


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError('did not happen')


def test_a_transition_that_does_not_fit_is_refused_in_every_state(pair):
    node, client = pair
    for step, fitting in (
        (None, {'configure', 'shutdown'}),
        (CONFIGURE, {'cleanup', 'activate', 'shutdown'}),
        (ACTIVATE, {'deactivate', 'shutdown'}),
    ):
        assert step is None or change_state(client, step)
        before = read_state(client)
        numbers = {0, 1, 2, 3, 4, 8, 10, 50, 60, 97, 99, 255} - {
            getattr(Transition, f'TRANSITION_{name.upper()}', None) for name in fitting
        }
        assert not any(change_state(client, number) for number in sorted(numbers))
        for label in ('transition_success', 'transition_error', 'nonsense', 'create'):
            assert not change_state(client, label=label)
        assert read_state(client) == before
    assert node.reasons == [] and node.guard.count == 0


def test_a_transition_that_raises_is_recorded(pair):
    node, client = pair
    assert change_state(client, CONFIGURE)
    node.raise_on_activate = True
    assert not change_state(client, ACTIVATE)
    assert node.reasons == ['LookupError: no map']
    assert read_state(client) == 'unconfigured'


def test_a_service_that_raises_answers_with_the_reason(pair):
    node, client = pair
    answer = call(client, Trigger, 'break')
    assert (answer.success, answer.message) == (False, "KeyError: 'drawer'")
    assert node.reasons == ["KeyError: 'drawer'"]


def test_a_message_whose_callback_raises_is_a_recorded_fault_and_the_next_one_is_taken(pair):
    node, client = pair
    shown = {}
    client.create_subscription(
        DiagnosticArray,
        '/diagnostics',
        lambda msg: shown.update({s.name: s for s in msg.status}),
        10,
    )
    wait_until(lambda: 'fragile: callbacks' in shown)
    assert shown['fragile: callbacks'].level == DiagnosticStatus.OK
    publisher = client.create_publisher(String, 'words', 10)
    wait_until(publisher.get_subscription_count)
    for number in range(5):
        publisher.publish(String(data=f'{number}'))
        wait_until(lambda n=number: len(node.received) > n)
    wait_until(lambda: node.guard.count == 5)
    assert node.received == list('01234')
    assert node.reasons == [f'ZeroDivisionError: {n}' for n in range(5)]
    wait_until(lambda: shown['fragile: callbacks'].level == DiagnosticStatus.ERROR)
    wait_until(lambda: '5 faults, last: Zero' in shown['fragile: callbacks'].message)
    assert not node.ended.is_set()


def test_what_was_queued_before_a_cleanup_is_no_fault(pair):
    node, client = pair
    publisher = client.create_publisher(String, 'words', 10)
    wait_until(publisher.get_subscription_count)
    for text in ('late', 'late', 'x'):
        publisher.publish(String(data=text))
    wait_until(lambda: len(node.received) == 3 and node.guard.count)
    assert node.reasons == ['ZeroDivisionError: x'] and node.guard.count == 1


def test_a_node_that_cannot_do_its_work_ends(pair):
    node, client = pair
    publisher = client.create_publisher(String, 'words', 10)
    wait_until(publisher.get_subscription_count)
    publisher.publish(String(data='fail'))
    assert node.ended.wait(10.0) and node.reasons == []


def test_a_parameter_of_an_unknown_type_is_refused_by_name_and_the_others_are_set(pair):
    node, client = pair
    wrong = Parameter(name='size', value=ParameterValue(type=UNKNOWN_TYPE))
    right = Parameter(name='size', value=ParameterValue(type=2, integer_value=7))
    answer = call(client, SetParameters, 'fragile/set_parameters', parameters=[right, wrong])
    assert [each.successful for each in answer.results] == [True, False]
    assert str(UNKNOWN_TYPE) in answer.results[1].reason
    whole = call(
        client,
        SetParametersAtomically,
        'fragile/set_parameters_atomically',
        parameters=[wrong, Parameter(name='size', value=ParameterValue(type=2, integer_value=8))],
    ).result
    assert not whole.successful and str(UNKNOWN_TYPE) in whole.reason
    values = call(client, GetParameters, 'fragile/get_parameters', names=['size']).values
    assert values[0].integer_value == 7 and node.reasons == []

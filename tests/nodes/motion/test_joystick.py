"""motion_node with a joystick: its buttons disable, stop and refuse, and nothing else enables."""
# ruff: noqa: E402 - what follows needs a ROS 2 environment

import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from sensor_msgs.msg import Joy
from std_srvs.srv import SetBool, Trigger

from tests.nodes.motion.test_motion_node import realtime_process, start_motion_node
from wam_policy.nodes.motion.motion_node import MotionNode

__all__ = ['realtime_process']
pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
RELEASED, HELD, ESTOP = (0, 0, 0), (0, 1, 0), (1, 1, 0)
PARAMETERS = ('enable_motion:=true', 'joy_deadman_button:=1', 'joy_estop_button:=0')


class FakeJoystick:
    """Publish as joy_node does: at once on a change, and 20 times a second."""

    def __init__(self, bench):
        self.bench, self.buttons = bench, None  # None: unplugged
        self.publisher = bench.node.create_publisher(Joy, 'joy', 10)
        bench.node.create_timer(0.05, self.publish)

    def press(self, buttons):
        self.buttons = buttons
        self.publish()

    def publish(self):
        if self.buttons is not None:
            self.publisher.publish(Joy(axes=[0.0], buttons=list(self.buttons)))

    def enable(self):
        return self.bench.call_service(SetBool, 'enable', data=True)


@pytest.fixture
def stage():
    with start_motion_node(*PARAMETERS) as (_, bench):
        joystick = FakeJoystick(bench)
        bench.wait(joystick.publisher.get_subscription_count)
        bench.chunks_enabled = True
        yield bench, joystick


@pytest.fixture
def tracking(stage):
    """Give a robot that moves because somebody holds the button and has enabled it."""
    bench, joystick = stage
    joystick.press(RELEASED)
    time.sleep(0.1)
    joystick.press(HELD)
    bench.wait(lambda: joystick.enable().success, 10.0)
    bench.wait_state('TRACKING')
    return stage


def test_letting_go_disables_until_it_is_held_and_somebody_enables(tracking):
    bench, joystick = tracking
    joystick.press(RELEASED)
    bench.wait_state('DISABLED')
    assert bench.status.reason == 'dead-man button 1 of the joystick is not held'
    assert not bench.status.deadman_ok
    bench.wait_rest()
    refused = joystick.enable()
    assert not refused.success and 'button 1 of the joystick is not held' in refused.message
    joystick.press(HELD)
    time.sleep(0.5)
    assert bench.status.state_name == 'DISABLED' and bench.status.deadman_ok
    assert joystick.enable().success
    bench.session = 'of a new instruction'
    bench.wait_state('TRACKING')
    bench.check_motion()


def test_a_joystick_that_is_lost_disables(tracking):
    bench, joystick = tracking
    joystick.buttons = None
    bench.wait_state('DISABLED')
    assert bench.status.reason == 'no message of the joystick for more than 0.2 s'
    bench.wait_rest()
    assert 'no message of the joystick' in joystick.enable().message
    joystick.press(HELD)  # plugged in again with a button that is held, or sticks
    time.sleep(0.1)
    assert 'release it and press it again' in joystick.enable().message
    bench.check_motion()


def test_the_estop_button_latches_until_it_is_released_and_reset(tracking):
    bench, joystick = tracking
    joystick.press(ESTOP)
    bench.wait_state('ESTOPPED')
    assert bench.status.reason == 'e-stop button of the joystick'
    bench.wait_rest()
    assert 'still pressed' in bench.call_service(Trigger, 'reset').message
    joystick.press(HELD)
    bench.wait(lambda: bench.call_service(Trigger, 'reset').success, 3.0)
    assert joystick.enable().success
    bench.check_motion()


def test_a_button_that_is_held_at_start_enables_nothing(stage):
    bench, joystick = stage
    joystick.press(HELD)
    time.sleep(1.0)
    assert bench.status.state_name == 'DISABLED' and bench.received_count == 0
    assert 'release it and press it again' in joystick.enable().message
    joystick.press(RELEASED)
    time.sleep(0.1)
    joystick.press(HELD)
    time.sleep(0.5)
    assert bench.status.state_name == 'DISABLED' and bench.received_count == 0
    bench.wait(lambda: joystick.enable().success, 5.0)


def test_a_joystick_with_too_few_buttons_is_refused_with_the_parameter(stage):
    bench, joystick = stage
    joystick.press((0,))
    time.sleep(0.1)
    assert 'joy_deadman_button is 1, but the joystick has 1 buttons' in joystick.enable().message


@pytest.mark.parametrize(
    ('parameters', 'word'),
    [
        (('joy_deadman_button:=2', 'joy_estop_button:=2'), 'are both 2'),
        (('joy_estop_button:=2', 'joy_timeout_s:=0.0'), 'joy_timeout_s'),
    ],
)
def test_parameters_that_do_not_fit_refuse_the_configuration(parameters, word):
    context, said = rclpy.Context(), []
    arguments = ('embodiment:=yam', *parameters)
    rclpy.init(context=context, args=['--ros-args', *(x for p in arguments for x in ('-p', p))])
    node = MotionNode(context=context)
    node.get_logger().error = said.append
    node.trigger_configure()
    assert word in said[0]
    node.destroy_node()
    rclpy.shutdown(context=context)

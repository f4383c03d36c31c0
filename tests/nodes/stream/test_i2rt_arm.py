"""One arm through i2rt: what its driver does wrong is one sentence, and nothing stays open."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from wam_policy.nodes.stream.i2rt_arm import DriverFault, I2rtArm, import_driver

STALE_NS = 200_000_000


class Chain:
    """Stand for i2rt's motor chain: a thread and a CAN socket until it is closed."""

    instances: list['Chain'] = []

    def __init__(self, error=None):
        self.motor_interface, self.running, self.state = object(), True, object()
        Chain.instances.append(self)
        if error:
            raise error

    def close(self):
        self.running = False


class Robot:
    """Stand for i2rt's robot object around a chain."""

    def __init__(self, chain):
        self.motor_chain, self.temp_record_flag = chain, False
        self._server_thread = SimpleNamespace(is_alive=lambda: True)
        self._joint_state = object()
        self.temperature_c = 40.0

    def get_observations(self):
        seen = {
            'joint_pos': np.zeros(6),
            'joint_vel': np.zeros(6),
            'joint_eff': np.zeros(6),
            'gripper_pos': np.ones(1),
        }
        if self.temp_record_flag:
            seen['temp_rotor'] = np.full(7, self.temperature_c)
        return seen

    def close(self):
        raise RuntimeError('cannot join\ncurrent thread')


def open_arm(open_robot=lambda channel: Robot(Chain())):
    return I2rtArm('left', 'can_l', open_robot, STALE_NS)


@pytest.mark.parametrize(
    ('error', 'sentence'),
    [
        (AssertionError('fail to communicate with the motor 3'), 'the motor 3; is the CAN'),
        (OSError(100, 'Network is down'), 'Network is down; is the CAN'),
        (RuntimeError('Joint limit\n  violation.'), 'open: Joint limit violation; is the CAN'),
        (ZeroDivisionError(), 'open: ZeroDivisionError; is the CAN'),
    ],
)
def test_whatever_opening_raises_is_one_sentence_and_the_chain_is_closed(error, sentence):
    Chain.instances = []

    def fail_later(channel):
        motor_chain = Chain()
        if motor_chain.running:
            raise error

    for open_robot in (fail_later, lambda channel: Robot(Chain(error))):
        with pytest.raises(ValueError, match='left arm on can_l does not open') as raised:
            open_arm(open_robot)
        assert sentence in str(raised.value) and '\n' not in str(raised.value)
    assert [chain.running for chain in Chain.instances] == [False, False]


def test_temperatures_are_asked_for_and_their_lack_is_told():
    robot = Robot(Chain())
    arm = open_arm(lambda channel: robot)
    assert arm.read(1).hottest_c == 40.0
    robot.temp_record_flag = False  # as in a version that does not know it
    assert arm.read(2).hottest_c is None


@pytest.mark.parametrize('part', ['state', '_joint_state'])
def test_values_that_one_of_the_threads_does_not_renew_are_a_fault(part):
    robot = Robot(Chain())
    arm = open_arm(lambda channel: robot)
    for now_ns in range(0, 3 * STALE_NS, STALE_NS // 4):
        robot.motor_chain.state, robot._joint_state = object(), object()
        assert arm.read(now_ns).measured_ns == now_ns
    for later_ns in (now_ns + STALE_NS // 2, now_ns + STALE_NS):
        robot.motor_chain.state, robot._joint_state = (
            (robot.motor_chain.state, object())
            if part == 'state'
            else (object(), robot._joint_state)
        )
        assert arm.read(later_ns).measured_ns == now_ns
    with pytest.raises(DriverFault, match='left arm: its motors have not answered for more than'):
        arm.read(now_ns + STALE_NS + 1)
    robot.motor_chain.state, robot._joint_state = object(), object()
    assert arm.read(later_ns + STALE_NS).measured_ns == later_ns + STALE_NS


def test_a_thread_that_ended_is_named():
    robot = Robot(Chain())
    arm = open_arm(lambda channel: robot)
    robot._server_thread.is_alive = lambda: False
    with pytest.raises(DriverFault, match='thread that turns commands into motor frames ended'):
        arm.read(1)
    robot.motor_chain.running = False
    with pytest.raises(DriverFault, match='thread that exchanges frames with the motors ended'):
        arm.read(2)


def test_an_observation_that_fails_is_a_fault():
    robot = Robot(Chain())
    arm = open_arm(lambda channel: robot)
    robot.get_observations = lambda: {}
    with pytest.raises(DriverFault, match="left arm: the driver fails: 'joint_pos'"):
        arm.read(1)


def test_an_arm_that_does_not_close_says_so_and_raises_nothing():
    assert open_arm().close() == 'left arm does not close: cannot join current thread'


def test_a_driver_that_does_not_import_says_why(monkeypatch):
    for name in ('i2rt', 'i2rt.robots', 'i2rt.robots.get_robot', 'i2rt.robots.utils'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules['i2rt.robots.get_robot'].get_yam_robot = lambda **_: None
    sys.modules['i2rt.robots.utils'].ArmType = {'YAM': 1}
    sys.modules['i2rt.robots.utils'].GripperType = {'LINEAR_4310': 2}
    assert import_driver('yam', 'linear_4310')('can_l') is None
    with pytest.raises(ValueError, match="i2rt knows no arm_type 'jam'"):
        import_driver('jam', 'linear_4310')
    monkeypatch.delitem(sys.modules, 'i2rt.robots.get_robot')
    with pytest.raises(ValueError, match='i2rt is not installed'):
        import_driver('yam', 'linear_4310')


def test_a_driver_whose_memory_is_not_known_is_watched_by_its_values():
    robot = Robot(Chain())
    robot.motor_chain.state = robot._joint_state = None
    arm = open_arm(lambda channel: robot)
    assert arm.read(1).measured_ns == arm.read(2).measured_ns == 1
    with pytest.raises(DriverFault, match='have not answered'):
        arm.read(2 + STALE_NS)
    seen = robot.get_observations() | {'joint_pos': np.full(6, 0.001)}
    robot.get_observations = lambda: seen
    assert arm.read(3 + STALE_NS).measured_ns == 3 + STALE_NS

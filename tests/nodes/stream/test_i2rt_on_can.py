"""One arm through a double of i2rt on an emulated CAN bus: what breaks there is one sentence."""

import sys
import time

import numpy as np
import pytest

from wam_policy.nodes.stream.i2rt_arm import DriverFault, I2rtArm, import_driver
from wam_tools.can_emulation.arms_on_can import DRIVER_FOLDER
from wam_tools.can_emulation.can_bus import EmulatedCanBus
from wam_tools.can_emulation.dm_motors import (
    DM4340,
    ENABLED,
    LOST_COMMUNICATION,
    DmMotor,
    pack_command,
    unpack_answer,
)

pytestmark = [
    pytest.mark.timeout(120),
    # the driver's threads end that way where the bus fails
    pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning'),
]
CHANNEL, STALE_NS = 'can_l', 200_000_000


@pytest.fixture
def bus(tmp_path, monkeypatch):
    monkeypatch.setenv('WAM_EMULATED_CAN', str(tmp_path))
    monkeypatch.syspath_prepend(str(DRIVER_FOLDER))
    with EmulatedCanBus(tmp_path, (CHANNEL,)) as made:
        yield made
    for name in [name for name in sys.modules if name.partition('.')[0] in ('can', 'i2rt')]:
        del sys.modules[name]


@pytest.fixture
def arm(bus):
    made = I2rtArm('left', CHANNEL, import_driver('yam', 'linear_4310'), STALE_NS)
    yield made
    made.close()


def read(arm):
    return arm.read(time.monotonic_ns())


def wait_for_fault(arm, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        try:
            read(arm)
        except DriverFault as fault:
            return str(fault)
        time.sleep(0.01)
    raise AssertionError('no fault')


def wait(condition, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_an_arm_goes_where_it_is_told_and_is_held_against_gravity(bus, arm):
    start = read(arm)
    assert start.position == pytest.approx([0, 0, 0, 0, 0, 0, 1], abs=0.15)  # folded, open
    goal = np.array([0.2, 0.6, 0.5, 0.1, 0.1, 0.1, 0.5])
    for share in np.linspace(0.0, 1.0, 100):
        arm.command(start.position + share * (goal - start.position))
        time.sleep(0.01)
    wait(lambda: np.abs(read(arm).position - goal).max() < 0.02)
    state = bus.call(CHANNEL, 'state')
    assert state.holds and state.position[:6] == pytest.approx(goal[:6], abs=0.02)
    assert read(arm).effort[1] > 2.0  # Nm, against gravity
    assert read(arm).hottest_c == 40.0
    bus.call(CHANNEL, 'heat', 4, 96)
    wait(lambda: read(arm).hottest_c == 96.0)


def test_without_torque_an_arm_sags(bus, arm):
    arm.command(np.array([0.0, 0.6, 0.5, 0.0, 0.0, 0.0, 1.0]))
    wait(lambda: bus.call(CHANNEL, 'state').position[1] > 0.5)
    assert arm.close() == ''
    wait(lambda: bus.call(CHANNEL, 'state').position[1] < 0.1)
    assert bus.call(CHANNEL, 'state').errors == [[ENABLED, LOST_COMMUNICATION]] * 7


@pytest.mark.parametrize(
    'failure', [('cut_wire',), ('cut_power', 5), ('go_down',)], ids=lambda failure: failure[0]
)
def test_motors_that_cannot_be_reached_are_a_fault(bus, arm, failure):
    read(arm)
    bus.call(CHANNEL, *failure)
    first = wait_for_fault(arm)
    assert 'left arm: its motors have not answered' in first or 'the driver has stopped' in first
    wait(lambda: not arm.is_driven)  # the driver gives up, which is no secret either
    assert 'its thread that exchanges frames with the motors ended' in wait_for_fault(arm)


def test_a_joint_outside_its_limits_does_not_open_and_leaves_nothing_open(bus, monkeypatch):
    from i2rt.robots import get_robot

    monkeypatch.setattr(get_robot, 'LIMITS', get_robot.LIMITS + 1.0)
    with pytest.raises(ValueError, match='left arm on can_l does not open: Joint limit violation'):
        I2rtArm('left', CHANNEL, import_driver('yam', 'linear_4310'), STALE_NS)
    wait(lambda: bus.call(CHANNEL, 'state').client_count == 0)


def test_the_frames_are_those_of_the_motors():
    """Numbers worked out by hand from the layout: 16, 12, 12, 12, 12 bits, middle is zero."""
    zero = pack_command(DM4340, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert zero.hex() == '7fff7ff0000007ff'
    assert pack_command(DM4340, 12.5, 10.0, 500.0, 5.0, 28.0) == b'\xff' * 8
    motor = DmMotor(3, DM4340, -3.0, 3.0, position=1.0, inertia=0.1, gravity_nm=0.0)
    code, position, velocity, torque, mos, rotor = unpack_answer(
        DM4340, motor.answer(b'\xff' * 7 + b'\xfc', 0.0)
    )
    assert (code, mos, rotor) == (ENABLED, 35, 40)
    assert position == pytest.approx(1.0, abs=4e-4)
    assert (velocity, torque) == pytest.approx((0.0, 0.0), abs=0.01)

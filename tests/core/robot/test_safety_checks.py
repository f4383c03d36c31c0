"""Checks that lack their inputs are listed with the reason, and accepted by name or not at all."""

import numpy as np
import pytest

from wam_policy.core.motion.motion_control import MotionControl, MotionState
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.core.robot.safety_checks import CHECKS, SafetyChecks
from wam_policy.core.types import JointState, Setpoint

ROBOT = load_embodiment('agibot_g1')
N, ARM = len(ROBOT.commanded), ~limits.gripper_mask(ROBOT)
MS, START_NS = 1_000_000, 100 * 1_000_000_000


class AnyChecker:
    """Stand for a collision model: nothing ever touches."""

    def find_first_contact(self, path, state_only_positions):
        return None


def watch_robot(
    *accepted: str,
    effort=1.0,
    state_only=True,
    reports=True,
    driver=(),
    simulated=False,
    checker=AnyChecker,
    dry_run=False,
) -> tuple[MotionControl, int]:
    """Return motion that has watched a still robot for 0.5 s, and the time."""
    motion = MotionControl(
        ROBOT,
        dry_run=dry_run,
        collision_checker=checker and checker(),
        safety_checks=SafetyChecks(accepted),
    )
    names = ROBOT.observed if state_only else ROBOT.commanded
    efforts = (
        None
        if effort is None
        else np.broadcast_to(
            np.append(np.broadcast_to(effort, N), np.zeros(len(names) - N)), (len(names),)
        )
    )
    for ms in range(0, 500, 10):
        now = START_NS + ms * MS
        motion.on_joints(JointState(now, names, ROBOT.home_positions(names), effort=efforts), now)
        if driver is not None:
            motion.safety_checks.on_driver_status(dict(driver), simulated, now)
        for controller in ROBOT.controllers if reports and not dry_run else ():
            at = ROBOT.home_positions(controller.joints)
            motion.on_setpoint(Setpoint(controller.name, now, at, 0 * at, 0 * at), now)
        motion.tick(now)
    return motion, now


def test_a_robot_that_gives_all_inputs_has_no_inactive_check():
    motion, now = watch_robot()
    assert motion.safety_checks.find_inactive(motion, now) == {}
    assert motion.enable(now)[0] is not None


@pytest.mark.parametrize(
    ('name', 'options', 'reason'),
    [
        ('effort', {'effort': None}, 'carry no efforts'),
        ('effort', {'effort': np.full(N, np.nan)}, 'carry no efforts'),
        ('effort', {'effort': 0.0}, 'every effort is exactly 0'),
        ('effort', {'effort': np.where(ARM, 0.0, 5.0)}, 'every effort is exactly 0'),
        (
            'effort',
            {'effort': np.where(np.arange(N) == 4, np.nan, 1.0)},
            'no effort of idx25_arm_l_joint5',
        ),
        ('temperature', {'driver': {'temperature': 'not told'}}, 'not told'),
        ('controller_reports', {'reports': False}, 'no usable state of left_arm_controller'),
        ('collision', {'checker': None}, 'collision_check is none'),
        ('body_position', {'state_only': False}, 'lack idx11_head_joint1'),
    ],
)
def test_each_missing_input_refuses_to_enable_until_it_is_accepted(name, options, reason):
    motion, now = watch_robot(**options)
    found = motion.safety_checks.find_inactive(motion, now)
    assert list(found) == [name] and reason in found[name]
    hold, why_not = motion.enable(now)
    assert hold is None and f'{name} ({found[name]})' in why_not and CHECKS[name] in why_not
    assert f'accept_missing of motion_node to [{name}]' in why_not
    assert motion.state is MotionState.DISABLED and why_not in motion.reason
    others = [other for other in CHECKS if other != name]
    motion, now = watch_robot(*others, **options)
    assert motion.enable(now)[0] is None
    motion, now = watch_robot(name, **options)
    assert motion.enable(now)[0] is not None
    assert motion.snapshot(now).inactive_checks == found  # accepted is not the same as active


def test_settings_of_controllers_that_cannot_be_read_must_be_accepted():
    motion, now = watch_robot()
    motion.safety_checks.on_controllers(('arm: settings are not checked: it does not answer',))
    hold, why_not = motion.enable(now)
    assert hold is None and 'controller_settings (arm: settings are not checked' in why_not
    motion.safety_checks.on_controllers(())
    assert motion.enable(now)[0] is not None


def test_a_gripper_without_effort_lacks_nothing():
    motion, now = watch_robot(effort=np.where(ARM, 1.0, np.nan))
    assert motion.safety_checks.find_inactive(motion, now) == {}


@pytest.mark.parametrize('options', [{'dry_run': True}, {'simulated': True}])
def test_what_moves_nothing_real_is_enabled_without_asking(options):
    motion, now = watch_robot(effort=None, checker=None, **options)
    assert motion.enable(now)[0] is not None
    assert {'effort', 'collision'} <= set(motion.snapshot(now).inactive_checks)


def test_without_a_driver_heat_and_flags_are_not_seen():
    motion, now = watch_robot(driver=None)
    found = motion.safety_checks.find_inactive(motion, now)
    assert list(found) == ['temperature', 'driver_faults']
    assert 'no driver publishes' in found['temperature']


def test_a_driver_that_falls_silent_is_noticed():
    motion, now = watch_robot()
    found = motion.safety_checks.find_inactive(motion, now + 3100 * MS)
    assert 'ceased to publish' in found['driver_faults']


def test_efforts_that_cease_are_noticed():
    motion, now = watch_robot()
    for ms in range(10, 1200, 10):
        at = ROBOT.home_positions(ROBOT.observed)
        motion.on_joints(JointState(now + ms * MS, ROBOT.observed, at), now + ms * MS)
    found = motion.safety_checks.find_inactive(motion, now + ms * MS)
    assert 'effort' in found

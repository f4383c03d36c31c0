"""Which controllers are refused, and what is said of checks that cannot be done."""

from dataclasses import replace

import pytest

from wam_policy.core.motion.controller_checks import (
    INITIAL_SCALING,
    OPTIONAL_PARAMETERS,
    ControllerReading,
    find_faults,
    find_inactive_checks,
    find_speed_difference,
    list_parameters,
)
from wam_policy.core.motion.jtc_emulator import make_emulated_parameters
from wam_policy.core.robot import embodiment

ARM = embodiment.load_embodiment('yam').controllers[0]
# joint_trajectory_controller 4.42 as configured for this stack, by its own parameter names
REAL_PARAMETERS = {
    **make_emulated_parameters(ARM.joints, 500),
    'joints': list(reversed(ARM.joints)),  # it sorts what it gets
    'open_loop_control': False,
}
GOOD = ControllerReading(ARM, REAL_PARAMETERS, is_active=True, speed_scaling=1.0)


def change_parameters(**changes):
    return replace(GOOD, parameters={**REAL_PARAMETERS, **changes})


def read_fault(reading):
    (fault,) = find_faults(reading)
    assert fault.text.startswith(f'{ARM.name}')
    return fault


def test_a_controller_that_is_as_planned_for_has_no_fault_and_every_check():
    assert find_faults(GOOD) == () == find_inactive_checks(GOOD)


@pytest.mark.parametrize(
    ('parameter', 'value', 'said'),
    [
        ('interpolation_method', 'none', 'interpolation_method is none, want splines'),
        ('cmd_timeout', 0.5, 'cmd_timeout is 0.5, want 0.0'),
        ('constraints.goal_time', 1.0, 'constraints.goal_time is 1.0, want 0.0'),
        ('update_rate', 50, 'update_rate is 50, want at least 100'),
        ('joints', ['wheel'], 'joints is wheel, want the joints of the robot'),
        (
            'interpolate_from_desired_state',
            False,
            'interpolate_from_desired_state is false, want true (or open_loop_control)',
        ),
    ],
)
def test_each_setting_that_breaks_what_was_planned_is_named_with_what_to_set(
    parameter, value, said
):
    fault = read_fault(change_parameters(**{parameter: value}))
    assert said in fault.text and '/left_arm_controller' in fault.text
    assert not fault.timing_unknown


def test_tolerances_of_all_joints_are_one_sentence():
    wrong = {f'constraints.{joint}.trajectory': 0.2 for joint in ARM.joints[:2]}
    text = read_fault(change_parameters(**wrong)).text
    assert all(f'constraints.{joint}.trajectory is 0.2' in text for joint in ARM.joints[:2])
    assert ARM.joints[2] not in text


def test_settings_that_amount_to_the_same_are_accepted():
    from_desired = {'interpolate_from_desired_state': False, 'open_loop_control': True}
    assert find_faults(change_parameters(**from_desired)) == ()
    assert find_faults(change_parameters(update_rate=0)) == ()


@pytest.mark.parametrize('factor', [0.0, 0.9, 0.999, 1.1, -0.5, float('nan'), float('inf')])
def test_another_speed_is_refused_and_leaves_the_timing_unknown(factor):
    fault = read_fault(replace(GOOD, speed_scaling=factor))
    assert f'speed scaling is {factor:g}, want 1' in fault.text and fault.timing_unknown


@pytest.mark.parametrize('factor', [0.3, 0.7, 1.0])
def test_another_speed_within_what_is_allowed_is_no_fault(factor):
    assert find_faults(replace(GOOD, speed_scaling=factor), 0.3) == ()


@pytest.mark.parametrize('factor', [0.0, 0.29, 1.1, -0.5, float('nan'), float('inf')])
def test_a_speed_that_is_not_allowed_is_refused_with_the_range(factor):
    (fault,) = find_faults(replace(GOOD, speed_scaling=factor), 0.3)
    assert f'speed scaling is {factor:g}, want 0.3 to 1 (min_speed_scaling' in fault.text
    assert fault.timing_unknown


def test_controllers_at_different_speeds_are_named():
    other = replace(GOOD, controller=replace(ARM, name='other'), speed_scaling=0.5)
    assert find_speed_difference([GOOD, replace(GOOD, speed_scaling=None)]) == ''
    text = find_speed_difference([GOOD, other])
    assert f'{ARM.name} 1, other 0.5' in text and 'set the same' in text


def test_the_configured_speed_counts_only_while_none_is_reported():
    wrong = change_parameters(**{INITIAL_SCALING: 0.5})
    assert find_faults(wrong) == ()  # it reports 1: somebody has set it since
    fault = read_fault(replace(wrong, speed_scaling=None))
    assert f'{INITIAL_SCALING} is 0.5, want 1.0' in fault.text


def test_a_controller_without_speed_scaling_reports_zero_and_is_not_refused():
    older = {name: REAL_PARAMETERS[name] for name in REAL_PARAMETERS if name != INITIAL_SCALING}
    reading = replace(GOOD, parameters=older, speed_scaling=0.0)
    assert find_faults(reading) == ()
    (missing,) = find_inactive_checks(reading)
    assert 'speed scaling is not watched' in missing and INITIAL_SCALING in missing


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'subscriber_count': 0}, ('no controller subscribes', ARM.topic)),
        ({'is_active': False}, ('is not active', 'set_controller_state left_arm_controller')),
        ({'other_publishers': ('/teleop',)}, ('/teleop also publishes', ARM.topic)),
        ({'action_goals': 1}, ('follow_joint_trajectory', 'cancel')),
    ],
)
def test_who_else_is_there_or_is_not_is_a_fault(change, words):
    text = read_fault(replace(GOOD, **change)).text
    assert all(word in text for word in words)


def test_what_does_not_answer_is_a_check_that_is_not_active_and_no_fault():
    reading = ControllerReading(ARM)
    assert find_faults(reading) == ()
    (settings,) = find_inactive_checks(reading)
    assert '/left_arm_controller/get_parameters does not answer' in settings


def test_a_parameter_that_is_not_declared_is_named_as_unchecked():
    parameters = {name: REAL_PARAMETERS[name] for name in REAL_PARAMETERS if name != 'cmd_timeout'}
    assert find_inactive_checks(replace(GOOD, parameters=parameters)) == (
        f'{ARM.name}: cmd_timeout is not checked: it is not declared',
    )


def test_every_parameter_of_a_rule_is_asked_for():
    asked = set(list_parameters(ARM))
    assert asked >= {*OPTIONAL_PARAMETERS, 'cmd_timeout', 'update_rate'}
    assert asked >= {f'constraints.{joint}.trajectory' for joint in ARM.joints}

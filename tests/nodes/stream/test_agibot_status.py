"""What an AgiBot's messages say: order and names of joints, efforts, and what is not measured."""

from types import SimpleNamespace

import numpy as np
import pytest

from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes.stream import agibot_status

VENDOR = load_embodiment('agibot_g1').vendor
SEVEN = range(1, 8)
LEFT, RIGHT = [f'Joint{i}_l' for i in SEVEN], [f'Joint{i}_r' for i in SEVEN]


@pytest.mark.parametrize(
    'names',
    [
        LEFT + RIGHT,
        [f'arm_{side}_joint{i}' for side in 'lr' for i in SEVEN],
        [f'left_arm_joint{i}' for i in SEVEN] + [f'right_arm_joint{i}' for i in SEVEN],
        list(VENDOR['arm_joints']),
        [f'joint{i}' for i in range(1, 15)],
        [f'arm_joint_{i}' for i in range(1, 15)],
        [f'motor{i}' for i in range(28, 42)],  # tells nothing
    ],
)
def test_arm_joints_in_the_right_order_are_taken_whatever_they_are_called(names):
    assert agibot_status.check_arm_order(names) is None


@pytest.mark.parametrize(
    'names',
    [
        RIGHT + LEFT,
        [name for pair in zip(LEFT, RIGHT, strict=True) for name in pair],
        LEFT[::-1] + RIGHT,
        [f'joint{i}' for i in range(14, 0, -1)],
    ],
)
def test_arm_joints_in_another_order_are_refused(names):
    assert 'want the left arm, then the right' in agibot_status.check_arm_order(names)


def make_body_msg(names, values):
    return SimpleNamespace(name=names, motor_states=[SimpleNamespace(position=v) for v in values])


def read_waist(names, values):
    msg = make_body_msg(names, values)
    return agibot_status.read_body(msg, VENDOR['waist_joints'], VENDOR['joint_names'])


@pytest.mark.parametrize(
    ('names', 'values'),
    [
        ([], [0.5, 0.3]),
        (['', ''], [0.5, 0.3]),
        (['joint_body_pitch', 'joint_lift_body'], [0.5, 0.3]),
        (['joint_lift_body', 'joint_body_pitch'], [0.3, 0.5]),
        (['idx01_body_joint1', 'idx02_body_joint2'], [0.3, 0.5]),
    ],
)
def test_lift_and_pitch_are_never_exchanged(names, values):
    assert read_waist(names, values) == {'idx02_body_joint2': 0.5, 'idx01_body_joint1': 0.3}


@pytest.mark.parametrize(
    ('names', 'values', 'words'),
    [
        (['a', 'b'], [0.5, 0.3], 'named a, b; want idx02_body_joint2'),
        (['joint_lift_body', 'joint_lift_body'], [0.3, 0.5], 'add the robot'),
        (['joint_lift_body'], [0.3, 0.5], 'add the robot'),
        ([], [0.5], '1 values without names, want 2'),
        ([], [], '0 values'),
        ([], [0.5, float('nan')], 'idx01_body_joint1 not finite'),
        (['joint_lift_body', 'joint_body_pitch'], [float('inf'), 0.5], 'idx01_body_joint1 not'),
    ],
)
def test_a_body_message_that_does_not_fit_is_refused(names, values, words):
    with pytest.raises(ValueError, match=words):
        read_waist(names, values)


def make_arm(count=7, **motor):
    told = {'temperature': 40.0, 'effort': 1.0} | motor
    return SimpleNamespace(motor_states=[SimpleNamespace(**told) for _ in range(count)])


def test_efforts_are_those_of_all_motors_or_none():
    assert agibot_status.read_efforts(make_arm(), 7).tolist() == [1.0] * 7
    assert np.isnan(agibot_status.read_efforts(make_arm(6), 7)).all()


def test_what_is_not_measured_is_no_good_news():
    assert agibot_status.find_blind_checks([make_arm(), make_arm()], 7) == {}
    blind = agibot_status.find_blind_checks([make_arm(), make_arm(0)], 7)
    assert blind['driver_faults'] == blind['temperature'] == '0 motors reported, of 7'
    for nothing in (0.0, float('nan')):
        blind = agibot_status.find_blind_checks([make_arm(temperature=nothing), make_arm()], 7)
        assert 'exactly 0' in blind['temperature']


@pytest.mark.parametrize(
    ('fields', 'fault', 'warning'),
    [
        ({'mode': 1, 'error_code': 0}, '', ''),
        ({'mode': 1, 'error_code': 7, 'error_msg': 'joint limit'}, 'error 7: joint limit', ''),
        ({'mode': 2, 'error_code': 0}, "mode PLANNING: the robot's own planner", ''),
        ({'mode': 0, 'error_code': 0}, '', 'mode STOP: commands may be ignored'),
        ({'mode': 9, 'error_code': 0}, '', 'mode 9 is unknown'),
        ({}, '', 'mode None is unknown'),
    ],
)
def test_mode_and_errors_of_the_robots_motion_control(fields, fault, warning):
    msg = SimpleNamespace(**fields)
    faults = agibot_status.find_motion_control_faults(msg, VENDOR)
    warnings = agibot_status.find_motion_control_warnings(msg, VENDOR)
    assert (bool(faults), bool(warnings)) == (bool(fault), bool(warning))
    assert fault in ''.join(faults) and warning in ''.join(warnings)

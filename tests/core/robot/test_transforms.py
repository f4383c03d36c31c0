import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wam_policy.core.robot import embodiment, transforms

ROBOTS = [embodiment.load_embodiment(name) for name in embodiment.list_robots()]
G1, YAM = embodiment.load_embodiment('agibot_g1'), embodiment.load_embodiment('yam')
VALUES = st.floats(-3.0, 3.0)


@given(st.data(), st.sampled_from(ROBOTS))
def test_posture_undoes_state_values(data, robot):
    position = data.draw(arrays(float, len(robot.observed), elements=VALUES))
    values = transforms.to_model_state(robot, position)
    assert list(values) == [key.key for key in robot.state_keys]
    assert np.allclose(transforms.from_model_state(robot, values), position, atol=1e-12)


@given(st.data(), st.sampled_from(ROBOTS), st.integers(1, 24))
def test_targets_undo_action_values(data, robot, horizon):
    wanted = data.draw(arrays(float, (horizon, len(robot.commanded)), elements=VALUES))
    values = transforms.to_model_actions(robot, wanted)
    assert list(values) == [key.key for key in robot.action_keys if not key.masked]
    assert np.allclose(transforms.from_model_actions(robot, values), wanted, atol=1e-12)


def test_g1_state_in_the_order_and_sense_of_its_data():
    position = np.arange(20.0)
    position[[14, 15]] = [1.0, 0.25]  # left open, right nearly closed
    values = transforms.to_model_state(G1, position)
    assert values['left_arm_joint_position'].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert values['right_arm_joint_position'].tolist() == [7, 8, 9, 10, 11, 12, 13]
    assert values['left_effector_position'].tolist() == [0.0]  # model: 0 is open
    assert values['right_effector_position'].tolist() == [0.75]
    lift, pitch = (position[G1.observed.index(f'idx0{i}_body_joint{i}')] for i in (1, 2))
    assert values['waist_position'].tolist() == [pitch, lift]  # not lift, pitch


def test_yam_interleaves_arms_and_grippers_without_turning_them():
    values = transforms.to_model_state(YAM, np.arange(14.0))
    assert list(values) == [
        'left_joint_pos',
        'left_gripper_pos',
        'right_joint_pos',
        'right_gripper_pos',
    ]
    assert [value.tolist() for value in values.values()] == [
        [0, 1, 2, 3, 4, 5],
        [12],
        [6, 7, 8, 9, 10, 11],
        [13],
    ]


def test_masked_actions_move_nothing():
    wanted = np.zeros((2, 16))
    values = transforms.to_model_actions(G1, wanted)
    values |= {
        'head_position': np.full((2, 2), 9.0),
        'waist_position': np.full((2, 2), 9.0),
        'robot_velocity': np.full((2, 2), 9.0),
    }
    assert np.array_equal(transforms.from_model_actions(G1, values), wanted)


def test_an_asked_opening_beyond_the_stop_stays_visible_to_the_limits():
    values = transforms.to_model_actions(G1, np.zeros((1, 16)))
    values['left_effector_position'] = np.array([[-0.1]])
    assert transforms.from_model_actions(G1, values)[0, 14] == pytest.approx(1.1)


def test_nothing_is_filled_in_for_what_is_missing():
    values = transforms.to_model_actions(G1, np.zeros((2, 16)))
    short = {key: value for key, value in values.items() if key != 'left_effector_position'}
    with pytest.raises(ValueError, match='agibot_g1: no value for left_effector_position; got'):
        transforms.from_model_actions(G1, short)
    with pytest.raises(ValueError, match=r'right_arm_joint_position has shape \[3, 7\]'):
        transforms.from_model_actions(G1, values | {'right_arm_joint_position': np.zeros((3, 7))})
    with pytest.raises(ValueError, match='want 16 values, got 20'):
        transforms.to_model_actions(G1, np.zeros((2, 20)))


def test_the_input_is_left_alone():
    position = np.ones(20)
    transforms.to_model_state(G1, position)
    assert (position == 1.0).all()

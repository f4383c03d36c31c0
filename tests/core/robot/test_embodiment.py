import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.core.robot import embodiment

G1, YAM = embodiment.load_embodiment('agibot_g1'), embodiment.load_embodiment('yam')


@pytest.mark.parametrize('name', embodiment.list_robots())
def test_every_robot_is_complete_and_consistent(name):
    robot = embodiment.load_embodiment(name)
    arms = [joint for joint in robot.commanded if robot.joint(joint).kind != 'gripper']
    grippers = [gripper.name for gripper in robot.grippers]
    assert list(robot.commanded) == arms + grippers  # arms first, then grippers
    assert robot.observed[: len(robot.commanded)] == robot.commanded
    assert [joint.name for joint in robot.joints] == list(robot.observed)
    assert {key.key for key in robot.state_keys} <= {key.key for key in robot.action_keys}
    assert len({camera.topic for camera in robot.cameras}) == len(robot.cameras)
    limits = robot.limits()
    assert limits.lower.shape == (len(robot.commanded),) and (limits.lower < limits.upper).all()
    rest = robot.home_positions(robot.observed)
    everything = robot.limits(robot.observed)
    assert (rest >= everything.lower).all() and (rest <= everything.upper).all()
    assert re.fullmatch('[0-9a-f]{64}', robot.config_hash)
    with pytest.raises(ValueError):
        limits.lower[0] = 0.0


def test_g1_order_and_sizes():
    assert len(G1.commanded) == 16 and len(G1.observed) == 20
    assert G1.commanded[0] == 'idx21_arm_l_joint1' and G1.commanded[7] == 'idx61_arm_r_joint1'
    assert G1.commanded[14:] == ('left_gripper', 'right_gripper')
    assert sum(key.size for key in G1.state_keys) == 20
    assert sum(key.size for key in G1.action_keys) == 22
    assert (G1.step_dt_s, G1.horizon, G1.model_tag) == (1 / 30, 24, 'agibot')
    assert [camera.key for camera in G1.cameras] == ['top_head', 'hand_left', 'hand_right']


def test_g1_waist_goes_pitch_then_lift():
    waist = next(key for key in G1.state_keys if key.key == 'waist_position')
    assert waist.joints == ('idx02_body_joint2', 'idx01_body_joint1')
    assert [G1.joint(name).kind for name in waist.joints] == ['revolute', 'prismatic']


def test_g1_masks_head_waist_and_base_and_all_but_the_base_are_relative():
    assert [key.key for key in G1.action_keys if key.masked] == [
        'head_position',
        'waist_position',
        'robot_velocity',
    ]
    assert [key.key for key in G1.action_keys if not key.relative] == ['robot_velocity']
    assert all(key.relative and not key.masked for key in YAM.action_keys)


def test_g1_joint2_limits_are_mirrored_between_the_arms():
    left, right = G1.joint('idx22_arm_l_joint2'), G1.joint('idx62_arm_r_joint2')
    assert (left.lower, left.upper) == (-2.09, 1.48)
    assert (right.lower, right.upper) == (-left.upper, -left.lower)


def test_g1_gripper_120_is_closed_and_the_model_says_one_for_closed():
    for gripper in G1.grippers:
        assert gripper.to_raw(0.0) == 120.0 and gripper.to_raw(1.0) == 35.0
        assert gripper.from_raw(120.0) == 0.0 and gripper.from_raw(35.0) == 1.0
        assert gripper.from_raw(0.0) == 1.0  # wider than calibrated still means open
        assert gripper.to_model(0.0) == 1.0 and gripper.to_model(1.0) == 0.0
        assert not gripper.is_valid_raw(200.0) and gripper.is_valid_raw(120.0)
    # raw = 35 + 85 * model, the converter of the released data
    assert G1.grippers[0].to_raw(G1.grippers[0].from_model(0.25)) == 35 + 85 * 0.25


def test_yam_gripper_keeps_its_sense():
    for gripper in YAM.grippers:
        for opening in (0.0, 0.3, 1.0):
            assert gripper.to_raw(opening) == gripper.from_raw(opening) == opening
            assert gripper.to_model(opening) == gripper.from_model(opening) == opening
    assert not YAM.grippers[0].is_valid_raw(0.0018 * 1000)


def test_yam_limits_are_not_the_placeholders_of_its_description():
    for name in YAM.commanded:
        joint = YAM.joint(name)
        assert joint.hw_velocity > 1.0 and joint.hw_effort > 1.0
        assert joint.lower == 0.0 or abs(joint.lower) > 1e-6  # no -8.9e-16


def test_yam_may_lie_folded_at_zero():
    limits = YAM.limits()
    assert (limits.lower <= 0.0).all() and (limits.upper >= 0.0).all()
    assert [
        joint for joint, lower in zip(YAM.commanded, limits.lower, strict=True) if lower == 0.0
    ] == [
        'left_joint2',
        'left_joint3',
        'right_joint2',
        'right_joint3',
        'left_gripper',
        'right_gripper',
    ]


def test_a_gripper_that_holds_something_is_not_a_step_too_far():
    for robot in (G1, YAM):
        assert all(robot.joint(gripper.name).max_step == 1.0 for gripper in robot.grippers)
        assert all(robot.joint(gripper.name).max_velocity == 2.0 for gripper in robot.grippers)


def test_g1_step_stays_below_what_the_robot_refuses():
    assert all(G1.joint(name).max_step < 0.2618 for name in G1.commanded[:14])


@given(st.floats(0.0, 1.0), st.sampled_from(G1.grippers + YAM.grippers))
def test_gripper_scales_are_inverted_exactly_once(opening, gripper):
    assert np.isclose(gripper.from_raw(gripper.to_raw(opening)), opening, atol=1e-12)
    assert np.isclose(gripper.from_model(gripper.to_model(opening)), opening, atol=1e-12)


def test_gripper_command_never_leaves_the_driver_range():
    assert G1.grippers[0].to_raw(1.7) == 35.0 and G1.grippers[0].to_raw(-0.4) == 120.0
    assert G1.grippers[0].from_model(-0.5) == 1.5  # what was asked stays visible


def test_unknown_name_lists_what_there_is_and_the_nearest():
    with pytest.raises(ValueError, match="'agibot'; known: .*agibot_g1.*did you mean agibot_g1"):
        embodiment.load_embodiment('agibot')


@pytest.mark.parametrize(
    ('old', 'new', 'complaint'),
    [
        ('title: I2RT', 'titel: I2RT', 'embodiment.yaml: title is missing; add it'),
        ('state_only: []', 'state_only: []\nextra: 1', 'extra is not a known key; remove it'),
        ('  horizon: 24', '  horizon: 2.5', 'model.horizon: want an integer above 0'),
        ('step_hz: 30.0', 'step_hz: 0', 'model.step_hz: want a number above 0'),
        ('step_hz: 30.0', 'step_hz: true', 'model.step_hz: want a finite number'),
        ('step_hz: 30.0', 'step_hz: .nan', 'model.step_hz: want a finite number'),
        (
            '[revolute, -2.61799, 3.14159,',
            '[revolute, 3.2, 3.14159,',
            'joints.left_joint1: lower 3.2 is not below upper 3.14159; swap them',
        ),
        (
            '[revolute, -2.61799, 3.14159,',
            '[revolute, 3.14159,',
            'joints.left_joint1: want \\[kind, lower',
        ),
        (
            '[revolute, -2.61799, 3.14159, 10.0,',
            '[revolute, -2.61799, 3.14159, 1.0,',
            'joints.left_joint1: max_velocity 1.5 is above hw_velocity 1;',
        ),
        ('[gripper,  0.0,     1.0, ', '[gripper,  0.0,     0.7, ', 'a gripper goes from 0'),
        (
            '    joints: [left_gripper]\n',
            '    joints: [left_grip]\n',
            'controllers: left_grip unknown',
        ),
        (
            '    joints: [left_gripper]\n',
            '    joints: [right_gripper]\n',
            'controllers: left_gripper missing',
        ),
        (
            '{joints: [left_gripper]}',
            '{joints: [left_joint9]}',
            'state_keys.left_gripper_pos.joints: unknown joint left_joint9',
        ),
        (
            '{joints: [left_gripper], relative: true, masked: false}',
            '{joints: [left_gripper], relative: true, masked: true}',
            'left_gripper missing',
        ),
        (
            '{joints: [left_gripper], relative: true, masked: false}',
            '{joints: [left_gripper], relative: yes please, masked: false}',
            'want true or false',
        ),
        (
            'rest:\n  left_joint1: ',
            'rest:\n  left_joint1: -9.0 # ',
            'rest.left_joint1: -9 is outside',
        ),
        ('rest:\n  left_joint1: ', 'rest:\n  left_joint0: ', 'rest: left_joint0 unknown'),
        ('rest:\n', 'rest:\n  extra: 0.0\n', 'rest: extra unknown'),
        ('raw_open: 1.0', 'raw_open: 0.0', 'raw_open equals raw_closed'),
        ('raw_range: [-0.05, 1.05]', 'raw_range: [0.2, 1.05]', 'does not contain raw_open'),
        ('raw_range: [-0.05, 1.05]', 'raw_range: [0.2]', 'raw_range: want a list of 2'),
        ('fade_s: 0.25', 'fade_s: -0.25', 'safety.chunk.fade_s: want a number above 0'),
        ('fade_s: 0.25', 'fade: 0.25', 'safety.chunk.fade_s is missing'),
        ('size: [640, 480]', 'size: [640, 0]', 'size: want \\[width, height\\]'),
        ('name: yam\n', 'name: yam2\n', "name: 'yam2' differs from the folder 'yam'"),
        ('name: yam\n', 'name: yam\nname: yam\n', 'duplicate key name'),
        ('name: yam\n', 'name: [yam\n', 'invalid YAML document'),
    ],
)
def test_a_fault_in_the_folder_names_file_key_and_fix(tmp_path, old, new, complaint):
    shutil.copytree(embodiment.ROBOTS_DIR / 'yam', tmp_path / 'yam')
    path = tmp_path / 'yam' / 'embodiment.yaml'
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=complaint) as caught:
        embodiment.load_embodiment('yam', tmp_path)
    assert str(path) in str(caught.value)


def test_contract_follows_content_not_comments(tmp_path):
    shutil.copytree(embodiment.ROBOTS_DIR / 'yam', tmp_path / 'yam')
    path = tmp_path / 'yam' / 'embodiment.yaml'
    path.write_text('# a remark\n' + path.read_text())
    assert embodiment.load_embodiment('yam', tmp_path).config_hash == YAM.config_hash
    path.write_text(path.read_text().replace('step_hz: 30.0', 'step_hz: 15.0'))
    assert embodiment.load_embodiment('yam', tmp_path).config_hash != YAM.config_hash


def test_vendor_block_is_frozen_all_the_way_down():
    with pytest.raises(TypeError):
        YAM.vendor['arms']['left']['channel'] = 'can0'
    assert isinstance(YAM.vendor['arms']['left']['joints'], tuple)

"""Poses of tools: every rotation convention and its inverse, kinematics there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.kinematics import ToolFrame, UnreachablePose
from wam_policy.mujoco_kinematics import MujocoKinematics
from wam_policy.servers import server_profile, value_mapping
from wam_policy.servers.mapping.nested_keys import ProfileMismatch
from wam_policy.servers.mapping.pose_mapping import PoseMapper
from wam_policy.servers.mapping.rotation_format import FORMATS
from wam_policy.servers.profile_fields import PoseGroup

G1, YAM = embodiment.load_embodiment('agibot_g1'), embodiment.load_embodiment('yam')
TOOLS = {
    'yam': ToolFrame(
        tuple(f'left_joint{i}' for i in range(1, 7)),
        'left_gripper',
        (0.0, 0.0, -0.11),
        (0.5, 0.5, 0.5, 0.5),
        'left_base',
    ),
    'agibot_g1': ToolFrame(
        G1.commanded[7:14], 'arm_r_end_link', (0.0, 0.0, 0.1), (1.0, 0.0, 0.0, 0.0), 'base_link'
    ),
    'droid': ToolFrame(
        tuple(f'panda_joint{i}' for i in range(1, 8)),
        'panda_link8',
        (0.0, 0.0, 0.1),
        (1.0, 0.0, 0.0, 0.0),
        'world',
    ),
}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize('name', FORMATS)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_rotations_round_trip(name, seed):
    matrices = Rotation.random(5, np.random.default_rng(seed)).as_matrix()
    values = FORMATS[name].encode(matrices)
    assert values.shape == (5, FORMATS[name].width)
    np.testing.assert_allclose(FORMATS[name].decode(values), matrices, atol=1e-6)
    scaled = values * 2.0 if name.startswith(('quat', 'rot6d')) else values
    np.testing.assert_allclose(FORMATS[name].decode(scaled), matrices, atol=1e-6)


def test_each_convention_says_what_its_name_says():
    matrix = Rotation.from_euler('xyz', [0.1, 0.2, 0.3]).as_matrix()
    encoded = {name: item.encode(matrix[None])[0] for name, item in FORMATS.items()}
    quat = Rotation.from_matrix(matrix).as_quat()
    np.testing.assert_allclose(encoded['quat_xyzw'], quat)
    np.testing.assert_allclose(encoded['quat_wxyz'], [quat[3], *quat[:3]])
    np.testing.assert_allclose(encoded['euler_xyz'], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(encoded['matrix'], matrix.reshape(-1))
    np.testing.assert_allclose(encoded['rot6d_columns'], [*matrix[:, 0], *matrix[:, 1]])
    np.testing.assert_allclose(encoded['rot6d_rows'], [*matrix[0], *matrix[1]])


@pytest.mark.parametrize(
    ('name', 'values'),
    [
        ('quat_xyzw', [0.0] * 4),
        ('quat_wxyz', [0.0] * 4),
        ('rot6d_columns', [0.0] * 6),
        ('rot6d_rows', [1.0, 0, 0, 1.0, 0, 0]),
        ('matrix', [1.0] * 9),
        ('matrix', [1.0, 0, 0, 0, 1, 0, 0, 0, -1]),  # a reflection
    ],
)
def test_numbers_that_are_no_rotation_are_refused(name, values):
    with pytest.raises(ValueError):
        FORMATS[name].decode(np.array([values]))


@pytest.mark.parametrize('name', TOOLS)
def test_inverse_kinematics_finds_back_the_poses_and_moves_only_its_arm(name):
    robot, tool = embodiment.load_embodiment(name), TOOLS[name]
    kinematics, start = MujocoKinematics(robot), robot.home_positions(robot.observed)
    columns = [robot.observed.index(joint) for joint in tool.joints]
    random = np.random.default_rng(0)
    rows = np.tile(start, (24, 1))
    rows[:, columns] += np.cumsum(random.uniform(-0.03, 0.03, (24, len(columns))), axis=0)
    poses = [kinematics.compute_pose(tool, row) for row in rows]
    positions, rotations = (np.array(parts) for parts in zip(*poses, strict=True))
    solved = rows.copy()
    solved[:, columns] = kinematics.solve_rows(tool, positions, rotations, start)
    for row, position, rotation in zip(solved, positions, rotations, strict=True):
        found = kinematics.compute_pose(tool, row)
        np.testing.assert_allclose(found[0], position, atol=1.5e-3)
        np.testing.assert_allclose(found[1], rotation, atol=1e-2)
    limits = robot.limits(tool.joints)
    assert (solved[:, columns] >= limits.lower - 1e-6).all()
    assert (solved[:, columns] <= limits.upper + 1e-6).all()
    assert np.abs(np.diff(solved[:, columns], axis=0)).max() < 0.2  # no jump of configuration
    positions[5, 2] += 3.0
    with pytest.raises(UnreachablePose, match=r'row 5: .* 3\.\d+ m'):
        kinematics.solve_rows(tool, positions, rotations, start)


def test_the_pose_of_a_tool_is_that_of_its_joint_geometry():
    kinematics, start = MujocoKinematics(YAM), np.zeros(len(YAM.observed))
    tool = ToolFrame(('left_joint1',), 'left_link2', (0.0, 0.0, 0.0), (1, 0, 0, 0), 'left_base')
    before, _ = kinematics.compute_pose(tool, start)
    start[YAM.observed.index('left_joint1')] = np.pi / 2
    after, rotation = kinematics.compute_pose(tool, start)
    assert np.hypot(*after[:2]) == pytest.approx(
        np.hypot(*before[:2]), abs=1e-5
    )  # about the vertical
    assert after[2] == pytest.approx(before[2], abs=1e-5) and np.linalg.det(
        rotation
    ) == pytest.approx(1)
    turned = Rotation.from_euler('z', 90, degrees=True).apply(before)
    np.testing.assert_allclose(after, turned, atol=1e-4)


@pytest.mark.parametrize('kind', ['absolute', 'relative', 'episode_relative'])
def test_rows_of_poses_are_relative_to_what_their_kind_says(kind):
    profile = server_profile.load('agibot_act_eef')
    mapper, start = PoseMapper(profile, G1), G1.home_positions(G1.observed)
    group = PoseGroup('left', 'pose', 'quat_xyzw', kind=kind)
    now = start.copy()
    now[: len(G1.commanded) - 2] += 0.05
    values = mapper.encode_rows(group, now[None], now, start)
    if kind == 'relative':
        np.testing.assert_allclose(values[0], [0, 0, 0, 0, 0, 0, 1], atol=1e-9)
    found = mapper.decode_rows([(group, values)], now, start)['left']
    columns = [G1.observed.index(joint) for joint in profile.tools['left'].joints]
    np.testing.assert_allclose(found[0], now[columns], atol=0.02)


def test_a_pose_out_of_reach_is_refused_with_its_row_and_tool():
    profile = server_profile.load('agibot_act_eef')
    mapper, start = PoseMapper(profile, G1), G1.home_positions(G1.observed)
    targets = np.tile(G1.home_positions(G1.commanded), (30, 1))
    answer = value_mapping.encode_actions(profile, G1, targets, start, None, mapper)
    answer['action'][7][2] += 5.0
    with pytest.raises(ProfileMismatch, match='pose left, row 7: the arm cannot reach'):
        value_mapping.decode_actions(profile, G1, answer, start, None, mapper)
    with pytest.raises(ProfileMismatch, match='need the kinematics'):
        value_mapping.decode_actions(profile, G1, answer, start)

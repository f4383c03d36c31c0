"""The tree of a URDF: frames by hand, mimics, and what is refused."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.kinematic_tree import JointFrames, KinematicTree

ARM = """<robot name="arm">
 <link name="base"/><link name="upper"/><link name="hand"/><link name="finger"/>
 <joint name="fingers" type="prismatic"><parent link="hand"/><child link="finger"/>
  <axis xyz="0 2 0"/><mimic joint="elbow" multiplier="-0.5" offset="0.1"/></joint>
 <joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/>
  <origin xyz="0 0 1"/><axis xyz="0 1 0"/></joint>
 <joint name="elbow" type="continuous"><parent link="upper"/><child link="hand"/>
  <origin xyz="1 0 0" rpy="0 0 1.5707963267948966"/><axis xyz="1 0 0"/></joint>
</robot>"""


def test_a_path_is_what_one_computes_by_hand():
    tree = KinematicTree.from_urdf(ARM)
    assert tree.links == ('base', 'upper', 'hand', 'finger')
    assert tree.sources == {'shoulder', 'elbow'}
    path = np.array([[0.0], [np.pi / 2]])
    positions, quaternions = tree.compute_path('finger', ['shoulder'], path, {'elbow': 0.4})
    # the finger moves by 0.1 - 0.5 * 0.4 along the hand's y, which the elbow turns up by 0.4
    slide = (0.1 - 0.5 * 0.4) * np.array([-np.cos(0.4), 0.0, np.sin(0.4)])
    np.testing.assert_allclose(positions[0], [1.0 + slide[0], 0.0, 1.0 + slide[2]], atol=1e-12)
    np.testing.assert_allclose(positions[1], [slide[2], 0.0, -slide[0]], atol=1e-12)
    turn = Rotation.from_quat(quaternions[0])
    np.testing.assert_allclose(turn.apply([1.0, 0.0, 0.0]), [0.0, 1.0, 0.0], atol=1e-12)


@pytest.mark.parametrize('robot', embodiment.list_robots())
def test_frames_in_parent_links_multiply_to_paths(robot):
    tree = KinematicTree.from_urdf(embodiment.load_urdf(robot))
    rng = np.random.default_rng(3)
    values = {name: rng.uniform(-1.0, 1.0) for name in tree.sources}
    places = {tree.root: (np.zeros(3), Rotation.identity())}
    positions, quaternions = JointFrames(tree.joints).compute(values)
    for joint, position, quaternion in zip(tree.joints, positions, quaternions, strict=True):
        at, turn = places[joint.parent]
        places[joint.child] = at + turn.apply(position), turn * Rotation.from_quat(quaternion)
    for link in tree.links:
        (at,), (quaternion,) = tree.compute_path(link, (), np.zeros((1, 0)), values)
        np.testing.assert_allclose(at, places[link][0], atol=1e-12)
        assert (Rotation.from_quat(quaternion).inv() * places[link][1]).magnitude() < 1e-9


def test_a_joint_that_is_not_known_has_no_frame():
    tree = KinematicTree.from_urdf(ARM)
    positions, _ = JointFrames(tree.joints).compute({'shoulder': 0.0})
    rows = zip(tree.joints, positions, strict=True)
    known = {joint.child for joint, row in rows if np.isfinite(row).all()}
    assert known == {'upper'}
    with pytest.raises(KeyError, match='elbow'):
        tree.compute_path('hand', ['shoulder'], np.zeros((1, 1)), {})


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('<robot name="arm">', '<robot', 'not XML'),
        ('type="continuous"', 'type="ball"', "elbow has type 'ball'"),
        ('<child link="upper"/>', '', 'shoulder needs a parent and a child'),
        ('<child link="upper"/>', '<child link="hand"/>', 'one root link'),
        ('<parent link="base"/>', '<parent link="finger"/>', '0 root links'),
        ('xyz="0 0 1"', 'xyz="0 one"', "shoulder: want three numbers, got '0 one'"),
        ('xyz="1 0 0"/></joint>', 'xyz="0 0 0"/></joint>', 'elbow: its axis has no direction'),
    ],
)
def test_what_is_no_tree_is_refused(old, new, message):
    assert old in ARM
    with pytest.raises(ValueError, match=message):
        KinematicTree.from_urdf(ARM.replace(old, new))

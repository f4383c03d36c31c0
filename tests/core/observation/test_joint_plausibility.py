"""Postures that cannot be true are refused with value, limit and guess; true ones never are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.motion.monitors import JointStateMonitor
from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.observation.joint_plausibility import (
    JUMP_TOLERANCE,
    SETTLE_NS,
    JointPlausibility,
)
from wam_policy.core.robot.embodiment import list_robots, load_embodiment
from wam_policy.core.session.policy_session import PolicySession, PolicyState, SessionSettings
from wam_policy.core.types import JointState

MS, S = 1_000_000, 1_000_000_000
ROBOTS = {name: load_embodiment(name) for name in list_robots()}
G1 = ROBOTS['agibot_g1']


def make_state(robot, ms: float, **changes: float) -> JointState:
    """Return the home posture at `ms`, some joints elsewhere."""
    values = [changes.get(name, robot.home[name]) for name in robot.observed]
    return JointState(100 * S + round(ms * MS), robot.observed, np.array(values))


def scale_joints(robot, kind: str, factor: float) -> JointState:
    kinds = np.array([joint.kind == kind for joint in robot.joints])
    state = make_state(robot, 0)
    return replace(state, position=np.where(kinds, factor * state.position, state.position))


@pytest.mark.parametrize('name', ROBOTS)
def test_a_posture_in_another_unit_is_named_with_value_limit_and_guess(name):
    robot = ROBOTS[name]
    degrees = JointPlausibility(robot).check(scale_joints(robot, 'revolute', 180 / np.pi))
    assert 'looks like degrees' in degrees and 'outside [' in degrees and 'more joints' in degrees
    opened = scale_joints(robot, 'gripper', 96.0)  # millimeters, fully open
    assert 'looks like millimeters' in JointPlausibility(robot).check(opened)


@pytest.mark.parametrize(
    ('joint', 'value', 'words'),
    [
        ('idx21_arm_l_joint1', 60.0, 'at 60 rad, outside [-3.14, 3.14] by more than 0.2'),
        ('idx21_arm_l_joint1', 60.0, 'looks like degrees'),
        ('idx24_arm_l_joint4', -7.0, 'a turn too many'),
        ('idx24_arm_l_joint4', 4000.0, 'neither radians nor degrees'),
        ('idx01_body_joint1', 300.0, 'looks like millimeters'),
        ('left_gripper', -0.5, 'outside [0, 1]'),
    ],
)
def test_one_joint_outside_its_limits_is_named(joint, value, words):
    assert words in JointPlausibility(G1).check(make_state(G1, 0, **{joint: value}))


def test_a_little_outside_the_limits_is_how_robots_are():
    check = JointPlausibility(G1).check
    assert check(make_state(G1, 0, idx22_arm_l_joint2=-2.25, left_gripper=1.05)) is None


def test_one_reading_that_jumps_is_left_out():
    judge = JointPlausibility(G1)
    assert judge.check(make_state(G1, 0)) is None
    jump = judge.check(make_state(G1, 10, idx24_arm_l_joint4=-0.9))
    assert 'idx24_arm_l_joint4 is measured +0.312 rad away' in jump
    assert '10 ms before' in jump and '3.14 per s' in jump
    assert judge.check(make_state(G1, 20)) is None


def test_a_posture_that_jumped_and_stays_is_believed_again():
    judge = JointPlausibility(G1)
    judge.check(make_state(G1, 0))
    refused = [
        judge.check(make_state(G1, ms, idx24_arm_l_joint4=-0.2)) is not None
        for ms in range(10, 400, 10)
    ]
    assert refused == [ms < 10 + SETTLE_NS / MS for ms in range(10, 400, 10)]


def test_two_publishers_that_disagree_are_not_both_believed():
    judge = JointPlausibility(G1)
    accepted = {
        round(value, 1)
        for ms, value in zip(range(0, 3000, 10), [-1.2, -0.2] * 150, strict=True)
        if judge.check(make_state(G1, ms, idx24_arm_l_joint4=value)) is None
    }
    assert accepted == {-1.2}


@settings(max_examples=200, deadline=None)
@given(
    robot=st.sampled_from(sorted(ROBOTS)),
    seed=st.integers(0, 2**32 - 1),
    period_ms=st.sampled_from([2, 10, 20, 50]),
    noise=st.floats(0.0, 0.2),  # of the tolerance
)
def test_motion_at_the_hardwares_own_speed_is_never_refused(robot, seed, period_ms, noise):
    embodiment, rng = ROBOTS[robot], np.random.default_rng(seed)
    lower, upper, speed = (
        np.array([getattr(joint, field) for joint in embodiment.joints])
        for field in ('lower', 'upper', 'hw_velocity')
    )
    tolerance = np.array([JUMP_TOLERANCE[joint.kind] for joint in embodiment.joints])
    judge, position = JointPlausibility(embodiment), rng.uniform(lower, upper)
    for k in range(100):
        position = np.clip(
            position + rng.uniform(-1, 1, len(speed)) * speed * period_ms / 1e3, lower, upper
        )
        stamp_ns = 100 * S + round((k * period_ms + rng.uniform(0, period_ms / 3)) * MS)
        seen = position + noise * tolerance * rng.uniform(-1, 1, len(speed))
        assert judge.check(JointState(stamp_ns, embodiment.observed, seen)) is None


def test_motion_is_not_enabled_at_a_posture_in_degrees_and_says_why():
    motion = MotionControl(G1, dry_run=False)
    for ms in range(0, 500, 10):
        state = replace(scale_joints(G1, 'revolute', 180 / np.pi), stamp_ns=100 * S + ms * MS)
        assert 'degrees' in motion.on_joints(state, state.stamp_ns)
        motion.tick(state.stamp_ns)
    hold, why_not = motion.enable(state.stamp_ns)
    assert hold is None and 'looks like degrees' in why_not and 'no joint state' in why_not


def test_motion_is_not_enabled_between_a_posture_and_one_it_jumped_to():
    motion = MotionControl(G1, dry_run=False)
    enabled = []
    for ms in range(0, 900, 10):
        state = make_state(G1, ms, idx24_arm_l_joint4=-1.2 if ms < 400 else -0.6)
        motion.on_joints(state, state.stamp_ns)
        motion.tick(state.stamp_ns)
        hold, _ = motion.enable(state.stamp_ns)
        if hold is not None:
            enabled.append((ms, hold.goal[3]))
            motion.restart()
    # the last before the jump, then not until the readings agree and the robot rests
    assert all(position == (-1.2 if ms < 400 else -0.6) for ms, position in enabled)
    assert [ms for ms, _ in enabled if 400 <= ms < 600] == [] and enabled[-1][0] >= 600


def test_the_reason_is_not_renewed_with_every_message():
    monitor = JointStateMonitor(G1)
    reasons = set()
    for ms in range(0, 990, 10):
        monitor.update(make_state(G1, ms, idx21_arm_l_joint1=60.0 + ms / 1e3), 100 * S + ms * MS)
        reasons.add(monitor.check_age(100 * S + ms * MS))
    assert len(reasons) == 1
    assert monitor.check_age(103 * S) == 'no joint state yet'  # long ago


def test_a_policy_is_not_asked_about_a_posture_in_degrees():
    session = PolicySession(G1, SessionSettings(), 'one')
    session.on_joints(scale_joints(G1, 'revolute', 180 / np.pi), 100 * S)
    assert session.observations.joint_buffer.newest is None
    state, reason = session.get_state(100 * S)
    assert state is PolicyState.STARTING and 'looks like degrees' in reason

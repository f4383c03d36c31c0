"""Whatever arrives, whenever it arrives: published motion keeps every limit and ends at rest.

Three ways to look for a history that breaks it: whole robots over many seconds, two thousand
short histories of a few joints that hypothesis draws (eight thousand with --all), and the numbered
ones that the long proof plays (benchmarks/motion_fuzz.py, its record in
docs/reference/benchmarks). WAM_PROPERTY_CASES sets how many of the long ones are drawn (default
120).
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.motion_fuzz import (
    EVENT_KINDS,
    FIRST_EVENT_KINDS,
    NEXT_EVENT_KINDS,
    ROBOTS,
    TOLERANCE,
    Scenario,
    ScenarioEvent,
    run_batch,
)
from wam_policy.core.motion.jtc_emulator import TrajectoryFollower
from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot.embodiment import load_embodiment

pytestmark = pytest.mark.timeout(900)  # a minute, but not on a machine that others use
LONG = int(os.environ.get('WAM_PROPERTY_CASES', '120'))
SHORT, NUMBERED = 1_000, 2_000
MORE_SHORT = 8_000
WHOLE = [load_embodiment('agibot_g1'), load_embodiment('yam')]
SEED = st.integers(0, 2**32 - 1)
AGE_MS = st.sampled_from([20, 80, 150, 400, 900])
RULES = {'deadline': None, 'suppress_health_check': list(HealthCheck)}


def events(kinds, wait_ms: int, **size: int) -> st.SearchStrategy:
    return st.lists(
        st.builds(
            ScenarioEvent,
            st.sampled_from(kinds),
            st.integers(1, wait_ms),
            AGE_MS,
            st.integers(0, 70),
            SEED,
        ),
        **size,
    )


@given(
    robot=st.sampled_from(WHOLE),
    seed=SEED,
    played=events(EVENT_KINDS, 500, min_size=3, max_size=14),
)
@settings(max_examples=LONG, **RULES)
def test_no_long_history_breaks_a_limit_or_ends_in_motion(robot, seed, played):
    Scenario(robot, seed).run(played)


@pytest.mark.parametrize('cases', [SHORT, pytest.param(MORE_SHORT, marks=pytest.mark.slow)])
def test_no_short_history_breaks_a_limit_or_ends_in_motion(cases):
    @settings(max_examples=cases, derandomize=True, database=None, **RULES)
    @given(
        robot=st.sampled_from(ROBOTS),
        seed=SEED,
        first=events(FIRST_EVENT_KINDS, 200, min_size=1, max_size=1),
        after=events(NEXT_EVENT_KINDS, 200, max_size=2),
    )
    def run(robot, seed, first, after):
        Scenario(robot, seed).run(first + after)

    run()


@pytest.mark.slow
def test_no_numbered_history_breaks_a_limit_or_ends_in_motion():
    published, failed = run_batch(10**9, NUMBERED)  # numbers that the long proof does not reach
    assert not failed and published > NUMBERED


def curve(end: float, peak: float) -> Trajectory:
    """Return a motion of the first joint over one second that is faster than any may be."""
    time_ns = np.array([0, 500_000_000, 1_000_000_000])
    position, speed, zero = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    position[:, 0], speed[:, 0] = [0.0, end / 2, end], [0.0, peak, 0.0]
    return Trajectory(ROBOTS[0].commanded, 10**12, time_ns, position, speed, zero)


@pytest.mark.parametrize(('end', 'peak'), [(1.0, 9.0), (9.0, 0.1), (0.2, 0.2)])
def test_the_judge_sees_what_is_wrong(end, peak):
    history = Scenario(ROBOTS[0], 1)
    for line in history.links:
        line.follower = TrajectoryFollower(line.follower.names, np.zeros(len(line.joint_columns)))
    with pytest.raises(AssertionError):  # too fast, too far, or no one curve
        history.check_and_send(curve(end, peak))
    assert TOLERANCE == 1e-6


def test_the_judge_sees_motion_that_does_not_listen(monkeypatch):
    monkeypatch.setattr(MotionControl, 'on_setpoint', lambda motion, report, now_ns: None)
    _, failed = run_batch(10**9, 100)
    assert any('from assumed motion' in line for line in failed)
    assert any(' jumps by ' in line for line in failed)

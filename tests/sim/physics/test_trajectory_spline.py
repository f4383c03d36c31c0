"""Setpoints of many instants at once are those that a controller gives one after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.motion.jtc_emulator import TrajectoryFollower, TrajectoryPoints
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.controllers import SimControllers
from wam_sim.physics.trajectory_spline import TrajectorySpline

NAMES = ('shoulder', 'elbow')
START_NS = 5_000_000_000


@st.composite
def trajectories(draw: st.DrawFn) -> TrajectoryPoints:
    """Return up to six points that end at rest, with or without derivatives."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, fields = draw(st.integers(1, 6)), draw(st.integers(0, 2))
    time_ns = np.cumsum(rng.integers(1_000_000, 60_000_000, count))
    position, velocity, acceleration = rng.normal(size=(3, count, len(NAMES)))
    velocity[-1] = acceleration[-1] = 0.0
    return TrajectoryPoints(
        START_NS,
        NAMES,
        time_ns - draw(st.booleans()) * time_ns[0],
        position,
        velocity if fields > 0 else None,
        acceleration if fields > 1 else None,
    )


@given(trajectories(), st.lists(st.integers(0, 400_000_000), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_curve_is_what_the_controller_follows(points, after_ns):
    passed_ns = int(points.time_ns[0]) + np.array(sorted(after_ns))
    follower = TrajectoryFollower(NAMES, np.zeros(2))
    assert follower.accept(points, START_NS) is None
    for passed, found in zip(
        passed_ns, TrajectorySpline(points).at(passed_ns).swapaxes(0, 1), strict=True
    ):
        state = follower.sample(START_NS + int(passed))
        np.testing.assert_allclose(
            found, [state.position, state.velocity, state.acceleration], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize('ahead_ns', [-30_000_000, 0, 25_000_000])
def test_many_instants_at_once_leave_a_controller_as_one_by_one(ahead_ns):
    """Before the first point, across points and beyond the last; then something replaces it."""
    body = robots.load('agibot_g1').embodiment
    rest = body.home_positions(body.commanded)
    at_once, singly = SimControllers(body, rest), SimControllers(body, rest)
    begin_ns = START_NS
    for turn in range(3):
        for controller in body.controllers:
            columns = at_once.columns[controller.name]
            points = TrajectoryPoints(
                begin_ns + ahead_ns,
                controller.joints,
                np.array([10, 30, 60]) * 1_000_000,
                rest[columns] + np.outer([0.01, 0.02, 0.03], np.ones(len(columns))),
                np.outer([0.1, 0.1, 0.0], np.ones(len(columns))),
                None,
            )
            replies = {
                kind.accept(controller.name, points, begin_ns) for kind in (at_once, singly)
            }
            assert len(replies) == 1
        times_ns = begin_ns + 2_000_000 * np.arange(1, 16 + 16 * turn)
        together = at_once.sample_many(times_ns)
        apart = [singly.sample(now_ns) for now_ns in times_ns.tolist()]
        for field in ('position', 'velocity', 'acceleration'):
            np.testing.assert_allclose(
                getattr(together, field),
                [getattr(state, field) for state in apart],
                rtol=1e-6,
                atol=1e-6,
            )
        begin_ns = int(times_ns[-1])

"""Motion at another speed scaling: what is executed is what was checked, only slower.

The controllers are those of jtc_emulator at 500 Hz. Commands take 1 to 15 ms to arrive and reports
up to 20 ms, so nobody knows at which tick a trajectory is entered.
"""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.motion_fuzz import ROBOTS
from wam_policy.core.motion.jtc_emulator import TrajectoryFollower, TrajectoryPoints
from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.motion.motion_state import MotionState
from wam_policy.core.motion.plan_request import compute_plan
from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot import limits
from wam_policy.core.types import Chunk, JointState, Setpoint

MS, S = 1_000_000, 1_000_000_000
TICK_NS = 2 * MS
ROBOT = ROBOTS[0]
LIMITS = ROBOT.limits()
ARM = ~limits.gripper_mask(ROBOT)
START = (LIMITS.lower + LIMITS.upper) / 2
COLUMNS = [[ROBOT.commanded.index(n) for n in each.joints] for each in ROBOT.controllers]


class ScaledHarness:
    """Run motion at 100 Hz against controllers with a speed scaling factor."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.now = 100 * S
        self.motion = MotionControl(ROBOT, dry_run=False)
        self.followers = [
            TrajectoryFollower(each.joints, START[columns])
            for each, columns in zip(ROBOT.controllers, COLUMNS, strict=True)
        ]
        self.reports_enabled = True
        self.factor = 1.0
        self.goal = START.copy()
        self.sequence = 0
        self.sent: list[Trajectory] = []
        self.in_flight: list[tuple[int, int, TrajectoryPoints]] = []  # arrival, controller
        self.reports: list[tuple[int, int, float, Setpoint]] = []
        self.executed: list[tuple[float, np.ndarray]] = []  # factor, [3 joints] of a tick
        self.jumps: list[float] = []
        self.run(0.4)

    def send(self, trajectory: Trajectory | None) -> None:
        if trajectory is None:
            return
        assert limits.compute_limit_usage(trajectory, LIMITS).max_rate <= 1.0 + 1e-6
        self.sent.append(trajectory)
        points = TrajectoryPoints.from_trajectory(trajectory)
        for i, follower in enumerate(self.followers):
            arrival = self.now + int(self.rng.integers(1, 15)) * MS
            self.in_flight.append((arrival, i, points.reorder(follower.names)))

    def step(self) -> None:
        self.now += TICK_NS
        for arrival, i, points in [one for one in self.in_flight if one[0] <= self.now]:
            assert self.followers[i].accept(points, self.now) is None
            self.in_flight.remove((arrival, i, points))
        state = np.empty((3, len(ROBOT.commanded)))
        for i, (follower, columns) in enumerate(zip(self.followers, COLUMNS, strict=True)):
            follower.speed_scaling = self.factor
            at = follower.sample(self.now)
            state[:, columns] = at.position, at.velocity, at.acceleration
            if self.now // TICK_NS % 10 == i and self.reports_enabled:
                report = Setpoint(
                    ROBOT.controllers[i].name,
                    self.now,
                    at.position,
                    at.velocity,
                    at.acceleration,
                )
                due = self.now + int(self.rng.integers(0, 20)) * MS
                self.reports.append((due, i, self.factor, report))
        self.executed.append((self.factor, state))
        for one in [one for one in self.reports if one[0] <= self.now]:
            self.reports.remove(one)
            name = ROBOT.controllers[one[1]].name
            self.motion.trajectory_clock.set_factor(name, one[2], self.now)
            self.motion.on_setpoint(one[3], self.now)
        if self.now % (10 * MS) == 0:
            self.tick_motion(state[0])

    def tick_motion(self, measured: np.ndarray) -> None:
        self.motion.on_joints(JointState(self.now, ROBOT.commanded, measured), self.now)
        self.send(self.motion.tick(self.now))
        if self.now % (140 * MS) < 10 * MS and self.motion.enabled:
            self.send_chunk(measured)
        request = self.motion.next_plan_request(self.now)
        if request is not None:
            self.send(self.motion.accept_plan(compute_plan(request), self.now))

    def send_chunk(self, measured: np.ndarray) -> None:
        """Ask for the way to `goal` at 0.6 rad/s, as seen 60 ms ago."""
        self.sequence += 1
        time_s = np.arange(24)[:, None] * ROBOT.step_dt_s
        way = self.goal - measured
        rows = measured + np.sign(way) * np.minimum(np.abs(way), 0.6 * time_s)
        self.motion.on_chunk(
            Chunk(
                self.now - 60 * MS,
                'session',
                self.sequence,
                ROBOT.step_dt_s,
                ROBOT.commanded,
                rows,
                rows[0],
                ROBOT.config_hash,
                {},
            ),
            self.now,
        )

    def run(self, seconds: float) -> 'ScaledHarness':
        for _ in range(round(seconds * S / TICK_NS)):
            self.step()
        return self

    def enable(self) -> 'ScaledHarness':
        hold, why_not = self.motion.enable(self.now)
        assert hold is not None, why_not
        self.send(hold)
        return self

    def check_executed(self, scaled_from: int = 0) -> None:
        """Assert the limits of what was executed, and that it is a sent trajectory, slower."""
        factors = np.array([factor for factor, _ in self.executed])
        states = np.stack([state for _, state in self.executed])  # [ticks 3 joints]
        real = states[:, 1] * factors[:, None], states[:, 2] * factors[:, None] ** 2
        for values, limit in zip(real, (LIMITS.velocity, LIMITS.acceleration), strict=True):
            assert (np.abs(values) <= limit * (1 + 1e-6)).all()
        dt = TICK_NS / S
        step = np.abs(np.diff(states[:, 0], axis=0))
        assert (step <= LIMITS.velocity * dt * (1 + 1e-6)).all()
        # nothing jumps: velocity and acceleration of the trajectory change as its jerk allows
        for order, limit in ((1, LIMITS.acceleration), (2, LIMITS.jerk)):
            change = np.abs(np.diff(states[scaled_from:, order], axis=0))
            assert (change <= limit * dt * (1 + 1e-3) + 1e-9).all()

    def check_equals_sent(self, last: int) -> None:
        """Assert that the last `last` ticks lie on a sent trajectory, to 1e-9."""
        for _, state in self.executed[-last:]:
            assert min(find_distance(each, state) for each in self.sent[-3:]) <= 1e-9


def find_distance(curve: Trajectory, state: np.ndarray) -> float:
    """Return how far a state [3 joints] is from the nearest instant of `curve`, per controller."""
    times_ns = np.arange(curve.start_ns - 25 * MS, curve.end_ns + 25 * MS, MS // 2)
    at = curve.at_times(times_ns)
    worst = 0.0
    for columns in COLUMNS:
        off = np.abs(at.position[:, columns] - state[0, columns]) + np.abs(
            at.velocity[:, columns] - state[1, columns]
        )
        found_ns = int(times_ns[int(off.max(axis=1).argmin())])
        for _ in range(4):  # Newton on position, along the fastest joint
            here = curve.at(found_ns)
            joint = columns[int(np.abs(here.velocity[columns]).argmax())]
            if abs(here.velocity[joint]) < 1e-6:
                break
            found_ns += round((state[0, joint] - here.position[joint]) / here.velocity[joint] * S)
        here = curve.at(found_ns)
        # a tick is known to a nanosecond: 1 rad/s makes 1e-9 of it
        worst = max(worst, float(np.abs(here.position[columns] - state[0, columns]).max()))
    return worst


@pytest.mark.parametrize('factor', [0.9, 0.5, 0.2])
def test_at_another_speed_the_goal_is_reached_in_steps_that_are_executed_as_checked(factor):
    rig = ScaledHarness()
    rig.factor = factor
    rig.run(0.1).enable().run(0.6 / factor)
    rig.goal = START + np.where(ARM, 0.3, 0.0)
    before = len(rig.executed)
    rig.run(4.0 / factor)
    rig.check_executed()
    assert rig.executed[-1][1][0] == pytest.approx(rig.goal, abs=2e-3)
    assert rig.motion.enabled and len(rig.sent) >= 3
    speeds = np.stack([state[1] for _, state in rig.executed[before:]])
    assert np.abs(speeds).max() > 0.1
    rig.goal = START
    rig.run(0.8 / factor)
    rig.check_equals_sent(200)


FACTORS = st.sampled_from([1.0, 1.0, 0.9, 0.7, 0.5, 0.3, 0.2])


@given(
    seed=st.integers(0, 2**32 - 1),
    changes=st.lists(
        st.tuples(FACTORS, st.floats(0.05, 1.2), st.floats(-0.5, 0.5)), min_size=2, max_size=6
    ),
    stop=st.sampled_from(['estop', 'disable', None]),
)
@settings(max_examples=12, deadline=None)
def test_no_change_of_speed_breaks_a_limit_or_makes_a_setpoint_jump(seed, changes, stop):
    rig = ScaledHarness(seed).enable().run(0.6)
    for factor, seconds, goal in changes:
        settle_before_change(rig, factor)
        rig.goal = START + np.where(ARM, goal, 0.0)
        rig.run(seconds)
    if stop:
        getattr(rig.motion, stop)(rig.now)
    else:
        rig.factor = 1.0
        rig.run(8.0)
        assert rig.executed[-1][1][0] == pytest.approx(rig.goal, abs=5e-3)
        assert rig.motion.trajectory_clock.is_on_time
    rig.run(8.0)
    rig.check_executed()
    assert np.abs(rig.executed[-1][1][1]).max() < 1e-6


def settle_before_change(rig: ScaledHarness, factor: float) -> None:
    """Change the factor when no command that motion sent on time is on its way.

    What was sent before a report shows the new factor may jump, by the way of that time.
    """
    while rig.in_flight:
        rig.step()
    if rig.factor == 1.0 and factor != 1.0:
        for controller in ROBOT.controllers:
            rig.motion.trajectory_clock.set_factor(controller.name, factor, rig.now)
    rig.factor = factor


def play(rig: ScaledHarness, factors: Iterable[float], seconds: float) -> None:
    for factor in factors:
        settle_before_change(rig, factor)
        rig.run(seconds)


def test_a_stop_at_another_speed_is_the_end_of_the_step_within_a_bound():
    rig = ScaledHarness()
    rig.factor = 0.5
    rig.run(0.1).enable().run(1.2)
    rig.goal = START + np.where(ARM, 0.6, 0.0)
    while not np.abs(rig.executed[-1][1][1]).max() > 0.2:
        rig.step()
    sent = len(rig.sent)
    rig.motion.estop(rig.now)
    began = rig.now
    while rig.executed[-1][1][1].any():
        rig.step()
    assert (rig.now - began) / S <= 1.1 / 0.5
    rig.run(2.0)
    assert len(rig.sent) == sent and rig.motion.state is MotionState.ESTOPPED
    rig.check_executed()


def test_a_change_of_speed_in_motion_is_followed_and_motion_is_continuous_again_at_one():
    rig = ScaledHarness().enable().run(0.6)
    rig.goal = START + np.where(ARM, 0.5, 0.0)
    rig.run(0.4)
    play(rig, (0.5, 0.8, 0.3), 0.3)
    assert 'speed scaling is 0.3' in rig.motion.trajectory_clock.description
    # reports tell where each controller is, to a microsecond
    rig.run(0.1)
    for controller, follower in zip(ROBOT.controllers, rig.followers, strict=True):
        behind_ns = rig.motion.trajectory_clock._behind_ns[controller.name]
        if np.abs(follower.setpoint.velocity).max() > 0.05:
            assert behind_ns == pytest.approx(follower._behind_ns, abs=30 * MS)
    play(rig, (1.0,), 4.0)
    assert rig.motion.trajectory_clock.is_on_time
    assert rig.motion.state in (MotionState.TRACKING, MotionState.FIRST_MOVE, MotionState.HOLDING)
    rig.check_executed()


def test_without_reports_at_another_speed_nothing_is_sent_and_the_reason_says_so():
    rig = ScaledHarness()
    rig.factor = 0.5
    rig.run(0.1).enable().run(1.2)
    rig.goal = START + np.where(ARM, 0.6, 0.0)
    rig.run(0.4)
    rig.reports_enabled = False
    rig.run(0.8)
    sent = len(rig.sent)
    rig.run(3.0)
    assert len(rig.sent) == sent and not rig.executed[-1][1][1].any()
    assert 'speed scaling was 0.5' in rig.motion.reason and 'no usable state' in rig.motion.reason
    rig.motion.disable(rig.now)
    rig.run(0.2)
    hold, why_not = rig.motion.enable(rig.now)
    assert hold is None and 'speed scaling was 0.5' in why_not
    rig.reports_enabled = True
    rig.run(0.6).enable().run(4.0)
    assert len(rig.sent) > sent
    rig.check_executed()


@pytest.mark.parametrize('lost', [0, 1])
def test_a_step_that_is_lost_on_the_way_is_noticed_and_motion_goes_on(lost):
    rig = ScaledHarness()
    rig.factor = 0.5
    rig.run(0.1).enable().run(1.2)
    rig.goal = START + np.where(ARM, 0.3, 0.0)
    sent = len(rig.sent)
    while len(rig.sent) == sent:
        rig.step()
    rig.in_flight = [one for one in rig.in_flight if one[1] != lost]
    rig.run(8.0)
    assert rig.executed[-1][1][0] == pytest.approx(rig.goal, abs=2e-3)
    rig.check_executed()

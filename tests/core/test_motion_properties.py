"""Whatever arrives, whenever it arrives: published motion keeps every limit and ends at rest.

WAM_PROPERTY_CASES sets how many histories are generated (default 120).
"""

import os
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wam_policy.core import limits
from wam_policy.core.embodiment import Embodiment, load
from wam_policy.core.follower import Follower, Points
from wam_policy.core.motion import MotionControl
from wam_policy.core.proposal import proposed
from wam_policy.core.trajectory import Trajectory
from wam_policy.core.types import Chunk, JointState

CASES = int(os.environ.get('WAM_PROPERTY_CASES', '120'))
ROBOTS = [load('agibot_g1'), load('yam')]
MS = 1_000_000
TOLERANCE = 1e-6

EVENTS = st.lists(st.tuples(
    st.sampled_from(['chunk', 'stream', 'stream', 'stream', 'wild', 'wild', 'broken', 'recover',
                     'recover', 'estop', 'reset', 'enable', 'disable', 'pause', 'blind']),
    st.integers(1, 500),                    # ms until the next event
    st.sampled_from([20, 80, 150, 400, 900]),   # ms since the chunk's observation
    st.integers(0, 70),                     # ms that planning takes
    st.integers(0, 2**32 - 1)), min_size=3, max_size=14)


class Rig:
    """Play one history against a robot that is where its controllers say."""

    def __init__(self, robot: Embodiment, seed: int) -> None:
        rng = np.random.default_rng(seed)
        full = robot.limits()
        joints = len(robot.commanded)
        share = np.where(rng.uniform(size=joints) < 0.2, rng.integers(0, 2, joints),
                         rng.uniform(size=joints))
        self.spec, self.first = robot, full.lower + share * (full.upper - full.lower)
        self.follower = Follower(robot.commanded, self.first)
        self.motion = MotionControl(robot, dry_run=False)
        self.now, self.sees, self.sequence, self.published = 10**12, True, 0, 0
        self.advance(300)
        self.publish(self.motion.enable(self.now)[0])

    def publish(self, trajectory: Trajectory | None) -> None:
        if trajectory is None:
            return
        full = self.spec.limits()
        assert limits.worst(trajectory, full).rates <= 1.0 + TOLERANCE
        low, high = limits.span(trajectory)
        assert (low >= np.minimum(full.lower, self.first) - TOLERANCE).all()
        assert (high <= np.maximum(full.upper, self.first) + TOLERANCE).all()
        assert trajectory.at(trajectory.end_ns).resting
        self.check_one_curve(trajectory)
        before = self.follower.sample(self.now)
        assert self.follower.accept(Points.of(trajectory), self.now) is None
        after = self.follower.sample(self.now)
        for field in ('position', 'velocity', 'acceleration'):
            jump = np.abs(getattr(after, field) - getattr(before, field)).max()
            assert jump <= TOLERANCE, f'{field} jumps by {jump}'
        self.published += 1

    @staticmethod
    def check_one_curve(trajectory: Trajectory) -> None:
        """Check that each segment's jerk really leads from knot to knot."""
        h, jerk = trajectory.duration_s[:, None], trajectory.jerk
        p, v, a = (getattr(trajectory, field)[:-1]
                   for field in ('position', 'velocity', 'acceleration'))
        end_p, end_v = p + h * (v + h * (a / 2 + h * jerk / 6)), v + h * (a + h * jerk / 2)
        assert np.allclose(end_p, trajectory.position[1:], rtol=0, atol=1e-9)
        assert np.allclose(end_v, trajectory.velocity[1:], rtol=0, atol=1e-8)

    def advance(self, ms: int) -> None:
        until = self.now + ms * MS
        while self.now < until:
            self.now = min(self.now + 10 * MS, until)
            where = self.follower.sample(self.now).position
            if self.sees:
                self.motion.on_joints(
                    JointState(self.now, self.spec.commanded, where), self.now)
            self.publish(self.motion.tick(self.now))

    def plan(self, ms: int) -> None:
        job = self.motion.job(self.now)
        if job is None:
            return
        proposal = proposed(job)
        self.advance(ms)
        self.publish(self.motion.accepted(proposal, self.now))

    def chunk(self, kind: str, age_ms: int, seed: int) -> Chunk:
        rng = np.random.default_rng(seed)
        here, joints = self.follower.state.position, len(self.spec.commanded)
        self.sequence += rng.integers(0, 5) > 0         # now and then a duplicate
        size = rng.choice([0.1, 1.0]) if kind == 'wild' else rng.choice([0.003, 0.02])
        rows = here + size * rng.normal(size=(self.spec.horizon, joints)).cumsum(axis=0)
        if kind == 'broken':
            rows[rng.integers(24), rng.integers(joints)] = rng.choice(
                [np.nan, np.inf, -np.inf, 1e308, -1e30, 57.3])
        session = f's{self.sequence // 15 - (rng.uniform() < 0.05)}'     # some are old
        chunk = Chunk(self.now - age_ms * MS, session, int(self.sequence),
                      self.spec.step_dt_s, self.spec.commanded, rows, here, self.spec.contract, {})
        if kind == 'broken' and rng.uniform() < 0.3:
            chunk = replace(chunk, names=chunk.names[::-1])
        return chunk

    def event(self, kind: str, age_ms: int, planning_ms: int, seed: int) -> None:
        motion = self.motion
        if kind == 'stream':
            for after in range(5):
                self.event('chunk', age_ms, planning_ms, seed + after)
                self.advance(max(0, 140 - planning_ms))
        elif kind in ('chunk', 'wild', 'broken'):
            motion.on_chunk(self.chunk(kind, age_ms, seed), self.now)
        elif kind == 'enable':
            self.publish(motion.enable(self.now)[0])
        elif kind == 'pause':
            motion.on_policy_pause('test', self.now)
        elif kind == 'blind':
            self.sees = False
        elif kind == 'recover':
            self.sees = True
            self.advance(1500)
            motion.reset(self.now)
            self.publish(motion.enable(self.now)[0])
            self.advance(500)
        else:
            getattr(motion, kind)(self.now)
        self.plan(planning_ms)
        self.plan(0)                        # what came too late is planned again


@given(robot=st.sampled_from(ROBOTS), seed=st.integers(0, 2**32 - 1), events=EVENTS)
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_history_breaks_a_limit_or_ends_in_motion(robot, seed, events):
    rig = Rig(robot, seed)
    for kind, wait_ms, age_ms, planning_ms, event_seed in events:
        rig.event(kind, age_ms, planning_ms, event_seed)
        rig.advance(wait_ms)
    rest = rig.follower.sample(rig.now + 3_000 * MS)
    assert rest.resting and rig.published >= 1

"""The state machine: what it moves, what stops it, and that a stop is never a jump."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from wam_policy.core.motion.collision_check import Contact
from wam_policy.core.motion.jtc_emulator import Follower, Points
from wam_policy.core.motion.monitors import Strain
from wam_policy.core.motion.motion_control import MotionControl, State
from wam_policy.core.motion.plan_request import proposed
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load
from wam_policy.core.types import Chunk, JointState

ROBOT = load('agibot_g1')
N = len(ROBOT.commanded)
GRIPS = limits.gripping(ROBOT)
MS, S = 1_000_000, 1_000_000_000
CENTRE = np.where(GRIPS, 0.5, -0.1)


class Rig:
    """Run motion against a robot that is where its controllers say, at 100 Hz."""

    def __init__(self, **options: object) -> None:
        self.now = 100 * S
        self.motion = MotionControl(ROBOT, **({'dry_run': False} | options))
        self.robot = Follower(ROBOT.commanded, CENTRE)
        self.lag = np.zeros(N)  # measured minus set-point
        self.joints = True  # the robot reports its posture
        self.published, self.seen = [], []
        self.sequence = 0

    def publish(self, trajectory) -> None:
        if trajectory is None:
            return
        assert limits.worst(trajectory, ROBOT.limits()).rates <= 1.0 + 1e-9
        assert self.robot.accept(Points.of(trajectory), self.now) is None
        self.published.append(trajectory)

    def step(self) -> None:
        self.now += 10 * MS
        at = self.robot.sample(self.now)
        if self.joints:
            self.motion.on_joints(
                JointState(self.now, ROBOT.commanded, at.position + self.lag), self.now
            )
        self.publish(self.motion.tick(self.now))
        job = self.motion.job(self.now)
        if job is not None:
            self.publish(self.motion.accepted(proposed(job), self.now))
        self.seen.append((self.now, self.motion.state, at))

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> 'Rig':
        for _ in range(round(seconds * 100)):
            if each:
                each()
            self.step()
        return self

    def chunk(self, targets: np.ndarray | None = None, **changes) -> Chunk:
        """Return a chunk observed 100 ms ago that asks for `targets` [24 N] (default: stay)."""
        self.sequence += 1
        where = np.tile(CENTRE, (24, 1)) if targets is None else targets
        return replace(
            Chunk(
                self.now - 100 * MS,
                'one',
                self.sequence,
                ROBOT.step_dt_s,
                ROBOT.commanded,
                where,
                where[0],
                ROBOT.contract,
                {},
            ),
            **changes,
        )

    def waving(self, size: float = 0.15, hz: float = 0.4) -> None:
        """Send a chunk of a smooth wave every 140 ms."""
        if (self.now // (10 * MS)) % 14 == 0:
            t = (self.now - 100 * MS) / S + np.arange(24)[:, None] / 30 - 100
            wave = size * np.sin(2 * np.pi * hz * t) * np.where(GRIPS, 0.0, 1.0)
            self.motion.on_chunk(self.chunk(CENTRE + wave), self.now)

    def enabled(self) -> 'Rig':
        self.run(0.4)
        hold, why_not = self.motion.enable(self.now)
        assert hold is not None, why_not
        self.publish(hold)
        return self

    def tracking(self) -> 'Rig':
        self.enabled().run(3.5, self.waving)
        assert self.motion.state is State.TRACKING
        return self

    def speed(self) -> float:
        return float(np.abs(self.seen[-1][2].velocity).max())


def steps_of(rig: Rig) -> np.ndarray:
    return np.abs(np.diff(np.stack([at.position for _, _, at in rig.seen]), axis=0))


def test_enable_needs_a_fresh_and_still_robot():
    rig = Rig()
    assert 'no joint state' in rig.motion.enable(rig.now)[1]
    rig.run(0.1)
    assert 'too short' in rig.motion.enable(rig.now)[1]
    for _ in range(30):
        rig.lag[3] += 0.002
        rig.step()
    assert 'idx24_arm_l_joint4 still moves' in rig.motion.enable(rig.now)[1]
    rig.run(0.4)
    hold, _ = rig.motion.enable(rig.now)
    assert hold.goal == pytest.approx(CENTRE + rig.lag)  # measured, not a home posture
    assert 'already' in rig.motion.enable(rig.now)[1]


def test_the_first_move_is_slow_and_ends_when_command_and_policy_agree():
    rig = Rig().enabled()
    far = np.tile(CENTRE + np.where(GRIPS, 0.0, 0.3), (24, 1))
    rig.run(0.6)
    began = len(rig.seen)
    rig.run(
        2.2,
        lambda: (
            rig.motion.on_chunk(rig.chunk(far), rig.now)
            if rig.now // (10 * MS) % 14 == 0
            else None
        ),
    )
    speeds = [np.abs(at.velocity[~GRIPS]).max() for _, _, at in rig.seen[began : began + 100]]
    assert 0.25 < max(speeds) <= 0.3 + 1e-6
    states = [state for _, state, _ in rig.seen]
    assert State.FIRST_MOVE in states and rig.motion.state is State.TRACKING
    assert states.index(State.TRACKING) > states.index(State.FIRST_MOVE) + 50


def test_a_stream_of_chunks_is_tracked_without_underruns_or_clamps():
    rig = Rig().tracking()
    rig.run(3.0, rig.waving)
    tally = rig.motion.tally
    assert tally.underruns == 0 and tally.rejected == 0 and rig.motion.clamps.counts.sum() == 0
    assert tally.max_step < 0.008 and tally.jerk_ratio <= 1.0
    snapshot = rig.motion.snapshot(rig.now)
    assert snapshot.enabled and 0.0 < snapshot.chunk_age_s < 0.4 and snapshot.rows_left > 10


def test_without_chunks_the_arm_comes_to_rest_and_counts_one_underrun():
    rig = Rig().tracking().run(2.0)
    assert rig.motion.state is State.HOLDING and rig.motion.tally.underruns == 1
    assert rig.seen[-1][2].resting and steps_of(rig).max() < 0.016
    rig.run(2.0, rig.waving)  # and goes on when they come back
    assert rig.motion.state is State.TRACKING and rig.motion.tally.underruns == 1


def test_a_chunk_that_led_to_rest_is_over_and_no_underrun():
    rig = Rig().tracking()
    for _ in range(6):  # the arm gets there long before the last one is over
        rig.motion.on_chunk(rig.chunk(), rig.now)
        rig.run(0.14)
    rig.run(1.6)
    assert rig.motion.state is State.HOLDING and rig.motion.tally.underruns == 0
    assert rig.motion.reason == 'the chunk is over'


def test_every_process_of_ours_dead_still_means_rest():
    rig = Rig().tracking()
    rig.robot.sample(rig.now)
    assert rig.robot.sample(rig.now + 2 * S).resting


@pytest.mark.parametrize(
    ('cause', 'then', 'word'),
    [
        (lambda rig: rig.motion.estop(rig.now), State.ESTOPPED, 'e-stop'),
        (lambda rig: rig.motion.disable(rig.now), State.DISABLED, 'disabled'),
        (
            lambda rig: rig.motion.on_policy_pause('no instruction', rig.now),
            State.HOLDING,
            'paused',
        ),
        (lambda rig: setattr(rig, 'joints', False), State.HOLDING, 'no joint state'),
        (lambda rig: rig.lag.__setitem__(4, 0.3), State.PROTECTIVE_STOP, 'idx25_arm_l_joint5'),
    ],
)
def test_each_cause_stops_soon_and_smoothly(cause, then, word):
    rig = Rig().tracking()
    while rig.speed() < 0.3:
        rig.waving()
        rig.step()
    cause(rig)
    rig.run(0.75)
    assert rig.speed() < 1e-9 and word in rig.motion.reason
    rig.run(0.15)
    assert rig.speed() == 0.0 and rig.motion.state is then
    assert steps_of(rig).max() < 0.016


def test_latched_stops_need_reset_then_enable():
    rig = Rig().tracking()
    rig.motion.estop(rig.now)
    assert rig.motion.state is State.ESTOPPED and 'still' in rig.motion.reset(rig.now)
    rig.run(1.0, rig.waving)
    assert 'latched' in rig.motion.enable(rig.now)[1]
    rig.motion.disable(rig.now)
    assert rig.motion.state is State.ESTOPPED  # disabling releases nothing
    rig.joints = False
    rig.run(0.3)
    assert 'no joint state' in rig.motion.reset(rig.now)
    rig.joints = True
    rig.run(0.5)
    assert rig.motion.reset(rig.now) is None and rig.motion.state is State.DISABLED
    published = len(rig.published)
    rig.run(1.0, rig.waving)
    assert len(rig.published) == published  # a reset moves nothing
    rig.enabled().run(3.0, rig.waving)
    assert rig.motion.state is State.TRACKING


def test_an_estop_outranks_a_protective_stop_and_works_when_disabled():
    rig = Rig().run(0.3)
    rig.motion.estop(rig.now)
    assert rig.motion.snapshot(rig.now).estop
    rig = Rig().tracking()
    rig.lag[0] = 0.4
    rig.run(0.1)
    assert rig.motion.state is State.PROTECTIVE_STOP
    rig.motion.estop(rig.now)
    assert rig.motion.state is State.ESTOPPED


def test_stale_joints_recover_by_themselves_with_a_slow_start():
    rig = Rig().tracking()
    rig.joints = False
    rig.run(1.5, rig.waving)
    assert rig.motion.state is State.HOLDING and 'no joint state' in rig.motion.reason
    rig.joints = True
    rig.run(0.9, rig.waving)  # 0.2 s to see that it rests, 0.5 s to take it over
    assert rig.motion.state is State.FIRST_MOVE
    rig.run(2.0, rig.waving)
    assert rig.motion.state is State.TRACKING


@pytest.mark.parametrize(
    'away',
    [
        lambda rig: rig.run(1.5, rig.waving),  # its joint states do not come
        lambda rig: setattr(rig, 'now', rig.now + 2 * S),  # nobody watched, or time jumped
    ],
)
def test_a_robot_that_was_out_of_sight_is_taken_over_where_it_is(away):
    rig = Rig().tracking()
    rig.joints = False
    away(rig)
    elsewhere = rig.robot.state.position + 0.05 * ~GRIPS  # its controllers started anew
    rig.robot, rig.joints = Follower(ROBOT.commanded, elsewhere), True
    rig.published.clear()
    rig.run(0.5, rig.waving)
    assert rig.published[0].goal == pytest.approx(elsewhere)
    rig.run(3.0, rig.waving)
    assert rig.motion.state is State.TRACKING
    way = np.abs(np.diff([at.position for *_, at in rig.seen[-350:]], axis=0)).max()
    assert way < 0.01  # per 10 ms: it waves on, and never jumped


def test_the_dead_man_switch_has_a_lease():
    rig = Rig(use_deadman=True).run(0.4)
    assert 'dead-man' in rig.motion.enable(rig.now)[1]
    press = lambda: (rig.motion.on_deadman(True, rig.now), rig.waving())  # noqa: E731
    rig.motion.on_deadman(True, rig.now)
    rig.publish(rig.motion.enable(rig.now)[0])
    rig.run(3.0, press)
    assert rig.motion.state is State.TRACKING
    rig.run(1.2, rig.waving)  # nobody presses any more
    assert rig.motion.state is State.HOLDING and rig.speed() == 0.0
    assert not rig.motion.snapshot(rig.now).deadman_ok
    rig.run(0.5, press)
    rig.motion.on_deadman(False, rig.now)  # released: at once, no lease
    rig.step()
    assert rig.motion.obstacle == 'dead-man switch is not held'


def test_a_chunk_that_disagrees_with_the_robot_is_rejected_and_the_arm_rests():
    rig = Rig().tracking()
    away = np.tile(CENTRE + np.where(GRIPS, 0.0, 0.8), (24, 1))
    for _ in range(3):
        assert rig.motion.on_chunk(rig.chunk(away), rig.now) is None
        rig.step()
        assert 'policy and robot disagree' in rig.motion.reason
    rig.run(1.5)
    assert rig.motion.tally.rejected == 3 and rig.motion.state is State.HOLDING


def test_a_new_session_replaces_the_old_one_and_old_chunks_stay_out():
    rig = Rig().tracking()
    assert rig.motion.on_chunk(rig.chunk(session='two'), rig.now) is None
    rig.step()
    late = rig.chunk(stamp_ns=rig.now - 300 * MS)
    assert 'old session' in rig.motion.on_chunk(late, rig.now)
    rig.run(1.5)
    assert np.abs(rig.seen[-1][2].position - CENTRE).max() < 1e-2  # it followed session two


def test_a_policy_that_keeps_asking_for_too_much_trips():
    rig = Rig().tracking()
    rng, states = np.random.default_rng(0), set()
    for _ in range(300):
        if rig.now // (10 * MS) % 14 == 0:
            here = rig.robot.state.position
            wild = here + np.where(GRIPS, 0.0, 0.15) * np.sign(rng.normal(size=(24, 1)))
            rig.motion.on_chunk(rig.chunk(wild), rig.now)
        rig.step()
        states.add(rig.motion.state)
    assert rig.motion.state is State.PROTECTIVE_STOP and 'rows per second' in rig.motion.reason
    assert rig.motion.clamps.counts[~GRIPS].min() > 0


def test_plans_that_come_too_late_are_made_again_with_more_lead():
    rig = Rig().tracking()
    lead_ns = rig.motion.lead_ns
    rig.motion.on_chunk(rig.chunk(), rig.now)
    slow = proposed(rig.motion.job(rig.now))
    rig.now += 60 * MS
    assert rig.motion.accepted(slow, rig.now) is None
    assert rig.motion.lead_ns == 2 * lead_ns and rig.motion.tally.replanned == 1
    again = proposed(rig.motion.job(rig.now))
    rig.publish(rig.motion.accepted(again, rig.now))
    assert rig.motion.executing is again.plan


def test_a_stop_asked_for_while_a_chunk_is_planned_wins():
    rig = Rig().tracking()
    rig.motion.on_chunk(rig.chunk(), rig.now)
    planned = proposed(rig.motion.job(rig.now))
    rig.motion.estop(rig.now)
    assert rig.motion.accepted(planned, rig.now) is None
    stop = rig.motion.job(rig.now)
    assert stop is not None and stop.chunk is None
    assert rig.motion.accepted(proposed(stop), rig.now) is not None


def test_a_dry_run_ignores_that_the_robot_does_not_follow():
    rig = Rig(dry_run=True)
    rig.enabled()
    rig.run(0.6)
    rig.robot.accept = lambda *_: None  # the robot stays where it is
    rig.run(4.0, rig.waving)
    assert rig.motion.state is State.TRACKING and rig.motion.snapshot(rig.now).dry_run


@pytest.mark.parametrize('back_s', [0.02, 2.0, 50.0])
def test_a_clock_that_goes_back_lets_what_moves_come_to_its_own_rest(back_s):
    rig = Rig().tracking()
    rig.motion.on_chunk(rig.chunk(), rig.now)
    job = rig.motion.job(rig.now)
    back_ns = round(back_s * S)
    left_s = (rig.motion.executing.end_ns - rig.now) / S
    rig.robot.points = replace(rig.robot.points, stamp_ns=rig.robot.points.stamp_ns - back_ns)
    rig.now -= back_ns  # its controllers know nothing of it
    rig.published.clear()
    assert rig.motion.tick(rig.now) is None and 'clock went back' in rig.motion.reason
    assert rig.motion.accepted(proposed(job), rig.now) is None and rig.motion.pending is None
    assert rig.speed() > 0.0
    rig.run(left_s - 0.05, rig.waving)
    assert not rig.published  # no chunk is followed until it rests
    rig.run(1.5)
    assert rig.speed() == 0.0 and rig.motion.obstacle is None
    assert rig.motion.state is State.HOLDING and len(rig.published) == 1
    rig.run(3.0, rig.waving)
    assert rig.motion.state is State.TRACKING


def test_measured_outside_its_limits_is_held_and_only_moves_inward():
    rig = Rig()
    outside = CENTRE.copy()
    outside[0] = ROBOT.limits().upper[0] + 0.03
    rig.robot = Follower(ROBOT.commanded, outside)
    rig.enabled()
    further = np.tile(outside + np.where(GRIPS, 0.0, 0.1), (24, 1))
    rig.run(
        1.5,
        lambda: (
            rig.motion.on_chunk(rig.chunk(further), rig.now)
            if rig.now // (10 * MS) % 14 == 0
            else None
        ),
    )
    highest = max(at.position[0] for _, _, at in rig.seen)
    assert highest <= outside[0] + 1e-6
    back = np.tile(outside, (24, 1))
    back[:, 0] -= 0.2
    rig.run(
        2.0,
        lambda: (
            rig.motion.on_chunk(rig.chunk(back), rig.now)
            if rig.now // (10 * MS) % 14 == 0
            else None
        ),
    )
    assert rig.seen[-1][2].position[0] == pytest.approx(outside[0] - 0.2, abs=1e-3)


class Wall:
    """Stand where the first joint exceeds `at_rad`."""

    def __init__(self, at_rad: float) -> None:
        self.at_rad, self.body = at_rad, None

    def first_contact(self, path, held):
        self.body = held
        rows = np.flatnonzero(path[:, 0] > max(self.at_rad, path[0, 0]) + 1e-9)
        return Contact(int(rows[0]), 'left hand and table') if len(rows) else None


def asking(rig: Rig, joint_rad: float) -> Callable[[], None]:
    """Return what sends, every 140 ms, a chunk that takes the first joint to `joint_rad`."""

    def send() -> None:
        if (rig.now // (10 * MS)) % 14 == 0:
            here = rig.robot.sample(rig.now).position[0]
            rows = np.tile(CENTRE, (24, 1))
            rows[:, 0] = here + np.clip(joint_rad - here, -0.25, 0.25)
            rig.motion.on_chunk(rig.chunk(rows), rig.now)

    return send


def test_contact_ahead_cuts_the_motion_short_and_says_so_until_it_is_over():
    wall = Wall(CENTRE[0] + 0.35)
    rig = Rig(surroundings=wall).tracking()
    rig.run(2.5, asking(rig, wall.at_rad + 0.02))
    assert rig.motion.reason == 'contact ahead: left hand and table; stopping before it'
    assert rig.motion.state is State.TRACKING and rig.motion.snapshot(rig.now).tally.contacts > 1
    highest = max(at.position[0] for _, _, at in rig.seen)
    assert wall.at_rad - 0.03 < highest <= wall.at_rad + 1e-6
    assert len(wall.body) == 4  # the rest of the robot, as its folder has it
    rig.run(0.6, asking(rig, CENTRE[0]))
    assert 'contact' not in rig.motion.reason and rig.motion.state is State.TRACKING


def test_a_policy_that_keeps_pushing_is_held_where_it_would_touch():
    rig = Rig(surroundings=Wall(CENTRE[0] + 0.3)).tracking()
    rig.run(5.0, asking(rig, CENTRE[0] + 0.6))
    assert 'contact ahead: left hand and table' in rig.motion.reason and rig.speed() < 1e-3
    assert max(at.position[0] for _, _, at in rig.seen) <= CENTRE[0] + 0.3 + 1e-6


def test_a_stop_that_would_touch_is_not_taken_the_old_motion_rests_by_itself():
    class Brakes(Wall):
        def first_contact(self, path, held):
            return Contact(1, 'elbow and body')

    rig = Rig(surroundings=Wall(10.0)).tracking()
    rig.motion.surroundings = Brakes(0.0)
    executing = rig.motion.executing
    rig.motion.estop(rig.now)
    rig.run(1.5)
    assert rig.motion.executing is executing and rig.speed() == 0.0
    assert 'no faster stop: it would bring elbow and body together' in rig.motion.reason


def test_an_arm_that_pushes_too_hard_for_too_long_is_stopped():
    rig = Rig().tracking()
    hard = np.where(np.arange(N) == 3, 0.95 * ROBOT.joint(ROBOT.commanded[3]).hw_effort, 0.0)

    def feel(effort: np.ndarray) -> None:
        at = rig.robot.sample(rig.now)
        rig.motion.on_joints(
            JointState(rig.now + MS, ROBOT.commanded, at.position, effort=effort), rig.now + MS
        )

    rig.joints = False
    for _ in range(25):  # 0.25 s: a jolt
        rig.step()
        feel(hard)
    feel(0.0 * hard)
    rig.step()
    feel(0.0 * hard)
    assert rig.motion.state is not State.PROTECTIVE_STOP
    for _ in range(35):
        rig.step()
        feel(-hard)
    assert rig.motion.state is State.PROTECTIVE_STOP
    assert 'idx24_arm_l_joint4 pushes with 57.0, more than 54' in rig.motion.reason


def test_a_gripper_may_squeeze_and_a_robot_without_efforts_is_not_judged():
    strain = Strain(ROBOT, GRIPS)
    squeeze = np.where(GRIPS, 100.0, 0.0)
    for k in range(100):
        state = JointState(k * 10 * MS, ROBOT.commanded, CENTRE, effort=squeeze)
        assert strain.excess(state) is None
        assert strain.excess(JointState(k * 10 * MS, ROBOT.commanded, CENTRE)) is None


def test_what_the_driver_reports_stops_and_keeps_from_enabling():
    rig = Rig().tracking()
    rig.motion.on_robot_fault('left arm: a motor has 91 degrees', rig.now)
    assert rig.motion.state is State.PROTECTIVE_STOP
    assert rig.motion.reason == 'robot reports: left arm: a motor has 91 degrees'
    rig.run(1.0)
    assert rig.speed() == 0.0 and rig.motion.reset(rig.now) is None
    assert '91 degrees' in rig.motion.enable(rig.now)[1]
    rig.motion.on_robot_fault('', rig.now)
    assert rig.motion.enable(rig.now)[0] is not None

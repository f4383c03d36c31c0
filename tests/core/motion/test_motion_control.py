"""The state machine: what it moves, what stops it, and that a stop is never a jump."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from wam_policy.core.motion.collision_check import Contact
from wam_policy.core.motion.jtc_emulator import TrajectoryFollower, TrajectoryPoints
from wam_policy.core.motion.monitors import EffortMonitor
from wam_policy.core.motion.motion_control import MotionControl, MotionState
from wam_policy.core.motion.plan_request import compute_plan
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.core.types import Chunk, JointState

ROBOT = load_embodiment('agibot_g1')
N = len(ROBOT.commanded)
GRIPS = limits.gripper_mask(ROBOT)
MS, S = 1_000_000, 1_000_000_000
CENTER = np.where(GRIPS, 0.5, -0.1)


class MotionHarness:
    """Run motion against a robot that is where its controllers say, at 100 Hz."""

    def __init__(self, **options: object) -> None:
        self.now = 100 * S
        self.motion = MotionControl(ROBOT, **({'dry_run': False} | options))
        self.robot = TrajectoryFollower(ROBOT.commanded, CENTER)
        self.lag = np.zeros(N)  # measured minus set-point
        self.publishes_joints = True  # the robot reports its posture
        self.published, self.samples = [], []
        self.session, self.sequence = 'one', 0

    def publish(self, trajectory) -> None:
        if trajectory is None:
            return
        assert limits.compute_limit_usage(trajectory, ROBOT.limits()).max_rate <= 1.0 + 1e-9
        assert self.robot.accept(TrajectoryPoints.from_trajectory(trajectory), self.now) is None
        self.published.append(trajectory)

    def step(self) -> None:
        self.now += 10 * MS
        at = self.robot.sample(self.now)
        if self.publishes_joints:
            self.motion.on_joints(
                JointState(self.now, ROBOT.commanded, at.position + self.lag), self.now
            )
        self.publish(self.motion.tick(self.now))
        job = self.motion.next_plan_request(self.now)
        if job is not None:
            self.publish(self.motion.accept_plan(compute_plan(job), self.now))
        self.samples.append((self.now, self.motion.state, at))

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> 'MotionHarness':
        for _ in range(round(seconds * 100)):
            if each:
                each()
            self.step()
        return self

    def make_chunk(self, targets: np.ndarray | None = None, **changes) -> Chunk:
        """Return a chunk observed 100 ms ago that asks for `targets` [24 N] (default: stay)."""
        self.sequence += 1
        where = np.tile(CENTER, (24, 1)) if targets is None else targets
        return replace(
            Chunk(
                self.now - 100 * MS,
                self.session,
                self.sequence,
                ROBOT.step_dt_s,
                ROBOT.commanded,
                where,
                where[0],
                ROBOT.config_hash,
                {},
            ),
            **changes,
        )

    def send_wave(self, size: float = 0.15, hz: float = 0.4) -> None:
        """Send a chunk of a smooth wave every 140 ms."""
        if (self.now // (10 * MS)) % 14 == 0:
            t = (self.now - 100 * MS) / S + np.arange(24)[:, None] / 30 - 100
            wave = size * np.sin(2 * np.pi * hz * t) * np.where(GRIPS, 0.0, 1.0)
            self.motion.on_chunk(self.make_chunk(CENTER + wave), self.now)

    def enable(self) -> 'MotionHarness':
        self.run(0.4)
        hold, why_not = self.motion.enable(self.now)
        assert hold is not None, why_not
        self.publish(hold)
        return self

    def start_tracking(self) -> 'MotionHarness':
        self.enable().run(3.5, self.send_wave)
        assert self.motion.state is MotionState.TRACKING
        return self

    def max_speed(self) -> float:
        return float(np.abs(self.samples[-1][2].velocity).max())


def compute_steps(rig: MotionHarness) -> np.ndarray:
    return np.abs(np.diff(np.stack([at.position for _, _, at in rig.samples]), axis=0))


def test_enable_needs_a_fresh_and_still_robot():
    rig = MotionHarness()
    assert 'no joint state' in rig.motion.enable(rig.now)[1]
    rig.run(0.1)
    assert 'too short' in rig.motion.enable(rig.now)[1]
    for _ in range(30):
        rig.lag[3] += 0.002
        rig.step()
    assert 'idx24_arm_l_joint4 still moves' in rig.motion.enable(rig.now)[1]
    rig.run(0.4)
    hold, _ = rig.motion.enable(rig.now)
    assert hold.goal == pytest.approx(CENTER + rig.lag)  # measured, not a home posture
    assert 'already' in rig.motion.enable(rig.now)[1]


def test_the_first_move_is_slow_and_ends_when_command_and_policy_agree():
    rig = MotionHarness().enable()
    far = np.tile(CENTER + np.where(GRIPS, 0.0, 0.3), (24, 1))
    rig.run(0.6)
    began = len(rig.samples)
    rig.run(
        2.2,
        lambda: (
            rig.motion.on_chunk(rig.make_chunk(far), rig.now)
            if rig.now // (10 * MS) % 14 == 0
            else None
        ),
    )
    speeds = [np.abs(at.velocity[~GRIPS]).max() for _, _, at in rig.samples[began : began + 100]]
    assert 0.25 < max(speeds) <= 0.3 + 1e-6
    states = [state for _, state, _ in rig.samples]
    assert MotionState.FIRST_MOVE in states and rig.motion.state is MotionState.TRACKING
    assert states.index(MotionState.TRACKING) > states.index(MotionState.FIRST_MOVE) + 50


def test_a_stream_of_chunks_is_tracked_without_underruns_or_clamps():
    rig = MotionHarness().start_tracking()
    rig.run(3.0, rig.send_wave)
    tally = rig.motion.counters
    assert (
        tally.underruns == 0
        and tally.rejected == 0
        and rig.motion.limit_rate_monitor.counts.sum() == 0
    )
    assert tally.max_step < 0.008 and tally.jerk_ratio <= 1.0
    snapshot = rig.motion.snapshot(rig.now)
    assert snapshot.enabled and 0.0 < snapshot.chunk_age_s < 0.4 and snapshot.rows_left > 10


def test_without_chunks_the_arm_comes_to_rest_and_counts_one_underrun():
    rig = MotionHarness().start_tracking().run(2.0)
    assert rig.motion.state is MotionState.HOLDING and rig.motion.counters.underruns == 1
    assert rig.samples[-1][2].is_at_rest and compute_steps(rig).max() < 0.016
    rig.run(2.0, rig.send_wave)  # and goes on when they come back
    assert rig.motion.state is MotionState.TRACKING and rig.motion.counters.underruns == 1


def test_a_chunk_that_led_to_rest_is_over_and_no_underrun():
    rig = MotionHarness().start_tracking()
    for _ in range(6):  # the arm gets there long before the last one is over
        rig.motion.on_chunk(rig.make_chunk(), rig.now)
        rig.run(0.14)
    rig.run(1.6)
    assert rig.motion.state is MotionState.HOLDING and rig.motion.counters.underruns == 0
    assert rig.motion.reason == 'the chunk is over'


def test_every_process_of_ours_dead_still_means_rest():
    rig = MotionHarness().start_tracking()
    rig.robot.sample(rig.now)
    assert rig.robot.sample(rig.now + 2 * S).is_at_rest


@pytest.mark.parametrize(
    ('cause', 'then', 'word'),
    [
        (lambda rig: rig.motion.estop(rig.now), MotionState.ESTOPPED, 'e-stop'),
        (lambda rig: rig.motion.disable(rig.now), MotionState.DISABLED, 'disabled'),
        (
            lambda rig: rig.motion.on_policy_pause('no instruction', rig.now),
            MotionState.HOLDING,
            'paused',
        ),
        (
            lambda rig: setattr(rig, 'publishes_joints', False),
            MotionState.HOLDING,
            'no joint state',
        ),
        (
            lambda rig: rig.lag.__setitem__(4, 0.3),
            MotionState.PROTECTIVE_STOP,
            'idx25_arm_l_joint5',
        ),
    ],
)
def test_each_cause_stops_soon_and_smoothly(cause, then, word):
    rig = MotionHarness().start_tracking()
    while rig.max_speed() < 0.3:
        rig.send_wave()
        rig.step()
    cause(rig)
    rig.run(0.75)
    assert rig.max_speed() < 1e-9 and word in rig.motion.reason
    rig.run(0.15)
    assert rig.max_speed() == 0.0 and rig.motion.state is then
    assert compute_steps(rig).max() < 0.016


def test_latched_stops_need_reset_then_enable():
    rig = MotionHarness().start_tracking()
    rig.motion.estop(rig.now)
    assert rig.motion.state is MotionState.ESTOPPED and 'still' in rig.motion.reset(rig.now)
    rig.run(1.0, rig.send_wave)
    assert 'latched' in rig.motion.enable(rig.now)[1]
    rig.motion.disable(rig.now)
    assert rig.motion.state is MotionState.ESTOPPED  # disabling releases nothing
    rig.publishes_joints = False
    rig.run(0.3)
    assert 'no joint state' in rig.motion.reset(rig.now)
    rig.publishes_joints = True
    rig.run(0.5)
    assert rig.motion.reset(rig.now) is None and rig.motion.state is MotionState.DISABLED
    assert 'nothing to reset' in rig.motion.reset(rig.now)
    published = len(rig.published)
    rig.run(1.0, rig.send_wave)
    assert len(rig.published) == published  # a reset moves nothing


@pytest.mark.parametrize(
    'stop',
    [
        lambda motion, now_ns: motion.estop(now_ns),
        lambda motion, now_ns: motion.on_robot_fault('heat', now_ns),
        lambda motion, now_ns: motion.on_node_fault('ZeroDivisionError', now_ns),
        lambda motion, now_ns: motion.disable(now_ns),
    ],
)
def test_after_a_stop_enabling_moves_nothing_until_a_new_session_comes(stop):
    rig = MotionHarness().start_tracking()
    stop(rig.motion, rig.now)
    assert rig.motion.counters.stops == 1
    rig.motion.on_robot_fault('', rig.now)
    rig.run(1.5, rig.send_wave)
    rig.motion.reset(rig.now)
    rig.enable().run(1.0, rig.send_wave)
    assert rig.motion.state is MotionState.HOLDING and 'new instruction' in rig.motion.reason
    assert rig.max_speed() == 0.0
    rig.session = 'of a new instruction'
    rig.run(3.0, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING and rig.motion.counters.stops == 1


def test_a_stop_that_tells_nothing_new_takes_nothing_away():
    rig = MotionHarness().start_tracking()
    rig.motion.on_policy_pause('waiting for a camera', rig.now)
    rig.run(1.0)
    rig.motion.disable(rig.now)
    rig.motion.disable(rig.now)
    rig.motion.estop(rig.now)
    rig.motion.estop(rig.now)
    assert rig.motion.counters.stops == 2  # the first disabling and the e-stop


def test_an_estop_outranks_a_protective_stop_and_works_when_disabled():
    rig = MotionHarness().run(0.3)
    rig.motion.estop(rig.now)
    assert rig.motion.snapshot(rig.now).estop
    rig = MotionHarness().start_tracking()
    rig.lag[0] = 0.4
    rig.run(0.1)
    assert rig.motion.state is MotionState.PROTECTIVE_STOP
    rig.motion.estop(rig.now)
    assert rig.motion.state is MotionState.ESTOPPED


def test_stale_joints_recover_by_themselves_with_a_slow_start():
    rig = MotionHarness().start_tracking()
    rig.publishes_joints = False
    rig.run(1.5, rig.send_wave)
    assert rig.motion.state is MotionState.HOLDING and 'no joint state' in rig.motion.reason
    rig.publishes_joints = True
    rig.run(0.9, rig.send_wave)  # 0.2 s to see that it rests, 0.5 s to take it over
    assert rig.motion.state is MotionState.FIRST_MOVE
    rig.run(2.0, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING


@pytest.mark.parametrize(
    'away',
    [
        lambda rig: rig.run(1.5, rig.send_wave),  # its joint states do not come
        lambda rig: setattr(rig, 'now', rig.now + 2 * S),  # nobody watched, or time jumped
    ],
)
def test_a_robot_that_was_out_of_sight_is_taken_over_where_it_is(away):
    rig = MotionHarness().start_tracking()
    rig.publishes_joints = False
    away(rig)
    elsewhere = rig.robot.setpoint.position + 0.05 * ~GRIPS  # its controllers started anew
    rig.robot, rig.publishes_joints = TrajectoryFollower(ROBOT.commanded, elsewhere), True
    rig.published.clear()
    rig.run(0.5, rig.send_wave)
    assert rig.published[0].goal == pytest.approx(elsewhere)
    rig.run(3.0, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING
    way = np.abs(np.diff([at.position for *_, at in rig.samples[-350:]], axis=0)).max()
    assert way < 0.01  # per 10 ms: it waves on, and never jumped


def test_the_dead_man_switch_has_a_lease():
    rig = MotionHarness(use_deadman=True).run(0.4)
    assert 'dead-man' in rig.motion.enable(rig.now)[1]
    press = lambda: (rig.motion.on_deadman(True, rig.now), rig.send_wave())  # noqa: E731
    rig.motion.on_deadman(True, rig.now)
    rig.publish(rig.motion.enable(rig.now)[0])
    rig.run(3.0, press)
    assert rig.motion.state is MotionState.TRACKING
    rig.run(1.2, rig.send_wave)  # nobody presses any more
    assert rig.motion.state is MotionState.HOLDING and rig.max_speed() == 0.0
    assert not rig.motion.snapshot(rig.now).deadman_ok
    rig.run(0.5, press)
    rig.motion.on_deadman(False, rig.now)  # released: at once, no lease
    rig.step()
    assert rig.motion.blocked_reason == 'dead-man switch is not held'


def test_a_chunk_that_disagrees_with_the_robot_is_rejected_and_the_arm_rests():
    rig = MotionHarness().start_tracking()
    away = np.tile(CENTER + np.where(GRIPS, 0.0, 0.8), (24, 1))
    for _ in range(3):
        assert rig.motion.on_chunk(rig.make_chunk(away), rig.now) is None
        rig.step()
        assert 'policy and robot disagree' in rig.motion.reason
    rig.run(1.5)
    assert rig.motion.counters.rejected == 3 and rig.motion.state is MotionState.HOLDING


def test_a_new_session_replaces_the_old_one_and_old_chunks_stay_out():
    rig = MotionHarness().start_tracking()
    assert rig.motion.on_chunk(rig.make_chunk(session='two'), rig.now) is None
    rig.step()
    late = rig.make_chunk(stamp_ns=rig.now - 300 * MS)
    assert 'old session' in rig.motion.on_chunk(late, rig.now)
    rig.run(1.5)
    assert np.abs(rig.samples[-1][2].position - CENTER).max() < 1e-2  # it followed session two


def test_a_policy_that_keeps_asking_for_too_much_trips():
    rig = MotionHarness().start_tracking()
    rng, states = np.random.default_rng(0), set()
    for _ in range(300):
        if rig.now // (10 * MS) % 14 == 0:
            here = rig.robot.setpoint.position
            wild = here + np.where(GRIPS, 0.0, 0.15) * np.sign(rng.normal(size=(24, 1)))
            rig.motion.on_chunk(rig.make_chunk(wild), rig.now)
        rig.step()
        states.add(rig.motion.state)
    assert (
        rig.motion.state is MotionState.PROTECTIVE_STOP and 'rows per second' in rig.motion.reason
    )
    assert rig.motion.limit_rate_monitor.counts[~GRIPS].min() > 0


@pytest.mark.parametrize(('speed', 'limited'), [(0.6, False), (2.5, True)])
def test_rows_of_a_late_chunk_are_limited_only_if_it_asks_for_too_much(speed, limited):
    """The chunk began 0.3 s ago, in motion; the arm rests, so the plan is over 0.03 rad behind."""
    rig = MotionHarness().start_tracking()
    rig.run(1.5)
    away = np.where(GRIPS, 0.0, speed) * (np.arange(24)[:, None] / 30 - 0.35)
    here = rig.robot.setpoint.position
    chunk = replace(rig.make_chunk(here + away), stamp_ns=rig.now - 300 * MS)
    rig.motion.on_chunk(chunk, rig.now)
    request = rig.motion.next_plan_request(rig.now)
    done = compute_plan(replace(request, chunk_start_ns=chunk.stamp_ns))
    rows = done.active_chunk
    reached = np.stack([done.trajectory.at(int(at)).position for at in rows.due_ns])
    behind = (np.abs(reached - rows.targets) > 0.03)[:, ~GRIPS].any(axis=1)
    assert behind.sum() > 3
    assert rows.limited[:, ~GRIPS].any(axis=1).sum() == (behind.sum() if limited else 0)


def test_plans_that_come_too_late_are_made_again_with_more_lead():
    rig = MotionHarness().start_tracking()
    lead_ns = rig.motion.planning_lead_ns
    rig.motion.on_chunk(rig.make_chunk(), rig.now)
    slow = compute_plan(rig.motion.next_plan_request(rig.now))
    rig.now += 60 * MS
    assert rig.motion.accept_plan(slow, rig.now) is None
    assert rig.motion.planning_lead_ns == 2 * lead_ns and rig.motion.counters.replanned == 1
    again = compute_plan(rig.motion.next_plan_request(rig.now))
    rig.publish(rig.motion.accept_plan(again, rig.now))
    assert rig.motion.executing is again.trajectory


def test_a_stop_asked_for_while_a_chunk_is_planned_wins():
    rig = MotionHarness().start_tracking()
    rig.motion.on_chunk(rig.make_chunk(), rig.now)
    planned = compute_plan(rig.motion.next_plan_request(rig.now))
    rig.motion.estop(rig.now)
    assert rig.motion.accept_plan(planned, rig.now) is None
    stop = rig.motion.next_plan_request(rig.now)
    assert stop is not None and stop.chunk is None
    assert rig.motion.accept_plan(compute_plan(stop), rig.now) is not None


def test_a_dry_run_ignores_that_the_robot_does_not_follow():
    rig = MotionHarness(dry_run=True)
    rig.enable()
    rig.run(0.6)
    rig.robot.accept = lambda *_: None  # the robot stays where it is
    rig.run(4.0, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING and rig.motion.snapshot(rig.now).dry_run


@pytest.mark.parametrize('back_s', [0.02, 2.0, 50.0])
def test_a_clock_that_goes_back_lets_what_moves_come_to_its_own_rest(back_s):
    rig = MotionHarness().start_tracking()
    rig.motion.on_chunk(rig.make_chunk(), rig.now)
    job = rig.motion.next_plan_request(rig.now)
    back_ns = round(back_s * S)
    left_s = (rig.motion.executing.end_ns - rig.now) / S
    rig.robot.points = replace(rig.robot.points, stamp_ns=rig.robot.points.stamp_ns - back_ns)
    rig.now -= back_ns  # its controllers know nothing of it
    rig.published.clear()
    assert rig.motion.tick(rig.now) is None and 'clock went back' in rig.motion.reason
    assert (
        rig.motion.accept_plan(compute_plan(job), rig.now) is None
        and rig.motion.pending_chunk is None
    )
    assert rig.max_speed() > 0.0
    rig.run(left_s - 0.05, rig.send_wave)
    assert not rig.published  # no chunk is followed until it rests
    rig.run(1.5)
    assert rig.max_speed() == 0.0 and rig.motion.blocked_reason is None
    assert rig.motion.state is MotionState.HOLDING and len(rig.published) == 1
    rig.run(3.0, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING


def test_measured_outside_its_limits_is_held_and_only_moves_inward():
    rig = MotionHarness()
    outside = CENTER.copy()
    outside[0] = ROBOT.limits().upper[0] + 0.03
    rig.robot = TrajectoryFollower(ROBOT.commanded, outside)
    rig.enable()
    further = np.tile(outside + np.where(GRIPS, 0.0, 0.1), (24, 1))
    rig.run(
        1.5,
        lambda: (
            rig.motion.on_chunk(rig.make_chunk(further), rig.now)
            if rig.now // (10 * MS) % 14 == 0
            else None
        ),
    )
    highest = max(at.position[0] for _, _, at in rig.samples)
    assert highest <= outside[0] + 1e-6
    back = np.tile(outside, (24, 1))
    back[:, 0] -= 0.2
    rig.run(
        2.0,
        lambda: (
            rig.motion.on_chunk(rig.make_chunk(back), rig.now)
            if rig.now // (10 * MS) % 14 == 0
            else None
        ),
    )
    assert rig.samples[-1][2].position[0] == pytest.approx(outside[0] - 0.2, abs=1e-3)


class RecordingWallChecker:
    """Stand where the first joint exceeds `at_rad`."""

    def __init__(self, at_rad: float) -> None:
        self.at_rad, self.state_only_positions = at_rad, None

    def find_first_contact(self, path, state_only_positions):
        self.state_only_positions = state_only_positions
        rows = np.flatnonzero(path[:, 0] > max(self.at_rad, path[0, 0]) + 1e-9)
        return Contact(int(rows[0]), 'left hand and table') if len(rows) else None


def make_chunk_sender(rig: MotionHarness, joint_rad: float) -> Callable[[], None]:
    """Return what sends, every 140 ms, a chunk that takes the first joint to `joint_rad`."""

    def send() -> None:
        if (rig.now // (10 * MS)) % 14 == 0:
            here = rig.robot.sample(rig.now).position[0]
            rows = np.tile(CENTER, (24, 1))
            rows[:, 0] = here + np.clip(joint_rad - here, -0.25, 0.25)
            rig.motion.on_chunk(rig.make_chunk(rows), rig.now)

    return send


def test_contact_ahead_cuts_the_motion_short_and_says_so_until_it_is_over():
    wall = RecordingWallChecker(CENTER[0] + 0.35)
    rig = MotionHarness(collision_checker=wall).start_tracking()
    rig.run(2.5, make_chunk_sender(rig, wall.at_rad + 0.02))
    assert rig.motion.reason == 'contact ahead: left hand and table; stopping before it'
    assert (
        rig.motion.state is MotionState.TRACKING
        and rig.motion.snapshot(rig.now).counters.predicted_collisions > 1
    )
    highest = max(at.position[0] for _, _, at in rig.samples)
    assert wall.at_rad - 0.03 < highest <= wall.at_rad + 1e-6
    assert len(wall.state_only_positions) == 4  # the rest of the robot, as its folder has it
    rig.run(0.6, make_chunk_sender(rig, CENTER[0]))
    assert 'contact' not in rig.motion.reason and rig.motion.state is MotionState.TRACKING


def test_a_policy_that_keeps_pushing_is_held_where_it_would_touch():
    rig = MotionHarness(collision_checker=RecordingWallChecker(CENTER[0] + 0.3)).start_tracking()
    rig.run(5.0, make_chunk_sender(rig, CENTER[0] + 0.6))
    assert 'contact ahead: left hand and table' in rig.motion.reason and rig.max_speed() < 1e-3
    assert max(at.position[0] for _, _, at in rig.samples) <= CENTER[0] + 0.3 + 1e-6


def test_a_stop_that_would_touch_is_not_taken_the_old_motion_rests_by_itself():
    class AlwaysInContact(RecordingWallChecker):
        def find_first_contact(self, path, state_only_positions):
            return Contact(1, 'elbow and body')

    rig = MotionHarness(collision_checker=RecordingWallChecker(10.0)).start_tracking()
    rig.motion.collision_checker = AlwaysInContact(0.0)
    executing = rig.motion.executing
    rig.motion.estop(rig.now)
    rig.run(1.5)
    assert rig.motion.executing is executing and rig.max_speed() == 0.0
    assert 'no faster stop: it would bring elbow and body together' in rig.motion.reason


def test_an_arm_that_pushes_too_hard_for_too_long_is_stopped():
    rig = MotionHarness().start_tracking()
    hard = np.where(np.arange(N) == 3, 0.95 * ROBOT.joint(ROBOT.commanded[3]).hw_effort, 0.0)

    def feel(effort: np.ndarray) -> None:
        at = rig.robot.sample(rig.now)
        rig.motion.on_joints(
            JointState(rig.now + MS, ROBOT.commanded, at.position, effort=effort), rig.now + MS
        )

    rig.publishes_joints = False
    for _ in range(25):  # 0.25 s: a jolt
        rig.step()
        feel(hard)
    feel(0.0 * hard)
    rig.step()
    feel(0.0 * hard)
    assert rig.motion.state is not MotionState.PROTECTIVE_STOP
    for _ in range(35):
        rig.step()
        feel(-hard)
    assert rig.motion.state is MotionState.PROTECTIVE_STOP
    assert 'idx24_arm_l_joint4 pushes with 57.0, more than 54' in rig.motion.reason


def test_a_gripper_may_squeeze_and_a_robot_without_efforts_is_not_judged():
    strain = EffortMonitor(ROBOT, GRIPS)
    squeeze = np.where(GRIPS, 100.0, 0.0)
    for k in range(100):
        state = JointState(k * 10 * MS, ROBOT.commanded, CENTER, effort=squeeze)
        assert strain.check_effort(state) is None
        assert strain.check_effort(JointState(k * 10 * MS, ROBOT.commanded, CENTER)) is None


@pytest.mark.parametrize('missing', [np.nan, np.inf])
def test_efforts_that_are_not_measured_hide_no_arm_joint_that_pushes(missing):
    efforts = EffortMonitor(ROBOT, GRIPS)
    hard = np.where(GRIPS, missing, 0.0)
    hard[3], hard[5] = 0.95 * ROBOT.joint(ROBOT.commanded[3]).hw_effort, missing
    tripped_ms = []
    for ms in range(0, 600, 10):
        # every third message carries no efforts, as from another publisher
        effort = None if ms % 30 == 20 else hard
        if efforts.check_effort(JointState(ms * MS, ROBOT.commanded, CENTER, effort=effort)):
            tripped_ms.append(ms)
    assert tripped_ms[0] == 300


def test_pushes_with_a_long_gap_between_them_are_not_one_push():
    efforts = EffortMonitor(ROBOT, GRIPS)
    hard = np.where(GRIPS, 0.0, 1000.0)
    for ms in range(0, 3000, 110):
        state = JointState(ms * MS, ROBOT.commanded, CENTER, effort=hard)
        assert efforts.check_effort(state) is None


def test_what_the_driver_reports_stops_and_keeps_from_enabling():
    rig = MotionHarness().start_tracking()
    rig.motion.on_robot_fault('left arm: a motor has 91 degrees', rig.now)
    assert rig.motion.state is MotionState.PROTECTIVE_STOP
    assert rig.motion.reason == 'robot reports: left arm: a motor has 91 degrees'
    rig.run(1.0)
    assert rig.max_speed() == 0.0 and rig.motion.reset(rig.now) is None
    assert '91 degrees' in rig.motion.enable(rig.now)[1]
    rig.motion.on_robot_fault('', rig.now)
    assert rig.motion.enable(rig.now)[0] is not None


def test_a_controller_that_is_not_what_was_planned_for_stops_motion():
    rig = MotionHarness().start_tracking()
    rig.motion.on_controller_fault('arm: /teleop also publishes', rig.now)
    assert rig.motion.state is MotionState.PROTECTIVE_STOP
    rig.run(1.0, rig.send_wave)
    assert rig.max_speed() == 0.0 and rig.motion.reason == 'arm: /teleop also publishes'


def test_a_fault_of_a_controller_without_motion_latches_nothing():
    rig = MotionHarness().run(0.4)
    rig.motion.on_controller_fault('arm: speed scaling is 0.5', rig.now, timing_unknown=True)
    assert rig.motion.state is MotionState.DISABLED and not rig.motion.timing_unknown
    rig.enable().run(3.5, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING


@pytest.mark.parametrize('factor', [0.9, 0.5, 0.0])
@pytest.mark.parametrize('estop', [False, True])
def test_at_another_speed_what_is_executed_goes_to_its_end_and_nothing_is_sent(factor, estop):
    rig = MotionHarness().start_tracking()
    rig.robot.speed_scaling = factor
    rig.run(0.02)  # until a report tells
    sent = len(rig.published)
    rig.motion.on_controller_fault('arm: speed scaling', rig.now, timing_unknown=True)
    rig.samples.clear()
    if estop:
        rig.motion.estop(rig.now)
    rig.run(1.0, rig.send_wave).run(3.0)
    assert rig.motion.state is (MotionState.ESTOPPED if estop else MotionState.PROTECTIVE_STOP)
    assert len(rig.published) == sent
    assert (compute_steps(rig) <= ROBOT.limits().velocity * 0.01 + 1e-9).all()
    at = rig.robot.sample(rig.now)
    assert factor == 0.0 or not at.velocity.any()
    rig.robot.speed_scaling = 1.0  # what was paused goes on to its end, at rest
    rig.run(3.0)
    assert rig.max_speed() == 0.0
    assert rig.motion.reset(rig.now) is None
    rig.samples.clear()
    rig.session = 'of a new instruction'
    rig.enable().run(3.5, rig.send_wave)
    assert rig.motion.state is MotionState.TRACKING
    assert (compute_steps(rig) <= ROBOT.limits().velocity * 0.01 + 1e-9).all()


def test_a_stop_that_was_being_planned_is_not_sent_to_controllers_at_another_speed():
    rig = MotionHarness().start_tracking()
    rig.motion.estop(rig.now)
    job = rig.motion.next_plan_request(rig.now)
    assert job is not None
    rig.motion.on_controller_fault('arm: speed scaling', rig.now, timing_unknown=True)
    assert rig.motion.accept_plan(compute_plan(job), rig.now) is None
    assert rig.motion.next_plan_request(rig.now) is None and not rig.motion.stop_requested

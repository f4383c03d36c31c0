"""Fuzz test of motion control: run random scenarios and check the limits of every trajectory.

Run from the repository root: python benchmarks/motion_fuzz.py [--cases N] [--json FILE].
A scenario is a robot at random joint positions and a few events: chunks that are smooth, wild, not
finite, late, duplicated or of an old session, late plans, stops, missing joint states. Three of
ten scenarios lose commands to some of the controllers, which report what they execute. Scenarios
are numbered: `run_batch(number, 1)` repeats a failed one. The property tests use the same
scenarios (tests/core/motion/test_motion_properties.py).
"""

import argparse
import ast
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from wam_policy.core.motion.jtc_emulator import TrajectoryFollower, TrajectoryPoints
from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.motion.plan_request import compute_plan
from wam_policy.core.motion.trajectory import JointMotion, Trajectory
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import Controller, Embodiment, load_embodiment
from wam_policy.core.types import Chunk, JointState, Setpoint

NS_PER_MS = 1_000_000
TOLERANCE = 1e-6
EVENT_KINDS = (
    'chunk',
    'stream',
    'stream',
    'stream',
    'wild',
    'wild',
    'broken',
    'recover',
    'recover',
    'estop',
    'reset',
    'enable',
    'disable',
    'pause',
    'blind',
)
FIRST_EVENT_KINDS = ('chunk', 'wild', 'wild', 'broken')
NEXT_EVENT_KINDS = (
    'chunk',
    'wild',
    'wild',
    'broken',
    'estop',
    'disable',
    'pause',
    'blind',
    'enable',
)
BATCH_SIZE = 500
# probability of losing a command to a controller; None: no loss and no reports
LOSS_PROBS = (0.05, 0.3, 0.6, 0.0, *6 * (None,))
REPORT_PERIODS_MS, REPORT_LATENCIES_MS = (10, 20, 50), (0, 1, 30)
TICK_PERIODS_MS = (10, 20, 40)  # 10 as in the node; the others are loops that are always late
STARTUP_TICK_MS = 50  # before the first event


def reduce_joints(robot: Embodiment) -> Embodiment:
    """Return the robot with three joints; limits apply per joint, and planning is fast."""
    arm = [name for name in robot.commanded if robot.joint(name).kind != 'gripper']
    grip = next(name for name in robot.commanded if robot.joint(name).kind == 'gripper')
    return replace(
        robot,
        commanded=(arm[1], arm[-1], grip),
        controllers=(
            Controller('arm', '/arm', '/arm_state', (arm[1], arm[-1])),
            Controller('grip', '/grip', '/grip_state', (grip,)),
        ),
    )


@dataclass(frozen=True, slots=True)
class ScenarioEvent:
    """One event and its delays."""

    kind: str  # one of EVENT_KINDS
    wait_ms: int  # until the next event
    age_ms: int  # of the chunk's observation
    planning_ms: int
    seed: int


class ControllerLink:
    """Simulate one controller, and a link that loses commands and delays reports."""

    def __init__(
        self,
        controller: Controller,
        joint_columns: np.ndarray,
        start_positions: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.name, self.joint_columns, self.rng = controller.name, joint_columns, rng
        self.follower = TrajectoryFollower(controller.joints, start_positions)
        self.report_period_ns = int(rng.choice(REPORT_PERIODS_MS)) * NS_PER_MS
        self.report_latency_ns = int(rng.choice(REPORT_LATENCIES_MS)) * NS_PER_MS
        self.next_report_ns, self.last_report_lost, self.reports_in_flight = 0, True, []

    def send_command(self, points: TrajectoryPoints, now_ns: int, loss_prob: float) -> None:
        """Deliver or lose a command; assert that the setpoint does not jump."""
        before = self.follower.sample(now_ns)
        if loss_prob and self.rng.uniform() < loss_prob:
            return
        refused = self.follower.accept(points, now_ns)
        assert refused is None, refused
        after = self.follower.sample(now_ns)
        for field in ('position', 'velocity', 'acceleration'):
            jump = np.abs(getattr(after, field) - getattr(before, field)).max()
            assert jump <= TOLERANCE, f'{field} of {self.name} jumps by {jump}'

    def poll_report(self, now_ns: int) -> tuple[int, JointMotion] | None:
        """Send a report when one is due, and return one that arrives now.

        Reports are lost at random, never two in a row. Returns the time of the report and the
        setpoint at that time.
        """
        if now_ns >= self.next_report_ns:
            self.next_report_ns = now_ns + self.report_period_ns
            self.last_report_lost = not self.last_report_lost and self.rng.uniform() < 0.2
            if not self.last_report_lost:
                self.reports_in_flight.append((now_ns, self.follower.setpoint))
        arrived = (
            self.reports_in_flight
            and self.reports_in_flight[0][0] + self.report_latency_ns <= now_ns
        )
        return self.reports_in_flight.pop(0) if arrived else None


class Scenario:
    """Run events with a robot that is exactly at the setpoints of its controllers."""

    def __init__(self, robot: Embodiment, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.robot, self.limits = robot, robot.limits()
        joints = len(robot.commanded)
        share = np.where(
            rng.uniform(size=joints) < 0.2, rng.integers(0, 2, joints), rng.uniform(size=joints)
        )
        self.start_positions = self.limits.lower + share * (self.limits.upper - self.limits.lower)
        self.loss_prob = LOSS_PROBS[rng.integers(len(LOSS_PROBS))]
        column = {name: i for i, name in enumerate(robot.commanded)}
        self.links = []
        for controller in robot.controllers:
            columns = np.array([column[name] for name in controller.joints])
            self.links.append(
                ControllerLink(controller, columns, self.start_positions[columns], rng)
            )
        self.motion = MotionControl(robot, dry_run=False)
        self.tick_ms, chosen_ms = STARTUP_TICK_MS, int(rng.choice(TICK_PERIODS_MS))
        self.now_ns, self.joint_states_on, self.sequence, self.published_count = 10**12, True, 0, 0
        self.advance(300)  # at rest, not enabled
        self.tick_ms = chosen_ms
        self.check_and_send(self.motion.enable(self.now_ns)[0])
        if self.loss_prob and rng.uniform() < 0.8:
            self.now_ns += (
                350 * NS_PER_MS
            )  # without ticks, until executed and assumed motion differ

    def run(self, events: Sequence[ScenarioEvent]) -> None:
        """Run the events and assert that all joints are at rest at the end."""
        for event in events:
            self.apply(event)
            self.advance(event.wait_ms)
        if self.loss_prob:
            self.check_convergence()
        resting = [
            line.follower.sample(self.now_ns + 3_000 * NS_PER_MS).is_at_rest for line in self.links
        ]
        assert all(resting), 'still moving at the end'
        assert self.published_count >= 1, 'nothing was published'

    def check_convergence(self) -> None:
        """Assert that the assumed motion equals the executed one once no command is lost."""
        self.loss_prob = 0.0
        self.advance(300)  # time for a lost and a late report
        assumed = self.motion.executing
        assert assumed is not None, 'motion is not enabled'
        if self.now_ns > assumed.start_ns and not self.motion.command_tracker.is_ambiguous(
            self.now_ns
        ):
            error = np.abs(assumed.at(self.now_ns).position - self.read_set_points()).max()
            assert error <= TOLERANCE, f'executed differs from assumed motion by {error}'

    def read_set_points(self) -> np.ndarray:
        """Return the present setpoints, [joints]."""
        position = np.empty(len(self.robot.commanded))
        for line in self.links:
            position[line.joint_columns] = line.follower.sample(self.now_ns).position
        return position

    def check_and_send(self, trajectory: Trajectory | None) -> None:
        """Assert that a published trajectory is within the limits, and send it."""
        if trajectory is None:
            return
        used = limits.compute_limit_usage(trajectory, self.limits)
        assert used.max_rate <= 1.0 + TOLERANCE, f'rates reach {used.max_rate}'
        low, high = limits.compute_position_range(trajectory)
        assert (low >= np.minimum(self.limits.lower, self.start_positions) - TOLERANCE).all(), (
            'too low'
        )
        assert (high <= np.maximum(self.limits.upper, self.start_positions) + TOLERANCE).all(), (
            'too high'
        )
        assert trajectory.at(trajectory.end_ns).is_at_rest, 'does not end at rest'
        self.check_integration(trajectory)
        points = TrajectoryPoints.from_trajectory(trajectory)
        for line in self.links:
            line.send_command(points.reorder(line.follower.names), self.now_ns, self.loss_prob)
        self.published_count += 1

    @staticmethod
    def check_integration(trajectory: Trajectory) -> None:
        """Assert that integrating each segment's jerk gives the next knot."""
        h, jerk = trajectory.duration_s[:, None], trajectory.jerk
        p, v, a = (
            getattr(trajectory, field)[:-1] for field in ('position', 'velocity', 'acceleration')
        )
        end_p, end_v = p + h * (v + h * (a / 2 + h * jerk / 6)), v + h * (a + h * jerk / 2)
        assert np.abs(end_p - trajectory.position[1:]).max(initial=0.0) <= 1e-9, 'no one curve'
        assert np.abs(end_v - trajectory.velocity[1:]).max(initial=0.0) <= 1e-8, 'no one curve'

    def advance(self, duration_ms: int) -> None:
        until = self.now_ns + duration_ms * NS_PER_MS
        while self.now_ns < until:
            self.now_ns = min(self.now_ns + self.tick_ms * NS_PER_MS, until)
            where = self.read_set_points()
            if self.joint_states_on:
                self.motion.on_joints(
                    JointState(self.now_ns, self.robot.commanded, where), self.now_ns
                )
            if self.loss_prob is not None:
                self.deliver_reports()
            self.check_and_send(self.motion.tick(self.now_ns))

    def deliver_reports(self) -> None:
        """Deliver the controllers' reports to motion control, as its node does."""
        for line in self.links:
            report = line.poll_report(self.now_ns)
            if report is not None and self.motion.command_tracker.needs_report(
                line.name, self.now_ns
            ):
                stamp, at = report
                flaw = self.motion.on_setpoint(
                    Setpoint(line.name, stamp, at.position, at.velocity, at.acceleration),
                    self.now_ns,
                )
                assert flaw is None, flaw

    def run_planner(self, planning_ms: int) -> None:
        job = self.motion.next_plan_request(self.now_ns)
        if job is None:
            return
        proposal = compute_plan(job)
        self.advance(planning_ms)
        self.check_and_send(self.motion.accept_plan(proposal, self.now_ns))

    def make_chunk(self, kind: str, age_ms: int, seed: int) -> Chunk:
        rng = np.random.default_rng(seed)
        here, joints = self.read_set_points(), len(self.robot.commanded)
        self.sequence += rng.integers(0, 5) > 0  # now and then a duplicate
        size = rng.choice([0.1, 1.0]) if kind == 'wild' else rng.choice([0.003, 0.02])
        rows = here + size * rng.normal(size=(self.robot.horizon, joints)).cumsum(axis=0)
        if kind == 'broken':
            rows[rng.integers(len(rows)), rng.integers(joints)] = rng.choice(
                [np.nan, np.inf, -np.inf, 1e308, -1e30, 57.3]
            )
        session = f's{self.sequence // 15 - (rng.uniform() < 0.05)}'  # some are old
        chunk = Chunk(
            self.now_ns - age_ms * NS_PER_MS,
            session,
            int(self.sequence),
            self.robot.step_dt_s,
            self.robot.commanded,
            rows,
            here,
            self.robot.config_hash,
            {},
        )
        if kind == 'broken' and rng.uniform() < 0.3:
            chunk = replace(chunk, names=chunk.names[::-1])
        return chunk

    def apply(self, event: ScenarioEvent) -> None:
        motion, kind = self.motion, event.kind
        if kind == 'stream':
            for after in range(5):
                self.apply(replace(event, kind='chunk', seed=event.seed + after))
                self.advance(max(0, 140 - event.planning_ms))
        elif kind in ('chunk', 'wild', 'broken'):
            motion.on_chunk(self.make_chunk(kind, event.age_ms, event.seed), self.now_ns)
        elif kind == 'enable':
            self.check_and_send(motion.enable(self.now_ns)[0])
        elif kind == 'pause':
            motion.on_policy_pause('test', self.now_ns)
        elif kind == 'blind':
            self.joint_states_on = False
        elif kind == 'recover':
            self.joint_states_on = True
            self.advance(1500)
            motion.reset(self.now_ns)
            self.check_and_send(motion.enable(self.now_ns)[0])
            self.advance(500)
        else:
            getattr(motion, kind)(self.now_ns)
        self.run_planner(event.planning_ms)
        self.run_planner(0)  # a late plan is repeated


def make_scenario(number: int) -> tuple[Embodiment, int, list[ScenarioEvent]]:
    """Return scenario `number`: the robot, the seed of its joint positions, 1 to 3 short events.

    The property tests use longer scenarios; here many short ones are run.
    """
    rng = np.random.default_rng([number, 7])
    robot = ROBOTS[rng.integers(len(ROBOTS))]
    kinds = [
        str(rng.choice(FIRST_EVENT_KINDS)),
        *rng.choice(NEXT_EVENT_KINDS, rng.integers(0, 3)).tolist(),
    ]
    return (
        robot,
        int(rng.integers(2**32)),
        [
            ScenarioEvent(
                kind,
                int(rng.integers(1, 200)),
                int(rng.choice([20, 80, 150, 400, 900])),
                int(rng.integers(0, 60)),
                int(rng.integers(2**32)),
            )
            for kind in kinds
        ],
    )


ROBOTS = [reduce_joints(load_embodiment(name)) for name in ('agibot_g1', 'yam', 'droid')]


def run_batch(first_number: int, count: int) -> tuple[int, list[str]]:
    """Run `count` scenarios; return the number of published trajectories and the failures."""
    published, failed = 0, []
    for number in range(first_number, first_number + count):
        robot, seed, events = make_scenario(number)
        try:
            history = Scenario(robot, seed)
            history.run(events)
            published += history.published_count
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            failed.append(f'{number}: {type(error).__name__}: {error}')
    return published, failed


def hash_code() -> str:
    """Return a hash of the code that determines a scenario: the loaded core, and this file.

    Comments and formatting do not change it.
    """
    ours = [
        Path(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.startswith('wam_policy.core.') and module.__file__
    ]
    digest = hashlib.sha256()
    for path in (*ours, Path(__file__)):
        digest.update((path.name + ast.dump(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()[:16]


def load_record(path: Path | None, resume: bool) -> dict[str, Any]:
    """Return the record in `path` if the run resumes it, else an empty record.

    Raises ValueError if another version of the code wrote it.
    """
    empty = {'histories': 0, 'trajectories checked': 0, 'failures': [], 'seconds': 0.0}
    if not resume or path is None or not path.is_file():
        return empty
    found = json.loads(path.read_text())
    if found.get('code') != hash_code():
        raise ValueError(f'{path}: recorded with other code; omit --resume to start again')
    return found


def main() -> int:
    """Run, write JSON after every batch; return 1 if a scenario failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', type=int, default=10_000, help='total (default: %(default)s)')
    parser.add_argument(
        '--workers',
        '--jobs',  # the old name, for one release
        dest='jobs',
        type=int,
        default=1,
        help='processes (default: %(default)s)',
    )
    parser.add_argument(
        '--minutes', type=float, default=1e9, help='start no batch after this time'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the record to FILE')
    parser.add_argument(
        '--resume',
        '--onto',  # the old name, for one release
        dest='onto',
        action='store_true',
        help='continue after the last scenario in FILE, if the same code wrote it',
    )
    options = parser.parse_args()
    try:
        known = load_record(options.json, options.onto)
    except ValueError as error:
        parser.error(str(error))
    start_s, completed, code = time.monotonic(), known['histories'], hash_code()
    published, failed = known['trajectories checked'], list(known['failures'])
    with ProcessPoolExecutor(options.jobs) as pool:
        while completed < options.cases and time.monotonic() - start_s <= 60 * options.minutes:
            starts = range(completed, options.cases, BATCH_SIZE)[: options.jobs]
            counts = [min(BATCH_SIZE, options.cases - start) for start in starts]
            for count, (out, wrong) in zip(
                counts, pool.map(run_batch, starts, counts), strict=True
            ):
                completed, published, failed = completed + count, published + out, failed + wrong
            print(
                f'\r{completed} histories, {published} trajectories, {len(failed)} failed',
                end='',
                flush=True,
            )
            if options.json:
                record.write_report(
                    options.json,
                    {
                        'question': 'does a scenario exceed a limit',
                        'code': code,
                        'asked for': options.cases,
                        'histories': completed,
                        'trajectories checked': published,
                        'failed': len(failed),
                        'failures': failed,
                        'tolerance': TOLERANCE,
                        'processes': options.jobs,
                        'seconds': round(known['seconds'] + time.monotonic() - start_s, 1),
                    },
                )
    print()
    for line in failed[:20]:
        print(line)
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())

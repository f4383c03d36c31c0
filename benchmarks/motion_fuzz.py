"""Does any history of chunks break a limit? Play as many as asked for and say how many held.

Run from the repository root: python benchmarks/motion_fuzz.py [--cases N] [--json FILE [--onto]].
A history is a robot at a posture of its own and a few events: chunks that are smooth, wild, not
finite, late, doubled or of an old session, plans that come late, stops, joint states that cease.
Three of ten histories lose commands on the way to some of the controllers, while these report what
they follow. Histories are numbered: one that fails is named, and `batch(number, 1)` fails again.
The tests play the same (tests/core/motion/test_motion_properties.py).
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
from wam_policy.core.motion.jtc_emulator import Follower, Points
from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.motion.plan_request import proposed
from wam_policy.core.motion.trajectory import Motion, Trajectory
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import Controller, Embodiment, load
from wam_policy.core.types import Chunk, JointState, SetPoint

MS = 1_000_000
TOLERANCE = 1e-6
KINDS = (
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
FIRST = ('chunk', 'wild', 'wild', 'broken')
NEXT = ('chunk', 'wild', 'wild', 'broken', 'estop', 'disable', 'pause', 'blind', 'enable')
BATCH = 500
# shares of the commands to each controller; None: nothing is lost, and nothing reported
LOSSES = (0.05, 0.3, 0.6, 0.0, *6 * (None,))
REPORT_MS, LATENCY_MS = (10, 20, 50), (0, 1, 30)
TICK_MS = (10, 20, 40)  # 10 as in the node, and loops that are late all the time
SETTLING_MS = 50  # before anything can happen


def few_joints(robot: Embodiment) -> Embodiment:
    """Return the robot with three of its joints: limits hold joint by joint, plans are fast."""
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
class Event:
    """Say what happens, and what of it comes late."""

    kind: str  # one of KINDS
    wait_ms: int  # until the next event
    age_ms: int  # of the chunk's observation
    planning_ms: int
    seed: int


class Line:
    """Be one controller, the way to it that loses commands, and the way back of its reports."""

    def __init__(
        self,
        controller: Controller,
        columns: np.ndarray,
        first: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.name, self.columns, self.rng = controller.name, columns, rng
        self.follower = Follower(controller.joints, first)
        self.every = int(rng.choice(REPORT_MS)) * MS
        self.latency = int(rng.choice(LATENCY_MS)) * MS
        self.due, self.lost, self.returning = 0, True, []

    def command(self, points: Points, now: int, loss: float) -> None:
        """Hand a command on or lose it; see that it makes nothing jump."""
        before = self.follower.sample(now)
        if loss and self.rng.uniform() < loss:
            return
        refused = self.follower.accept(points, now)
        assert refused is None, refused
        after = self.follower.sample(now)
        for field in ('position', 'velocity', 'acceleration'):
            jump = np.abs(getattr(after, field) - getattr(before, field)).max()
            assert jump <= TOLERANCE, f'{field} of {self.name} jumps by {jump}'

    def report(self, now: int) -> tuple[int, Motion] | None:
        """Say what is followed when that is due, and lose it now and then, never two in a row.

        Returns what arrives: when it was said, and the set-point that was sampled last then.
        """
        if now >= self.due:
            self.due = now + self.every
            self.lost = not self.lost and self.rng.uniform() < 0.2
            if not self.lost:
                self.returning.append((now, self.follower.state))
        arrived = self.returning and self.returning[0][0] + self.latency <= now
        return self.returning.pop(0) if arrived else None


class History:
    """Play events against a robot that is where its controllers say."""

    def __init__(self, robot: Embodiment, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.spec, self.full = robot, robot.limits()
        joints = len(robot.commanded)
        share = np.where(
            rng.uniform(size=joints) < 0.2, rng.integers(0, 2, joints), rng.uniform(size=joints)
        )
        self.first = self.full.lower + share * (self.full.upper - self.full.lower)
        self.loss = LOSSES[rng.integers(len(LOSSES))]
        column = {name: i for i, name in enumerate(robot.commanded)}
        self.lines = []
        for controller in robot.controllers:
            columns = np.array([column[name] for name in controller.joints])
            self.lines.append(Line(controller, columns, self.first[columns], rng))
        self.motion = MotionControl(robot, dry_run=False)
        self.tick_ms, chosen_ms = SETTLING_MS, int(rng.choice(TICK_MS))
        self.now, self.sees, self.sequence, self.published = 10**12, True, 0, 0
        self.advance(300)  # a robot at rest that nobody has enabled yet
        self.tick_ms = chosen_ms
        self.publish(self.motion.enable(self.now)[0])
        if self.loss and rng.uniform() < 0.8:
            self.now += 350 * MS  # on to where curves part: nobody looks meanwhile

    def play(self, events: Sequence[Event]) -> None:
        """Play the events and see that everything rests in the end."""
        for event in events:
            self.happen(event)
            self.advance(event.wait_ms)
        if self.loss:
            self.settle()
        resting = [line.follower.sample(self.now + 3_000 * MS).resting for line in self.lines]
        assert all(resting), 'still moving at the end'
        assert self.published >= 1, 'nothing was published'

    def settle(self) -> None:
        """See that what motion believes is what is done, once nothing is lost any more."""
        self.loss = 0.0
        self.advance(300)  # a lost report and a late one
        believed = self.motion.executing
        if self.now > believed.start_ns and not self.motion.confirmed.unsure(self.now):
            wrong = np.abs(believed.at(self.now).position - self.where()).max()
            assert wrong <= TOLERANCE, f'followed is {wrong} from what is believed'

    def where(self) -> np.ndarray:
        """Return the set-points of now, [joints]."""
        position = np.empty(len(self.spec.commanded))
        for line in self.lines:
            position[line.columns] = line.follower.sample(self.now).position
        return position

    def publish(self, trajectory: Trajectory | None) -> None:
        """Check what is published and what the controllers make of it."""
        if trajectory is None:
            return
        used = limits.worst(trajectory, self.full)
        assert used.rates <= 1.0 + TOLERANCE, f'rates reach {used.rates}'
        low, high = limits.span(trajectory)
        assert (low >= np.minimum(self.full.lower, self.first) - TOLERANCE).all(), 'too low'
        assert (high <= np.maximum(self.full.upper, self.first) + TOLERANCE).all(), 'too high'
        assert trajectory.at(trajectory.end_ns).resting, 'does not end at rest'
        self.check_one_curve(trajectory)
        points = Points.of(trajectory)
        for line in self.lines:
            line.command(points.sorted_for(line.follower.names), self.now, self.loss)
        self.published += 1

    @staticmethod
    def check_one_curve(trajectory: Trajectory) -> None:
        """Check that each segment's jerk really leads from knot to knot."""
        h, jerk = trajectory.duration_s[:, None], trajectory.jerk
        p, v, a = (
            getattr(trajectory, field)[:-1] for field in ('position', 'velocity', 'acceleration')
        )
        end_p, end_v = p + h * (v + h * (a / 2 + h * jerk / 6)), v + h * (a + h * jerk / 2)
        assert np.abs(end_p - trajectory.position[1:]).max(initial=0.0) <= 1e-9, 'no one curve'
        assert np.abs(end_v - trajectory.velocity[1:]).max(initial=0.0) <= 1e-8, 'no one curve'

    def advance(self, ms: int) -> None:
        until = self.now + ms * MS
        while self.now < until:
            self.now = min(self.now + self.tick_ms * MS, until)
            where = self.where()
            if self.sees:
                self.motion.on_joints(JointState(self.now, self.spec.commanded, where), self.now)
            if self.loss is not None:
                self.report()
            self.publish(self.motion.tick(self.now))

    def report(self) -> None:
        """Let motion hear what the controllers follow, as its node does."""
        for line in self.lines:
            said = line.report(self.now)
            if said is not None and self.motion.confirmed.wanted(line.name, self.now):
                stamp, at = said
                flaw = self.motion.on_set_point(
                    SetPoint(line.name, stamp, at.position, at.velocity, at.acceleration), self.now
                )
                assert flaw is None, flaw

    def plan(self, ms: int) -> None:
        job = self.motion.job(self.now)
        if job is None:
            return
        proposal = proposed(job)
        self.advance(ms)
        self.publish(self.motion.accepted(proposal, self.now))

    def chunk(self, kind: str, age_ms: int, seed: int) -> Chunk:
        rng = np.random.default_rng(seed)
        here, joints = self.where(), len(self.spec.commanded)
        self.sequence += rng.integers(0, 5) > 0  # now and then a duplicate
        size = rng.choice([0.1, 1.0]) if kind == 'wild' else rng.choice([0.003, 0.02])
        rows = here + size * rng.normal(size=(self.spec.horizon, joints)).cumsum(axis=0)
        if kind == 'broken':
            rows[rng.integers(len(rows)), rng.integers(joints)] = rng.choice(
                [np.nan, np.inf, -np.inf, 1e308, -1e30, 57.3]
            )
        session = f's{self.sequence // 15 - (rng.uniform() < 0.05)}'  # some are old
        chunk = Chunk(
            self.now - age_ms * MS,
            session,
            int(self.sequence),
            self.spec.step_dt_s,
            self.spec.commanded,
            rows,
            here,
            self.spec.contract,
            {},
        )
        if kind == 'broken' and rng.uniform() < 0.3:
            chunk = replace(chunk, names=chunk.names[::-1])
        return chunk

    def happen(self, event: Event) -> None:
        motion, kind = self.motion, event.kind
        if kind == 'stream':
            for after in range(5):
                self.happen(replace(event, kind='chunk', seed=event.seed + after))
                self.advance(max(0, 140 - event.planning_ms))
        elif kind in ('chunk', 'wild', 'broken'):
            motion.on_chunk(self.chunk(kind, event.age_ms, event.seed), self.now)
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
        self.plan(event.planning_ms)
        self.plan(0)  # what came too late is planned again


def drawn(number: int) -> tuple[Embodiment, int, list[Event]]:
    """Return the history of a number: its robot, the seed of its posture and a few short events.

    Long waits are for the full histories of the tests: here many short ones count.
    """
    rng = np.random.default_rng([number, 7])
    robot = ROBOTS[rng.integers(len(ROBOTS))]
    kinds = [str(rng.choice(FIRST)), *rng.choice(NEXT, rng.integers(0, 3)).tolist()]
    return (
        robot,
        int(rng.integers(2**32)),
        [
            Event(
                kind,
                int(rng.integers(1, 200)),
                int(rng.choice([20, 80, 150, 400, 900])),
                int(rng.integers(0, 60)),
                int(rng.integers(2**32)),
            )
            for kind in kinds
        ],
    )


ROBOTS = [few_joints(load(name)) for name in ('agibot_g1', 'yam', 'droid')]


def batch(first: int, count: int) -> tuple[int, list[str]]:
    """Play `count` histories; return how many trajectories came out and what failed."""
    published, failed = 0, []
    for number in range(first, first + count):
        robot, seed, events = drawn(number)
        try:
            history = History(robot, seed)
            history.play(events)
            published += history.published
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            failed.append(f'{number}: {type(error).__name__}: {error}')
    return published, failed


def code() -> str:
    """Return a fingerprint of what decides how a history goes: the core as loaded, and this.

    Comments and layout do not count.
    """
    ours = [
        Path(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.startswith('wam_policy.core.')
    ]
    digest = hashlib.sha256()
    for path in (*ours, Path(__file__)):
        digest.update((path.name + ast.dump(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()[:16]


def before(path: Path | None, onto: bool) -> dict[str, Any]:
    """Return what is on record already if the run is to go on from there, else an empty record.

    ValueError where other code has played those.
    """
    empty = {'histories': 0, 'trajectories checked': 0, 'failures': [], 'seconds': 0.0}
    if not onto or path is None or not path.is_file():
        return empty
    found = json.loads(path.read_text())
    if found.get('code') != code():
        raise ValueError(f'{path}: other code played those; leave out --onto to begin anew')
    return found


def main() -> int:
    """Play, say how many held, write JSON after every batch; 1 if one did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', type=int, default=10_000, help='in all (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=1, help='processes (default: %(default)s)')
    parser.add_argument('--minutes', type=float, default=1e9, help='begin no batch after these')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the record there')
    parser.add_argument(
        '--onto',
        action='store_true',
        help='go on with the number after the last one in FILE, if it is of this '
        'code; a proof may be played in several sittings',
    )
    chosen = parser.parse_args()
    try:
        known = before(chosen.json, chosen.onto)
    except ValueError as error:
        parser.error(str(error))
    began_s, played, played_by = time.monotonic(), known['histories'], code()
    published, failed = known['trajectories checked'], list(known['failures'])
    with ProcessPoolExecutor(chosen.jobs) as pool:
        while played < chosen.cases and time.monotonic() - began_s <= 60 * chosen.minutes:
            starts = range(played, chosen.cases, BATCH)[: chosen.jobs]
            counts = [min(BATCH, chosen.cases - start) for start in starts]
            for count, (out, wrong) in zip(counts, pool.map(batch, starts, counts), strict=True):
                played, published, failed = played + count, published + out, failed + wrong
            print(
                f'\r{played} histories, {published} trajectories, {len(failed)} failed',
                end='',
                flush=True,
            )
            if chosen.json:
                record.write(
                    chosen.json,
                    {
                        'question': 'does any history of chunks break a limit',
                        'code': played_by,
                        'asked for': chosen.cases,
                        'histories': played,
                        'trajectories checked': published,
                        'failed': len(failed),
                        'failures': failed,
                        'tolerance': TOLERANCE,
                        'processes': chosen.jobs,
                        'seconds': round(known['seconds'] + time.monotonic() - began_s, 1),
                    },
                )
    print()
    for line in failed[:20]:
        print(line)
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())

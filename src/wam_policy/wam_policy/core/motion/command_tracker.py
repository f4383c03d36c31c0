"""What each controller really follows: commands get lost on the way, and its reports tell which.

A command goes on along the one before it until its switch; from there on, the set-point that a
controller reports lies on one of the two curves. While it is not known on which, nothing is sent
that would jump on either; after a loss the next plan starts from what is followed. A controller
that does not report, or whose reports show nothing that was sent, is taken to get every command.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wam_policy.core.motion.qp_planner import STEP_NS
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory, make_hold, merge_joints
from wam_policy.core.robot.embodiment import Controller
from wam_policy.core.types import Setpoint

MAX_REPORT_LAG_NS = 12_000_000  # a report may show the tick before or after its stamp, at 100 Hz
MAX_FIT_ITERATIONS = 8  # to find where in that time a report fits
# rad, rad/s, rad/s^2: rounding stays below 1e-9, save that a stamp is known to 1 ns, in which
# jerk changes acceleration by up to 1e-6
MATCH_TOLERANCE = np.array([[2e-7], [2e-7], [2e-6]])
EQUALITY_TOLERANCE = 5e-7  # two positions that match one report are nearer than this
MAX_ARRIVAL_DELAY_NS = 20_000_000  # what is not lost has arrived by then
REPORT_TIMEOUT_NS = 500_000_000  # an older report is none; without any for so long there are none
MAX_FUTURE_STAMP_NS = 50_000_000  # a stamp this far in the future is a wrong clock
IDLE_REPORT_PERIOD_NS = (
    100_000_000  # reports are looked at so often when there is nothing to learn
)
UNMATCHED_TIMEOUT_NS = (
    300_000_000  # reports that show nothing of ours for so long say something else
)
LEFT_RAD = 1e-3  # a command this far away has been left behind
LOCATE_REACH_NS = 200_000_000  # how far the time of a report may be from the one added up
MAX_TAKEOVERS = 3  # times in a row that a resting stranger is taken over
MAX_COMMANDS = 16  # commands that one controller may be following
MOVING_RAD_S = 1e-3  # rad/s


@dataclass(frozen=True, slots=True, eq=False)
class SentCommand:
    """Hold a trajectory on its way, and from when on a report must show it if it arrived."""

    trajectory: Trajectory
    arrival_deadline_ns: int
    switch_ns: int  # when it leaves the one before
    sequence: int  # in the order of sending


class CommandTracker:
    """Know what the controllers follow, as far as their reports tell."""

    def __init__(self, controllers: Sequence[Controller], names: Sequence[str]) -> None:
        """Listen to `controllers` that drive `names`; none of them: nothing is to be confirmed."""
        column = {name: i for i, name in enumerate(names)}
        self._tracks = {
            controller.name: _ControllerTrack(
                np.array([column[name] for name in controller.joints])
            )
            for controller in controllers
        }
        self._sent_count = 0
        self._hold_start_ns = 0  # until then controllers bridge from wherever they were

    def reset(self) -> None:
        """Start again, as after a jump of the clock: nothing was sent or heard."""
        for course in self._tracks.values():
            course.reset()

    def record_sent(
        self, trajectory: Trajectory, arrival_deadline_ns: int, switch_ns: int
    ) -> None:
        """Note a command that leaves what is assumed to be followed at `switch_ns`.

        Reports stamped before `arrival_deadline_ns` may be older than its arrival.
        """
        self._sent_count += 1
        for course in self._tracks.values():
            course.add_command(
                SentCommand(trajectory, arrival_deadline_ns, switch_ns, self._sent_count)
            )

    def record_hold(self, hold: Trajectory) -> None:
        """Note a hold at the measured posture: it is reached at its start, from anywhere."""
        self._hold_start_ns = hold.start_ns
        for course in self._tracks.values():
            course.has_match = course.externally_moved = course.untrusted = False
            course.unmatched_since_ns = None
        self.record_sent(hold, hold.start_ns, hold.start_ns)

    def needs_report(self, controller: str, now_ns: int) -> bool:
        """Tell whether a report of `controller` could say anything new."""
        course = self._tracks.get(controller)
        return course is not None and (
            course.last_report_ns is None
            or course.is_undecided(now_ns)
            or not 0 <= now_ns - course.last_report_ns < IDLE_REPORT_PERIOD_NS
        )

    def check_report(self, report: Setpoint, now_ns: int) -> str | None:
        """Return why a report is of no use."""
        course = self._tracks.get(report.controller)
        if course is None:
            return f'no controller {report.controller}; there are {", ".join(self._tracks)}'
        if (
            report.stamp_ns > now_ns + MAX_FUTURE_STAMP_NS
            or report.stamp_ns < now_ns - REPORT_TIMEOUT_NS
        ):
            return (
                f'{report.controller}: report is stamped '
                f'{(report.stamp_ns - now_ns) / NS_PER_S:+.2f} s from now: clocks differ'
            )
        if report.stamp_ns <= course.last_stamp_ns:
            return f'{report.controller}: report is not newer than the one before'
        return None

    def process_report(self, report: Setpoint, now_ns: int) -> bool:
        """Take a report without flaw; tell whether a command that seemed followed was lost."""
        course = self._tracks[report.controller]
        assumed = course.commands[-1:]
        course.record_report(report, now_ns)
        if min(report.stamp_ns, now_ns) >= self._hold_start_ns:
            course.match_report(report, now_ns)
        return course.commands[-1:] != assumed

    def locate_report(self, report: Setpoint, now_ns: int, expected_ns: int) -> int | None:
        """Take a report at another speed; return the time in the trajectory that it shows.

        `expected_ns` is where the controller should be. None: at rest, or nowhere near.
        """
        course = self._tracks[report.controller]
        course.record_report(report, now_ns)
        return course.locate_report(report, expected_ns)

    def drop_if_lost(self, report: Setpoint, expected_ns: int) -> bool:
        """Tell, and note, that a controller rests where it should long have left."""
        return self._tracks[report.controller].drop_if_lost(report, expected_ns)

    def find_rest(self) -> Trajectory | None:
        """Return the ends of commands where reports show every controller at rest, as a hold.

        None: one moves, rests elsewhere or does not report.
        """
        ends = [(course.find_rest(), course) for course in self._tracks.values()]
        goals = [
            (make_hold(at.trajectory.names, at.trajectory.goal, at.trajectory.end_ns), one.columns)
            for at, one in ends
            if at is not None
        ]
        return merge_joints(goals) if len(goals) == len(ends) else None

    def record_rest(self, hold: Trajectory) -> None:
        """Note that every controller has been seen at rest where `hold` is."""
        for course in self._tracks.values():
            course.record_rest(SentCommand(hold, hold.start_ns, hold.start_ns, self._sent_count))

    def expire_reports(self, now_ns: int) -> None:
        """Give up on controllers that have fallen silent."""
        for course in self._tracks.values():
            course.expire_report(now_ns)

    def is_ambiguous(self, now_ns: int) -> bool:
        """Tell whether a command sent now could make a set-point jump."""
        return now_ns + MAX_ARRIVAL_DELAY_NS > self._hold_start_ns and any(
            course.is_ambiguous(now_ns) for course in self._tracks.values()
        )

    def followed_trajectory(self) -> Trajectory:
        """Return the motion that is followed, each controller's joints on its own curve."""
        return merge_joints(
            [(course.commands[-1].trajectory, course.columns) for course in self._tracks.values()]
        )

    @property
    def external_motion_reason(self) -> str:
        """Return which controller rests where nothing that was sent rests; empty if none."""
        return next(
            (
                f'{name} rests where it was not sent: waiting until the robot rests'
                for name, course in self._tracks.items()
                if course.externally_moved
            ),
            '',
        )

    @property
    def missing_reports(self) -> str:
        """Return which controllers report nothing that can be used; empty if none."""
        missing = [name for name, course in self._tracks.items() if not course.is_reliable]
        return f'no usable state of {", ".join(missing)}' if missing else ''

    @property
    def report_warning(self) -> str:
        """Return which reports are missed or not understood; empty if none."""
        return '; '.join(
            f'{name} {why}'
            for name, course in self._tracks.items()
            for why in (
                'reports no more' if course.timed_out else '',
                'reports nothing that was sent to it' if course.untrusted else '',
            )
            if why
        )


class _ControllerTrack:
    """Keep what one controller may be following, and how far its reports can be relied on."""

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns  # int64 [its joints], of all commanded
        self.reset()

    def reset(self) -> None:
        self.commands: list[SentCommand] = []  # one of them is followed; the newest is assumed
        self.possibly_lost: list[SentCommand] = []  # seem to be lost, but may only be late
        self.has_match = False  # a report has shown one since the last hold
        self.last_report_ns: int | None = None  # when the last report came; None without reports
        self.last_report: Setpoint | None = None
        self.last_stamp_ns = 0  # its stamp
        self.unmatched_since_ns: int | None = None  # since when reports show nothing of ours
        self.takeover_count = 0
        self.externally_moved = self.untrusted = self.timed_out = False

    @property
    def is_reliable(self) -> bool:
        return self.last_report_ns is not None and not self.untrusted

    def is_undecided(self, now_ns: int) -> bool:
        """Tell whether a report could tell by now which command is followed."""
        return (
            bool(self.possibly_lost)
            or (not self.has_match or len(self.commands) > 1)
            and (now_ns >= min((command.switch_ns for command in self.commands[1:]), default=0))
        )

    def add_command(self, command: SentCommand) -> None:
        self.commands = (
            [*self.commands, command][-MAX_COMMANDS:] if self.is_reliable else [command]
        )

    def record_report(self, report: Setpoint, now_ns: int) -> None:
        self.last_report_ns, self.last_stamp_ns, self.timed_out = now_ns, report.stamp_ns, False
        self.last_report = report

    def record_rest(self, command: SentCommand) -> None:
        self.commands, self.possibly_lost = [command], []
        self.has_match, self.unmatched_since_ns, self.takeover_count = True, None, 0

    def find_rest(self) -> SentCommand | None:
        """Return the newest command at whose end the last report rests."""
        report = self.last_report
        if report is None or not self.is_reliable:
            return None
        return self._find_end(report, (*self.possibly_lost, *self.commands))

    def _find_end(self, report: Setpoint, commands: Sequence[SentCommand]) -> SentCommand | None:
        """Return the newest of `commands` at whose end the report rests."""
        reported = _stack_report(report)
        for command in reversed(commands):
            rest = self._state_at(command.trajectory, command.trajectory.end_ns)
            if (np.abs(reported - rest) <= MATCH_TOLERANCE).all():
                return command
        return None

    def drop_if_lost(self, report: Setpoint, expected_ns: int) -> bool:
        """Drop the newest command if the report rests at the end of one before it instead."""
        if len(self.commands) < 2:
            return False
        *older, newest = self.commands
        if expected_ns - LOCATE_REACH_NS <= newest.switch_ns:
            return False
        times_ns = expected_ns + np.arange(-LOCATE_REACH_NS, LOCATE_REACH_NS + 1, STEP_NS)
        due = newest.trajectory.at_times(times_ns).position[:, self.columns]
        if np.abs(due - report.position).max(axis=1).min() <= LEFT_RAD:
            return False
        is_lost = self._find_end(report, older) is not None
        if is_lost:
            self.commands = older
        return is_lost

    def locate_report(self, report: Setpoint, expected_ns: int) -> int | None:
        """Return when the newest command that fits is as reported, near `expected_ns`."""
        reported = _stack_report(report)
        if np.abs(reported[1:]).max() <= EQUALITY_TOLERANCE:
            return None  # at rest any time fits
        starts_ns = expected_ns + np.arange(-LOCATE_REACH_NS, LOCATE_REACH_NS + 1, STEP_NS)
        for command in reversed(self.commands):
            curve = command.trajectory.at_times(starts_ns)
            off = np.abs(curve.position[:, self.columns] - reported[0]) + np.abs(
                curve.velocity[:, self.columns] - reported[1]
            )
            near_ns = int(starts_ns[int(off.max(axis=1).argmin())])
            found_ns = self._fit(report, command, near_ns, 2 * STEP_NS)
            if found_ns is not None:
                return found_ns
        return None

    def expire_report(self, now_ns: int) -> None:
        if self.last_report_ns is not None and now_ns - self.last_report_ns > REPORT_TIMEOUT_NS:
            self.last_report, self.last_report_ns, self.timed_out = None, None, True
            self._assume_newest()

    def is_ambiguous(self, now_ns: int) -> bool:
        if not self.is_reliable or not self.commands:
            return False
        *others, assumed = self.commands
        return (
            not self.has_match
            or self.unmatched_since_ns is not None
            or any(
                self._differ(other, assumed, now_ns, now_ns + MAX_ARRIVAL_DELAY_NS)
                for other in others
            )
        )

    def match_report(self, report: Setpoint, now_ns: int) -> None:
        """Drop what the report does not show, if it shows one of the commands that are due."""
        due = [
            command for command in self.commands if command.arrival_deadline_ns <= report.stamp_ns
        ]
        if not due:
            return
        seen = [command for command in due if self._matches(report, command)] or [
            command for command in self.possibly_lost if self._matches(report, command)
        ]
        if not seen:
            self._handle_unmatched_report(report, now_ns)
            return
        if self.untrusted and np.abs(report.velocity).max() < MOVING_RAD_S:
            return  # at rest an unknown motion may match one of ours
        self.untrusted, self.has_match, self.unmatched_since_ns, self.takeover_count = (
            False,
            True,
            None,
            0,
        )
        newest = seen[-1]
        lasts_ns = max(command.trajectory.end_ns for command in seen)
        later = [
            command
            for command in (*self.possibly_lost, *due)
            if command.sequence > newest.sequence
            and report.stamp_ns < command.arrival_deadline_ns + REPORT_TIMEOUT_NS
        ]
        self.commands = [
            *(
                command
                for command in seen[:-1]
                if self._differ(command, newest, report.stamp_ns, lasts_ns)
            ),
            newest,
            *(
                command
                for command in self.commands
                if command.arrival_deadline_ns > report.stamp_ns
            ),
        ]
        self.possibly_lost = [command for command in later if command not in self.commands][
            -MAX_COMMANDS:
        ]

    def _handle_unmatched_report(self, report: Setpoint, now_ns: int) -> None:
        """Think about a report that shows nothing that was sent."""
        if self.untrusted or self.externally_moved:
            return
        self.unmatched_since_ns = (
            now_ns if self.unmatched_since_ns is None else self.unmatched_since_ns
        )
        if now_ns - self.unmatched_since_ns < UNMATCHED_TIMEOUT_NS:
            return
        resting = np.abs([report.velocity, report.acceleration]).max() <= EQUALITY_TOLERANCE
        if resting and self.takeover_count < MAX_TAKEOVERS:
            # it never got the hold, or holds by itself: as good as a robot out of sight
            self.externally_moved, self.takeover_count, self.unmatched_since_ns = (
                True,
                self.takeover_count + 1,
                None,
            )
        else:
            self.untrusted = True
            self._assume_newest()

    def _assume_newest(self) -> None:
        self.commands, self.possibly_lost, self.unmatched_since_ns = self.commands[-1:], [], None

    def _matches(self, report: Setpoint, command: SentCommand) -> bool:
        """Tell whether the report lies on the command within MAX_REPORT_LAG_NS of its stamp."""
        return self._fit(report, command, report.stamp_ns, MAX_REPORT_LAG_NS) is not None

    def _fit(
        self, report: Setpoint, command: SentCommand, expected_ns: int, reach_ns: int
    ) -> int | None:
        """Return when, within `reach_ns` of `expected_ns`, the command is as reported."""
        reported = _stack_report(report)
        shift_ns, tried = 0, []
        while shift_ns not in tried and len(tried) < MAX_FIT_ITERATIONS:
            tried.append(shift_ns)
            due = self._state_at(command.trajectory, expected_ns + shift_ns)
            off = reported - due
            if (np.abs(off) <= MATCH_TOLERANCE).all():
                return expected_ns + shift_ns
            steep = float((due[1:] ** 2).sum())
            if steep > EQUALITY_TOLERANCE**2:  # towards where position and velocity fit better
                shift_s = float((off[:2] * due[1:]).sum()) / steep
                shift_ns = round(np.clip(shift_ns + shift_s * NS_PER_S, -reach_ns, reach_ns))
        return None

    def _differ(self, one: SentCommand, other: SentCommand, from_ns: int, until_ns: int) -> bool:
        """Tell whether two curves differ between two instants: at a knot, as jerk is constant."""
        curves = one.trajectory, other.trajectory
        times_ns = np.concatenate([curve.start_ns + curve.time_ns for curve in curves])
        between = (times_ns > from_ns) & (times_ns < until_ns)
        looked_ns = np.array([from_ns, until_ns, *times_ns[between].tolist()])
        here, there = (curve.at_times(looked_ns) for curve in curves)
        return any(
            np.abs((mine - theirs)[:, self.columns]).max() > EQUALITY_TOLERANCE
            for mine, theirs in (
                (here.position, there.position),
                (here.velocity, there.velocity),
                (here.acceleration, there.acceleration),
            )
        )

    def _state_at(self, curve: Trajectory, now_ns: int) -> np.ndarray:
        """Return position, velocity and acceleration of this controller, [3 its joints]."""
        due = curve.at(now_ns)
        return np.stack([due.position, due.velocity, due.acceleration])[:, self.columns]


def _stack_report(report: Setpoint) -> np.ndarray:
    """Return position, velocity and acceleration of a report, [3 its joints]."""
    return np.stack([report.position, report.velocity, report.acceleration])

"""What each controller really follows: commands get lost on the way, and its reports tell which.

A command goes on along the one before it until its switch; from there on, the set-point that a
controller reports lies on one of the two curves. While it is not known on which, nothing is sent
that would jump on either; after a loss the next plan starts from what is followed. A controller
that does not report, or whose reports show nothing that was sent, is taken to get every command.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory, composed
from wam_policy.core.robot.embodiment import Controller
from wam_policy.core.types import SetPoint

LAG_NS = 12_000_000  # a report may show the tick before or after its stamp, at 100 Hz
TRIES = 8  # to find where in that time a report fits
# rad, rad/s, rad/s^2: rounding stays below 1e-9, save that a stamp is known to 1 ns, in which
# jerk changes acceleration by up to 1e-6
MATCH = np.array([[2e-7], [2e-7], [2e-6]])
AGREE = 5e-7  # two positions that match one report are nearer than this
ARRIVAL_NS = 20_000_000  # what is not lost has arrived by then
STALE_NS = 500_000_000  # an older report is none; without any for so long there are none
AHEAD_NS = 50_000_000  # a stamp this far in the future is a wrong clock
IDLE_NS = 100_000_000  # reports are looked at so often when there is nothing to learn
ODD_NS = 300_000_000  # reports that show nothing of ours for so long say something else
TAKEOVERS = 3  # times in a row that a resting stranger is taken over
KEPT = 16  # commands that one controller may be following
MOVING = 1e-3  # rad/s


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """Hold a trajectory on its way, and from when on a report must show it if it arrived."""

    trajectory: Trajectory
    due_ns: int
    parts_ns: int  # when it leaves the one before
    number: int  # in the order of sending


class Confirmed:
    """Know what the controllers follow, as far as their reports tell."""

    def __init__(self, controllers: Sequence[Controller], names: Sequence[str]) -> None:
        """Listen to `controllers` that drive `names`; none of them: nothing is to be confirmed."""
        column = {name: i for i, name in enumerate(names)}
        self._courses = {
            controller.name: _Course(np.array([column[name] for name in controller.joints]))
            for controller in controllers
        }
        self._count = 0
        self._anew_ns = 0  # until then controllers bridge from wherever they were

    def forget(self) -> None:
        """Start again, as after a jump of the clock: nothing was sent or heard."""
        for course in self._courses.values():
            course.forget()

    def sent(self, trajectory: Trajectory, due_ns: int, parts_ns: int) -> None:
        """Note a command that leaves what is believed to be followed at `parts_ns`.

        Reports stamped before `due_ns` may be older than its arrival.
        """
        self._count += 1
        for course in self._courses.values():
            course.add(Command(trajectory, due_ns, parts_ns, self._count))

    def begun(self, hold: Trajectory) -> None:
        """Note a hold at the measured posture: it is reached at its start, from anywhere."""
        self._anew_ns = hold.start_ns
        for course in self._courses.values():
            course.shown = course.foreign = course.distrusted = False
            course.odd_ns = None
        self.sent(hold, hold.start_ns, hold.start_ns)

    def wanted(self, controller: str, now_ns: int) -> bool:
        """Tell whether a report of `controller` could say anything new."""
        course = self._courses.get(controller)
        return course is not None and (
            course.heard_ns is None
            or course.open_at(now_ns)
            or not 0 <= now_ns - course.heard_ns < IDLE_NS
        )

    def flaw(self, report: SetPoint, now_ns: int) -> str | None:
        """Return why a report is of no use."""
        course = self._courses.get(report.controller)
        if course is None:
            return f'no controller {report.controller}; there are {", ".join(self._courses)}'
        if report.stamp_ns > now_ns + AHEAD_NS or report.stamp_ns < now_ns - STALE_NS:
            return (
                f'{report.controller}: report is stamped '
                f'{(report.stamp_ns - now_ns) / NS_PER_S:+.2f} s from now: clocks differ'
            )
        if report.stamp_ns <= course.stamp_ns:
            return f'{report.controller}: report is not newer than the one before'
        return None

    def put(self, report: SetPoint, now_ns: int) -> bool:
        """Take a report without flaw; tell whether a command that seemed followed was lost."""
        course = self._courses[report.controller]
        believed = course.commands[-1:]
        course.hear(report, now_ns)
        if min(report.stamp_ns, now_ns) >= self._anew_ns:
            course.judge(report, now_ns)
        return course.commands[-1:] != believed

    def watch(self, now_ns: int) -> None:
        """Give up on controllers that have fallen silent."""
        for course in self._courses.values():
            course.watch(now_ns)

    def unsure(self, now_ns: int) -> bool:
        """Tell whether a command sent now could make a set-point jump."""
        return now_ns + ARRIVAL_NS > self._anew_ns and any(
            course.unsure(now_ns) for course in self._courses.values()
        )

    def followed(self) -> Trajectory:
        """Return the motion that is followed, each controller's joints on its own curve."""
        return composed(
            [(course.commands[-1].trajectory, course.columns) for course in self._courses.values()]
        )

    @property
    def foreign(self) -> str:
        """Return which controller rests where nothing that was sent rests; empty if none."""
        return next(
            (
                f'{name} rests where it was not sent: waiting until the robot rests'
                for name, course in self._courses.items()
                if course.foreign
            ),
            '',
        )

    @property
    def complaint(self) -> str:
        """Return which reports are missed or not understood; empty if none."""
        return '; '.join(
            f'{name} {why}'
            for name, course in self._courses.items()
            for why in (
                'reports no more' if course.silent else '',
                'reports nothing that was sent to it' if course.distrusted else '',
            )
            if why
        )


class _Course:
    """Keep what one controller may be following, and how far its reports can be relied on."""

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns  # int64 [its joints], of all commanded
        self.forget()

    def forget(self) -> None:
        self.commands: list[Command] = []  # one of them is followed; the newest is believed
        self.missing: list[Command] = []  # seem to be lost, but may only be late
        self.shown = False  # a report has shown one since the last hold
        self.heard_ns: int | None = None  # when the last report came; None without reports
        self.stamp_ns = 0  # its stamp
        self.odd_ns: int | None = None  # since when reports show nothing of ours
        self.takeovers = 0
        self.foreign = self.distrusted = self.silent = False

    @property
    def reliable(self) -> bool:
        return self.heard_ns is not None and not self.distrusted

    def open_at(self, now_ns: int) -> bool:
        """Tell whether a report could tell by now which command is followed."""
        return (
            bool(self.missing)
            or (not self.shown or len(self.commands) > 1)
            and (now_ns >= min((command.parts_ns for command in self.commands[1:]), default=0))
        )

    def add(self, command: Command) -> None:
        self.commands = [*self.commands, command][-KEPT:] if self.reliable else [command]

    def hear(self, report: SetPoint, now_ns: int) -> None:
        self.heard_ns, self.stamp_ns, self.silent = now_ns, report.stamp_ns, False

    def watch(self, now_ns: int) -> None:
        if self.heard_ns is not None and now_ns - self.heard_ns > STALE_NS:
            self.heard_ns, self.silent = None, True
            self._give_up()

    def unsure(self, now_ns: int) -> bool:
        if not self.reliable or not self.commands:
            return False
        *others, believed = self.commands
        return (
            not self.shown
            or self.odd_ns is not None
            or any(self._apart(other, believed, now_ns, now_ns + ARRIVAL_NS) for other in others)
        )

    def judge(self, report: SetPoint, now_ns: int) -> None:
        """Drop what the report does not show, if it shows one of the commands that are due."""
        due = [command for command in self.commands if command.due_ns <= report.stamp_ns]
        if not due:
            return
        seen = [command for command in due if self._shows(report, command)] or [
            command for command in self.missing if self._shows(report, command)
        ]
        if not seen:
            self._wonder(report, now_ns)
            return
        if self.distrusted and np.abs(report.velocity).max() < MOVING:
            return  # at rest a stranger may look like one of ours
        self.distrusted, self.shown, self.odd_ns, self.takeovers = False, True, None, 0
        newest = seen[-1]
        lasts_ns = max(command.trajectory.end_ns for command in seen)
        later = [
            command
            for command in (*self.missing, *due)
            if command.number > newest.number and report.stamp_ns < command.due_ns + STALE_NS
        ]
        self.commands = [
            *(
                command
                for command in seen[:-1]
                if self._apart(command, newest, report.stamp_ns, lasts_ns)
            ),
            newest,
            *(command for command in self.commands if command.due_ns > report.stamp_ns),
        ]
        self.missing = [command for command in later if command not in self.commands][-KEPT:]

    def _wonder(self, report: SetPoint, now_ns: int) -> None:
        """Think about a report that shows nothing that was sent."""
        if self.distrusted or self.foreign:
            return
        self.odd_ns = now_ns if self.odd_ns is None else self.odd_ns
        if now_ns - self.odd_ns < ODD_NS:
            return
        resting = np.abs([report.velocity, report.acceleration]).max() <= AGREE
        if resting and self.takeovers < TAKEOVERS:
            # it never got the hold, or holds by itself: as good as a robot out of sight
            self.foreign, self.takeovers, self.odd_ns = True, self.takeovers + 1, None
        else:
            self.distrusted = True
            self._give_up()

    def _give_up(self) -> None:
        self.commands, self.missing, self.odd_ns = self.commands[-1:], [], None

    def _shows(self, report: SetPoint, command: Command) -> bool:
        """Tell whether the report lies on the command within LAG_NS of its stamp."""
        said = np.stack([report.position, report.velocity, report.acceleration])
        shift_ns, tried = 0, []
        while shift_ns not in tried and len(tried) < TRIES:
            tried.append(shift_ns)
            due = self._at(command.trajectory, report.stamp_ns + shift_ns)
            off = said - due
            if (np.abs(off) <= MATCH).all():
                return True
            steep = float((due[1:] ** 2).sum())
            if steep > AGREE**2:  # towards where position and velocity fit better
                shift_s = float((off[:2] * due[1:]).sum()) / steep
                shift_ns = round(np.clip(shift_ns + shift_s * NS_PER_S, -LAG_NS, LAG_NS))
        return False

    def _apart(self, one: Command, other: Command, from_ns: int, until_ns: int) -> bool:
        """Tell whether two curves differ between two instants: at a knot, as jerk is constant."""
        curves = one.trajectory, other.trajectory
        times_ns = np.concatenate([curve.start_ns + curve.time_ns for curve in curves])
        between = (times_ns > from_ns) & (times_ns < until_ns)
        looked_ns = np.array([from_ns, until_ns, *times_ns[between].tolist()])
        here, there = (curve.through(looked_ns) for curve in curves)
        return any(
            np.abs((mine - theirs)[:, self.columns]).max() > AGREE
            for mine, theirs in (
                (here.position, there.position),
                (here.velocity, there.velocity),
                (here.acceleration, there.acceleration),
            )
        )

    def _at(self, curve: Trajectory, now_ns: int) -> np.ndarray:
        """Return position, velocity and acceleration of this controller, [3 its joints]."""
        due = curve.at(now_ns)
        return np.stack([due.position, due.velocity, due.acceleration])[:, self.columns]

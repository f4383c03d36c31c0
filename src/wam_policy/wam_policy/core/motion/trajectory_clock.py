"""How far the controllers are in the trajectory that they execute, at any speed scaling.

A joint_trajectory_controller advances its time in a trajectory by its speed scaling factor s times
the clock. A motion q(t') is executed as q(t'(t)) with dt'/dt = s: with s times its velocity, s^2
times its acceleration and s^3 times its jerk. What keeps the limits at s = 1 keeps them at every
s below, also when s changes on the way. It enters a new trajectory at the clock's time, however
far it is behind (`traj_time_ = time` in its update(), versions 4.x). In motion the set-point would
therefore jump by (1 - s) times the velocity times a delivery time that nobody knows. From rest
there is nothing to jump: at another speed than 1, trajectories begin and end at rest, one after
the other, and a stop is the end of the one being executed.
"""

from collections.abc import Sequence

from wam_policy.core.motion.command_tracker import CommandTracker
from wam_policy.core.motion.controller_checks import SPEED_SCALING_TOLERANCE
from wam_policy.core.motion.trajectory import Trajectory, make_hold
from wam_policy.core.robot.embodiment import Controller
from wam_policy.core.types import Setpoint

# Rows of a chunk that are executed at once: braking comes on top, 0.6 s for AgiBot G1. At a factor
# of 0.5 the arm rests after 2 s, which is also how late a stop may be
SCALED_STEPS = 16
# A factor may be this old when it is reported: an end is waited for so much longer
REST_MARGIN_NS = 100_000_000
REST_TIMEOUT_NS = 600_000_000  # later than this after its end, something is wrong


class TrajectoryClock:
    """Keep the speed scaling of each controller, and how far each is behind the clock."""

    def __init__(self, controllers: Sequence[Controller], tracker: CommandTracker) -> None:
        """Begin on time; without `controllers`, as in a dry run, it stays so."""
        self._tracker = tracker
        self.factors = {each.name: 1.0 for each in controllers}  # newest reported
        self._behind_ns = dict.fromkeys(self.factors, 0.0)
        self._now_ns: int | None = None
        self.is_resting = False  # reports show that nothing is being executed

    def set_factor(self, controller: str, factor: float, now_ns: int) -> None:
        """Note a factor, 0 to 1, reported at `now_ns`; one very near 1 is 1."""
        self.advance(now_ns)
        self.factors[controller] = 1.0 if abs(factor - 1.0) <= SPEED_SCALING_TOLERANCE else factor

    def advance(self, now_ns: int) -> None:
        """Let time pass up to `now_ns`; a clock that goes back passes none."""
        passed_ns = 0 if self._now_ns is None else max(0, now_ns - self._now_ns)
        self._now_ns = now_ns
        if not self.is_resting:
            for name, factor in self.factors.items():
                self._behind_ns[name] += (1.0 - factor) * passed_ns

    def process_report(self, report: Setpoint, now_ns: int) -> bool:
        """Take a report without flaw; tell whether a command that seemed followed was lost.

        At another speed it corrects how far its controller is behind.
        """
        if self.is_on_time:
            return self._tracker.process_report(report, now_ns)
        expected_ns = report.stamp_ns - round(self._behind_ns[report.controller])
        shown_ns = self._tracker.locate_report(report, now_ns, expected_ns)
        if shown_ns is None:
            return self._tracker.drop_if_lost(report, expected_ns)
        self._behind_ns[report.controller] = max(0.0, float(report.stamp_ns - shown_ns))
        return False

    def find_rest(self, executing: Trajectory, now_ns: int) -> Trajectory | None:
        """Return the hold that `executing` has come to, once, as soon as reports show it.

        From then on trajectories may be sent again. On time nothing has to be shown.
        """
        if (
            not self.must_rest_first
            or self.to_trajectory_ns(now_ns) - REST_MARGIN_NS < executing.end_ns
        ):
            return None
        rest = self._tracker.find_rest()
        if rest is None:
            return None
        hold = make_hold(rest.names, rest.goal, now_ns)
        self._tracker.record_rest(hold)
        self.start()
        self.is_resting = True
        return hold

    def is_lost(self, executing: Trajectory, now_ns: int) -> bool:
        """Tell whether the end of `executing` should have been seen long ago."""
        late_ns = self.to_trajectory_ns(now_ns) - executing.end_ns
        return self.must_rest_first and late_ns > REST_TIMEOUT_NS

    def check_reports(self) -> str | None:
        """Return whose reports are missing to move at another speed than planned."""
        missing = self._tracker.missing_reports
        if not missing or self.is_on_time:
            return None
        return (
            f'speed scaling was {min(self.factors.values()):g} and there is {missing}: where it '
            'is on its trajectory is not known; let it report, at a factor of 1'
        )

    def start(self) -> None:
        """Note that a trajectory is sent: controllers enter it at the clock's time."""
        self.is_resting = False
        self._behind_ns = dict.fromkeys(self.factors, 0.0)

    @property
    def is_on_time(self) -> bool:
        """Tell whether trajectories pass as fast as the clock, and have so far."""
        return all(factor == 1.0 for factor in self.factors.values()) and not any(
            self._behind_ns.values()
        )

    @property
    def description(self) -> str:
        """Return how motion goes on at another speed; empty on time."""
        if self.is_on_time:
            return ''
        return (
            f'speed scaling is {min(self.factors.values(), default=1.0):g}: moving in steps that '
            'end at rest; a stop is the end of a step'
        )

    @property
    def must_rest_first(self) -> bool:
        """Tell whether a trajectory sent now would make a set-point jump."""
        return not (self.is_on_time or self.is_resting)

    def to_trajectory_ns(self, now_ns: int) -> int:
        """Return the time in the trajectory at `now_ns`, of the controller that is behind most."""
        return now_ns - round(max(self._behind_ns.values(), default=0.0))

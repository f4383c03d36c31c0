"""The rules by which a ROS 2 Jazzy joint_trajectory_controller follows trajectory messages.

A new message replaces the running trajectory outright. Stamp 0 means now; a stamp in the past
enters the trajectory where it is due; a point in the future is approached from the set-point of
the moment. After the last point the set-point stays there. Source: joint_trajectory_controller
4.x, branch jazzy, with interpolate_from_desired_state and without partial goals.
Tolerances, goals and speed scaling belong to a controller's action side and are not modelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from wam_policy.core.trajectory import NS_PER_S, Motion, Trajectory

REST_VELOCITY = 1.2e-7      # the controller compares with the epsilon of a 32-bit float


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Hold a trajectory message as arrays; velocity and acceleration may be absent."""

    stamp_ns: int                           # 0: starts when it is accepted
    names: tuple[str, ...]
    time_ns: np.ndarray                     # int64 [points], from the stamp
    position: np.ndarray                    # float64 [points joints]
    velocity: np.ndarray | None
    acceleration: np.ndarray | None

    @classmethod
    def read(cls, message: Any) -> Self:
        """Parse anything shaped like trajectory_msgs/JointTrajectory.

        Raises ValueError when the points do not fit the names or each other.
        """
        names, points = tuple(message.joint_names), message.points
        fields = []
        for field in ('positions', 'velocities', 'accelerations'):
            rows = [list(getattr(point, field)) for point in points]
            given = [row for row in rows if row]
            if not given and (field != 'positions' or not points):
                fields.append(None)
                continue
            if len(given) != len(rows) or any(len(row) != len(names) for row in rows):
                raise ValueError(f'{field}: want {len(names)} values in every point')
            fields.append(np.array(rows, dtype=np.float64))
        time_ns = [_ns(point.time_from_start) for point in points]
        position = np.empty((0, len(names))) if fields[0] is None else fields[0]
        return cls(_ns(message.header.stamp), names, np.array(time_ns, dtype=np.int64), position,
                   fields[1], fields[2])

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """Return the points of a planned trajectory."""
        return cls(trajectory.start_ns, trajectory.names, trajectory.time_ns,
                   trajectory.position, trajectory.velocity, trajectory.acceleration)

    def sorted_for(self, names: Sequence[str]) -> Self:
        """Return the same points with the joints in the order of `names`."""
        columns = [self.names.index(name) for name in names]
        return type(self)(self.stamp_ns, tuple(names), self.time_ns, self.position[:, columns],
                          None if self.velocity is None else self.velocity[:, columns],
                          None if self.acceleration is None else self.acceleration[:, columns])

    def flaw(self, names: Sequence[str], now_ns: int) -> str | None:
        """Return why a controller of `names` would not take this at `now_ns`."""
        if sorted(self.names) != sorted(names):
            return (f'joint names {", ".join(self.names) or "(none)"} are not '
                    f'{", ".join(names)}: all of them are needed, each once')
        if not len(self.time_ns):
            return 'empty trajectory: ignored, it cannot be used to stop'
        for field in ('position', 'velocity', 'acceleration'):
            values = getattr(self, field)
            # a real controller does not look; a NaN set-point is what it would then command
            if values is not None and not np.isfinite(values).all():
                return f'{field} is not finite'
        if self.time_ns[0] < 0 or (np.diff(self.time_ns) <= 0).any():
            return 'times of the points must increase from 0'
        if self.stamp_ns and self.stamp_ns + int(self.time_ns[-1]) < now_ns:
            return 'the last point is already in the past'
        if self.velocity is not None and (np.abs(self.velocity[-1]) > REST_VELOCITY).any():
            return 'velocity of the last point is not zero'
        return None


class Follower:
    """Turn accepted trajectories into set-points; before the first one, stay at `position`."""

    def __init__(self, names: Sequence[str], position: np.ndarray) -> None:
        self.names = tuple(names)
        self.state = Motion.at_rest(position)           # last set-point
        self.state_ns: int | None = None                # when it was sampled
        self.points: Points | None = None
        self._before: tuple[int, Motion] | None = None  # set-point when points were accepted

    def accept(self, message: Any, now_ns: int) -> str | None:
        """Replace the running trajectory with a message or Points; return why not, if not.

        Raises nothing: a rejected message changes nothing.
        """
        try:
            points = message if isinstance(message, Points) else Points.read(message)
        except ValueError as error:
            return str(error)
        reason = points.flaw(self.names, now_ns)
        if reason:
            return reason
        points = points.sorted_for(self.names)
        start_ns = points.stamp_ns or now_ns
        self._before = (now_ns if self.state_ns is None else self.state_ns, self.state)
        self.points = Points(start_ns, points.names, points.time_ns, points.position,
                             points.velocity, points.acceleration)
        return None

    def hold(self, position: np.ndarray) -> None:
        """Forget the trajectory and stay at `position`: what a watchdog or a reset asks for."""
        self.points = None
        self.state = Motion.at_rest(position)

    @property
    def end_ns(self) -> int | None:
        """Return when the accepted trajectory is over; None without one."""
        if self.points is None:
            return None
        return self.points.stamp_ns + int(self.points.time_ns[-1])

    def sample(self, now_ns: int) -> Motion:
        """Return the set-point at `now_ns` and remember it as the one that was commanded."""
        if self.points is not None:
            self.state = self._due(self.points, now_ns)
        self.state_ns = now_ns
        return self.state

    def _due(self, points: Points, now_ns: int) -> Motion:
        passed_ns = now_ns - points.stamp_ns
        knot = int(np.searchsorted(points.time_ns, passed_ns, side='right')) - 1
        if knot >= len(points.time_ns) - 1:
            return Motion.at_rest(points.position[-1])
        if knot >= 0:
            return _between(points, knot, passed_ns)
        before_ns, before = self._before
        before_ns = min(before_ns - points.stamp_ns, int(points.time_ns[0]) - 1)
        bridge = Points(
            0, points.names, np.array([before_ns, points.time_ns[0]]),
            np.stack([before.position, points.position[0]]),
            None if points.velocity is None else np.stack([before.velocity, points.velocity[0]]),
            None if points.acceleration is None else np.stack(
                [before.acceleration, points.acceleration[0]]))
        return _between(bridge, 0, max(passed_ns, before_ns))


def _between(points: Points, knot: int, passed_ns: int) -> Motion:
    """Interpolate: quintic with accelerations, cubic with velocities, else straight."""
    t = float(passed_ns - points.time_ns[knot]) / NS_PER_S
    end = float(points.time_ns[knot + 1] - points.time_ns[knot]) / NS_PER_S
    p0, p1 = points.position[knot], points.position[knot + 1]
    if points.velocity is None:
        slope = (p1 - p0) / end
        return Motion(p0 + t * slope, slope, np.zeros_like(p0))
    v0, v1 = points.velocity[knot], points.velocity[knot + 1]
    if points.acceleration is None:
        return _cubic(t, end, p0, v0, p1, v1)
    a0, a1 = points.acceleration[knot], points.acceleration[knot + 1]
    return _quintic(t, end, p0, v0, a0, p1, v1, a1)


def _cubic(t: float, end: float, p0: np.ndarray, v0: np.ndarray, p1: np.ndarray,
           v1: np.ndarray) -> Motion:
    """Return the cubic through both states, `t` of `end` seconds on."""
    rise, turn = p1 - p0 - v0 * end, (v1 - v0) * end
    c2, c3 = (3 * rise - turn) / end**2, (turn - 2 * rise) / end**3
    return Motion(p0 + t * (v0 + t * (c2 + t * c3)), v0 + t * (2 * c2 + 3 * t * c3),
                  2 * c2 + 6 * t * c3)


def _quintic(t: float, end: float, p0: np.ndarray, v0: np.ndarray, a0: np.ndarray,
             p1: np.ndarray, v1: np.ndarray, a1: np.ndarray) -> Motion:
    """Return the quintic through both states, `t` of `end` seconds on."""
    rise = p1 - p0 - end * (v0 + end * a0 / 2)
    turn, bend = (v1 - v0 - a0 * end) * end, (a1 - a0) * end**2
    c3 = (10 * rise - 4 * turn + bend / 2) / end**3
    c4 = (7 * turn - 15 * rise - bend) / end**4
    c5 = (6 * rise - 3 * turn + bend / 2) / end**5
    return Motion(p0 + t * (v0 + t * (a0 / 2 + t * (c3 + t * (c4 + t * c5)))),
                  v0 + t * (a0 + t * (3 * c3 + t * (4 * c4 + t * 5 * c5))),
                  a0 + t * (6 * c3 + t * (12 * c4 + t * 20 * c5)))


def _ns(time: Any) -> int:
    """Return a builtin_interfaces Time or Duration in ns."""
    return int(time.sec) * NS_PER_S + int(time.nanosec)

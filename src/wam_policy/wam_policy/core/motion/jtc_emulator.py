"""The rules by which a ROS 2 Jazzy joint_trajectory_controller follows trajectory messages.

A new message replaces the running trajectory outright. Stamp 0 means now; a stamp in the past
enters the trajectory where it is due; a point in the future is approached from the set-point of
the moment. After the last point the set-point stays there. Source: joint_trajectory_controller
4.x, branch jazzy, with the settings of `make_emulated_parameters`. Tolerances, time-outs and
speed scaling act on trajectories of the topic too, so motion_node refuses controllers that have
them (controller_checks). Not modeled: tolerances and time-outs, and goals of the action, which a
trajectory of the topic does not preempt. Speed scaling is, to show what it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S, JointMotion, Trajectory

# The acceleration may differ by what full jerk does in this time: far more than rounding, and a
# hundredth of what it does in one tick at 500 Hz.
JERK_TOLERANCE_S = 2e-5
# the controller compares with the epsilon of a 32-bit float, 1.1921e-7
REST_VELOCITY_TOLERANCE = float(np.finfo(np.float32).eps)


def make_emulated_parameters(joints: Sequence[str], update_rate_hz: int) -> dict[str, Any]:
    """Return the parameters of a joint_trajectory_controller that follows as this module does."""
    return {
        'update_rate': update_rate_hz,
        'joints': list(joints),
        'interpolation_method': 'splines',
        'interpolate_from_desired_state': True,
        'allow_partial_joints_goal': False,
        'allow_nonzero_velocity_at_trajectory_end': False,
        'cmd_timeout': 0.0,
        'speed_scaling.initial_scaling_factor': 1.0,
        'constraints.goal_time': 0.0,
        **{f'constraints.{joint}.trajectory': 0.0 for joint in joints},
    }


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryPoints:
    """Hold a trajectory message as arrays; velocity and acceleration may be absent."""

    stamp_ns: int  # 0: starts when it is accepted
    names: tuple[str, ...]
    time_ns: np.ndarray  # int64 [points], from the stamp
    position: np.ndarray  # float64 [points joints]
    velocity: np.ndarray | None
    acceleration: np.ndarray | None

    @classmethod
    def from_message(cls, message: Any) -> Self:
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
        time_ns = [_to_ns(point.time_from_start) for point in points]
        position = np.empty((0, len(names))) if fields[0] is None else fields[0]
        return cls(
            _to_ns(message.header.stamp),
            names,
            np.array(time_ns, dtype=np.int64),
            position,
            fields[1],
            fields[2],
        )

    @classmethod
    def from_trajectory(cls, trajectory: Trajectory) -> Self:
        """Return the points of a planned trajectory."""
        return cls(
            trajectory.start_ns,
            trajectory.names,
            trajectory.time_ns,
            trajectory.position,
            trajectory.velocity,
            trajectory.acceleration,
        )

    def reorder(self, names: Sequence[str]) -> Self:
        """Return the same points with the joints in the order of `names`."""
        columns = [self.names.index(name) for name in names]
        return type(self)(
            self.stamp_ns,
            tuple(names),
            self.time_ns,
            self.position[:, columns],
            None if self.velocity is None else self.velocity[:, columns],
            None if self.acceleration is None else self.acceleration[:, columns],
        )

    @property
    def end_ns(self) -> int:
        """Return when the last point is due."""
        return self.stamp_ns + int(self.time_ns[-1])

    def validate(self, names: Sequence[str], now_ns: int) -> str | None:
        """Return why a controller of `names` would not take this at `now_ns`."""
        if sorted(self.names) != sorted(names):
            return (
                f'joint names {", ".join(self.names) or "(none)"} are not '
                f'{", ".join(names)}: all of them are needed, each once'
            )
        if not len(self.time_ns):
            return 'empty trajectory: ignored, it cannot be used to stop'
        for field in ('position', 'velocity', 'acceleration'):
            values = getattr(self, field)
            # a real controller does not look; a NaN set-point is what it would then command
            if values is not None and not np.isfinite(values).all():
                return f'{field} is not finite'
        if self.time_ns[0] < 0 or (np.diff(self.time_ns) <= 0).any():
            return 'times of the points must increase from 0'
        if self.stamp_ns and self.end_ns < now_ns:
            return 'the last point is already in the past'
        if (
            self.velocity is not None
            and (np.abs(self.velocity[-1]) > REST_VELOCITY_TOLERANCE).any()
        ):
            return 'velocity of the last point is not zero'
        return None


class TrajectoryFollower:
    """Turn accepted trajectories into set-points; before the first one, stay at `position`."""

    def __init__(self, names: Sequence[str], position: np.ndarray) -> None:
        self.names = tuple(names)
        self.setpoint = JointMotion.at_rest(position)  # last set-point
        self.setpoint_ns: int | None = None  # when it was sampled
        self.points: TrajectoryPoints | None = None
        self._setpoint_at_accept = (0, self.setpoint)  # when points were accepted, and when it was
        self._segment: SplineSegment | None = None  # what the last set-point lay on
        self.speed_scaling = 1.0  # time in a trajectory passes this much faster than the clock
        # how far it has fallen behind the clock; None: accepted, not sampled yet
        self._behind_ns: float | None = 0.0

    def accept(self, message: Any, now_ns: int) -> str | None:
        """Replace the running trajectory with a message or points; return why not, if not.

        Raises nothing: a rejected message changes nothing.
        """
        try:
            points = (
                message
                if isinstance(message, TrajectoryPoints)
                else TrajectoryPoints.from_message(message)
            )
        except ValueError as error:
            return str(error)
        reason = points.validate(self.names, now_ns)
        if reason:
            return reason
        points = points.reorder(self.names)
        start_ns = points.stamp_ns or now_ns
        self._setpoint_at_accept = (
            now_ns if self.setpoint_ns is None else self.setpoint_ns,
            self.setpoint,
        )
        self.points = TrajectoryPoints(
            start_ns,
            points.names,
            points.time_ns,
            points.position,
            points.velocity,
            points.acceleration,
        )
        self._segment, self._behind_ns = None, None
        return None

    def hold(self, position: np.ndarray) -> None:
        """Forget the trajectory and stay at `position`: what a watchdog or a reset asks for."""
        self.points = self._segment = None
        self.setpoint = JointMotion.at_rest(position)

    @property
    def is_on_time(self) -> bool:
        """Tell whether the trajectory passes as fast as the clock, and has so far."""
        return self.speed_scaling == 1.0 and not self._behind_ns

    @property
    def end_ns(self) -> int | None:
        """Return when the accepted trajectory is over; None without one."""
        return None if self.points is None else self.points.end_ns

    def sample(self, now_ns: int) -> JointMotion:
        """Return the set-point at `now_ns` and remember it as the one that was commanded.

        As in the controller, a new trajectory begins at the clock's time, however far behind the
        one before had fallen by speed scaling; velocity and acceleration are those per second of
        the trajectory.
        """
        if self._behind_ns is None or self.setpoint_ns is None:
            self._behind_ns = 0.0
        else:
            self._behind_ns += (now_ns - self.setpoint_ns) * (1.0 - self.speed_scaling)
        if self.points is not None:
            self.setpoint = self._evaluate(self.points, now_ns - round(self._behind_ns))
        self.setpoint_ns = now_ns
        return self.setpoint

    def _evaluate(self, points: TrajectoryPoints, now_ns: int) -> JointMotion:
        passed_ns = now_ns - points.stamp_ns
        if passed_ns >= points.time_ns[-1]:
            return JointMotion.at_rest(points.position[-1])
        if self._segment is None or not self._segment.contains(passed_ns):
            knot = int(np.searchsorted(points.time_ns, passed_ns, side='right')) - 1
            self._segment = (
                SplineSegment.from_points(points, knot) if knot >= 0 else self._make_bridge(points)
            )
        return self._segment.at(max(passed_ns, self._segment.start_ns))

    def _make_bridge(self, points: TrajectoryPoints) -> 'SplineSegment':
        """Return the way from the set-point at acceptance to a first point in the future."""
        first_ns = int(points.time_ns[0])
        before_ns, before = self._setpoint_at_accept
        before_ns = min(before_ns - points.stamp_ns, first_ns - 1)
        return SplineSegment.from_points(
            TrajectoryPoints(
                0,
                points.names,
                np.array([before_ns, first_ns]),
                np.stack([before.position, points.position[0]]),
                None
                if points.velocity is None
                else np.stack([before.velocity, points.velocity[0]]),
                None
                if points.acceleration is None
                else np.stack([before.acceleration, points.acceleration[0]]),
            ),
            0,
        )


def check_lateness(
    running: TrajectoryFollower, candidate: TrajectoryFollower, now_ns: int, jerk: np.ndarray
) -> str | None:
    """Return why the trajectory that `candidate` has accepted comes too late at `now_ns`.

    Too late is after the instant at which it parts from the one before: the controller enters it
    where it is due and the setpoint jumps. A refused trajectory counts as lost, and a sender that
    reads the controllers' reports plans again.

    `jerk` holds the limits, [joints] rad/s^3 or 1/s^3. Only what has begun can be late, and only
    with accelerations is it meant to go on where `running` is: others jump on purpose. What comes
    to rest sooner than `running` is never refused: a stop matters more than how it begins.
    """
    points = candidate.points
    if points is None or points.acceleration is None:
        return None
    if points.stamp_ns + int(points.time_ns[0]) >= now_ns:
        return None
    if running.end_ns is not None and points.end_ns < running.end_ns:
        return None
    jump = np.abs(candidate.sample(now_ns).acceleration - running.sample(now_ns).acceleration)
    joint = int(np.argmax(jump / jerk))
    if jump[joint] <= JERK_TOLERANCE_S * jerk[joint]:
        return None
    return (
        f'came too late: the acceleration of {running.names[joint]} would jump by '
        f'{jump[joint]:.3g}'
    )


POWERS = np.arange(6)


@dataclass(frozen=True, slots=True, eq=False)
class SplineSegment:
    """Hold what lies between two points as polynomials: a control loop asks for it very often."""

    start_ns: int
    end_ns: int
    coefficients: (
        np.ndarray
    )  # float64 [6 3*joints]: powers of t -> position, velocity, acceleration

    @classmethod
    def from_points(cls, points: TrajectoryPoints, knot: int) -> Self:
        """Interpolate from `knot` on: quintic with accelerations, cubic with velocities, else
        straight.
        """
        start_ns, end_ns = (int(ns) for ns in points.time_ns[knot : knot + 2])
        end = float(end_ns - start_ns) / NS_PER_S
        ends = slice(knot, knot + 2)
        c, velocity, acceleration = np.zeros((3, 6, len(points.names)))
        if points.velocity is None:
            c[:2] = _linear_coefficients(end, *points.position[ends])
        elif points.acceleration is None:
            c[:4] = _cubic_coefficients(end, *points.position[ends], *points.velocity[ends])
        else:
            c[:] = _quintic_coefficients(
                end, *points.position[ends], *points.velocity[ends], *points.acceleration[ends]
            )
        velocity[:-1] = c[1:] * POWERS[1:, None]
        acceleration[:-1] = velocity[1:] * POWERS[1:, None]
        return cls(start_ns, end_ns, np.concatenate([c, velocity, acceleration], axis=1))

    def contains(self, elapsed_ns: int) -> bool:
        return elapsed_ns < self.end_ns and self.start_ns <= elapsed_ns

    def at(self, elapsed_ns: int) -> JointMotion:
        t = float(elapsed_ns - self.start_ns) / NS_PER_S
        position, velocity, acceleration = (t**POWERS @ self.coefficients).reshape(3, -1)
        return JointMotion(position, velocity, acceleration)


def _linear_coefficients(
    duration_s: float, p0: np.ndarray, p1: np.ndarray
) -> tuple[np.ndarray, ...]:
    return p0, (p1 - p0) / duration_s


def _cubic_coefficients(
    duration_s: float, p0: np.ndarray, p1: np.ndarray, v0: np.ndarray, v1: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the coefficients of the cubic through both states, `end` seconds apart."""
    rise, turn = p1 - p0 - v0 * duration_s, (v1 - v0) * duration_s
    return p0, v0, (3 * rise - turn) / duration_s**2, (turn - 2 * rise) / duration_s**3


def _quintic_coefficients(
    duration_s: float,
    p0: np.ndarray,
    p1: np.ndarray,
    v0: np.ndarray,
    v1: np.ndarray,
    a0: np.ndarray,
    a1: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return the coefficients of the quintic through both states, `end` seconds apart."""
    rise = p1 - p0 - duration_s * (v0 + duration_s * a0 / 2)
    turn, bend = (v1 - v0 - a0 * duration_s) * duration_s, (a1 - a0) * duration_s**2
    return (
        p0,
        v0,
        a0 / 2,
        (10 * rise - 4 * turn + bend / 2) / duration_s**3,
        (7 * turn - 15 * rise - bend) / duration_s**4,
        (6 * rise - 3 * turn + bend / 2) / duration_s**5,
    )


def _to_ns(time: Any) -> int:
    """Return a builtin_interfaces Time or Duration in ns."""
    return int(time.sec) * NS_PER_S + int(time.nanosec)

"""Motion that ends at rest: knots of position, velocity and acceleration, constant jerk between.

Each segment is one cubic, so a controller that interpolates (p, v, a) points with quintics draws
exactly this curve, and the extrema between knots have closed forms (limits.compute_limit_usage).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

NS_PER_S = 1_000_000_000
PATH_PERIOD_NS = 50_000_000  # 25 mm between two points of a tool's path at 0.5 m/s
MAX_PATH_ROWS = 60


@dataclass(frozen=True, slots=True, eq=False)
class JointMotion:
    """Hold the commanded state at one instant, [joints] each."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def at_rest(cls, position: np.ndarray) -> Self:
        position = np.array(position, dtype=np.float64)
        return cls(position, np.zeros_like(position), np.zeros_like(position))

    def for_joint(self, joint: int) -> Self:
        """Return one joint's state, [1] each."""
        rows = slice(joint, joint + 1)
        return type(self)(self.position[rows], self.velocity[rows], self.acceleration[rows])

    @property
    def is_at_rest(self) -> bool:
        return not (self.velocity.any() or self.acceleration.any())


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Hold the commanded motion of some joints from start_ns on; the last knot is at rest.

    Raises ValueError when shapes differ, a value is not finite, time does not increase or the
    last knot moves: such a trajectory must not exist, let alone be published.
    """

    names: tuple[str, ...]
    start_ns: int
    time_ns: np.ndarray  # int64 [knots], from start_ns, first is 0
    position: np.ndarray  # float64 [knots joints]
    velocity: np.ndarray  # float64 [knots joints]
    acceleration: np.ndarray  # float64 [knots joints]

    def __post_init__(self) -> None:
        object.__setattr__(self, 'names', tuple(self.names))
        _set_readonly(self, 'time_ns', np.int64)
        for field in ('position', 'velocity', 'acceleration'):
            _set_readonly(self, field, np.float64)
            values = getattr(self, field)
            if values.shape != (len(self.time_ns), len(self.names)):
                raise ValueError(
                    f'trajectory: {field} has shape {list(values.shape)}, want '
                    f'[{len(self.time_ns)} {len(self.names)}]'
                )
            if not np.isfinite(values).all():
                raise ValueError(f'trajectory: {field} is not finite')
        if not len(self.time_ns) or self.time_ns[0] or (np.diff(self.time_ns) <= 0).any():
            raise ValueError('trajectory: knot times must start at 0 and increase')
        if self.velocity[-1].any() or self.acceleration[-1].any():
            raise ValueError('trajectory: does not end at rest')

    @property
    def end_ns(self) -> int:
        return self.start_ns + int(self.time_ns[-1])

    @property
    def goal(self) -> np.ndarray:
        """Return where everything comes to rest, [joints]."""
        return self.position[-1]

    @property
    def duration_s(self) -> np.ndarray:
        """Return the length of each segment, [knots - 1] s."""
        return np.diff(self.time_ns) / NS_PER_S

    @property
    def jerk(self) -> np.ndarray:
        """Return the constant jerk of each segment, [knots - 1 joints]."""
        return np.diff(self.acceleration, axis=0) / self.duration_s[:, None]

    def at(self, now_ns: int) -> JointMotion:
        """Return the state at `now_ns`: the first knot before the start, rest after the end."""
        passed_ns = now_ns - self.start_ns
        knot = int(np.searchsorted(self.time_ns, passed_ns, side='right')) - 1
        if knot < 0:
            return JointMotion(self.position[0], self.velocity[0], self.acceleration[0])
        if knot == len(self.time_ns) - 1:
            return JointMotion(self.position[-1], self.velocity[-1], self.acceleration[-1])
        p, v, a = self.position[knot], self.velocity[knot], self.acceleration[knot]
        end, t = (
            float(ns - self.time_ns[knot]) / NS_PER_S for ns in (self.time_ns[knot + 1], passed_ns)
        )
        jerk = (self.acceleration[knot + 1] - a) / end
        return JointMotion(
            p + t * (v + t * (a / 2 + t * jerk / 6)), v + t * (a + t * jerk / 2), a + t * jerk
        )

    def at_times(self, times_ns: np.ndarray) -> JointMotion:
        """Return the states at many instants at once: as `at`, in rows [instants joints]."""
        passed_ns = times_ns - self.start_ns
        knot = np.searchsorted(self.time_ns, passed_ns, side='right') - 1
        before, knot = knot < 0, np.maximum(knot, 0)
        p, v, a = self.position[knot], self.velocity[knot], self.acceleration[knot]
        jerk = np.vstack([self.jerk, np.zeros(len(self.names))])[knot]
        t = np.where(before, 0.0, (passed_ns - self.time_ns[knot]) / NS_PER_S)[:, None]
        return JointMotion(
            p + t * (v + t * (a / 2 + t * jerk / 6)), v + t * (a + t * jerk / 2), a + t * jerk
        )

    def is_at_rest(self, now_ns: int) -> bool:
        """Tell whether nothing moves any more at `now_ns` or later."""
        return now_ns >= self.end_ns

    def knot_before(self, now_ns: int) -> int:
        """Return the index of the last knot not after `now_ns` (0 before the start)."""
        return max(0, int(np.searchsorted(self.time_ns, now_ns - self.start_ns, 'right')) - 1)


def make_hold(names: tuple[str, ...], position: np.ndarray, start_ns: int) -> Trajectory:
    """Return the trajectory that stays at `position` [joints]."""
    still = np.zeros((1, len(names)))
    return Trajectory(
        names, start_ns, np.zeros(1, np.int64), np.array(position)[None], still, still
    )


def integrate_jerk(
    names: tuple[str, ...], start: JointMotion, start_ns: int, step_ns: int, jerk: np.ndarray
) -> Trajectory:
    """Return the motion from `start` under `jerk` [segments joints], one value per step.

    The caller's jerk brings everything to rest up to rounding; the last knot is set to rest.
    """
    step = step_ns / NS_PER_S
    a = start.acceleration + step * _cumulative_sum(jerk)
    v = start.velocity + step * _cumulative_sum(a[:-1] + step / 2 * jerk)
    p = start.position + step * _cumulative_sum(v[:-1] + step / 2 * (a[:-1] + step / 3 * jerk))
    a[-1] = v[-1] = 0.0
    return Trajectory(names, start_ns, step_ns * np.arange(len(jerk) + 1), p, v, a)


def splice(old: Trajectory, new: Trajectory, now_ns: int) -> Trajectory:
    """Return `new`, preceded by what `old` still does between `now_ns` and the start of `new`.

    A controller replaces its trajectory outright and bridges to a first point in its future with
    one quintic of its own. With the old knots in front there is nothing left to bridge: whenever
    the message arrives before the switch, the executed curve is the old one up to the switch.
    """
    if old.is_at_rest(now_ns):
        old = make_hold(old.names, old.goal, now_ns)
    first = old.knot_before(now_ns)
    start_ns = old.start_ns + int(old.time_ns[first])
    if start_ns >= new.start_ns:
        return new
    kept = slice(first, int(np.searchsorted(old.time_ns, new.start_ns - old.start_ns)))
    before_ns = old.time_ns[kept] - old.time_ns[first]
    return Trajectory(
        new.names,
        start_ns,
        np.concatenate([before_ns, new.start_ns - start_ns + new.time_ns]),
        *(
            np.concatenate([getattr(old, field)[kept], getattr(new, field)])
            for field in ('position', 'velocity', 'acceleration')
        ),
    )


def merge_joints(parts: Sequence[tuple[Trajectory, np.ndarray]]) -> Trajectory:
    """Return the motion of which each part gives the joints in its columns, once all have begun.

    The parts have the same names. Knots of one cut the cubics of the others, which leaves cubics:
    nothing is changed.
    """
    whole, first_ns = parts[0][0], max(part.start_ns for part, _ in parts)
    if all(part is whole for part, _ in parts):
        return whole
    knots_ns = np.unique(np.concatenate([part.start_ns + part.time_ns for part, _ in parts]))
    times_ns = [first_ns, *knots_ns[knots_ns > first_ns].tolist()]
    motion = np.empty((3, len(times_ns), len(whole.names)))
    for part, columns in parts:
        for row, at in enumerate(part.at(ns) for ns in times_ns):
            for values, field in zip(
                motion, (at.position, at.velocity, at.acceleration), strict=True
            ):
                values[row, columns] = field[columns]
    return Trajectory(whole.names, first_ns, np.array(times_ns) - first_ns, *motion)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedPath:
    """Hold joint positions at instants from the start of a plan to its rest."""

    names: tuple[str, ...]
    times_ns: np.ndarray  # int64 [rows], absolute
    positions: np.ndarray  # float64 [rows names]

    @property
    def goal(self) -> dict[str, float]:
        """Return where each joint comes to rest."""
        return dict(zip(self.names, self.positions[-1].tolist(), strict=True))

    def count_past(self, now_ns: int) -> int:
        """Return the number of leading rows that lie before `now_ns`."""
        return int(np.searchsorted(self.times_ns, now_ns))


def sample_plan(
    trajectories: Iterable[Trajectory],
    names: Sequence[str],
    measured: Mapping[str, float],
    now_ns: int,
) -> PlannedPath | None:
    """Return the path of `names` that is being executed, for viewers; None if all of it is over.

    `trajectories` are the newest of each controller; joints of none of them stay as measured.
    Raises KeyError for a joint that is neither planned nor measured.
    """
    present = [one for one in trajectories if one.end_ns >= now_ns]
    if not present:
        return None
    start_ns = min(one.start_ns for one in present)
    end_ns = max(one.end_ns for one in present)
    count = int(np.clip(2 + (end_ns - start_ns) // PATH_PERIOD_NS, 2, MAX_PATH_ROWS))
    times_ns = np.linspace(start_ns, end_ns, count).astype(np.int64)
    columns = {}
    for one in present:
        columns |= dict(zip(one.names, one.at_times(times_ns).position.T, strict=True))
    positions = [
        columns[name] if name in columns else np.full(count, measured[name]) for name in names
    ]
    return PlannedPath(tuple(names), times_ns, np.column_stack(positions))


def _cumulative_sum(steps: np.ndarray) -> np.ndarray:
    """Return the running sum with a leading zero, [steps + 1 joints]."""
    return np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)])


def _set_readonly(owner: Trajectory, field: str, dtype: type) -> None:
    array = np.array(getattr(owner, field), dtype=dtype)
    array.setflags(write=False)
    object.__setattr__(owner, field, array)

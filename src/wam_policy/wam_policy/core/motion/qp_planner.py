"""Plan motion that tracks a reference inside position, velocity, acceleration and jerk limits.

The jerk of each joint is constant over the steps of one fixed grid in time, all trajectories
share that grid, and each one is planned to the end: it comes to rest on its last knot. So what is
still ahead of the trajectory being executed is itself a candidate for the next plan, and the
quadratic program below is feasible by construction: limits are hard, tracking is soft.

Limits hold between knots too: acceleration is linear there, velocity exceeds its knots by at most
jerk * step^2 / 8, and a cubic stays in the hull of its Bezier points. Nothing here is trusted
anyway: a plan that compute_limit_usage does not confirm is not returned.
"""

from dataclasses import dataclass
from functools import lru_cache

import daqp
import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S, JointMotion, Trajectory, integrate_jerk
from wam_policy.core.robot.embodiment import JointLimits
from wam_policy.core.robot.limits import compute_limit_usage, compute_position_range

STEP_NS = 25_000_000
STEP_S = STEP_NS / NS_PER_S
# int (p - ref)^2 + SMOOTHING int jerk^2 is a phaseless low-pass, corner SMOOTHING^(-1/6) rad/s
SMOOTHING = 25.0**-6  # 4 Hz: above arm motion, below frame-to-frame noise
# past the reference int v^2 counts too: there the arm stops instead of drifting on, gently enough
# that limits rarely bind (a binding limit costs time to plan)
SETTLING_S2 = 0.04**2
SETTLING = SETTLING_S2 * 14.0**-4
# int v^2 + BRAKING int jerk^2 settles within BRAKING^(1/4) s: the limits, not this, set the pace
BRAKING = 80.0**-4
LIMIT_MARGIN = 1e-6  # plan this much (relative) inside the limits
POSITION_TOLERANCE = 1e-7  # rad, rad/s; what tolerances may add to a position
ROUNDING_TOLERANCE = 1e-12
# grids kept, 0.1 to 0.2 MB each. Motion meets new ones for hours (a stop, a contact ahead, a first
# move at rising speed): all of them are 40 MB, these are full after a minute. Nine of ten plans
# are on five grids; making one anew takes 0.3 ms.
MAX_CACHED_HORIZONS = 16
# in units of the limits; the looser ones serve plans that can only repeat the one being executed
SOLVER_TOLERANCES = (1e-10, 1e-8, 2e-7)
DAQP_EQUALITY, DAQP_OPTIMAL = 5, 1  # daqp's codes of a row and of an outcome


class PlanningError(Exception):
    """Say why no plan came out; the trajectory being executed goes on and ends at rest."""


def compute_switch_ns(now_ns: int, lead_ns: int) -> int:
    """Return the first instant of the grid at least `lead_ns` after `now_ns`."""
    return -(-(now_ns + lead_ns) // STEP_NS) * STEP_NS


def plan_tracking(
    old: Trajectory, start_ns: int, reference: np.ndarray, limits: JointLimits
) -> Trajectory:
    """Leave `old` at `start_ns` (on the grid), follow `reference` and come to rest.

    `reference` [steps joints] holds positions one step apart, the first one step after the start.
    Where `old` is or will be outside the position limits, they give way up to there: such a joint
    may stay or come back. Raises PlanningError.
    """
    return _plan(old, start_ns, reference, limits, len(reference) + count_braking_steps(limits))


def plan_stop(old: Trajectory, start_ns: int, limits: JointLimits) -> Trajectory:
    """Leave `old` at `start_ns` (on the grid) and come to rest as fast as the limits allow.

    Raises PlanningError.
    """
    nothing = np.empty((0, len(old.names)))
    try:
        return _plan(old, start_ns, nothing, limits, count_braking_steps(limits))
    except PlanningError:  # a turn before a position limit needs its time
        return _plan(old, start_ns, nothing, limits, count_steps_left(old, start_ns))


def count_braking_steps(limits: JointLimits) -> int:
    """Return the steps in which any state inside `limits` comes to rest."""
    # from full speed and full acceleration: lose that acceleration, brake, let the brake go
    seconds = limits.velocity / limits.acceleration + 3 * limits.acceleration / limits.jerk
    return int(np.ceil(seconds.max() / STEP_S)) + 1


def count_steps_left(old: Trajectory, start_ns: int) -> int:
    """Return the steps from `start_ns` until `old` rests."""
    return max(0, -((start_ns - old.end_ns) // STEP_NS))


def _plan(
    old: Trajectory, start_ns: int, reference: np.ndarray, limits: JointLimits, steps: int
) -> Trajectory:
    steps = max(steps, count_steps_left(old, start_ns) if len(reference) else 1)
    start = old.at(start_ns)
    box = _JointBounds.from_limits(old, start_ns, limits)
    grid = _make_horizon(len(reference), steps)
    jerk = grid.solve_unbounded(start, reference)
    for joint in np.flatnonzero(~grid.is_within_bounds(jerk, start, box)).tolist():
        jerk[:, joint] = grid.solve_bounded(
            start.for_joint(joint), reference[:, joint : joint + 1], box.for_joint(joint)
        )
    jerk = grid.enforce_rest(jerk, start)
    plan = integrate_jerk(old.names, start, start_ns, STEP_NS, jerk)
    _verify(plan, limits, box)
    return plan


def _verify(plan: Trajectory, limits: JointLimits, joint_bounds: '_JointBounds') -> None:
    """Raise PlanningError unless `plan` keeps every limit exactly, between its knots too."""
    lowest, highest = compute_position_range(plan)
    used = compute_limit_usage(plan, limits)
    over = np.maximum.reduce(
        [used.velocity / joint_bounds.speed_slack, used.acceleration, used.jerk]
    )
    outside = np.maximum(joint_bounds.lower - lowest, highest - joint_bounds.upper)
    for joint in np.flatnonzero((over > 1.0) | (outside > POSITION_TOLERANCE)):
        raise PlanningError(
            f'{plan.names[joint]}: plan leaves its limits (rates {over[joint]:.6f}, '
            f'position by {outside[joint]:.2e})'
        )


@dataclass(frozen=True, slots=True)
class _JointBounds:
    """Hold the hard bounds of one plan, [joints] each."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray  # at knots: the rise between them is taken off
    speed_slack: np.ndarray  # >= 1: what is being executed may be faster than a cap
    acceleration: np.ndarray
    jerk: np.ndarray

    @classmethod
    def from_limits(cls, old: Trajectory, start_ns: int, limits: JointLimits) -> '_JointBounds':
        """Return the limits, widened to what `old` does from `start_ns` on."""
        first = old.knot_before(start_ns)
        p, v = old.position[first:], old.velocity[first:]
        inner = np.concatenate([p, p[:-1] + v[:-1] * STEP_S / 3, p[1:] - v[1:] * STEP_S / 3])
        velocity = limits.velocity * (1 - LIMIT_MARGIN) - limits.jerk * STEP_S**2 / 8
        fastest = np.abs(v).max(axis=0)
        fast = fastest > velocity + POSITION_TOLERANCE
        widened = np.where(fast, fastest, velocity)
        slack = np.where(fast, (widened + limits.jerk * STEP_S**2 / 8) / limits.velocity, 1.0)
        return cls(
            np.minimum(limits.lower, inner.min(axis=0)),
            np.maximum(limits.upper, inner.max(axis=0)),
            widened,
            np.maximum(slack, 1.0),
            limits.acceleration * (1 - LIMIT_MARGIN),
            limits.jerk * (1 - LIMIT_MARGIN),
        )

    def for_joint(self, joint: int) -> '_JointBounds':
        return _JointBounds(*(getattr(self, field)[joint : joint + 1] for field in self.__slots__))


@dataclass(frozen=True, slots=True)
class _Horizon:
    """Hold the linear maps from the jerk of one joint [steps] to its motion, and their optimum."""

    steps: int
    tracked_steps: int  # leading steps that have a reference
    position: np.ndarray  # [steps steps], at the ends of the steps
    velocity: np.ndarray
    acceleration: np.ndarray
    hull: np.ndarray  # [3 * steps - 1 steps], positions and Bezier points
    cost: np.ndarray  # [steps steps]
    gain: np.ndarray  # [steps steps], slope -> jerk, at rest at the end
    terminal_gain: np.ndarray  # [steps 2], velocity and acceleration wanted -> jerk
    terminal_correction: np.ndarray  # [steps 2], the same with the least change of jerk

    def compute_coasting(self, start: JointMotion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return p, v, a [steps joints] without any jerk."""
        t = STEP_S * np.arange(1, self.steps + 1)[:, None]
        v = start.velocity + t * start.acceleration
        p = start.position + t * (start.velocity + t * start.acceleration / 2)
        return p, v, np.broadcast_to(start.acceleration, p.shape)

    def compute_gradient(self, start: JointMotion, reference: np.ndarray) -> np.ndarray:
        """Return the gradient of the cost at zero jerk, [steps joints]."""
        p, v, _ = self.compute_coasting(start)
        if not self.tracked_steps:
            return self.velocity.T @ v
        aimed, after = slice(None, self.tracked_steps), slice(self.tracked_steps, None)
        return (
            self.position[aimed].T @ (p[aimed] - reference)
            + SETTLING_S2 * self.velocity[after].T @ v[after]
        )

    def solve_unbounded(self, start: JointMotion, reference: np.ndarray) -> np.ndarray:
        """Return the best jerk that ends at rest, limits aside, [steps joints]."""
        _, v, a = self.compute_coasting(start)
        return self.gain @ self.compute_gradient(start, reference) - self.terminal_gain @ np.stack(
            [v[-1], a[-1]]
        )

    def enforce_rest(self, jerk: np.ndarray, start: JointMotion) -> np.ndarray:
        """Return `jerk` with the last trace of motion at its end taken out."""
        _, v, a = self.compute_coasting(start)
        left = np.stack([v[-1] + self.velocity[-1] @ jerk, a[-1] + self.acceleration[-1] @ jerk])
        return jerk - self.terminal_correction @ left

    def is_within_bounds(
        self, jerk: np.ndarray, start: JointMotion, joint_bounds: _JointBounds
    ) -> np.ndarray:
        """Tell which joints keep every bound of `joint_bounds`, [joints]."""
        p, v, a = self.compute_coasting(start)
        hull = self._compute_coasting_hull(start) + self.hull @ jerk
        # a joint resting on its bound stays out of the solver in spite of rounding
        lower, upper = (
            joint_bounds.lower - ROUNDING_TOLERANCE,
            joint_bounds.upper + ROUNDING_TOLERANCE,
        )
        return (
            (np.abs(jerk) <= joint_bounds.jerk).all(axis=0)
            & (np.abs(v + self.velocity @ jerk) <= joint_bounds.velocity).all(axis=0)
            & (np.abs(a + self.acceleration @ jerk) <= joint_bounds.acceleration).all(axis=0)
            & ((hull >= lower) & (hull <= upper)).all(axis=0)
        )

    def _compute_coasting_hull(self, start: JointMotion) -> np.ndarray:
        p, v, _ = self.compute_coasting(start)
        third = STEP_S / 3
        return np.concatenate([p, p[:-1] + third * v[:-1], p - third * v])

    def solve_bounded(
        self, start: JointMotion, reference: np.ndarray, joint_bounds: _JointBounds
    ) -> np.ndarray:
        """Return the best jerk of one joint inside `joint_bounds`, [steps]; raise PlanningError.

        Position bounds are rarely in the way and are most of the rows: they join when needed.
        """
        jerk = self._solve_qp(start, reference, joint_bounds, bound_positions=False)
        hull = self._compute_coasting_hull(start)[:, 0] + self.hull @ jerk
        if (hull >= joint_bounds.lower - ROUNDING_TOLERANCE).all() and (
            hull <= joint_bounds.upper + ROUNDING_TOLERANCE
        ).all():
            return jerk
        return self._solve_qp(start, reference, joint_bounds, bound_positions=True)

    def _solve_qp(
        self,
        start: JointMotion,
        reference: np.ndarray,
        joint_bounds: _JointBounds,
        bound_positions: bool,
    ) -> np.ndarray:
        """Solve in units of the limits: jerk over its bound is the variable, rows are O(1)."""
        _, v, a = (field[:, 0] for field in self.compute_coasting(start))
        jerk, speed, push = (
            bound.item()
            for bound in (joint_bounds.jerk, joint_bounds.velocity, joint_bounds.acceleration)
        )
        ones = np.ones(self.steps)
        rows = [self.velocity * (jerk / speed), self.acceleration * (jerk / push)]
        upper = [ones, 1 - v / speed, 1 - a / push]
        lower = [-ones, -1 - v / speed, -1 - a / push]
        for bounds in (upper, lower):  # the last knot is at rest
            bounds[1][-1], bounds[2][-1] = -v[-1] / speed, -a[-1] / push
        if bound_positions:
            hull = self._compute_coasting_hull(start)[:, 0]
            rows.append(self.hull * jerk)
            upper.append(joint_bounds.upper - hull)
            lower.append(joint_bounds.lower - hull)
        kinds = np.zeros(sum(map(len, upper)), dtype=np.int32)
        kinds[[2 * self.steps - 1, 3 * self.steps - 1]] = DAQP_EQUALITY
        unit = self.steps / np.trace(self.cost)
        problem = (
            self.cost * unit,
            self.compute_gradient(start, reference)[:, 0] * (unit / jerk),
            np.concatenate(rows),
            np.concatenate(upper),
            np.concatenate(lower),
        )
        for tolerance in SOLVER_TOLERANCES:
            solution, _, flag, _ = daqp.solve(*problem, kinds, primal_tol=tolerance)
            if flag == DAQP_OPTIMAL:
                return solution * jerk
        raise PlanningError(f'solver stopped with {flag}')


@lru_cache(maxsize=MAX_CACHED_HORIZONS)
def _make_horizon(tracked_steps: int, steps: int) -> _Horizon:
    after = np.subtract.outer(np.arange(1, steps + 1), np.arange(steps)) - 1  # whole steps
    t = STEP_S * np.maximum(after, 0)
    on = after >= 0
    acceleration = np.where(on, STEP_S, 0.0)
    velocity = np.where(on, STEP_S * (STEP_S / 2 + t), 0.0)
    position = np.where(on, STEP_S * (STEP_S**2 / 6 + t * (STEP_S + t) / 2), 0.0)
    aim, rest = position[:tracked_steps], velocity[tracked_steps:]
    if tracked_steps:
        smooth = np.where(np.arange(steps) < tracked_steps, SMOOTHING, SETTLING)
        cost = aim.T @ aim + SETTLING_S2 * rest.T @ rest + np.diag(smooth)
    else:
        cost = rest.T @ rest + BRAKING * np.eye(steps)
    ends = np.stack([velocity[-1], acceleration[-1]])
    inverse = np.linalg.inv(cost)
    ending = inverse @ ends.T @ np.linalg.inv(ends @ inverse @ ends.T)
    gain = ending @ ends @ inverse - inverse
    third = STEP_S / 3
    hull = np.concatenate(
        [position, (position + third * velocity)[:-1], position - third * velocity]
    )
    return _Horizon(
        steps,
        tracked_steps,
        position,
        velocity,
        acceleration,
        hull,
        cost,
        gain,
        ending,
        ends.T @ np.linalg.inv(ends @ ends.T),
    )

"""Contact seen ahead: whether a planned motion brings parts together that must stay apart.

Who knows the robot's shape answers behind `Obstacles`; here stand the question and what is asked
of a trajectory. What is being executed was asked about before it was published and is free of
contact up to its rest, so keeping to it is safe whenever something new is not.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wam_policy.core.motion import qp_planner
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory
from wam_policy.core.robot.embodiment import JointLimits

SAMPLE_PERIOD_NS = (
    12_500_000  # two to a planning step: 6 mm at 0.5 m/s, well inside every clearance
)

# what is tried of the way to a contact before stopping at once: the arm needs the rest to brake
TRUNCATION_FRACTIONS = (0.6, 0.3, 0.0)


@dataclass(frozen=True, slots=True)
class Contact:
    """Name the first posture of a path in which something is too near."""

    row: int
    pair: str  # 'left_link3 and table'


class CollisionChecker(Protocol):
    """Know the robot's shape and what stands around it."""

    def find_first_contact(
        self, path: np.ndarray, state_only_positions: np.ndarray
    ) -> Contact | None:
        """Return the first contact along `path` [rows commanded], None if it is free.

        `held` [state-only joints] is how the rest of the robot stands. What is too near in the
        first row already may stay as near as it is and may part.
        """
        ...

    def locate_pair(
        self, positions: np.ndarray, state_only_positions: np.ndarray, pair: str
    ) -> np.ndarray:
        """Return where the parts of a contact are nearest at `positions` [commanded], m, [3]."""
        ...


@dataclass(frozen=True, slots=True)
class PredictedCollision:
    """Say when along a trajectory something gets too near."""

    at_ns: int
    pair: str


def predict_collision(
    plan: Trajectory, checker: CollisionChecker, state_only_positions: np.ndarray
) -> PredictedCollision | None:
    """Return the first contact of `plan`, from its start to its rest."""
    times_ns, path = sample_path(plan)
    contact = checker.find_first_contact(path, state_only_positions)
    return (
        None if contact is None else PredictedCollision(int(times_ns[contact.row]), contact.pair)
    )


def sample_path(plan: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return instants at most SAMPLE_PERIOD_NS apart, ends included, and the posture at each.

    int64 [rows], absolute, and float64 [rows joints].
    """
    if len(plan.time_ns) == 1:
        return plan.start_ns + plan.time_ns, plan.position
    pieces = max(1, int(-(-np.diff(plan.time_ns).max() // SAMPLE_PERIOD_NS)))
    share = np.arange(pieces) / pieces
    length_s = plan.duration_s
    t = (share * length_s[:, None])[..., None]  # [segments pieces 1]
    p, v, a = (field[:-1, None] for field in (plan.position, plan.velocity, plan.acceleration))
    path = p + t * (v + t * (a / 2 + t * plan.jerk[:, None] / 6))
    times_ns = plan.time_ns[:-1, None] + np.round(t[..., 0] * NS_PER_S).astype(np.int64)
    joints = len(plan.names)
    return (
        plan.start_ns + np.append(times_ns.ravel(), plan.time_ns[-1]),
        np.concatenate([path.reshape(-1, joints), plan.position[-1:]]),
    )


def truncate_before_collision(
    old: Trajectory,
    start_ns: int,
    targets: np.ndarray,
    limits: JointLimits,
    checker: CollisionChecker,
    state_only_positions: np.ndarray,
) -> tuple[Trajectory | None, PredictedCollision | None]:
    """Leave `old` at `start_ns`, follow `targets` [steps joints] as far as nothing gets too near.

    Return the plan and what it was cut short for, if anything; no plan where even stopping at
    once is worse than going on with `old`. Raises PlanningError as plan_tracking does.
    """
    plan = qp_planner.plan_tracking(old, start_ns, targets, limits)
    ahead = predict_collision(plan, checker, state_only_positions)
    if ahead is None:
        return plan, None
    steps = (ahead.at_ns - start_ns) // qp_planner.STEP_NS
    for kept in sorted(
        {min(len(targets), round(steps * share)) for share in TRUNCATION_FRACTIONS}, reverse=True
    ):
        try:
            plan = (
                qp_planner.plan_tracking(old, start_ns, targets[:kept], limits)
                if kept
                else qp_planner.plan_stop(old, start_ns, limits)
            )
        except qp_planner.PlanningError:
            continue
        if predict_collision(plan, checker, state_only_positions) is None:
            return plan, ahead
    return None, ahead

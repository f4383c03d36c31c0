"""One attempt to change the motion: what is to be planned, and what came of it.

Planning takes milliseconds and runs beside the control loop, so it takes a frozen PlanRequest and
returns a frozen PlanResult; the state machine decides whether that still applies.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from wam_policy.core.motion import chunk_blending, qp_planner
from wam_policy.core.motion.collision_check import (
    CollisionChecker,
    PredictedCollision,
    predict_collision,
    truncate_before_collision,
)
from wam_policy.core.motion.first_move import FirstMoveLimiter
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory, splice
from wam_policy.core.robot.embodiment import Embodiment, JointLimits
from wam_policy.core.robot.limits import LimitUsage, compute_limit_usage, gripper_mask
from wam_policy.core.types import Chunk


@dataclass(frozen=True, slots=True, eq=False)
class PlanRequest:
    """Ask for a new plan: along `chunk`, or to rest without one."""

    robot: Embodiment
    base: Trajectory  # what is being executed
    now_ns: int
    start_ns: int  # on the planning grid: where the plan leaves `base`
    limits: JointLimits  # margins, speed share and first-move cap applied
    chunk: Chunk | None = None
    chunk_start_ns: int = 0  # when row 0 is due
    max_steps: int | None = None  # of the chunk; None: all of it
    is_first_move: bool = False  # first move: straight to the rows, no seam to keep
    collision_checker: CollisionChecker | None = None  # None: nothing is known of contact
    # [state-only joints], how the rest of the robot stands
    state_only_positions: np.ndarray = field(default_factory=lambda: np.empty(0))

    def for_chunk(
        self, chunk: Chunk, at_rest_since_ns: int | None, first_move: FirstMoveLimiter
    ) -> 'PlanRequest':
        """Return this request along `chunk` instead of to rest."""
        start_ns = chunk_blending.compute_chunk_start_ns(chunk, self.start_ns, at_rest_since_ns)
        return replace(
            self,
            limits=first_move.cap_velocity(self.limits, self.start_ns),
            chunk=chunk,
            chunk_start_ns=start_ns,
            is_first_move=first_move.is_active,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ActiveChunk:
    """Hold the rows of a chunk that fall due while its plan is executed."""

    chunk: Chunk
    start_ns: int  # when row 0 is due
    blend_offset: float  # rad, largest arm joint difference at the seam
    due_ns: np.ndarray  # int64 [rows], rows still due after the switch
    targets: np.ndarray  # [rows joints], what they ask for
    limited: np.ndarray  # bool [rows joints], the plan misses them: the chunk asks for too much

    def target_at(self, now_ns: int) -> np.ndarray:
        """Return what the next row due at or after `now_ns` asks for, else the last, [joints]."""
        row = min(int(np.searchsorted(self.due_ns, now_ns)), len(self.due_ns) - 1)
        return self.targets[row]

    def with_earlier_rows(
        self, previous: 'ActiveChunk | None', request: PlanRequest
    ) -> 'ActiveChunk':
        """Return this with the rows of `previous` that fall due before the switch."""
        if previous is None:
            return self
        earlier = (previous.due_ns <= request.start_ns) & (
            previous.due_ns > request.now_ns - NS_PER_S
        )  # the past is past
        return replace(
            self,
            **{
                field: np.concatenate([getattr(previous, field)[earlier], getattr(self, field)])
                for field in ('due_ns', 'targets', 'limited')
            },
        )


@dataclass(frozen=True, slots=True, eq=False)
class PlanResult:
    """Hold what planning made of a request; `trajectory` is None where it failed, for `reason`."""

    request: PlanRequest
    trajectory: Trajectory | None = None
    reason: str = ''
    late: bool = False  # the chunk had nothing left to execute
    predicted_collision: PredictedCollision | None = (
        None  # contact that it was cut short or refused for
    )
    blend_offset: float = 0.0  # rad, largest arm joint difference at the seam
    limit_usage: LimitUsage | None = None  # share of the robot's own limits
    active_chunk: ActiveChunk | None = None  # what is executed of the request's chunk


def compute_plan(request: PlanRequest) -> PlanResult:
    """Plan what `request` asks for; never raises for what a chunk or a limit does."""
    try:
        if request.chunk is None:
            return _plan_stop(request)
        return _plan_chunk(request, request.chunk)
    except qp_planner.PlanningError as error:
        return PlanResult(request, reason=str(error))


def _plan_stop(request: PlanRequest) -> PlanResult:
    plan = qp_planner.plan_stop(request.base, request.start_ns, request.limits)
    if request.collision_checker is not None:
        # braking leaves the way that was looked at; what is being executed ends at rest, too
        ahead = predict_collision(plan, request.collision_checker, request.state_only_positions)
        if ahead is not None:
            return PlanResult(
                request, predicted_collision=ahead, reason=f'it would bring {ahead.pair} together'
            )
    return _make_result(request, plan)


def _plan_chunk(request: PlanRequest, chunk: Chunk) -> PlanResult:
    safety, grips = request.robot.safety, gripper_mask(request.robot)
    late = chunk_blending.check_chunk_lateness(
        chunk, request.chunk_start_ns, request.start_ns, safety.chunk.max_age_s
    )
    if late:
        return PlanResult(request, reason=late, late=True)
    start = request.base.at(request.start_ns)
    fade_s = 0.0 if request.is_first_move else safety.chunk.fade_s
    join = chunk_blending.blend(
        chunk, request.chunk_start_ns, start, request.start_ns, fade_s, grips
    )
    offset = float(np.abs(join.blend_offset).max(initial=0.0))
    if offset > safety.chunk.max_seam_offset and not request.is_first_move:
        joint = chunk.names[int(np.abs(join.blend_offset).argmax())]
        return PlanResult(
            request,
            blend_offset=offset,
            reason=(
                f'chunk begins {offset:.3f} rad away from the command of {joint}, more than '
                f'{safety.chunk.max_seam_offset:g}: policy and robot disagree'
            ),
        )
    targets = join.targets[: request.max_steps]
    rows = chunk_blending.limit_speed(targets, start, request.limits, grips)
    plan, ahead = _plan_without_collision(request, rows)
    if plan is None:
        what = '' if ahead is None else ahead.pair
        return PlanResult(
            request,
            predicted_collision=ahead,
            blend_offset=offset,
            reason=(f'contact ahead: {what}; going on to rest as planned before'),
        )
    due_ns, step = _find_due_rows(request, chunk, len(rows))
    reached = plan.position[np.minimum(np.arange(1, len(rows) + 1), len(plan.position) - 1)]
    # the plan may be behind a late chunk that asks for nothing beyond the limits: it catches up
    limited = chunk_blending.find_excess(targets, request.limits, grips) & (
        np.abs(reached - targets) > safety.chunk.settle_tolerance
    )
    active_chunk = ActiveChunk(
        chunk, request.chunk_start_ns, offset, due_ns, targets[step], limited[step]
    )
    return replace(
        _make_result(request, plan),
        predicted_collision=ahead,
        blend_offset=offset,
        active_chunk=active_chunk,
    )


def _plan_without_collision(
    request: PlanRequest, targets: np.ndarray
) -> tuple[Trajectory | None, PredictedCollision | None]:
    """Plan along `targets` [steps joints] as far as nothing gets too near."""
    if request.collision_checker is None:
        return qp_planner.plan_tracking(
            request.base, request.start_ns, targets, request.limits
        ), None
    return truncate_before_collision(
        request.base,
        request.start_ns,
        targets,
        request.limits,
        request.collision_checker,
        request.state_only_positions,
    )


def _make_result(request: PlanRequest, trajectory: Trajectory) -> PlanResult:
    used = compute_limit_usage(trajectory, request.robot.limits())
    return PlanResult(request, splice(request.base, trajectory, request.now_ns), limit_usage=used)


def _find_due_rows(
    request: PlanRequest, chunk: Chunk, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return when the remaining rows are due and the planning step nearest to each."""
    due_ns = request.chunk_start_ns + np.round(
        np.arange(chunk.horizon) * chunk.step_dt_s * NS_PER_S
    ).astype(np.int64)
    due_ns = due_ns[due_ns > request.start_ns]
    if request.max_steps is not None:
        last_ns = request.start_ns + request.max_steps * qp_planner.STEP_NS
        due_ns = due_ns[: max(1, int(np.searchsorted(due_ns, last_ns, 'right')))]
    nearest = np.round((due_ns - request.start_ns) / qp_planner.STEP_NS).astype(np.int64) - 1
    return due_ns, np.clip(nearest, 0, steps - 1)

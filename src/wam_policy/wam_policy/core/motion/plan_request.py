"""One attempt to change the motion: what is to be planned, and what came of it.

Planning takes milliseconds and runs beside the control loop, so it sees a frozen Job and answers
with a frozen Proposal; whether that still fits is for the state machine to say.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from wam_policy.core.motion import chunk_validator, qp_planner
from wam_policy.core.motion.collision_check import Foreseen, Obstacles, foreseen, shortened
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory, spliced
from wam_policy.core.robot.embodiment import Embodiment, Limits
from wam_policy.core.robot.limits import Worst, gripping, worst
from wam_policy.core.types import Chunk


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Ask for a new plan: along `chunk`, or to rest without one."""

    robot: Embodiment
    base: Trajectory  # what is being executed
    now_ns: int
    start_ns: int  # on the planning grid: where the plan leaves `base`
    limits: Limits  # margins, speed share and first-move cap applied
    chunk: Chunk | None = None
    anchor_ns: int = 0  # when row 0 is due
    approaching: bool = False  # first move: straight to the rows, no seam to keep
    surroundings: Obstacles | None = None  # None: nothing is known of contact
    # [state-only joints], how the rest of the robot stands
    body: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """Hold what planning made of a job; `plan` is None where it failed, for `reason`."""

    job: Job
    plan: Trajectory | None = None
    reason: str = ''
    late: bool = False  # the chunk had nothing left to execute
    ahead: Foreseen | None = None  # contact that it was cut short or refused for
    offset: float = 0.0  # rad, largest arm joint difference at the seam
    used: Worst | None = None  # share of the robot's own limits
    due_ns: np.ndarray | None = None  # int64 [rows], rows still due after the switch
    wanted: np.ndarray | None = None  # [rows joints], what they ask for
    limited: np.ndarray | None = None  # bool [rows joints], the plan misses them

    def after(self, before: 'Proposal | None') -> 'Proposal':
        """Return this with the rows of `before` that fall due before the switch."""
        if before is None:
            return self
        earlier = (before.due_ns <= self.job.start_ns) & (
            before.due_ns > self.job.now_ns - NS_PER_S
        )  # the past is past
        return replace(
            self,
            **{
                field: np.concatenate([getattr(before, field)[earlier], getattr(self, field)])
                for field in ('due_ns', 'wanted', 'limited')
            },
        )


def proposed(job: Job) -> Proposal:
    """Plan what `job` asks for; never raises for what a chunk or a limit does."""
    try:
        if job.chunk is None:
            return _stopped(job)
        return _followed(job, job.chunk)
    except qp_planner.NoPlan as error:
        return Proposal(job, reason=str(error))


def _stopped(job: Job) -> Proposal:
    plan = qp_planner.stopped(job.base, job.start_ns, job.limits)
    if job.surroundings is not None:
        # braking leaves the way that was looked at; what is being executed ends at rest, too
        ahead = foreseen(plan, job.surroundings, job.body)
        if ahead is not None:
            return Proposal(job, ahead=ahead, reason=f'it would bring {ahead.what} together')
    return _proposal(job, plan)


def _followed(job: Job, chunk: Chunk) -> Proposal:
    safety, grips = job.robot.safety, gripping(job.robot)
    late = chunk_validator.too_late(chunk, job.anchor_ns, job.start_ns, safety.chunk.max_age_s)
    if late:
        return Proposal(job, reason=late, late=True)
    start = job.base.at(job.start_ns)
    fade_s = 0.0 if job.approaching else safety.chunk.fade_s
    join = chunk_validator.joined(chunk, job.anchor_ns, start, job.start_ns, fade_s, grips)
    offset = float(np.abs(join.offset).max(initial=0.0))
    if offset > safety.chunk.max_seam_offset and not job.approaching:
        joint = chunk.names[int(np.abs(join.offset).argmax())]
        return Proposal(
            job,
            offset=offset,
            reason=(
                f'chunk begins {offset:.3f} rad away from the command of {joint}, more than '
                f'{safety.chunk.max_seam_offset:g}: policy and robot disagree'
            ),
        )
    rows = chunk_validator.paced(join.wanted, start, job.limits, grips)
    plan, ahead = _kept_apart(job, rows)
    if plan is None:
        what = '' if ahead is None else ahead.what
        return Proposal(
            job,
            ahead=ahead,
            offset=offset,
            reason=(f'contact ahead: {what}; going on to rest as planned before'),
        )
    due_ns, step = _rows_due(job, chunk, len(rows))
    reached = plan.position[np.minimum(np.arange(1, len(rows) + 1), len(plan.position) - 1)]
    missed = np.abs(reached - join.wanted) > safety.chunk.settle_tolerance
    return _proposal(
        job,
        plan,
        ahead=ahead,
        offset=offset,
        due_ns=due_ns,
        wanted=join.wanted[step],
        limited=missed[step],
    )


def _kept_apart(job: Job, rows: np.ndarray) -> tuple[Trajectory | None, Foreseen | None]:
    """Plan along `rows` [steps joints] as far as nothing gets too near."""
    if job.surroundings is None:
        return qp_planner.tracked(job.base, job.start_ns, rows, job.limits), None
    return shortened(job.base, job.start_ns, rows, job.limits, job.surroundings, job.body)


def _proposal(job: Job, plan: Trajectory, **rest: object) -> Proposal:
    used = worst(plan, job.robot.limits())
    return Proposal(job, spliced(job.base, plan, job.now_ns), used=used, **rest)


def _rows_due(job: Job, chunk: Chunk, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return when the remaining rows are due and the planning step nearest to each."""
    due_ns = job.anchor_ns + np.round(
        np.arange(chunk.horizon) * chunk.step_dt_s * NS_PER_S
    ).astype(np.int64)
    due_ns = due_ns[due_ns > job.start_ns]
    nearest = np.round((due_ns - job.start_ns) / qp_planner.STEP_NS).astype(np.int64) - 1
    return due_ns, np.clip(nearest, 0, steps - 1)

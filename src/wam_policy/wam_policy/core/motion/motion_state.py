"""What motion is doing: its states, what it counts and what there is to tell of an instant."""

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from wam_policy.core.motion import chunk_validator
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.limits import Worst

if TYPE_CHECKING:
    from wam_policy.core.motion.motion_control import MotionControl


class State(enum.IntEnum):
    """Name what motion does; the values are those of MotionStatus."""

    UNCONFIGURED = 0
    DISABLED = 1
    HOLDING = 2
    FIRST_MOVE = 3
    TRACKING = 4
    STOPPING = 5
    ESTOPPED = 6
    PROTECTIVE_STOP = 7


LATCHED = (State.ESTOPPED, State.PROTECTIVE_STOP)
RUNNING = (State.FIRST_MOVE, State.TRACKING)
DRIVEN = (State.HOLDING, *RUNNING, State.STOPPING)
STILL = 1e-3  # rad: a plan may end long after what it does is too little to see


@dataclass(slots=True)
class Tally:
    """Count since activation."""

    accepted: int = 0
    rejected: int = 0
    late: int = 0  # chunks that came after their last usable row
    underruns: int = 0
    replanned: int = 0  # plans that were not ready at their switch
    max_step: float = 0.0  # rad
    velocity_ratio: float = 0.0  # of what was published, worst joint
    acceleration_ratio: float = 0.0
    jerk_ratio: float = 0.0
    contacts: int = 0  # chunks cut short or refused for contact ahead
    lost: int = 0  # commands that a controller does not follow

    def step(self, before: np.ndarray | None, now: np.ndarray) -> None:
        """Note the commands of two ticks, [joints]; None: there was none to compare with."""
        if before is not None:
            self.max_step = max(self.max_step, float(np.abs(now - before).max()))

    def use(self, worst: Worst) -> None:
        """Note what a published plan uses of the limits."""
        self.velocity_ratio = max(self.velocity_ratio, float(worst.velocity.max()))
        self.acceleration_ratio = max(self.acceleration_ratio, float(worst.acceleration.max()))
        self.jerk_ratio = max(self.jerk_ratio, float(worst.jerk.max()))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Hold what there is to tell at one instant."""

    state: State
    enabled: bool
    estop: bool
    first_move: bool
    dry_run: bool
    deadman_ok: bool
    clamp_counts: np.ndarray  # int64 [joints]
    clamp_rate_hz: float
    seam_offset: float
    chunk_age_s: float | None  # of the executed chunk's observation
    rows_left: float
    tally: Tally
    reason: str
    complaint: str  # about the controllers' reports, empty if none

    @classmethod
    def of(cls, motion: 'MotionControl', now_ns: int) -> Self:
        """Return what there is to tell of `motion` at `now_ns`."""
        active = motion.active
        job = None if active is None else active.job
        return cls(
            state=motion.state,
            enabled=motion.enabled,
            estop=motion.state is State.ESTOPPED,
            first_move=motion.enabled and motion.approach.going_on,
            dry_run=motion.dry_run,
            deadman_ok=motion.deadman_ok,
            clamp_counts=motion.clamps.counts.copy(),
            clamp_rate_hz=motion.clamps.rate_hz,
            seam_offset=active.offset if job else 0.0,
            chunk_age_s=(now_ns - job.chunk.stamp_ns) / NS_PER_S if job else None,
            rows_left=chunk_validator.rows_left(job.chunk, job.anchor_ns, now_ns) if job else 0.0,
            tally=replace(motion.tally),
            reason=motion.reason,
            complaint=motion.confirmed.complaint,
        )

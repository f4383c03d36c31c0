"""What motion is doing: its states, what it counts and what there is to tell of an instant."""

import enum
from dataclasses import dataclass

import numpy as np


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


@dataclass(slots=True)
class Tally:
    """Count since activation."""

    accepted: int = 0
    rejected: int = 0
    late: int = 0                           # chunks that came after their last usable row
    underruns: int = 0
    replanned: int = 0                      # plans that were not ready at their switch
    max_step: float = 0.0                   # rad
    velocity_ratio: float = 0.0             # of what was published, worst joint
    acceleration_ratio: float = 0.0
    jerk_ratio: float = 0.0
    contacts: int = 0                       # chunks cut short or refused for contact ahead


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Hold what there is to tell at one instant."""

    state: State
    enabled: bool
    estop: bool
    first_move: bool
    dry_run: bool
    deadman_ok: bool
    clamp_counts: np.ndarray                # int64 [joints]
    clamp_rate_hz: float
    seam_offset: float
    chunk_age_s: float | None               # of the executed chunk's observation
    rows_left: float
    tally: Tally
    reason: str

"""What the policy asks of the workers, and what they answer, one request at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam_policy.core.observation.frame_history import FrameBlock
from wam_policy.core.types import Observation


@dataclass(frozen=True, slots=True)
class Reset:
    """Ask for an empty cache and the embedding of an instruction."""

    session: str
    instruction: str


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """Ask to take a block of real frames into the cache."""

    session: str
    number: int  # counted from 0 in each session
    block: FrameBlock


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Ask for the next chunk."""

    session: str
    sequence: int
    observation: Observation
    arrived_ns: int  # when the frame that completed it was received
    sent_ns: int


Request = Reset | Commit | Query


@dataclass(frozen=True, slots=True, eq=False)
class QueryResult:
    """Hold the workers' result of a query, not yet checked."""

    step_dt_s: float
    targets: np.ndarray  # [horizon joints], absolute
    reference: np.ndarray  # [joints], joint positions the targets are relative to
    timings_ms: Mapping[str, float]  # stage -> ms


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Hold what the workers last said about their cache."""

    blocks: int = 0  # real ones, held now
    window_fill: float = 0.0  # 0..1
    rebuilds: int = 0  # windows restarted by the workers themselves

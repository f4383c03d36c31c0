"""Requests of the policy to the workers, and their results."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam_policy.core.observation.frame_history import FrameBlock
from wam_policy.core.types import Observation


@dataclass(frozen=True, slots=True)
class Reset:
    """Request to clear the cache and embed an instruction."""

    session: str
    instruction: str


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """Request to add a block of real frames to the cache."""

    session: str
    number: int  # counted from 0 in each session
    block: FrameBlock


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Request for the next chunk."""

    session: str
    sequence: int
    observation: Observation
    arrived_ns: int  # reception of the frame that completed the observation
    sent_ns: int


Request = Reset | Commit | Query


@dataclass(frozen=True, slots=True, eq=False)
class QueryResult:
    """Result of a query, not yet checked."""

    step_dt_s: float
    targets: np.ndarray  # [horizon joints], absolute
    reference: np.ndarray  # [joints], joint positions the targets are relative to
    timings_ms: Mapping[str, float]  # stage -> ms


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Last reported state of the workers' cache."""

    blocks: int = 0  # real blocks in the cache
    window_fill: float = 0.0  # 0..1
    rebuilds: int = 0  # windows restarted by the workers themselves
    imagination_error: float | None = None  # of the block committed last; None: not measured

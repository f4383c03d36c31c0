"""Requests of the policy to the workers, and their results."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.observation.frame_history import FrameBlock
from wam_policy.core.types import Observation

# when the sampler starts from other noise
NEW_NOISE = ('session', 'query', 'never')


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
    # [rows commanded]: rows of the motion so far, which come before those of the answer
    lead_rows: np.ndarray | None = None
    committed: np.ndarray | None = None  # [rows commanded]: first rows of the answer

    @property
    def lead_count(self) -> int:
        return 0 if self.lead_rows is None else len(self.lead_rows)

    def precede(self, targets: np.ndarray) -> np.ndarray:
        """Return the lead rows and then `targets`, [rows commanded]."""
        return targets if self.lead_rows is None else np.concatenate([self.lead_rows, targets])


Request = Reset | Commit | Query


@dataclass(frozen=True, slots=True, eq=False)
class QueryResult:
    """Result of a query, not yet checked."""

    step_dt_s: float
    targets: np.ndarray  # [horizon joints], absolute
    reference: np.ndarray  # [joints], joint positions the targets are relative to
    timings_ms: Mapping[str, float]  # stage -> ms

    def find_fault(self, joints: int) -> str:
        """Return why the values cannot be targets of so many joints, or an empty string."""
        if (
            self.targets.ndim != 2
            or self.targets.shape[1] != joints
            or not len(self.targets)
            or self.reference.shape != (joints,)
        ):
            return (
                f'targets {list(self.targets.shape)} and reference '
                f'{list(self.reference.shape)} do not match {joints} joints'
            )
        if not (np.isfinite(self.targets).all() and np.isfinite(self.reference).all()):
            return 'targets or reference contain NaN or infinity'
        return ''


class NoiseSeeds:
    """Choose the noise seed of each query, the same ones for the same `seed`.

    `new_noise` is one of NEW_NOISE: with the same noise in every query of a session the deviation
    of one draw becomes a constant offset of the arm; with new noise in every query it averages
    out, and successive chunks differ more.
    """

    def __init__(self, seed: int, new_noise: str = 'session') -> None:
        """Raise ValueError if `new_noise` is unknown."""
        if new_noise not in NEW_NOISE:
            raise ValueError(f'new noise {new_noise!r}: want one of {", ".join(NEW_NOISE)}')
        self._seed, self._new_noise = seed, new_noise
        self._sessions = self._queries = 0

    def on_reset(self) -> None:
        """Count a session."""
        self._sessions, self._queries = self._sessions + 1, 0

    def next_seed(self) -> int:
        """Return the seed of the next query, 0 to 2^31 - 1."""
        self._queries += 1
        if self._new_noise == 'never':
            return self._seed
        query = self._queries if self._new_noise == 'query' else 0
        return zlib.crc32(f'{self._seed} {self._sessions} {query}'.encode()) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Last reported state of the workers' cache."""

    blocks: int = 0  # real blocks in the cache
    window_fill: float = 0.0  # 0..1
    rebuilds: int = 0  # windows restarted by the workers themselves
    imagination_error: float | None = None  # of the block committed last; None: not measured


def describe_committed_rows(max_rows: int) -> dict[str, Any]:
    """Tell clients what becomes of `delay` and `committed` in a query, by our own conventions.

    `max_rows` is how many rows the model was trained to continue, 0: none.
    """
    held = {'committed': 'held', 'max_rows': max_rows} if max_rows else {'committed': 'ignored'}
    return {'delay': 'first_row', **held}


def read_max_committed_rows(described: object) -> int:
    """Return `max_rows` of what describe_committed_rows tells; 0 for anything else."""
    rows = described.get('max_rows') if isinstance(described, Mapping) else None
    return rows if type(rows) is int and rows > 0 else 0

"""Where the newest trajectories lead, sampled for viewers; nothing here moves a robot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wam_policy.core.motion.trajectory import Trajectory

SAMPLE_PERIOD_NS = 50_000_000  # 25 mm between two points of a tool's path at 0.5 m/s
MAX_SAMPLES = 60


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
    """Return the path of `names` that is being executed; None if all of it is over.

    `trajectories` are the newest of each controller; joints of none of them stay as measured.
    Raises KeyError for a joint that is neither planned nor measured.
    """
    present = [one for one in trajectories if one.end_ns >= now_ns]
    if not present:
        return None
    start_ns = min(one.start_ns for one in present)
    end_ns = max(one.end_ns for one in present)
    count = int(np.clip(2 + (end_ns - start_ns) // SAMPLE_PERIOD_NS, 2, MAX_SAMPLES))
    times_ns = np.linspace(start_ns, end_ns, count).astype(np.int64)
    columns = {}
    for one in present:
        columns |= dict(zip(one.names, one.at_times(times_ns).position.T, strict=True))
    positions = [
        columns[name] if name in columns else np.full(count, measured[name]) for name in names
    ]
    return PlannedPath(tuple(names), times_ns, np.column_stack(positions))

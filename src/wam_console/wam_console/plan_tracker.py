"""The trajectories that were sent to the controllers: where they lead, and where they are now."""

from collections.abc import Mapping

import numpy as np

from wam_policy.core.motion.trajectory import Trajectory

KEEP_NS = 2_000_000_000  # after its end a trajectory says nothing about where the robot goes
PATH_STEPS = 24  # points of a path from the start of the plan to its end


class PlanTracker:
    """Keep the newest trajectory of every group of joints; times are arguments."""

    def __init__(self) -> None:
        self._trajectories: dict[tuple[str, ...], Trajectory] = {}

    def add(self, trajectory: Trajectory) -> None:
        self._trajectories[trajectory.names] = trajectory

    def clear(self) -> None:
        self._trajectories.clear()

    def is_active(self, now_ns: int) -> bool:
        """Return whether any trajectory is executed or has just ended."""
        return any(now_ns < each.end_ns + KEEP_NS for each in self._trajectories.values())

    def goal(self, now_ns: int) -> Mapping[str, float]:
        """Return where the robot comes to rest, by joint."""
        return self._collect(now_ns, [2**62])[0]

    def target(self, now_ns: int) -> Mapping[str, float]:
        """Return what is commanded now, by joint."""
        return self._collect(now_ns, [now_ns])[0]

    def sample_path(self, now_ns: int) -> tuple[list[Mapping[str, float]], float]:
        """Return positions from the start of the plan to its end, and the share that is over."""
        active = self._list_active(now_ns)
        if not active:
            return [], 0.0
        start_ns = min(each.start_ns for each in active)
        end_ns = max(each.end_ns for each in active)
        stamps = np.linspace(start_ns, end_ns, PATH_STEPS).astype(np.int64).tolist()
        share = (now_ns - start_ns) / max(1, end_ns - start_ns)
        return self._collect(now_ns, stamps), float(np.clip(share, 0.0, 1.0))

    def _list_active(self, now_ns: int) -> list[Trajectory]:
        return [each for each in self._trajectories.values() if now_ns < each.end_ns + KEEP_NS]

    def _collect(self, now_ns: int, stamps_ns: list[int]) -> list[Mapping[str, float]]:
        rows: list[dict[str, float]] = [{} for _ in stamps_ns]
        for each in self._list_active(now_ns):
            at = np.array(stamps_ns, dtype=np.float64) - each.start_ns
            for column, name in enumerate(each.names):
                values = np.interp(at, each.time_ns, each.position[:, column])
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name] = value
        return list(rows)

"""Joint states that come in parts from several publishers, merged by name.

Arms, grippers and a waist often have publishers of their own. Each joint keeps its newest reading
and that reading's stamp; the merged state is as old as the oldest reading in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wam_policy.core.types import JointState

NS_PER_S = 1_000_000_000
CLOCK_JUMP_NS = 500_000_000  # a stamp this far back is a clock that was set back
MAX_NAMES_LISTED = 6


@dataclass(frozen=True, slots=True)
class _Reading:
    stamp_ns: int
    position: float
    velocity: float  # NaN: not measured
    effort: float  # NaN: not measured


class JointStateMerger:
    """Merge parts of a robot's joint state; one thread uses it."""

    def __init__(
        self, names: Sequence[str], optional_names: Sequence[str] = (), *, max_age_s: float
    ) -> None:
        """Want `names` in every state; `optional_names` belong to it if all of them are there.

        A joint whose reading is `max_age_s` older than the newest one counts as missing.
        """
        self._names, self._optional_names = tuple(names), tuple(optional_names)
        self._max_age_ns = round(max_age_s * NS_PER_S)
        self._readings: dict[str, _Reading] = {}
        self._newest_ns: int | None = None  # of all parts
        self._merged_ns: int | None = None  # of the state that was returned last

    def add(self, part: JointState) -> JointState | None:
        """Take a part; return the state if it is complete and newer than the one before.

        Names that are not wanted are ignored. None: this part renews another one's state, or
        repeats its own. ValueError names the joints that are missing or too old, with their age.
        """
        if self._newest_ns is not None and part.stamp_ns < self._newest_ns - CLOCK_JUMP_NS:
            self._readings, self._merged_ns, self._newest_ns = {}, None, None
        wanted = {*self._names, *self._optional_names}
        known = [name for name in part.names if name in wanted]
        if known:
            self._newest_ns = max(part.stamp_ns, self._newest_ns or part.stamp_ns)
        for row, name in enumerate(part.names):
            if name in wanted and (
                name not in self._readings or part.stamp_ns > self._readings[name].stamp_ns
            ):
                self._readings[name] = _Reading(
                    part.stamp_ns,
                    float(part.position[row]),
                    np.nan if part.velocity is None else float(part.velocity[row]),
                    np.nan if part.effort is None else float(part.effort[row]),
                )
        self._require_all(part)
        stamp_ns = min(self._readings[name].stamp_ns for name in self._names)
        if self._merged_ns is not None and stamp_ns <= self._merged_ns:
            return None
        self._merged_ns = stamp_ns
        return self._merge(stamp_ns)

    def _require_all(self, part: JointState) -> None:
        """Raise ValueError if a joint is missing when `part` has come, whatever it contains."""
        missing = [name for name in self._names if name not in self._readings]
        if missing:
            raise ValueError(
                f'joint state: {_list_names(missing)} missing; got '
                f'{_list_names(list(self._readings) or list(part.names)) or "no names"}'
            )
        newest_ns = max(part.stamp_ns, self._newest_ns or part.stamp_ns)
        ages_ns = {name: newest_ns - self._readings[name].stamp_ns for name in self._names}
        old = {name: age_ns for name, age_ns in ages_ns.items() if age_ns > self._max_age_ns}
        if old:
            raise ValueError(
                f'joint state: {_list_names(list(old))} missing: last reported '
                f'{max(old.values()) / NS_PER_S:.2f} s before {_list_names(part.names)}'
            )

    def _merge(self, stamp_ns: int) -> JointState:
        optional = all(
            name in self._readings and stamp_ns - self._readings[name].stamp_ns <= self._max_age_ns
            for name in self._optional_names
        )
        names = self._names + (self._optional_names if optional else ())
        readings = [self._readings[name] for name in names]
        velocity = np.array([reading.velocity for reading in readings])
        effort = np.array([reading.effort for reading in readings])
        return JointState(
            stamp_ns,
            names,
            np.array([reading.position for reading in readings]),
            velocity if np.isfinite(velocity).all() else None,
            effort if np.isfinite(effort).any() else None,
        )


def _list_names(names: Sequence[str]) -> str:
    listed = ', '.join(names[:MAX_NAMES_LISTED])
    return (
        f'{listed} and {len(names) - MAX_NAMES_LISTED} more'
        if names[MAX_NAMES_LISTED:]
        else listed
    )

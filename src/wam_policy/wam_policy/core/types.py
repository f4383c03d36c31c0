"""Data types exchanged between layers, threads and processes: frozen, with read-only arrays.

Stamps are integer nanoseconds of the caller's clock. Positions are rad for
revolute joints, m for prismatic ones and 0 (closed) .. 1 (open) for grippers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image; the pixels are not copied, so the creator must not change them."""

    camera: str
    stamp_ns: int
    rgb: np.ndarray  # uint8 [height width 3]

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ValueError(
                f'frame of {self.camera}: want uint8 [height width 3], '
                f'got {self.rgb.dtype} {list(self.rgb.shape)}'
            )
        pixels = self.rgb.view()
        pixels.setflags(write=False)
        object.__setattr__(self, 'rgb', pixels)


@dataclass(frozen=True, slots=True, eq=False)
class JointState:
    """Measured joint state; positions and velocities are finite, an effort may be NaN."""

    stamp_ns: int
    names: tuple[str, ...]
    position: np.ndarray  # float64 [joints]
    velocity: np.ndarray | None = None  # float64 [joints]; None: not measured
    # float64 [joints], Nm or N; NaN: not measured for that joint; None: for none
    effort: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'names', tuple(self.names))
        object.__setattr__(self, 'position', self._checked_vector('position', self.position))
        if self.velocity is not None:
            object.__setattr__(self, 'velocity', self._checked_vector('velocity', self.velocity))
        if self.effort is not None:
            effort = self._shaped_vector('effort', self.effort)
            object.__setattr__(self, 'effort', _readonly_copy(_infinite_as_nan(effort)))

    def _shaped_vector(self, what: str, values: np.ndarray) -> np.ndarray:
        vector = _readonly_copy(values)
        if vector.shape != (len(self.names),):
            raise ValueError(
                f'joint state: {what} has shape {list(vector.shape)}, '
                f'want one value for each of {len(self.names)} joints'
            )
        return vector

    def _checked_vector(self, what: str, values: np.ndarray) -> np.ndarray:
        vector = self._shaped_vector(what, values)
        broken = [n for n, good in zip(self.names, np.isfinite(vector), strict=True) if not good]
        if broken:
            raise ValueError(f'joint state: {what} of {", ".join(broken)} is not finite')
        return vector

    def positions(self, names: Sequence[str]) -> np.ndarray:
        """Return the positions of `names`, [names]; raises KeyError with the missing names."""
        return self.position[self._find_rows(names)]

    def velocities(self, names: Sequence[str]) -> np.ndarray | None:
        """Return the velocities of `names`, [names], or None if they were not measured."""
        return None if self.velocity is None else self.velocity[self._find_rows(names)]

    def efforts(self, names: Sequence[str]) -> np.ndarray | None:
        """Return the efforts of `names`, [names], NaN if not measured; None if none were."""
        return None if self.effort is None else self.effort[self._find_rows(names)]

    def _find_rows(self, names: Sequence[str]) -> list[int]:
        row = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in row]
        if missing:
            raise KeyError(f'joint state has no {", ".join(missing)}')
        return [row[name] for name in names]


@dataclass(frozen=True, slots=True, eq=False)
class Setpoint:
    """Setpoint that a controller reports for one instant; all values are finite."""

    controller: str
    stamp_ns: int
    position: np.ndarray  # float64 [joints], in the controller's order
    velocity: np.ndarray  # float64 [joints]
    acceleration: np.ndarray  # float64 [joints]

    def __post_init__(self) -> None:
        for field in ('position', 'velocity', 'acceleration'):
            values = _readonly_copy(getattr(self, field))
            object.__setattr__(self, field, values)
            if values.shape != self.position.shape or not np.isfinite(values).all():
                raise ValueError(
                    f'{self.controller}: {field} of the setpoint is not '
                    f'{len(self.position)} finite values'
                )


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Observation of one instant: one frame per camera and the joint state."""

    stamp_ns: int  # reference time; joints are not newer, frames are those nearest to it
    frames: tuple[Frame, ...]  # in the order of the embodiment's cameras
    joints: JointState

    def __post_init__(self) -> None:
        object.__setattr__(self, 'frames', tuple(self.frames))

    def frame(self, camera: str) -> Frame:
        """Return the frame of `camera`; raises KeyError with the known cameras."""
        for frame in self.frames:
            if frame.camera == camera:
                return frame
        raise KeyError(f'no camera {camera}; observed: {", ".join(f.camera for f in self.frames)}')


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Predicted absolute targets on a fixed time grid.

    Row i is due at stamp_ns + i * step_dt_s. Values are the model's output before any limit, so
    they must be checked before they are executed.
    """

    stamp_ns: int  # reference time of its observation
    session: str
    sequence: int
    step_dt_s: float
    names: tuple[str, ...]
    targets: np.ndarray  # float64 [horizon joints]
    reference: np.ndarray  # float64 [joints], positions to which relative actions were added
    embodiment_hash: str  # must equal that of the receiver
    timings_ms: Mapping[str, float]  # stage -> ms

    def __post_init__(self) -> None:
        object.__setattr__(self, 'names', tuple(self.names))
        object.__setattr__(self, 'targets', _readonly_copy(self.targets))
        object.__setattr__(self, 'reference', _readonly_copy(self.reference))
        object.__setattr__(self, 'timings_ms', MappingProxyType(dict(self.timings_ms)))
        joints = len(self.names)
        if self.targets.ndim != 2 or self.targets.shape[1] != joints or not len(self.targets):
            raise ValueError(
                f'chunk: targets have shape {list(self.targets.shape)}, '
                f'want [horizon {joints}] with at least one row'
            )
        if self.reference.shape != (joints,):
            raise ValueError(
                f'chunk: reference has shape {list(self.reference.shape)}, want [{joints}]'
            )

    @property
    def horizon(self) -> int:
        return len(self.targets)


def _readonly_copy(values: np.ndarray) -> np.ndarray:
    """Return a read-only float64 copy of `values`."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _infinite_as_nan(values: np.ndarray) -> np.ndarray:
    """Return `values` with NaN for every infinity, because an overflow is no measurement."""
    return np.where(np.isfinite(values), values, np.nan)

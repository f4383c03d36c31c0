"""Robot values in the model's keys and units to normalised vectors, and back.

Gripper polarity and joint order are the embodiment's business (core.transforms); here a value
only changes its scale, and a relative action becomes absolute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment, Slice
from wam_policy.model.checkpoint.normalization_stats import Statistics, Tag

MODES = ('q99', 'min_max', 'mean_std')


def _span(statistics: Statistics, mode: str) -> tuple[np.ndarray, np.ndarray]:
    if mode not in MODES:
        raise ValueError(f'normalisation {mode!r} is unknown; known: {", ".join(MODES)}')
    if mode == 'q99':
        return statistics.q01, statistics.q99
    return statistics.min, statistics.max


def normalised(values: np.ndarray, statistics: Statistics, mode: str) -> np.ndarray:
    """Scale [... n] to model units; q99 and min_max are clamped to [-1, 1].

    A dimension that never moved in the data has no scale: q99 clamps the raw value, min_max
    gives 0, mean_std passes the value through. The released models were trained that way.
    """
    if mode == 'mean_std':
        moved = statistics.std != 0
        scale = np.where(moved, statistics.std, 1.0)
        return np.where(moved, (values - statistics.mean) / scale, values)
    low, high = _span(statistics, mode)
    moved = high != low
    scaled = 2 * (values - low) / np.where(moved, high - low, 1.0) - 1
    constant = values if mode == 'q99' else np.zeros_like(values)
    return np.clip(np.where(moved, scaled, constant), -1.0, 1.0)


def restored(values: np.ndarray, statistics: Statistics, mode: str) -> np.ndarray:
    """Undo `normalised` in fp32 without clamping; constant dimensions give their constant."""
    values = np.asarray(values, dtype=np.float32)
    if mode == 'mean_std':
        return values * statistics.std.astype(np.float32) + statistics.mean.astype(np.float32)
    low, high = (bound.astype(np.float32) for bound in _span(statistics, mode))
    return (values + np.float32(1)) / np.float32(2) * (high - low) + low


@dataclass(frozen=True, slots=True)
class Field:
    """Describe one key of the state or action vector.

    A masked key keeps its place in the vector (as zeros) and needs no statistics.
    """

    key: str
    width: int
    relative: bool = False
    masked: bool = False
    mode: str = 'q99'


def fields(slices: Sequence[Slice], mode: str) -> tuple[Field, ...]:
    """Give the fields for the state or action keys of a robot."""
    return tuple(Field(part.key, part.size, part.relative, part.masked, mode) for part in slices)


def _taken(values: Mapping[str, np.ndarray], field: Field) -> np.ndarray:
    if field.key not in values:
        raise ValueError(f'no value for {field.key!r}; got {", ".join(values)}')
    value = np.asarray(values[field.key], dtype=np.float64)
    if value.shape[-1:] != (field.width,) or not np.isfinite(value).all():
        raise ValueError(f'{field.key}: want {field.width} finite numbers, got {value}')
    return value


def _check(
    kind: str, fields: Sequence[Field], known: Mapping[str, Statistics], tag: str, vector: int
) -> None:
    needed = [field for field in fields if not field.masked]
    absent = [field.key for field in needed if field.key not in known]
    if absent:
        raise ValueError(
            f'checkpoint has no {kind} statistics of {", ".join(absent)} for tag '
            f'{tag!r}; it has {", ".join(known) or "none"}'
        )
    for field in needed:
        if known[field.key].width != field.width:
            raise ValueError(
                f'{kind} {field.key}: the checkpoint has {known[field.key].width} '
                f'values, the robot {field.width}'
            )
    total = sum(field.width for field in fields)
    if total > vector:
        raise ValueError(f'{kind} keys need {total} values, the model takes {vector}')


class Normaliser:
    """Convert between named robot values and the padded vectors of the model.

    `state` and `action` give the keys in vector order; raises ValueError naming every key the
    checkpoint has no statistics for, or whose width differs. `row_spread` [horizon] divides the
    rows of a chunk: offsets from the posture grow with time, and with one scale for all rows the
    late ones rule the loss while a robot that asks seven times a second executes the early ones.
    """

    def __init__(
        self,
        tag: Tag,
        state: Sequence[Field],
        action: Sequence[Field],
        state_width: int,
        action_width: int,
        row_spread: Sequence[float] = (),
    ) -> None:
        _check('state', state, tag.state, tag.name, state_width)
        _check('action', action, tag.action, tag.name, action_width)
        widths = {field.key: field.width for field in state}
        lost = [
            f.key for f in action if f.relative and not f.masked and widths.get(f.key) != f.width
        ]
        if lost:
            raise ValueError(
                f'relative action keys without a state of the same width: {", ".join(lost)}'
            )
        self.tag = tag
        self.state_fields = tuple(state)
        self.action_fields = tuple(action)
        self.state_width = state_width
        self.action_width = action_width
        self.row_spread = np.array(row_spread, np.float32)[:, None] if row_spread else None

    @classmethod
    def of(
        cls,
        tag: Tag,
        robot: Embodiment,
        mode: str,
        state_width: int,
        action_width: int,
        row_spread: Sequence[float] = (),
    ) -> 'Normaliser':
        """Build the normaliser of a robot from a checkpoint's statistics."""
        return cls(
            tag,
            fields(robot.state_keys, mode),
            fields(robot.action_keys, mode),
            state_width,
            action_width,
            row_spread,
        )

    def state(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Normalise and concatenate the state keys: float64 [state_width], zero-padded."""
        vector = np.zeros(self.state_width)
        start = 0
        for field in self.state_fields:
            if not field.masked:
                vector[start : start + field.width] = normalised(
                    _taken(values, field), self.tag.state[field.key], field.mode
                )
            start += field.width
        return vector

    def targets(
        self, actions: np.ndarray, reference: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Give absolute targets, float32 [horizon n] per key, from actions [horizon action_width].

        `reference` is the raw state of the very query that produced `actions`, by key: relative
        keys are offsets from it, the same for every row.
        """
        found = {}
        start = 0
        if self.row_spread is not None:
            actions = actions * self.row_spread
        for field in self.action_fields:
            stop = start + field.width
            if not field.masked:
                target = restored(actions[:, start:stop], self.tag.action[field.key], field.mode)
                if field.relative:
                    target = target + _taken(reference, field).astype(np.float32)
                found[field.key] = target
            start = stop
        return found

    def actions(
        self, targets: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Invert `targets`: absolute [horizon n] per key to actions float64 [horizon width].

        Masked keys and padding are 0; q99 and min_max clamp, so a target outside the statistics
        comes back at their border.
        """
        horizon = len(next(iter(targets.values())))
        vector = np.zeros((horizon, self.action_width))
        start = 0
        for field in self.action_fields:
            stop = start + field.width
            if not field.masked:
                value = _taken(targets, field)
                if field.relative:
                    value = value - _taken(reference, field)
                vector[:, start:stop] = normalised(value, self.tag.action[field.key], field.mode)
            start = stop
        return vector if self.row_spread is None else vector / self.row_spread

    def action_mask(self) -> np.ndarray:
        """Mark the action columns that carry data: bool [action_width]."""
        mask = np.zeros(self.action_width, dtype=bool)
        start = 0
        for field in self.action_fields:
            mask[start : start + field.width] = not field.masked
            start += field.width
        return mask

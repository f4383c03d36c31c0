"""Convert robot values in the model's keys and units to normalized vectors, and back.

Scales values and makes relative actions absolute; `core.robot.transforms` handles gripper polarity
and joint order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment, ModelKey
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata, Statistics

NORMALIZATION_MODES = ('q99', 'min_max', 'mean_std')


def _get_bounds(statistics: Statistics, mode: str) -> tuple[np.ndarray, np.ndarray]:
    if mode not in NORMALIZATION_MODES:
        raise ValueError(
            f'normalization {mode!r} is unknown; known: {", ".join(NORMALIZATION_MODES)}'
        )
    if mode == 'q99':
        return statistics.q01, statistics.q99
    return statistics.min, statistics.max


def normalize(values: np.ndarray, statistics: Statistics, mode: str) -> np.ndarray:
    """Scale [... n] to model units; q99 and min_max are clamped to [-1, 1].

    A dimension that is constant in the data has no scale: q99 clamps the raw value, min_max
    returns 0, mean_std returns the value, as in the training of the released models.
    """
    if mode == 'mean_std':
        moved = statistics.std != 0
        scale = np.where(moved, statistics.std, 1.0)
        return np.where(moved, (values - statistics.mean) / scale, values)
    low, high = _get_bounds(statistics, mode)
    moved = high != low
    scaled = 2 * (values - low) / np.where(moved, high - low, 1.0) - 1
    constant = values if mode == 'q99' else np.zeros_like(values)
    return np.clip(np.where(moved, scaled, constant), -1.0, 1.0)


def denormalize(values: np.ndarray, statistics: Statistics, mode: str) -> np.ndarray:
    """Invert `normalize` in fp32 without clamping; constant dimensions return their constant."""
    values = np.asarray(values, dtype=np.float32)
    if mode == 'mean_std':
        return values * statistics.std.astype(np.float32) + statistics.mean.astype(np.float32)
    low, high = (bound.astype(np.float32) for bound in _get_bounds(statistics, mode))
    return (values + np.float32(1)) / np.float32(2) * (high - low) + low


@dataclass(frozen=True, slots=True)
class VectorKey:
    """Describe one key of the state or action vector.

    A masked key keeps its place in the vector (as zeros) and needs no statistics.
    """

    key: str
    width: int
    relative: bool = False
    masked: bool = False
    mode: str = 'q99'


def make_vector_keys(slices: Sequence[ModelKey], mode: str) -> tuple[VectorKey, ...]:
    """Return the vector keys for the state or action keys of a robot."""
    return tuple(
        VectorKey(part.key, part.size, part.relative, part.masked, mode) for part in slices
    )


def _get_values(values: Mapping[str, np.ndarray], key: VectorKey) -> np.ndarray:
    if key.key not in values:
        raise ValueError(f'no value for {key.key!r}; got {", ".join(values)}')
    value = np.asarray(values[key.key], dtype=np.float64)
    if value.shape[-1:] != (key.width,) or not np.isfinite(value).all():
        raise ValueError(f'{key.key}: want {key.width} finite numbers, got {value}')
    return value


def _concatenate(
    keys: Sequence[VectorKey],
    values: Mapping[str, np.ndarray],
    statistics: Mapping[str, Statistics],
    width: int,
) -> np.ndarray:
    """Return normalized values in vector order, float64 [... width]; masked keys are 0."""
    vector, start = np.zeros((*np.shape(next(iter(values.values()), ()))[:-1], width)), 0
    for field in keys:
        stop = start + field.width
        if not field.masked:
            vector[..., start:stop] = normalize(
                _get_values(values, field), statistics[field.key], field.mode
            )
        start = stop
    return vector


def _check_statistics(
    kind: str, keys: Sequence[VectorKey], known: Mapping[str, Statistics], tag: str, vector: int
) -> None:
    needed = [field for field in keys if not field.masked]
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
    total = sum(field.width for field in keys)
    if total > vector:
        raise ValueError(f'{kind} keys need {total} values, the model takes {vector}')


class Normalizer:
    """Convert between named robot values and the padded vectors of the model.

    `state` and `action` give the keys in vector order; raises ValueError naming every key the
    checkpoint has no statistics for, or whose width differs. `row_std` [horizon] divides the
    rows of a chunk: offsets from the current position grow with time, so that with one scale the
    late rows dominate the loss, while a robot with seven queries a second executes the early ones.
    """

    def __init__(
        self,
        metadata: EmbodimentMetadata,
        state: Sequence[VectorKey],
        action: Sequence[VectorKey],
        state_width: int,
        action_width: int,
        row_std: Sequence[float] = (),
    ) -> None:
        _check_statistics('state', state, metadata.state, metadata.name, state_width)
        _check_statistics('action', action, metadata.action, metadata.name, action_width)
        widths = {field.key: field.width for field in state}
        lost = [
            f.key for f in action if f.relative and not f.masked and widths.get(f.key) != f.width
        ]
        if lost:
            raise ValueError(
                f'relative action keys without a state of the same width: {", ".join(lost)}'
            )
        self.metadata = metadata
        self.state_keys = tuple(state)
        self.action_keys = tuple(action)
        self.state_width = state_width
        self.action_width = action_width
        self.row_std = np.array(row_std, np.float32)[:, None] if row_std else None

    @classmethod
    def from_metadata(
        cls,
        metadata: EmbodimentMetadata,
        robot: Embodiment,
        mode: str,
        state_width: int,
        action_width: int,
        row_std: Sequence[float] = (),
    ) -> 'Normalizer':
        """Build the normalizer of a robot from a checkpoint's statistics."""
        return cls(
            metadata,
            make_vector_keys(robot.state_keys, mode),
            make_vector_keys(robot.action_keys, mode),
            state_width,
            action_width,
            row_std,
        )

    def normalize_state(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Normalize and concatenate the state keys, [... n] each: float64 [... state_width].

        Masked keys and padding are 0.
        """
        return _concatenate(self.state_keys, values, self.metadata.state, self.state_width)

    def denormalize_actions(
        self, actions: np.ndarray, reference: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return absolute targets, float32 [horizon n] per key, of actions [horizon action_width].

        `reference` is the raw state of the query that produced `actions`, by key: relative keys
        are offsets from it, for every row.
        """
        found = {}
        start = 0
        if self.row_std is not None:
            actions = actions * self.row_std
        for field in self.action_keys:
            stop = start + field.width
            if not field.masked:
                target = denormalize(
                    actions[:, start:stop], self.metadata.action[field.key], field.mode
                )
                if field.relative:
                    target = target + _get_values(reference, field).astype(np.float32)
                found[field.key] = target
            start = stop
        return found

    def normalize_targets(
        self, targets: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return actions, float64 [... horizon action_width], of targets [... horizon n] per key.

        Targets are absolute; relative keys become offsets from `reference`, [n] or [... 1 n] per
        key; `horizon` may be that of the first rows of a chunk. Masked keys and padding are 0;
        q99 and min_max clamp, so a target outside the statistics is returned at their limit.
        """
        values = {
            field.key: _get_values(targets, field)
            - (_get_values(reference, field) if field.relative else 0.0)
            for field in self.action_keys
            if not field.masked
        }
        vector = _concatenate(self.action_keys, values, self.metadata.action, self.action_width)
        return vector if self.row_std is None else vector / self.row_std[: vector.shape[-2]]

    def action_mask(self) -> np.ndarray:
        """Mark the action columns that carry data: bool [action_width]."""
        mask = np.zeros(self.action_width, dtype=bool)
        start = 0
        for field in self.action_keys:
            mask[start : start + field.width] = not field.masked
            start += field.width
        return mask

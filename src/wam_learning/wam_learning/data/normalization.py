"""Rows of a data set in the model's units, many at a time, and the statistics they imply.

The arithmetic is the normaliser's, so that a policy sees live what it saw in training.
"""

from types import MappingProxyType

import numpy as np

from wam_learning.data import column_stats, gear_metadata
from wam_learning.data.episode_arrays import Clips
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint.normalization_stats import Statistics, Tag
from wam_policy.model.normalizer import Normaliser, normalised

IDLE = 1e-3  # rad, m or gripper stroke: what deviates less does not move
SAMPLED_ROWS = 20_000  # chunks that the statistics of relative actions are taken from


def statistics(clips: Clips, horizon: int, rng: np.random.Generator) -> Tag:
    """Measure the statistics of a data set; those of relative keys are of target - state.

    A dimension that did not move gets deviation 0: its constant is then reproduced exactly,
    where a small deviation would blow up noise.
    """
    robot = clips.robot
    rows = np.concatenate([np.arange(span.row, span.row + span.rows) for span in clips.spans])
    state = {
        key: _settled(column_stats.six(clips.state[rows][:, part]))
        for key, part in gear_metadata.slices(robot.state_keys).items()
    }
    starts, last = _chunk_starts(clips, rng)
    chunk = np.minimum(starts[:, None] + np.arange(horizon), last[:, None])
    at_state, action = gear_metadata.slices(robot.state_keys), {}
    for key in robot.action_keys:
        part = gear_metadata.slices(robot.action_keys)[key.key]
        values = clips.action[chunk][..., part]
        if key.relative:
            values = values - clips.state[starts][:, None, at_state[key.key]]
        action[key.key] = _settled(column_stats.six(values.reshape(-1, key.size)))
    cameras = {camera.key: camera.size for camera in robot.cameras}
    return Tag(
        robot.model_tag,
        MappingProxyType(state),
        MappingProxyType(action),
        MappingProxyType(cameras),
    )


def row_spread(
    clips: Clips, normaliser: Normaliser, horizon: int, rng: np.random.Generator
) -> tuple[float, ...]:
    """Measure the deviation of each row of a chunk, in units of the shared statistics.

    `normaliser` must not have a spread of its own.
    """
    starts, last = _chunk_starts(clips, rng)
    chunk = np.minimum(starts[:, None] + np.arange(horizon), last[:, None])
    values = actions(normaliser, clips.robot, clips.action[chunk], clips.state[starts][:, None])
    moved = values[..., normaliser.action_mask() & (values.std((0, 1)) > 0)]
    return tuple(np.sqrt(np.square(moved).mean((0, 2))).round(4).tolist())


def _chunk_starts(clips: Clips, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pick supervised rows, and the last row of each one's episode."""
    rows = np.concatenate([np.arange(span.row, span.row + span.rows) for span in clips.spans])
    last = np.concatenate([np.full(span.rows, span.row + span.rows - 1) for span in clips.spans])
    good = np.flatnonzero(clips.supervised[rows])
    if not len(good):
        raise ValueError('no row of the data set is supervised')
    chosen = rng.permutation(good)[:SAMPLED_ROWS]
    return rows[chosen], last[chosen]


def _settled(six: dict[str, list[float]]) -> Statistics:
    found = {name: np.array(values) for name, values in six.items()}
    found['std'] = np.where(found['std'] < IDLE, 0.0, found['std'])
    return Statistics(**found)


def states(normaliser: Normaliser, rows: np.ndarray) -> np.ndarray:
    """Normalise packed states [... state]: float32 [... state_width]."""
    vector = np.zeros((*rows.shape[:-1], normaliser.state_width), np.float32)
    start = 0
    for field in normaliser.state_fields:
        stop = start + field.width
        if not field.masked:
            vector[..., start:stop] = normalised(
                rows[..., start:stop], normaliser.tag.state[field.key], field.mode
            )
        start = stop
    return vector


def actions(
    normaliser: Normaliser, robot: Embodiment, rows: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Normalise packed targets [... action] of queries from `reference` [... state].

    float32 [... action_width]; masked keys and padding are 0.
    """
    vector = np.zeros((*rows.shape[:-1], normaliser.action_width), np.float32)
    at_state, start = gear_metadata.slices(robot.state_keys), 0
    for field in normaliser.action_fields:
        stop = start + field.width
        if not field.masked:
            value = rows[..., start:stop]
            if field.relative:
                value = value - reference[..., at_state[field.key]]
            vector[..., start:stop] = normalised(
                value, normaliser.tag.action[field.key], field.mode
            )
        start = stop
    return vector if normaliser.row_spread is None else vector / normaliser.row_spread

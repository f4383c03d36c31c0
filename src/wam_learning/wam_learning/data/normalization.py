"""Compute the statistics of a data set; normalize its packed rows with a policy's normalizer."""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from wam_learning.data import column_stats, gear_metadata
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_policy.core.robot.embodiment import Embodiment, ModelKey
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata, Statistics
from wam_policy.model.normalizer import Normalizer

MIN_STD = 1e-3  # rad, m or gripper stroke: a smaller deviation means no motion
MAX_SAMPLED_CHUNKS = 20_000  # for the statistics of actions


def compute_statistics(
    data: EpisodeArrays, horizon: int, rng: np.random.Generator
) -> EmbodimentMetadata:
    """Return the statistics of a data set; relative keys use target - state.

    A dimension that did not move gets deviation 0: its constant is then reproduced exactly,
    while a small deviation would amplify noise.
    """
    robot = data.robot
    rows = np.concatenate(
        [np.arange(span.first_row, span.first_row + span.row_count) for span in data.episodes]
    )
    state = {
        key: _make_statistics(column_stats.compute_stats(data.state[rows][:, part]))
        for key, part in gear_metadata.key_slices(robot.state_keys).items()
    }
    starts, last = _sample_chunk_starts(data, rng)
    chunk = np.minimum(starts[:, None] + np.arange(horizon), last[:, None])
    at_state, action = gear_metadata.key_slices(robot.state_keys), {}
    for key in robot.action_keys:
        part = gear_metadata.key_slices(robot.action_keys)[key.key]
        values = data.action[chunk][..., part]
        if key.relative:
            values = values - data.state[starts][:, None, at_state[key.key]]
        action[key.key] = _make_statistics(
            column_stats.compute_stats(values.reshape(-1, key.size))
        )
    cameras = {camera.key: camera.size for camera in robot.cameras}
    return EmbodimentMetadata(
        robot.model_tag,
        MappingProxyType(state),
        MappingProxyType(action),
        MappingProxyType(cameras),
    )


def compute_row_spread(
    data: EpisodeArrays, normalizer: Normalizer, horizon: int, rng: np.random.Generator
) -> tuple[float, ...]:
    """Return the deviation of each row of a chunk, [horizon], in units of the shared statistics.

    `normalizer` must not have a row_std already.
    """
    starts, last = _sample_chunk_starts(data, rng)
    chunk = np.minimum(starts[:, None] + np.arange(horizon), last[:, None])
    values = normalize_actions(
        normalizer, data.robot, data.action[chunk], data.state[starts][:, None]
    )
    moved = values[..., normalizer.action_mask() & (values.std((0, 1)) > 0)]
    return tuple(np.sqrt(np.square(moved).mean((0, 2))).round(4).tolist())


def _sample_chunk_starts(
    data: EpisodeArrays, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return random supervised rows, and the last row of the episode of each."""
    rows = np.concatenate(
        [np.arange(span.first_row, span.first_row + span.row_count) for span in data.episodes]
    )
    last = np.concatenate(
        [np.full(span.row_count, span.first_row + span.row_count - 1) for span in data.episodes]
    )
    good = np.flatnonzero(data.supervised[rows])
    if not len(good):
        raise ValueError('no row of the data set is supervised')
    chosen = rng.permutation(good)[:MAX_SAMPLED_CHUNKS]
    return rows[chosen], last[chosen]


def _make_statistics(stats: dict[str, list[float]]) -> Statistics:
    found = {name: np.array(values) for name, values in stats.items()}
    found['std'] = np.where(found['std'] < MIN_STD, 0.0, found['std'])
    return Statistics(**found)


def normalize_states(normalizer: Normalizer, robot: Embodiment, rows: np.ndarray) -> np.ndarray:
    """Normalize packed states [... state]: float32 [... state_width]."""
    return normalizer.normalize_state(_split(robot.state_keys, rows)).astype(np.float32)


def normalize_actions(
    normalizer: Normalizer, robot: Embodiment, rows: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Normalize packed targets [... horizon action] of queries from `reference` [... 1 state].

    float32 [... horizon action_width]; masked keys and padding are 0.
    """
    return normalizer.normalize_targets(
        _split(robot.action_keys, rows), _split(robot.state_keys, reference)
    ).astype(np.float32)


def _split(keys: Sequence[ModelKey], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {key: rows[..., part] for key, part in gear_metadata.key_slices(keys).items()}

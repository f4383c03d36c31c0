"""Compute the column statistics that trainers expect: six lists per column, over all rows."""

from collections.abc import Sequence

import numpy as np

STAT_NAMES = ('mean', 'std', 'min', 'max', 'q01', 'q99')


def compute_stats(values: np.ndarray) -> dict[str, list[float]]:
    """Return mean, std, min, max, q01 and q99 of [rows n], each [n]."""
    values = np.asarray(values, dtype=np.float64)
    found = (
        values.mean(0),
        values.std(0),
        values.min(0),
        values.max(0),
        np.quantile(values, 0.01, axis=0),
        np.quantile(values, 0.99, axis=0),
    )
    return {name: value.tolist() for name, value in zip(STAT_NAMES, found, strict=True)}


def compute_relative_stats(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], horizon: int
) -> dict[str, list[float]] | None:
    """Return the statistics of action[i + j] - state[i], 0 <= j < horizon; lists of [rows n].

    Use only rows that are followed by a complete chunk; return None if no episode has one. Process
    one column at a time: all of them together need `horizon` times the size of the data set.
    """
    long = [
        (state, action)
        for state, action in zip(states, actions, strict=True)
        if len(state) >= horizon
    ]
    if not long:
        return None
    columns = []
    for column in range(long[0][0].shape[1]):
        columns.append(
            compute_stats(
                np.concatenate(
                    [
                        (
                            np.lib.stride_tricks.sliding_window_view(action[:, column], horizon)
                            - state[: len(state) - horizon + 1, column : column + 1]
                        ).ravel()
                        for state, action in long
                    ]
                )[:, None]
            )
        )
    return {name: [column[name][0] for column in columns] for name in STAT_NAMES}


def compute_image_stats(frames: Sequence[np.ndarray]) -> dict[str, list]:
    """Return LeRobot's statistics of some frames: per channel, shape [3 1 1], values 0..1."""
    pixels = np.concatenate([frame[::8, ::8].reshape(-1, 3) for frame in frames]) / 255.0
    per_channel = {
        'min': pixels.min(0),
        'max': pixels.max(0),
        'mean': pixels.mean(0),
        'std': pixels.std(0),
    }
    return {name: value.reshape(3, 1, 1).tolist() for name, value in per_channel.items()} | {
        'count': [len(frames)]
    }

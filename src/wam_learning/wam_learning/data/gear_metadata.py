"""What DreamZero's trainer reads beside a LeRobot data set: modality, embodiment, statistics.

State and action are packed in the model's keys, order and gripper sense (core.transforms), so
that a key is one slice of a column. Stored actions are absolute; relative keys become relative in
the trainer, with statistics of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wam_learning.data import column_stats
from wam_policy.core.robot import transforms
from wam_policy.core.robot.embodiment import Embodiment, Slice
from wam_policy.core.types import Observation

STATE, ACTION = 'observation.state', 'action'
VIDEO = 'observation.images.'
ANNOTATION = 'annotation.'


def state(robot: Embodiment, seen: Observation) -> np.ndarray:
    """Return the packed state, float32 [state]."""
    values = transforms.state_values(robot, seen.joints.positions(robot.observed))
    return _packed(robot.state_keys, values)


def action(robot: Embodiment, targets: np.ndarray, seen: Observation) -> np.ndarray:
    """Return the packed action, float32 [action], of the set-points [commanded].

    A masked key was not commanded: its joints hold where they are, and what has no joints of
    ours (the base) does not move.
    """
    held = {
        key.key: seen.joints.positions(key.joints) if key.joints else np.zeros(key.size)
        for key in robot.action_keys
        if key.masked
    }
    return _packed(robot.action_keys, {**held, **transforms.action_values(robot, targets)})


def names(keys: Sequence[Slice]) -> list[str]:
    """Name every number of a packed vector."""
    return [
        name
        for key in keys
        for name in (key.joints or [f'{key.key}_{i}' for i in range(key.size)])
    ]


def slices(keys: Sequence[Slice]) -> dict[str, slice]:
    """Return key -> its place in the packed vector."""
    found, start = {}, 0
    for key in keys:
        found[key.key] = slice(start, start + key.size)
        start += key.size
    return found


def modality(robot: Embodiment) -> dict[str, Any]:
    """Return modality.json."""

    def group(keys: Sequence[Slice], column: str) -> dict[str, Any]:
        return {
            key: {
                'original_key': column,
                'start': part.start,
                'end': part.stop,
                'rotation_type': None,
                'absolute': True,
                'dtype': 'float32',
                'range': None,
            }
            for key, part in slices(keys).items()
        }

    language = robot.language_key.removeprefix(ANNOTATION)
    return {
        'state': group(robot.state_keys, STATE),
        'action': group(robot.action_keys, ACTION),
        'video': {camera.key: {'original_key': VIDEO + camera.key} for camera in robot.cameras},
        'annotation': {language: {'original_key': robot.language_key}},
    }


def embodiment(robot: Embodiment) -> dict[str, str]:
    """Return embodiment.json."""
    return {'robot_type': robot.name, 'embodiment_tag': robot.model_tag}


def statistics(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], step_dt_s: float
) -> dict[str, Any]:
    """Return stats.json of all episodes, [rows n] each."""
    times_s = np.concatenate([np.arange(len(rows)) * step_dt_s for rows in states])[:, None]
    return {
        STATE: column_stats.six(np.concatenate(states)),
        ACTION: column_stats.six(np.concatenate(actions)),
        'timestamp': column_stats.six(times_s),
    }


def relative_statistics(
    robot: Embodiment, states: Sequence[np.ndarray], actions: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return relative_stats_dreamzero.json: every relative key that has a state."""
    at_state, at_action = slices(robot.state_keys), slices(robot.action_keys)
    found = {
        key.key: column_stats.relative(
            [rows[:, at_state[key.key]] for rows in states],
            [rows[:, at_action[key.key]] for rows in actions],
            robot.horizon,
        )
        for key in robot.action_keys
        if key.relative and key.key in at_state
    }
    return {key: values for key, values in found.items() if values is not None}


def _packed(keys: Sequence[Slice], values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(values[key.key]) for key in keys]).astype(np.float32)

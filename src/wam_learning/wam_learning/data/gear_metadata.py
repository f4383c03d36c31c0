"""Build what DreamZero's trainer reads in addition to LeRobot: modality, embodiment, statistics.

State and action are packed with the model's keys, order and gripper direction
(core.robot.transforms), so that a key is one slice of a column. Stored actions are absolute;
the trainer makes relative keys relative, with separate statistics.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wam_learning.data import column_stats
from wam_policy.core.robot import transforms
from wam_policy.core.robot.embodiment import Embodiment, ModelKey
from wam_policy.core.types import Observation

OBS_STATE, ACTION = 'observation.state', 'action'
OBS_IMAGES_PREFIX = 'observation.images.'
ANNOTATION_PREFIX = 'annotation.'


def pack_state(robot: Embodiment, observation: Observation) -> np.ndarray:
    """Return the packed state, float32 [state]."""
    values = transforms.to_model_state(robot, observation.joints.positions(robot.observed))
    return _pack(robot.state_keys, values)


def pack_action(robot: Embodiment, targets: np.ndarray, observation: Observation) -> np.ndarray:
    """Return the packed action, float32 [action], of the setpoints [commanded].

    A masked key was not commanded: its joints keep their measured positions, and a key without
    joints (the base) stays at zero.
    """
    held = {
        key.key: observation.joints.positions(key.joints) if key.joints else np.zeros(key.size)
        for key in robot.action_keys
        if key.masked
    }
    return _pack(robot.action_keys, {**held, **transforms.to_model_actions(robot, targets)})


def value_names(keys: Sequence[ModelKey]) -> list[str]:
    """Return the name of every value of a packed vector."""
    return [
        name
        for key in keys
        for name in (key.joints or [f'{key.key}_{i}' for i in range(key.size)])
    ]


def key_slices(keys: Sequence[ModelKey]) -> dict[str, slice]:
    """Return key -> its slice of the packed vector."""
    found, start = {}, 0
    for key in keys:
        found[key.key] = slice(start, start + key.size)
        start += key.size
    return found


def build_modality(robot: Embodiment) -> dict[str, Any]:
    """Return modality.json."""

    def group(keys: Sequence[ModelKey], column: str) -> dict[str, Any]:
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
            for key, part in key_slices(keys).items()
        }

    language = robot.language_key.removeprefix(ANNOTATION_PREFIX)
    return {
        'state': group(robot.state_keys, OBS_STATE),
        'action': group(robot.action_keys, ACTION),
        'video': {
            camera.key: {'original_key': OBS_IMAGES_PREFIX + camera.key}
            for camera in robot.cameras
        },
        'annotation': {language: {'original_key': robot.language_key}},
    }


def build_embodiment(robot: Embodiment) -> dict[str, str]:
    """Return embodiment.json."""
    return {'robot_type': robot.name, 'embodiment_tag': robot.model_tag}


def build_stats(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], step_dt_s: float
) -> dict[str, Any]:
    """Return stats.json of all episodes, [rows n] each."""
    times_s = np.concatenate([np.arange(len(rows)) * step_dt_s for rows in states])[:, None]
    return {
        OBS_STATE: column_stats.compute_stats(np.concatenate(states)),
        ACTION: column_stats.compute_stats(np.concatenate(actions)),
        'timestamp': column_stats.compute_stats(times_s),
    }


def build_relative_stats(
    robot: Embodiment, states: Sequence[np.ndarray], actions: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return relative_stats_dreamzero.json: every relative key that has a state."""
    at_state, at_action = key_slices(robot.state_keys), key_slices(robot.action_keys)
    found = {
        key.key: column_stats.compute_relative_stats(
            [rows[:, at_state[key.key]] for rows in states],
            [rows[:, at_action[key.key]] for rows in actions],
            robot.horizon,
        )
        for key in robot.action_keys
        if key.relative and key.key in at_state
    }
    return {key: values for key, values in found.items() if values is not None}


def _pack(keys: Sequence[ModelKey], values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(values[key.key]) for key in keys]).astype(np.float32)

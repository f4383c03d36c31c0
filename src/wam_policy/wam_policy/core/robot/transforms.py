"""Convert between robot and model values: names, order and gripper convention, with inverses.

Our side: canonical positions (rad, m, grippers 0 closed .. 1 open) in the embodiment's order.
The model's side: one array per key, joints in the key's order, grippers in the sense the data
had. Scale, padding and the one place where relative actions become absolute are the normalizer's,
because statistics belong to the weights.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment, ModelKey


def to_model_state(robot: Embodiment, position: np.ndarray) -> dict[str, np.ndarray]:
    """Return the model's state keys, [n] each, for joint positions [observed]."""
    return _to_model(robot, robot.state_keys, robot.observed, position)


def from_model_state(robot: Embodiment, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Invert `to_model_state`: return joint positions [observed]."""
    return _from_model(robot, robot.state_keys, robot.observed, values)


def to_model_actions(robot: Embodiment, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return the model's action keys, [horizon n] each, of absolute targets [horizon commanded].

    Masked keys are omitted, because this stack does not command them.
    """
    return _to_model(robot, _unmasked_keys(robot), robot.commanded, targets)


def from_model_actions(robot: Embodiment, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Invert `to_model_actions`: return absolute targets [horizon commanded].

    Masked keys in `values` are ignored; their joints hold their position.
    """
    return _from_model(robot, _unmasked_keys(robot), robot.commanded, values)


def _unmasked_keys(robot: Embodiment) -> tuple[ModelKey, ...]:
    return tuple(key for key in robot.action_keys if not key.masked)


def _to_model(
    robot: Embodiment, keys: Sequence[ModelKey], names: Sequence[str], canonical: np.ndarray
) -> dict[str, np.ndarray]:
    if canonical.shape[-1] != len(names):
        raise ValueError(f'{robot.name}: want {len(names)} values, got {canonical.shape[-1]}')
    model = np.array(canonical, dtype=np.float64)
    for gripper in robot.grippers:
        column = names.index(gripper.name)
        model[..., column] = gripper.to_model(model[..., column])
    return {key.key: model[..., [names.index(name) for name in key.joints]] for key in keys}


def _from_model(
    robot: Embodiment,
    keys: Sequence[ModelKey],
    names: Sequence[str],
    values: Mapping[str, np.ndarray],
) -> np.ndarray:
    missing = [key.key for key in keys if key.key not in values]
    if missing:
        raise ValueError(
            f'{robot.name}: no value for {", ".join(missing)}; got {", ".join(values) or "none"}'
        )
    rows = np.shape(values[keys[0].key])[:-1]
    model = np.full((*rows, len(names)), np.nan)
    for key in keys:
        value = np.asarray(values[key.key], dtype=np.float64)
        if value.shape != (*rows, key.size):
            raise ValueError(
                f'{robot.name}: {key.key} has shape {list(value.shape)}, want {[*rows, key.size]}'
            )
        model[..., [names.index(name) for name in key.joints]] = value
    for gripper in robot.grippers:
        column = names.index(gripper.name)
        model[..., column] = gripper.from_model(model[..., column])
    return model

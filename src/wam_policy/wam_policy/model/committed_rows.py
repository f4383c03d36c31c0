"""Convert committed rows, which are executed while a query is computed, to actions of a model."""

from collections.abc import Mapping

import numpy as np

from wam_policy.core.robot import transforms
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.normalizer import Normalizer


def normalize_committed_rows(
    committed: np.ndarray | None,
    reference: Mapping[str, np.ndarray],
    robot: Embodiment,
    normalizer: Normalizer,
    max_rows: int,
) -> np.ndarray | None:
    """Return targets [n commanded] as actions [n action_dim], relative to the state `reference`.

    None stays None. Raise ValueError if the rows are invalid, or more than the `max_rows` that the
    model continues.
    """
    if committed is None:
        return None
    if not max_rows:
        raise ValueError(
            'the model cannot continue committed rows: train it with ./wam train '
            '--committed-rows N, and do not run it by TensorRT'
        )
    joints = len(robot.commanded)
    if (
        committed.ndim != 2
        or not 1 <= len(committed) <= max_rows
        or committed.shape[1] != joints
        or not np.isfinite(committed).all()
    ):
        raise ValueError(
            f'committed: want 1 to {max_rows} rows of {joints} finite numbers, got '
            f'{list(committed.shape)}'
        )
    return normalizer.normalize_targets(transforms.to_model_actions(robot, committed), reference)

"""Convert between Meta-World's actions and the setpoints of our robot `metaworld_sawyer`.

Meta-World moves the setpoint of the hand by at most 0.01 m per axis and step and sets an effort
of the fingers from -1 (open) to 1 (close). Our rows are the setpoint after the step, m, and the
opening from 0 to 1. numpy only: this runs with and without `metaworld`.
"""

import numpy as np

STEP_M = 0.01  # of the setpoint, for an action of 1: `action_scale` of SawyerXYZEnv
OBSERVED_VALUES = 4  # of an observation: x, y, z of the hand, then the opening


def to_row(setpoint: np.ndarray, effort: float) -> np.ndarray:
    """Return the row [4] of a step: the setpoint [3] after it, m, and the gripper's opening."""
    return np.array([*setpoint, (1.0 - np.clip(effort, -1.0, 1.0)) / 2.0])


def to_action(row: np.ndarray, setpoint: np.ndarray) -> np.ndarray:
    """Return the action [4] in [-1, 1] that moves the setpoint [3] towards a row [4]."""
    moves = (np.asarray(row[:3]) - setpoint) / STEP_M
    return np.clip([*moves, 1.0 - 2.0 * row[3]], -1.0, 1.0)


def to_state(observation: np.ndarray) -> np.ndarray:
    """Return the measured state [4] of an observation: hand position, m, and opening."""
    return np.array(observation[:OBSERVED_VALUES], dtype=np.float64)

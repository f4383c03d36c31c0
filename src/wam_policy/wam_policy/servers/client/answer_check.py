"""Check the first answer of a session: a server with other units, joints or rates is refused.

An answer can have the right shape and wrong numbers: normalized instead of physical, degrees,
joints in another order, the actions of another robot. The first row is due at the observation, so
it has to be near the measured joint positions.
"""

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers.mapping.nested_keys import ProfileMismatch

GRIPPER_RANGE = (-0.101, 1.101)  # of the opening: servers overshoot by a tenth, and float32
MAX_RATE_SHARE = 5.0  # of the hardware's velocity: degrees as radians are 57 times too fast
GRIPPER_WARNING = 0.5  # change of the opening in the first row


def check_first_answer(
    robot: Embodiment, targets: np.ndarray, joint_positions: np.ndarray, step_dt_s: float
) -> list[str]:
    """Raise ProfileMismatch if targets [rows commanded] do not start at the measured positions.

    Return warnings about what is possible but unusual.
    """
    warnings = []
    limit = robot.safety.chunk.max_seam_offset
    worst = ('', 0.0, 0.0, 0.0)
    for column, name in enumerate(robot.commanded):
        measured = float(joint_positions[robot.observed.index(name)])
        rows, joint = targets[:, column], robot.joint(name)
        if joint.kind == 'gripper':
            _check_gripper(name, rows)
            if abs(rows[0] - measured) > GRIPPER_WARNING:
                warnings.append(
                    f'the first row moves {name} from {measured:.2f} to {rows[0]:.2f} (0 closed, '
                    '1 open): if this is wrong, swap open and closed in the server profile'
                )
            continue
        distance = abs(float(rows[0]) - measured)
        if distance > max(limit, worst[1]):
            worst = (name, distance, float(rows[0]), measured)
        _check_rate(name, rows, step_dt_s, MAX_RATE_SHARE * joint.hw_velocity)
    if worst[0]:
        name, distance, first, measured = worst
        unit = 'm' if robot.joint(name).kind == 'prismatic' else 'rad'
        raise ProfileMismatch(
            f'row 0 is {distance:.2f} {unit} from joint {name}: the answer starts at {first:.2f}, '
            f'measured is {measured:.2f}, the limit is {limit:g} (chunk.max_seam_offset); compare '
            'units, order of the joints and kind of the actions with the server profile'
        )
    return warnings


def _check_gripper(name: str, rows: np.ndarray) -> None:
    low, high = float(rows.min()), float(rows.max())
    if low < GRIPPER_RANGE[0] or high > GRIPPER_RANGE[1]:
        raise ProfileMismatch(
            f'{name} is {low:.2f} to {high:.2f} in the answer, want 0 closed to 1 open: set the '
            'open and closed values of the server in `grippers` of the server profile'
        )


def _check_rate(name: str, rows: np.ndarray, step_dt_s: float, limit: float) -> None:
    rates = np.abs(np.diff(rows)) / step_dt_s
    if len(rates) and rates.max() > limit:
        raise ProfileMismatch(
            f'row {int(rates.argmax()) + 1} moves joint {name} at {rates.max():.3g} rad/s, the '
            f'limit is {limit:g} (five times that of the hardware): compare units and '
            'actions.step_hz with the server'
        )

"""Rows of the last answer as they were executed, for a server that learns from them.

They are sent back as the server answered them, as its own clients do: the rows are commands, and
the measured opening of a gripper that holds something is not its command. Where an arm did not
follow (a stop, a limit, a refused chunk), the measured positions are what was executed.
"""

from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import value_mapping
from wam_policy.servers.mapping import action_layout
from wam_policy.servers.mapping.nested_keys import get_nested
from wam_policy.servers.mapping.pose_mapping import PoseMapper
from wam_policy.servers.profile_fields import ServerProfile


class ExecutedRows:
    """The newest answer of a session, at the rate of the server."""

    def __init__(
        self, profile: ServerProfile, robot: Embodiment, poses: PoseMapper | None
    ) -> None:
        self._profile, self._robot, self._poses = profile, robot, poses
        self._commanded = [robot.observed.index(name) for name in robot.commanded]
        self._arms = np.array([robot.joint(name).kind != 'gripper' for name in robot.commanded])
        self._rows: np.ndarray | None = None  # [rows columns], as answered
        self._targets = np.empty(0)  # [executed rows, commanded], the last of them
        self._start: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))

    def add_answer(
        self,
        answer: Any,
        targets: np.ndarray,
        joint_positions: np.ndarray,
        episode_positions: np.ndarray,
    ) -> None:
        """Record an answer and its absolute targets [executed rows, commanded].

        `joint_positions` and `episode_positions` [observed] are those to which it is relative.
        """
        self._rows = action_layout.collect_rows(self._profile, answer)
        self._targets, self._start = targets, (joint_positions, episode_positions)

    def make_message(self, measured: np.ndarray) -> Any:
        """Return the rows in the layout of an answer; None: there was no answer.

        `measured` [executed rows, observed] are the positions when each row was over.
        """
        if self._rows is None:
            return None
        rows, count = self._rows.copy(), len(self._targets)
        if len(measured) == count:
            actual = measured[:, self._commanded]
            distance = np.abs(actual - self._targets)[:, self._arms].max(axis=1)
            deviating = distance > self._robot.safety.chunk.max_seam_offset
            if deviating.any():
                encoded = value_mapping.encode_rows(
                    self._profile, self._robot, actual, *self._start, self._poses
                )
                rows[-count:][deviating] = encoded[deviating]
        message = action_layout.spread_rows(self._profile, rows)
        key = self._profile.actions_key
        return message if key is None else get_nested(message, key)


def resample_rows(targets: np.ndarray, step_dt_s: float, robot_dt_s: float) -> np.ndarray:
    """Return rows [rows joints], `step_dt_s` apart, at the rate of the robot's chunks.

    The last row is held until its time is over, so that the duration stays the same.
    """
    if np.isclose(step_dt_s, robot_dt_s, rtol=1e-3):
        return targets
    count = round(len(targets) * step_dt_s / robot_dt_s)
    times = np.arange(count) * robot_dt_s / step_dt_s
    return np.stack(
        [np.interp(times, np.arange(len(targets)), column) for column in targets.T], axis=1
    )

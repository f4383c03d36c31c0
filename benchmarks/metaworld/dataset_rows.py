"""Write rows of Meta-World as a data set of the robot `metaworld_sawyer`: our writer, no torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.data.time_sync import SynchronizedSample
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import Frame, JointState, Observation

ROBOT_NAME, ROBOTS_FOLDER = 'metaworld_sawyer', Path(__file__).resolve().parent / 'robots'
SUPERVISED = 'supervised'  # column: false where something else than the expert acts


def load_sawyer() -> Embodiment:
    """Load the robot of this benchmark from its own folder."""
    return embodiment.load_embodiment(ROBOT_NAME, ROBOTS_FOLDER)


class RowWriter:
    """Append the rows of one episode after the other to a data set."""

    def __init__(self, folder: Path) -> None:
        self._robot = load_sawyer()
        self.writer = LeRobotWriter(folder, self._robot)
        self._row = 0

    def add_row(
        self,
        state: np.ndarray,
        row: np.ndarray,
        images: Mapping[str, np.ndarray],
        instruction: str,
        *,
        by_expert: bool,
    ) -> None:
        """Append measured state [4], setpoint row [4] and the newest images uint8 [h w 3]."""
        stamp_ns = round(self._row * self._robot.step_dt_s * 1e9)
        frames = tuple(
            Frame(camera.key, stamp_ns, images[camera.key]) for camera in self._robot.cameras
        )
        observation = Observation(
            stamp_ns, frames, JointState(stamp_ns, self._robot.observed, state)
        )
        sample = SynchronizedSample(self._row, observation, row, instruction)
        self.writer.add_sample(sample, {SUPERVISED: by_expert})
        self._row += 1

    def end_episode(self, task: str) -> None:
        """Finish the episode; its metadata state the task as family."""
        self.writer.end_episode({'family': task})
        self._row = 0

    def discard_episode(self) -> None:
        self.writer.discard_episode()
        self._row = 0

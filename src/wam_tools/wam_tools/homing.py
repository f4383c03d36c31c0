"""The way back to rest as chunks: asked for like any other motion, limited like any other.

Whoever sets up a new scene sends the arms home with these, through motion_node; nothing else may
move them.
"""

from dataclasses import dataclass

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import Chunk

HOME_SESSION = 'home'  # what its sessions begin with: nobody's policy
MEAN_SPEED = 0.6  # rad/s on the average way of the joint that goes furthest
FIRST_MOVE_MEAN_SPEED = 0.12  # the same during a first move, which is limited to less
MIN_DURATION_S = 0.3
ROWS = 24


@dataclass(frozen=True, slots=True, eq=False)
class HomingMotion:
    """Lead from one posture to rest, without a jerk at either end; then stay there."""

    robot: Embodiment
    start: np.ndarray  # [commanded]
    start_ns: int
    slow: bool
    session: str

    @property
    def home(self) -> np.ndarray:
        return self.robot.home_positions(self.robot.commanded)

    @property
    def duration_s(self) -> float:
        """Return how long the way takes."""
        furthest = float(np.abs(self.home - self.start).max())
        return max(MIN_DURATION_S, furthest / (FIRST_MOVE_MEAN_SPEED if self.slow else MEAN_SPEED))

    def make_chunk(self, now_ns: int, sequence: int) -> Chunk:
        """Return what is due from `now_ns` on."""
        robot = self.robot
        passed_s = (now_ns - self.start_ns) / NS_PER_S + np.arange(ROWS) * robot.step_dt_s
        x = np.clip(passed_s / self.duration_s, 0.0, 1.0)[:, None]
        share = x**3 * (10.0 - 15.0 * x + 6.0 * x * x)  # level in speed and acceleration
        rows = self.start + share * (self.home - self.start)
        return Chunk(
            now_ns,
            self.session,
            sequence,
            robot.step_dt_s,
            robot.commanded,
            rows,
            rows[0],
            robot.config_hash,
            {},
        )

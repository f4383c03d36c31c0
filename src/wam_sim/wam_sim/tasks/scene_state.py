"""Run an episode in steps of chunk rows, faster than real time: observe, then step.

Setpoints are interpolated linearly between rows; images are rendered at a lower rate and repeated,
as if a slower camera was sampled at each row.
"""

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import Frame, Observation
from wam_sim.physics.simulation import STEP_NS, Simulation

IMAGE_HZ = 5.0


def count_image_period_rows(robot: Embodiment) -> int:
    """Return after how many rows an image is rendered: 6 at 30 rows per second."""
    return max(1, round(1.0 / (robot.step_dt_s * IMAGE_HZ)))


class SimEpisode:
    """Episodes of one simulation, row by row."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._step_ns = simulation.robot.embodiment.step_dt_s * 1e9
        self._image_period_rows = count_image_period_rows(simulation.robot.embodiment)
        self.row = 0
        self._targets = simulation.robot.embodiment.home_positions(
            simulation.robot.embodiment.commanded
        )
        self._frames: tuple[Frame, ...] = ()

    def reset(
        self, seed: int, *, family: str | None = None, joint_positions: np.ndarray | None = None
    ) -> bool:
        """Start the scene of `seed` with the arms at home or at `joint_positions` [commanded].

        Returns False if an arm is in contact there; choose other joint positions then.
        """
        self.simulation.reset(seed, task=family)
        body = self.simulation.robot.embodiment
        self.row, self._frames = 0, ()
        self._targets = (
            body.home_positions(body.commanded) if joint_positions is None else joint_positions
        )
        return joint_positions is None or self.simulation.teleport_arms(joint_positions)

    @property
    def elapsed_s(self) -> float:
        """Return the time since row 0, s."""
        return self.row * self._step_ns / 1e9

    @property
    def has_new_images(self) -> bool:
        """Return whether this row renders new images."""
        return self.row % self._image_period_rows == 0

    def observe(self) -> Observation:
        """Return the observation at this row; frames may be older than the joint state."""
        simulation = self.simulation
        if self.has_new_images or not self._frames:
            self._frames = simulation.observe().frames
        return Observation(simulation.now_ns, self._frames, simulation.joint_state())

    def step(self, targets: np.ndarray) -> None:
        """Advance to the next row, with `targets` [commanded] as its setpoints."""
        steps = round((self.row + 1) * self._step_ns / STEP_NS) - round(
            self.row * self._step_ns / STEP_NS
        )
        self.simulation.step_linear(self._targets, targets, steps)
        self._targets, self.row = targets, self.row + 1

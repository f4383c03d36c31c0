"""One episode in steps of a chunk's rows: what is seen at each, what is done until the next.

Physics follows the line between set-points; pictures come at a lower rate and are repeated, as
sampling a slower camera as of each row gives them. Nothing waits for a clock.
"""

import numpy as np

from wam_policy.core.types import Frame, Observation
from wam_sim.physics.simulation import STEP_NS, Simulation

IMAGE_PERIOD_ROWS = 6  # rows: 5 Hz at 30 rows per second


class SimEpisode:
    """Run episodes of one simulation, row by row."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._step_ns = simulation.robot.embodiment.step_dt_s * 1e9
        self.row = 0
        self._targets = simulation.robot.embodiment.home_positions(
            simulation.robot.embodiment.commanded
        )
        self._frames: tuple[Frame, ...] = ()

    def reset(
        self, seed: int, *, family: str | None = None, joint_positions: np.ndarray | None = None
    ) -> bool:
        """Set the scene of `seed`, arms at rest or at `posture` [commanded]; row 0 follows.

        Returns False where an arm would touch something there: take another posture.
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
        """Return the time since row 0."""
        return self.row * self._step_ns / 1e9

    @property
    def has_new_images(self) -> bool:
        """Tell whether this row brings pictures of its own."""
        return self.row % IMAGE_PERIOD_ROWS == 0

    def observe(self) -> Observation:
        """Return what is known at this row; frames may be older than the joints."""
        simulation = self.simulation
        if self.has_new_images or not self._frames:
            self._frames = simulation.observe().frames
        return Observation(simulation.now_ns, self._frames, simulation.joint_state())

    def step(self, targets: np.ndarray) -> None:
        """Go on to the next row, where the set-points are `targets` [commanded]."""
        steps = round((self.row + 1) * self._step_ns / STEP_NS) - round(
            self.row * self._step_ns / STEP_NS
        )
        self.simulation.step_linear(self._targets, targets, steps)
        self._targets, self.row = targets, self.row + 1

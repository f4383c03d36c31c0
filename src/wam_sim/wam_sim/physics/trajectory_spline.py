"""Vectorized interpolation of a trajectory: setpoints at many times in one call.

The same interpolation as `wam_policy.core.motion.jtc_emulator.SplineSegment`, which evaluates one
time; the simulator needs 500 per second and controller. Coefficients are computed once.
"""

import numpy as np

from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.trajectory import NS_PER_S


class TrajectorySpline:
    """Interpolate points: quintic with accelerations, cubic with velocities, else linear."""

    def __init__(self, points: TrajectoryPoints) -> None:
        self.points = points
        given = [
            field
            for field in (points.position, points.velocity, points.acceleration)
            if field is not None
        ]
        length_s = np.diff(points.time_ns)[:, None] / NS_PER_S
        # with time scaled to 0..1 the Hermite matrix is the same for every segment
        ends = np.stack(
            [
                field[side] * length_s**i
                for side in (slice(-1), slice(1, None))
                for i, field in enumerate(given)
            ]
        )
        self._powers = np.arange(2 * len(given))
        powers = self._powers[:, None, None]
        position = np.tensordot(HERMITE_MATRICES[len(given)], ends, 1) / length_s**powers
        velocity, acceleration = np.zeros_like(position), np.zeros_like(position)
        velocity[:-1] = position[1:] * powers[1:]
        acceleration[:-1] = velocity[1:] * powers[1:]
        rest = np.zeros((len(powers), 1, 3 * len(points.names)))
        rest[0, 0, : len(points.names)] = points.position[-1]
        pieces = np.concatenate([position, velocity, acceleration], axis=2)
        self._coefficients = np.concatenate([pieces, rest], axis=1).swapaxes(0, 1)

    def at(self, elapsed_ns: np.ndarray) -> np.ndarray:
        """Return position, velocity and acceleration at times [times], [3 times joints].

        Times are ns since the trajectory's stamp, none before the first point.
        """
        piece = np.searchsorted(self.points.time_ns, elapsed_ns, side='right') - 1
        t = (elapsed_ns - self.points.time_ns[piece])[:, None] / NS_PER_S
        found = np.einsum('tp,tpj->tj', t**self._powers, self._coefficients[piece])
        return found.reshape(len(elapsed_ns), 3, -1).swapaxes(0, 1)


def _compute_hermite_matrix(derivative_count: int) -> np.ndarray:
    """Return the matrix [2n 2n] from n derivatives each at 0 and 1 to polynomial coefficients."""
    power = np.arange(2 * derivative_count)
    rows = [
        np.prod([power - i for i in range(order)], axis=0)
        * float(at) ** np.maximum(power - order, 0)
        for at in (0, 1)
        for order in range(derivative_count)
    ]
    return np.linalg.inv(np.stack(rows))


HERMITE_MATRICES = {given: _compute_hermite_matrix(given) for given in (1, 2, 3)}

"""Whether a trajectory comes too late: after the instant at which it parts from the one before.

A joint_trajectory_controller enters it where it is due, and the set-point jumps. Refused, it is
lost like any other message, and a sender that reads the controllers' reports plans anew.
"""

import numpy as np

from wam_policy.core.motion.jtc_emulator import TrajectoryFollower

# The acceleration may differ by what full jerk does in this time: far more than rounding, and a
# hundredth of what it does in one tick at 500 Hz.
JERK_TOLERANCE_S = 2e-5


def check_lateness(
    running: TrajectoryFollower, candidate: TrajectoryFollower, now_ns: int, jerk: np.ndarray
) -> str | None:
    """Return why `candidate`, which has accepted another trajectory, comes too late at `now_ns`.

    `jerk` holds the limits, [joints] rad/s^3 or 1/s^3. Only what has begun can be late, and only
    with accelerations is it meant to go on where `running` is: others jump on purpose. What comes
    to rest sooner than `running` is never refused: a stop matters more than how it begins.
    """
    points = candidate.points
    if points.acceleration is None or points.stamp_ns + int(points.time_ns[0]) >= now_ns:
        return None
    if running.end_ns is not None and candidate.end_ns < running.end_ns:
        return None
    jump = np.abs(candidate.sample(now_ns).acceleration - running.sample(now_ns).acceleration)
    joint = int(np.argmax(jump / jerk))
    if jump[joint] <= JERK_TOLERANCE_S * jerk[joint]:
        return None
    return (
        f'came too late: the acceleration of {running.names[joint]} would jump by '
        f'{jump[joint]:.3g}'
    )

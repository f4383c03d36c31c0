"""Where a query starts when the robot goes on moving until its answer arrives.

`rolled_forward` queries from the setpoint at the time the answer is expected (as VLASH, arXiv
2512.01031). `trained_prefix` gives the rows that are executed until then to a model that was
trained to continue them (arXiv 2512.05964), and rolls forward over rows that it cannot continue:
those beyond its number, of the instruction before, and of arms that rest. In both the rows of the
motion so far precede the answer in its chunk, so row 0 stays that of the observation and the age
of a chunk stays visible.
"""

import math
from collections import deque
from dataclasses import replace

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import gripper_mask
from wam_policy.core.session.model_requests import Query
from wam_policy.core.types import Chunk, JointState

EXECUTIONS = ('blended', 'rolled_forward', 'trained_prefix')
NUM_DELAYS = 10  # the longest of the last ones is expected
MAX_DELAY_NS = 1_500_000_000  # a slower policy is queried without compensation
# Arms rest at an instruction and at its goal, but demonstrations begin with motion: a model that
# is given resting rows goes on resting (100 ms, 20 scenes: success 70 %, with this limit 95 %).
SLOW_RAD_S = 0.18
MAX_OVER_NS = 500_000_000  # a chunk that ended earlier does not tell where the arms are


class DelayCompensation:
    """Know the newest chunk and the delay of answers; choose where queries start."""

    def __init__(self, robot: Embodiment, execution: str, max_held_rows: int) -> None:
        """Take how many rows the model continues; raise ValueError if `execution` needs more."""
        if execution not in EXECUTIONS:
            raise ValueError(f'execution {execution!r}: want one of {", ".join(EXECUTIONS)}')
        if execution == 'trained_prefix' and max_held_rows < 1:
            raise ValueError(
                'execution trained_prefix: the model was not trained to continue committed rows; '
                'train it with ./wam train --committed-rows N, or use blended or rolled_forward'
            )
        self._robot = robot
        self._active = execution != 'blended'
        self._max_held_rows = max_held_rows if execution == 'trained_prefix' else 0
        self._step_ns = round(robot.step_dt_s * 1e9)
        self._commanded = [robot.observed.index(name) for name in robot.commanded]
        self._arms = ~gripper_mask(robot)
        # an arm that is further from its chunk does not follow it: motion is off or was refused
        self._max_stray_rad = robot.safety.chunk.max_seam_offset
        self._delays_ns: deque[int] = deque(maxlen=NUM_DELAYS)
        self._chunk: Chunk | None = None

    def add_delay(self, delay_ns: int) -> None:
        """Record the time from an observation to the answer of its query."""
        self._delays_ns.append(delay_ns)

    def set_chunk(self, chunk: Chunk | None) -> None:
        """Set the chunk that is executed from now on; None: nothing is known of the motion."""
        self._chunk = chunk

    def compensate(self, query: Query) -> Query:
        """Return the query with the rows that are executed until its answer is expected."""
        seen = query.observation
        joints, stamp_ns = seen.joints, seen.stamp_ns
        delay_ns = max(self._delays_ns, default=0)
        if not self._active or not 0 < delay_ns <= MAX_DELAY_NS:
            return query
        delay = math.ceil(delay_ns / self._step_ns - 1e-6)
        rows = self._expected_rows(joints, stamp_ns, delay + 1)
        skipped = delay - min(delay, self._max_held_rows)
        foreign = self._chunk is None or self._chunk.session != query.session
        if skipped < delay and (foreign or self._is_slow(rows[skipped:])):
            skipped = delay
        # Committed rows begin at the joint positions of the query, too: in demonstrations a
        # setpoint is within 0.0002 rad (rms) of them, in a chunk that is executed 0.02 rad away.
        position = np.array(joints.position)
        position[self._commanded] = rows[skipped]
        joints = JointState(stamp_ns + skipped * self._step_ns, joints.names, position)
        held = rows[skipped:delay]
        return replace(
            query,
            observation=replace(seen, joints=joints),
            lead_rows=rows[:skipped],
            committed=held if len(held) else None,
        )

    def _is_slow(self, rows: np.ndarray) -> bool:
        """Return whether the arms hardly move: such rows tell nothing but their position."""
        steps = np.abs(np.diff(rows, axis=0))[:, self._arms]
        return bool(steps.max(initial=0.0) < SLOW_RAD_S * self._robot.step_dt_s)

    def _expected_rows(self, joints: JointState, stamp_ns: int, count: int) -> np.ndarray:
        """Return the setpoints [count commanded] that are due from `stamp_ns` on."""
        chunk = self._chunk
        here = joints.position[self._commanded]
        if chunk is None:
            return np.repeat(here[None], count, axis=0)
        since_ns = np.arange(count) * self._step_ns + stamp_ns - chunk.stamp_ns
        place = since_ns / 1e9 / chunk.step_dt_s
        over_ns = (place[0] - (chunk.horizon - 1)) * chunk.step_dt_s * 1e9
        if place[0] < 0 or over_ns > MAX_OVER_NS:
            return np.repeat(here[None], count, axis=0)
        known = np.arange(chunk.horizon)
        rows = np.stack([np.interp(place, known, column) for column in chunk.targets.T], axis=1)
        strayed = np.abs(rows[0] - here)[self._arms].max(initial=0.0) > self._max_stray_rad
        return np.repeat(here[None], count, axis=0) if strayed else rows

"""The rows of a data set: what was seen and what was commanded, on a fixed grid of time.

Causal: a row at t uses nothing stamped or received after t. The picks and their limits are those
of the live stack (core.frames), the commands are what the controllers made of the trajectories
that were sent (core.follower). Nothing is interpolated but those, and nothing is made up: an
instant without a good observation is a gap with a reason.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.motion.jtc_emulator import Follower
from wam_policy.core.observation.observation_buffer import Refusal, Ring, Views
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import Frame, JointState, Observation

# A sense that is silent for longer will not tell about this instant any more: far beyond every
# age limit, far within the history that is kept.
PATIENCE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Hold one good instant."""

    index: int  # on the grid; consecutive rows differ by one
    observation: Observation
    targets: np.ndarray  # float64 [commanded], set-points at that instant
    instruction: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Say why an instant of the grid is no row."""

    index: int
    reason: str  # one of few: they are counted


@dataclass(frozen=True, slots=True, eq=False)
class _Instant:
    index: int
    t_ns: int
    targets: np.ndarray | None
    instruction: str


class Timeline:
    """Turn what arrives, in the order it was received, into rows and gaps."""

    def __init__(self, robot: Embodiment, instruction: str) -> None:
        """Take the instruction that holds until another one is heard."""
        self._robot = robot
        self._instruction = instruction
        self._views = Views(robot)
        self._followers: dict[str, Follower] = {}
        self._first_ns: int | None = None  # stamp of the first observation: the grid's origin
        self._index = 0  # of the next instant
        self._pending: deque[_Instant] = deque()
        self._done: list[Row | Gap] = []
        self.rejected: list[str] = []  # commands that no controller would have taken

    @property
    def views(self) -> Views:
        return self._views

    def on_frame(self, frame: Frame, log_ns: int) -> None:
        self._advance(log_ns)
        self._put(self._views.rings[frame.camera], frame, log_ns)

    def on_joints(self, state: JointState, log_ns: int) -> None:
        self._advance(log_ns)
        self._put(self._views.joints, state, log_ns)

    def on_instruction(self, text: str, log_ns: int) -> None:
        self._advance(log_ns)
        self._instruction = text

    def on_command(self, controller: str, message: Any, log_ns: int) -> None:
        """Take a trajectory_msgs/JointTrajectory as its controller would have."""
        self._advance(log_ns)
        if not self._followers:
            self._hold(log_ns)
        if not self._followers:
            self.rejected.append('a command before the first posture')
            return
        follower = self._followers[controller]
        follower.sample(log_ns)
        reason = follower.accept(message, log_ns)
        if reason:
            self.rejected.append(reason)

    def taken(self) -> Iterator[Row | Gap]:
        """Hand over what has become certain since the last call."""
        done, self._done = self._done, []
        return iter(done)

    def finish(self) -> Iterator[Row | Gap]:
        """Hand over the rest; instants that the last frames do not reach are not part of it."""
        self._settle(None)
        self._pending.clear()
        return self.taken()

    def _put[T: (Frame, JointState)](self, ring: Ring[T], sample: T, log_ns: int) -> None:
        jumps = ring.jumps
        ring.put(sample)
        if ring.jumps != jumps:  # another timeline: no row may span both
            self._views.clear()
            self._pending.clear()
            self._done.append(Gap(self._index, 'the stamps went back'))
            self._index += 1
            self._first_ns = None
            ring.put(sample)
        if self._first_ns is None:
            seen = self._views.observation(log_ns)
            if isinstance(seen, Observation):
                self._begin(seen.stamp_ns, log_ns)
        self._settle(log_ns)

    def _begin(self, first_ns: int, log_ns: int) -> None:
        """Lay the grid as the live memory does; rows begin where commands are still known."""
        step_ns = self._robot.step_dt_s * 1e9
        self._origin = self._index
        self._first_ns = first_ns
        self._index += int(np.ceil((log_ns - first_ns) / step_ns))

    def _instant_ns(self, index: int) -> int:
        return self._first_ns + round((index - self._origin) * self._robot.step_dt_s * 1e9)

    def _advance(self, log_ns: int) -> None:
        """Note what was commanded and asked at every instant before `log_ns`."""
        while self._first_ns is not None and (t_ns := self._instant_ns(self._index)) < log_ns:
            self._pending.append(
                _Instant(self._index, t_ns, self._targets(t_ns), self._instruction)
            )
            self._index += 1

    def _targets(self, t_ns: int) -> np.ndarray | None:
        """Return the set-points at an instant; None before the first command."""
        if not self._followers:
            return None
        found = {
            name: value
            for follower in self._followers.values()
            for name, value in zip(follower.names, follower.sample(t_ns).position, strict=True)
        }
        return np.array([found[name] for name in self._robot.commanded])

    def _hold(self, log_ns: int) -> None:
        """Let every controller hold the measured posture, as it does until it is told more."""
        posture = self._views.joints.as_of(log_ns)
        if posture is not None:
            self._followers = {
                controller.name: Follower(controller.joints, posture.positions(controller.joints))
                for controller in self._robot.controllers
            }

    def _settle(self, log_ns: int | None) -> None:
        """Judge the instants about which nothing new can come; None: nothing comes at all."""
        newest = [ring.newest for ring in (*self._views.rings.values(), self._views.joints)]
        seen_ns = min((sample.stamp_ns for sample in newest if sample is not None), default=None)
        while self._pending:
            instant = self._pending[0]
            certain = seen_ns is not None and seen_ns >= instant.t_ns
            given_up = log_ns is not None and log_ns - instant.t_ns > PATIENCE_NS
            if not certain and not given_up:
                return
            self._done.append(self._judged(self._pending.popleft()))

    def _judged(self, instant: _Instant) -> Row | Gap:
        seen = self._views.at(instant.t_ns)
        if isinstance(seen, Refusal):
            return Gap(
                instant.index, seen.source if seen.source == 'joints' else f'camera {seen.source}'
            )
        if instant.targets is None:
            return Gap(instant.index, 'nothing was commanded yet')
        if not instant.instruction:
            return Gap(instant.index, 'no instruction')
        return Row(instant.index, seen, instant.targets, instant.instruction)

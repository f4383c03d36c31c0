"""Synchronize observations and commands on a fixed time grid: the rows of a data set.

A row at t uses the frames nearest to t, as the live stack does, and nothing else that is stamped
after t. Observations are selected with the
limits of the live stack (core.observation.observation_buffer). Commands are what the controllers
made of the trajectories (core.motion.jtc_emulator); only these are interpolated. An instant
without a valid observation is dropped with a reason.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wam_policy.core.motion.jtc_emulator import TrajectoryFollower
from wam_policy.core.observation.observation_buffer import (
    ObservationBuffer,
    ObservationRejection,
    StampedBuffer,
)
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import Frame, JointState, Observation

# A source without data for this long cannot contribute to an instant any more: far beyond every
# age limit, far within the buffered history.
MAX_WAIT_NS = 1_000_000_000
NO_INSTRUCTION = 'no instruction'
NO_NEXT_STATE = 'no measured positions one row later'


@dataclass(frozen=True, slots=True, eq=False)
class SynchronizedSample:
    """Hold one valid instant."""

    index: int  # on the grid; consecutive rows differ by one
    observation: Observation
    targets: np.ndarray  # float64 [commanded], setpoints at that instant
    instruction: str


@dataclass(frozen=True, slots=True)
class DroppedSample:
    """Hold the reason why an instant of the grid is not a row."""

    index: int
    reason: str  # from a small set: reasons are counted


@dataclass(frozen=True, slots=True, eq=False)
class _PendingSample:
    index: int
    t_ns: int
    targets: np.ndarray | None
    instruction: str


class Synchronizer:
    """Convert messages, in order of reception, into samples and dropped samples."""

    def __init__(
        self, robot: Embodiment, instruction: str, *, needs_commands: bool = True
    ) -> None:
        """Start with an instruction that is valid until another one arrives.

        Without `needs_commands` the targets are the measured positions: see `use_next_states`.
        """
        self._robot, self._needs_commands = robot, needs_commands
        self._instruction = instruction
        self._buffer = ObservationBuffer(robot)
        self._followers: dict[str, TrajectoryFollower] = {}
        self._commanded_positions: dict[str, float] = {}  # of commanded joint states
        self._grid_start_ns: int | None = None  # stamp of the first observation: the grid's origin
        self._next_index = 0  # of the next instant
        self._pending: deque[_PendingSample] = deque()
        self._resolved: list[SynchronizedSample | DroppedSample] = []
        self.rejected_commands: list[
            str
        ] = []  # reasons of commands that a controller would reject

    @property
    def buffer(self) -> ObservationBuffer:
        return self._buffer

    def on_frame(self, frame: Frame, log_ns: int) -> None:
        self._advance_grid(log_ns)
        self._add_to_buffer(self._buffer.camera_buffers[frame.camera], frame, log_ns)

    def on_joints(self, state: JointState, log_ns: int) -> None:
        self._advance_grid(log_ns)
        self._add_to_buffer(self._buffer.joint_buffer, state, log_ns)

    def on_instruction(self, text: str, log_ns: int) -> None:
        self._advance_grid(log_ns)
        self._instruction = text

    def on_command(self, controller: str, message: Any, log_ns: int) -> None:
        """Process a trajectory_msgs/JointTrajectory as its controller does."""
        self._advance_grid(log_ns)
        if not self._followers:
            self._start_controllers(log_ns)
        if not self._followers:
            self.rejected_commands.append('a command before the first joint state')
            return
        follower = self._followers[controller]
        follower.sample(log_ns)
        reason = follower.accept(message, log_ns)
        if reason:
            self.rejected_commands.append(reason)

    def on_commanded_joints(self, state: JointState, log_ns: int) -> None:
        """Process commanded positions that a driver follows at once; parts are merged by name."""
        self._advance_grid(log_ns)
        self._commanded_positions |= dict(zip(state.names, state.position.tolist(), strict=True))

    def pop_samples(self) -> Iterator[SynchronizedSample | DroppedSample]:
        """Return the instants resolved since the last call."""
        done, self._resolved = self._resolved, []
        return iter(done)

    def flush(self) -> Iterator[SynchronizedSample | DroppedSample]:
        """Return the rest, without instants after the last frames."""
        self._resolve_pending(None)
        self._pending.clear()
        return self.pop_samples()

    def _add_to_buffer[T: (Frame, JointState)](
        self, buffer: StampedBuffer[T], item: T, log_ns: int
    ) -> None:
        jumps = buffer.jumps
        buffer.put(item)
        if buffer.jumps != jumps:  # stamps jumped back: no row may span the jump
            self._buffer.clear()
            self._pending.clear()
            self._resolved.append(DroppedSample(self._next_index, 'the stamps went back'))
            self._next_index += 1
            self._grid_start_ns = None
            buffer.put(item)
        if self._grid_start_ns is None:
            seen = self._buffer.latest_observation(log_ns)
            if isinstance(seen, Observation):
                self._start_grid(seen.stamp_ns, log_ns)
        self._resolve_pending(log_ns)

    def _start_grid(self, first_ns: int, log_ns: int) -> None:
        """Start the grid as the live frame history does; rows start at `log_ns`."""
        step_ns = self._robot.step_dt_s * 1e9
        self._grid_start_index = self._next_index
        self._grid_start_ns = first_ns
        self._next_index += int(np.ceil((log_ns - first_ns) / step_ns))

    def _grid_time_ns(self, index: int) -> int:
        assert self._grid_start_ns is not None
        return self._grid_start_ns + round(
            (index - self._grid_start_index) * self._robot.step_dt_s * 1e9
        )

    def _advance_grid(self, log_ns: int) -> None:
        """Store command and instruction at every instant before `log_ns`."""
        while (
            self._grid_start_ns is not None
            and (t_ns := self._grid_time_ns(self._next_index)) < log_ns
        ):
            self._pending.append(
                _PendingSample(self._next_index, t_ns, self._setpoints_at(t_ns), self._instruction)
            )
            self._next_index += 1

    def _setpoints_at(self, t_ns: int) -> np.ndarray | None:
        """Return the setpoints at an instant; None before the first command."""
        if self._commanded_positions:
            if not set(self._robot.commanded) <= set(self._commanded_positions):
                return None
            return np.array([self._commanded_positions[name] for name in self._robot.commanded])
        if not self._followers:
            return None
        found = {
            name: value
            for follower in self._followers.values()
            for name, value in zip(follower.names, follower.sample(t_ns).position, strict=True)
        }
        return np.array([found[name] for name in self._robot.commanded])

    def _start_controllers(self, log_ns: int) -> None:
        """Let every controller hold the measured positions, as it does before any command."""
        joint_positions = self._buffer.joint_buffer.as_of(log_ns)
        if joint_positions is not None:
            self._followers = {
                controller.name: TrajectoryFollower(
                    controller.joints, joint_positions.positions(controller.joints)
                )
                for controller in self._robot.controllers
            }

    def _resolve_pending(self, log_ns: int | None) -> None:
        """Resolve the instants that no later message can change; None: no more messages."""
        newest = [
            ring.newest
            for ring in (*self._buffer.camera_buffers.values(), self._buffer.joint_buffer)
        ]
        seen_ns = min((sample.stamp_ns for sample in newest if sample is not None), default=None)
        while self._pending:
            instant = self._pending[0]
            certain = seen_ns is not None and seen_ns >= instant.t_ns
            given_up = log_ns is not None and log_ns - instant.t_ns > MAX_WAIT_NS
            if not certain and not given_up:
                return
            self._resolved.append(self._resolve(self._pending.popleft()))

    def _resolve(self, pending: _PendingSample) -> SynchronizedSample | DroppedSample:
        seen = self._buffer.observation_at(pending.t_ns)
        if isinstance(seen, ObservationRejection):
            return DroppedSample(
                pending.index, seen.source if seen.source == 'joints' else f'camera {seen.source}'
            )
        targets = pending.targets
        if not self._needs_commands:
            targets = seen.joints.positions(self._robot.commanded)
        if targets is None:
            return DroppedSample(pending.index, 'nothing was commanded yet')
        if not pending.instruction:
            return DroppedSample(pending.index, NO_INSTRUCTION)
        return SynchronizedSample(pending.index, seen, targets, pending.instruction)


def use_next_states(
    items: Iterable[SynchronizedSample | DroppedSample], robot: Embodiment
) -> Iterator[SynchronizedSample | DroppedSample]:
    """Yield the samples with the positions measured one row later as targets.

    A sample without a successor is dropped.
    """
    held: SynchronizedSample | None = None
    for item in items:
        is_sample = isinstance(item, SynchronizedSample)
        if held is not None:
            if is_sample and item.index == held.index + 1:
                targets = item.observation.joints.positions(robot.commanded)
                yield replace(held, targets=targets)
            else:
                yield DroppedSample(held.index, NO_NEXT_STATE)
        held = item if is_sample else None
        if not is_sample:
            yield item
    if held is not None:
        yield DroppedSample(held.index, NO_NEXT_STATE)

"""What motion_node reports on /diagnostics, once a second: state, loop, clamps, chunks."""

from collections.abc import Callable, Mapping

from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.node import Node

from wam_policy.core.motion import motion_health
from wam_policy.core.motion.motion_control import Snapshot
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.policy_health import Level
from wam_policy.nodes.motion.control_loop import ControlLoop

Judged = tuple[Level, str, Mapping[str, str]]


class MotionDiagnostics:
    """Judge the newest snapshot while there is a robot to judge."""

    def __init__(
        self, node: Node, snapshot: Callable[[], Snapshot], loop: Callable[[], ControlLoop | None]
    ) -> None:
        self._snapshot, self._loop = snapshot, loop
        self._robot: Embodiment | None = None
        self._updater = Updater(node)
        self._updater.setHardwareID('none')

    def watch(self, robot: Embodiment) -> None:
        """Report on this robot from now on."""
        self._robot = robot
        self._updater.setHardwareID(robot.name)
        for name, judge in (
            ('state', self._state),
            ('loop jitter', self._jitter),
            ('clamp rate', self._clamps),
            ('chunk age', self._chunks),
        ):
            self._add(name, judge)

    def forget(self) -> None:
        """Report nothing until the next `watch`."""
        for task in list(self._updater.tasks):
            self._updater.removeByName(task.name)
        self._robot = None

    def _add(self, name: str, judge: Callable[[], Judged]) -> None:
        def run(out: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
            level, text, values = judge()
            out.summary(bytes([level]), text)
            for key, value in values.items():
                out.add(key, value)
            return out

        self._updater.add(name, run)

    def _state(self) -> Judged:
        now = self._snapshot()
        return (
            *motion_health.of_state(now),
            {
                'enabled': str(now.enabled),
                'e-stop': str(now.estop),
                'dry run': str(now.dry_run),
                'dead-man': str(now.deadman_ok),
                'first move': str(now.first_move),
                'commands lost': str(now.tally.lost),
                'controllers': now.complaint or 'ok',
            },
        )

    def _jitter(self) -> Judged:
        loop = self._loop()
        if loop is None:
            return Level.OK, 'not active', {}
        return (
            *motion_health.of_loop(loop.jitter_p99_ms, loop.late_ticks),
            {'replanned': str(self._snapshot().tally.replanned)},
        )

    def _clamps(self) -> Judged:
        now, trip_hz = self._snapshot(), self._robot.safety.clamp_trip.rate_hz
        return (
            *motion_health.of_clamps(now.clamp_rate_hz, trip_hz),
            dict(zip(self._robot.commanded, map(str, now.clamp_counts), strict=True)),
        )

    def _chunks(self) -> Judged:
        now = self._snapshot()
        return (
            *motion_health.of_chunks(now, self._robot.safety.chunk.max_age_s),
            {
                'accepted': str(now.tally.accepted),
                'rejected': str(now.tally.rejected),
                'late': str(now.tally.late),
                'contacts ahead': str(now.tally.contacts),
                'underruns': str(now.tally.underruns),
                'seam offset (rad)': f'{now.seam_offset:.4f}',
            },
        )

"""What motion_node reports on /diagnostics, once a second: state, loop, clamps, chunks."""

from collections.abc import Callable, Mapping
from functools import partial

from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.node import Node

from wam_policy.core.motion import motion_state
from wam_policy.core.motion.motion_control import MotionSnapshot
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.safety_checks import CHECKS
from wam_policy.core.session.policy_health import DiagnosticLevel
from wam_policy.nodes.motion.control_loop import ControlLoop

DiagnosticResult = tuple[DiagnosticLevel, str, Mapping[str, str]]


class MotionDiagnostics:
    """Judge the newest snapshot while there is a robot to judge."""

    def __init__(
        self,
        node: Node,
        get_snapshot: Callable[[], MotionSnapshot],
        get_control_loop: Callable[[], ControlLoop | None],
    ) -> None:
        self._get_snapshot, self._get_control_loop = get_snapshot, get_control_loop
        self.updater = Updater(node)
        self.updater.setHardwareID('none')
        self._task_names: list[str] = []

    def add_tasks(self, robot: Embodiment) -> None:
        """Report on this robot from now on."""
        self.updater.setHardwareID(robot.name)
        for name, judge in (
            ('state', self._check_state),
            ('safety checks', self._check_safety_checks),
            ('loop jitter', self._check_loop_jitter),
            ('clamp rate', partial(self._check_clamp_rate, robot)),
            ('chunk age', partial(self._check_chunk_age, robot)),
        ):
            self._add_task(name, judge)

    def remove_tasks(self) -> None:
        """Report nothing until the next `watch`."""
        while self._task_names:
            self.updater.removeByName(self._task_names.pop())

    def _add_task(self, name: str, check: Callable[[], DiagnosticResult]) -> None:
        def run(out: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
            level, text, values = check()
            out.summary(bytes([level]), text)
            for key, value in values.items():
                out.add(key, value)
            return out

        self._task_names.append(name)
        self.updater.add(name, run)

    def _check_state(self) -> DiagnosticResult:
        now = self._get_snapshot()
        return (
            *motion_state.diagnose_state(now),
            {
                'enabled': str(now.enabled),
                'e-stop': str(now.estop),
                'dry run': str(now.dry_run),
                'dead-man': str(now.deadman_ok),
                'first move': str(now.first_move),
                'commands lost': str(now.counters.commands_lost),
                'controllers': now.report_warning or 'ok',
            },
        )

    def _check_safety_checks(self) -> DiagnosticResult:
        now = self._get_snapshot()
        rows = {
            name: f'not active: {now.inactive_checks[name]}'
            if name in now.inactive_checks
            else 'active'
            for name in CHECKS
        }
        return (*motion_state.diagnose_checks(now), rows)

    def _check_loop_jitter(self) -> DiagnosticResult:
        loop = self._get_control_loop()
        if loop is None:
            return DiagnosticLevel.OK, 'not active', {}
        return (
            *motion_state.diagnose_loop(loop.jitter_p99_ms, loop.late_ticks),
            {'replanned': str(self._get_snapshot().counters.replanned)},
        )

    def _check_clamp_rate(self, robot: Embodiment) -> DiagnosticResult:
        now, trip_hz = self._get_snapshot(), robot.safety.clamp_trip.rate_hz
        return (
            *motion_state.diagnose_limit_rate(now.clamp_rate_hz, trip_hz),
            dict(zip(robot.commanded, map(str, now.clamp_counts), strict=True)),
        )

    def _check_chunk_age(self, robot: Embodiment) -> DiagnosticResult:
        now = self._get_snapshot()
        return (
            *motion_state.diagnose_chunks(now, robot.safety.chunk.max_age_s),
            {
                'accepted': str(now.counters.accepted),
                'rejected': str(now.counters.rejected),
                'late': str(now.counters.late),
                'predicted collisions': str(now.counters.predicted_collisions),
                'underruns': str(now.counters.underruns),
                'blend offset (rad)': f'{now.blend_offset:.4f}',
            },
        )

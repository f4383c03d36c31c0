"""What policy_node reports on /diagnostics, once a second: loop, queries, cameras, workers."""

from collections.abc import Callable, Mapping
from functools import partial

from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.node import Node

from wam_msgs.msg import PolicyStatus
from wam_policy.core.robot.embodiment import Camera, Embodiment
from wam_policy.core.session import policy_health
from wam_policy.core.session.policy_health import DiagnosticLevel
from wam_policy.core.session.policy_session import PolicyState
from wam_policy.nodes import rmw_vendor
from wam_policy.nodes.images import image_transport

DiagnosticResult = tuple[DiagnosticLevel, str, Mapping[str, str]]


class PolicyDiagnostics:
    """Judge the newest status; tasks of the robot's cameras come with `watch`."""

    def __init__(
        self,
        node: Node,
        get_status: Callable[[], PolicyStatus],
        get_target_hz: Callable[[], float],
        get_age_limit_s: Callable[[Camera], float],
        get_image_transport: Callable[[], str],
    ) -> None:
        """Take how to get the status now; before `watch` nobody asks."""
        self._node, self._get_status, self._get_target_hz = node, get_status, get_target_hz
        self._get_image_transport = get_image_transport
        self._get_age_limit_s = get_age_limit_s  # the limit that observations are judged by
        self._latest_status = PolicyStatus()  # what all tasks of one round judge
        self.updater = Updater(node)
        self.updater.setHardwareID('none')
        self._task_names: list[str] = []
        self._logged_reasons: set[str] = set()

    def add_tasks(self, robot: Embodiment) -> None:
        """Report on this robot from now on."""
        self.updater.setHardwareID(robot.name)
        # the first of every round
        self._add_task('loop', lambda _: self._check_loop(self._refresh_status()))
        chunk_s = robot.horizon * robot.step_dt_s
        self._add_task('query latency and rate', partial(self._check_queries, chunk_s))
        self._add_task('workers', self._check_workers)
        self._add_task('other RMWs', lambda _: self._check_rmws())
        for index, camera in enumerate(robot.cameras):
            self._add_task(
                f'camera {camera.key} rate and age',
                partial(self._check_camera, index, camera),
            )

    def remove_tasks(self) -> None:
        """Report nothing until the next `watch`."""
        while self._task_names:
            self.updater.removeByName(self._task_names.pop())

    def _add_task(self, name: str, check: Callable[[PolicyStatus], DiagnosticResult]) -> None:
        def run(out: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
            level, text, values = check(self._latest_status)
            out.summary(bytes([level]), text)
            for key, value in values.items():
                out.add(key, value)
            return out

        self._task_names.append(name)
        self.updater.add(name, run)

    def _refresh_status(self) -> PolicyStatus:
        self._latest_status = self._get_status()
        return self._latest_status

    def _check_rmws(self) -> DiagnosticResult:
        alone, text = rmw_vendor.describe_domain(self._node)
        return DiagnosticLevel.OK if alone else DiagnosticLevel.WARN, text, {}

    def _check_loop(self, status: PolicyStatus) -> DiagnosticResult:
        return (
            *policy_health.diagnose_state(PolicyState(status.state), status.reason),
            {
                'instruction': status.instruction,
                'session': status.session,
                'chunks': str(status.chunks_published),
                'dropped chunks': str(status.dropped_chunks),
                'dropped frames': str(status.dropped_frames),
                'KV commits': str(status.kv_commits),
                'KV rebuilds': str(status.kv_rebuilds),
            },
        )

    def _check_queries(self, chunk_s: float, status: PolicyStatus) -> DiagnosticResult:
        p99_ms = dict(zip(status.stage_names, status.stage_p99_ms, strict=True))
        p50_ms = dict(zip(status.stage_names, status.stage_p50_ms, strict=True))
        judged = policy_health.diagnose_queries(
            PolicyState(status.state),
            status.query_rate_hz,
            self._get_target_hz(),
            p99_ms.get('total'),
            chunk_s,
        )
        return (
            *judged,
            {
                'rate (Hz)': f'{status.query_rate_hz:.2f}',
                **{
                    f'{stage} p50 / p99 (ms)': f'{p50_ms[stage]:.1f} / {p99:.1f}'
                    for stage, p99 in p99_ms.items()
                },
            },
        )

    def _check_workers(self, status: PolicyStatus) -> DiagnosticResult:
        return (
            *policy_health.diagnose_workers(status.worker_restarts, status.trained, status.model),
            {
                'model': status.model,
                'trained': str(status.trained),
                'restarts': str(status.worker_restarts),
            },
        )

    def _check_camera(self, index: int, camera: Camera, status: PolicyStatus) -> DiagnosticResult:
        age_ms, rate_hz = status.camera_age_ms[index], status.camera_rate_hz[index]
        limit_s = self._get_age_limit_s(camera)
        level, text = policy_health.diagnose_camera(
            None if age_ms < 0 else age_ms / 1e3, limit_s, rate_hz, camera.fps
        )
        if level is DiagnosticLevel.ERROR:
            text = f'{text}{self._explain_silence(camera)}'
        return (
            level,
            text,
            {
                'rate (Hz)': f'{rate_hz:.2f}',
                'age (ms)': f'{age_ms:.0f}',
                'age limit (ms)': f'{1e3 * limit_s:.0f}',
                'topic': camera.topic,
            },
        )

    def _explain_silence(self, camera: Camera) -> str:
        """Return what else is published for a camera that sends nothing; log it once."""
        topic, kind = image_transport.resolve_camera_topic(
            camera.topic, self._get_image_transport()
        )
        reason = image_transport.describe_publishers(self._node, topic, kind)
        if not reason:
            return ''
        if reason not in self._logged_reasons:
            self._logged_reasons.add(reason)
            self._node.get_logger().error(f'camera {camera.key}: {reason}')
        return f'; {reason}'

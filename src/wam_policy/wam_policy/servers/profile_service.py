"""Serve one model under several profiles at once, each on a port and a transport of its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.model_requests import describe_committed_rows
from wam_policy.servers import handshake
from wam_policy.servers.request_queue import RequestQueue
from wam_policy.servers.server_metrics import ServerMetrics
from wam_policy.servers.server_profile import JointGroup, ServerProfile
from wam_policy.servers.serving_engine import ServedModel, ServerBackend
from wam_policy.servers.session_manager import SessionManager
from wam_policy.servers.transports.episode_server import EpisodeServer
from wam_policy.servers.transports.http_server import ActServer
from wam_policy.servers.transports.websocket_server import PolicyServer, ServerLimits
from wam_policy.servers.transports.zmq_server import ZmqServer


class TransportServer(Protocol):
    """A server of one profile."""

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None: ...
    def stop(self) -> None: ...


class ProfileService:
    """Run one server per profile on common sessions of one model."""

    def __init__(
        self,
        robot: Embodiment,
        backend: ServerBackend,
        model: ServedModel,
        limits: ServerLimits,
        *,
        max_sessions: int,
        max_batch: int,
        token: str,
        log: Callable[[str], None],
        log_requests: bool,
    ) -> None:
        """Create; `token` is wanted on every port."""
        self._robot, self._backend, self._model = robot, backend, model
        self._limits, self._token, self._log = limits, token, log
        manager = SessionManager(robot, backend, model, max_sessions, log)
        self._metrics = ServerMetrics(manager, backend)
        self._requests = RequestQueue(
            manager, self._metrics, log, log_requests=log_requests, max_batch=max_batch
        )
        self._servers: list[TransportServer] = []
        self._stopped = False

    async def run(self, host: str, listeners: Sequence[tuple[ServerProfile, int]]) -> None:
        """Listen for every profile until `stop`; raises OSError if a port is in use."""
        self._servers = [self.make_server(profile) for profile, _ in listeners]
        if self._stopped:
            return
        tasks = [
            asyncio.ensure_future(self._run_one(server, host, port, profile))
            for server, (profile, port) in zip(self._servers, listeners, strict=True)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:  # one cannot listen: none does
            self.stop()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """End every server; call from the event loop's thread."""
        self._stopped = True
        for server in self._servers:
            server.stop()

    def close(self) -> None:
        """End the thread of the sessions."""
        self._requests.close()

    def make_server(self, profile: ServerProfile) -> TransportServer:
        """Return the server of a profile, by its transport and encoding."""
        kind, named = profile.transport.kind, {'token': self._token, 'limits': self._limits}
        metadata = self._make_metadata(profile)
        if kind == 'http':
            return ActServer(self._requests, profile, metadata, backend=self._backend, **named)
        if kind == 'zmq':
            return ZmqServer(self._requests, profile, **named)
        if profile.codec == 'text_keys':
            return EpisodeServer(
                self._requests, profile, self._model.name, backend=self._backend, **named
            )
        if profile.codec != 'openpi':
            raise ValueError(
                f'{profile.name}: this server does not speak its encoding {profile.codec} over '
                f'{kind}; it speaks openpi and text_keys there'
            )
        return PolicyServer(
            self._requests,
            profile,
            metadata,
            metrics=self._metrics,
            backend=self._backend,
            **named,
        )

    def _make_metadata(self, profile: ServerProfile) -> dict[str, Any]:
        model = self._model
        return handshake.make_server_metadata(
            profile,
            self._robot,
            {
                'model': model.name,
                'trained': model.trained,
                'action_horizon': min(model.horizon, profile.horizon),
                'rtc': describe_committed_rows(model.max_committed_rows),
            },
            {
                'kind': handshake.STREAMING_MEMORY,
                'first_frames': model.first_frames,
                'frames_per_block': model.frames_per_block,
                'frame_period_s': model.frame_period_s,
                'window_blocks': model.window_blocks,
            },
        )

    async def _run_one(
        self, server: TransportServer, host: str, port: int, profile: ServerProfile
    ) -> None:
        trained = '' if self._model.trained else 'UNTRAINED '
        scheme = {'http': 'http', 'zmq': 'tcp'}.get(profile.transport.kind, 'ws')
        await server.run(
            host,
            port,
            lambda found: self._log(
                f'{trained}{self._model.name} for {self._robot.name}, {profile.name}, at '
                f'{scheme}://{host}:{found}'
                + (f'; health: http://{host}:{found}/healthz' if scheme != 'tcp' else '')
            ),
        )


def check_profile(profile: ServerProfile, robot: Embodiment, model: ServedModel) -> list[str]:
    """Return warnings about serving a model under a profile; ValueError if it is impossible."""
    carried = {
        name for group in profile.state if isinstance(group, JointGroup) for name in group.joints
    }
    # what is commanded and neither observed nor added to, such as a step or an effort, is not sent
    relative = [key for key in robot.action_keys if key.relative]
    read = {name for key in (*robot.state_keys, *relative) for name in key.joints}
    lost = [name for name in robot.commanded if name in read - carried]
    if lost:
        raise ValueError(
            f'server profile {profile.name} does not carry {", ".join(lost)}, which the policy '
            'needs'
        )
    fewer = model.horizon < profile.horizon
    if (fewer and profile.frames.block_steps is not None) or (
        abs(model.step_dt_s * profile.step_hz - 1.0) > 1e-6
    ):
        raise ValueError(
            f'{model.name} predicts {model.horizon} rows at {1 / model.step_dt_s:g} Hz, server '
            f'profile {profile.name} has {profile.horizon} rows at {profile.step_hz:g} Hz: select '
            'another --server-profile'
        )
    unseen = [camera.key for camera in robot.cameras if camera.key not in profile.cameras]
    warnings = []
    fixed = [name for name in robot.observed if name in read - carried]
    if fixed:
        warnings.append(
            f'{profile.name} does not carry {", ".join(fixed)}: the model sees them at home, so '
            'clients must keep them there'
        )
    if fewer:
        warnings.append(
            f'{profile.name}: answers have {model.horizon} rows, those of its own servers '
            f'{profile.horizon}'
        )
    if unseen:
        warnings.append(
            f'{profile.name} does not carry {", ".join(unseen)}: the model sees black images there'
        )
    return warnings

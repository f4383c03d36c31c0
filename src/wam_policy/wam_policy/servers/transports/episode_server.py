"""WebSocket server of vla-eval's protocol: hello, episode_start, observation, episode_end.

Its runners want one row per observation. In a synchronous episode the rows of a chunk are handed
out one after the other. In a live episode the runner sends observations at its own rate without
waiting: the row that is due by time is returned, and the next chunk is computed meanwhile.
"""

import asyncio
import http
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from wam_policy.servers.codecs import text_key_codec
from wam_policy.servers.codecs.codec_table import check_request
from wam_policy.servers.codecs.wire_arrays import MalformedMessage
from wam_policy.servers.request_queue import RequestQueue
from wam_policy.servers.server_metrics import BackendHealth
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.server_token import is_authorized
from wam_policy.servers.transports import websocket_server
from wam_policy.servers.transports.websocket_server import ServerLimits

PROTOCOL_VERSION = 1
REPLAN_SHARE = 0.5  # of a chunk's duration, then a live episode computes the next


@dataclass(slots=True)
class EpisodeRows:
    """Rows of the newest chunk of a connection, and which of them are over."""

    live: bool = False
    rows: np.ndarray | None = None  # [rows columns] of the answer
    observed_s: float = 0.0  # when the observation of the chunk arrived
    next_row: int = 0  # of a synchronous episode
    query: 'asyncio.Task[None] | None' = None  # of a live episode


@dataclass(slots=True, eq=False)
class _Client:
    connection: ServerConnection
    connection_id: int
    episode: EpisodeRows = field(default_factory=EpisodeRows)


class EpisodeServer:
    """Serve the sessions of one profile to vla-eval's runners until `stop`."""

    def __init__(
        self,
        requests: RequestQueue,
        profile: ServerProfile,
        model: str,
        *,
        token: str = '',
        limits: ServerLimits | None = None,
        backend: BackendHealth,
    ) -> None:
        self._requests, self._profile, self._model = requests, profile, model
        self._token, self._limits, self._backend = token, limits or ServerLimits(), backend
        self._clients: set[ServerConnection] = set()
        self._stopping = asyncio.Event()

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        """Listen until `stop`; call `on_ready` with the port. Raises OSError if it is in use."""
        async with websocket_server.listen(
            self._on_connection, self._on_http, host, port, self._limits, on_ready
        ):
            await self._stopping.wait()
            for connection in list(self._clients):
                await connection.close(CloseCode.GOING_AWAY, 'the server stops')

    def stop(self) -> None:
        """Close every connection; call from the event loop's thread."""
        self._stopping.set()

    def _on_http(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path in ('/health', '/healthz'):
            fault = self._backend.not_ready_reason
            status = http.HTTPStatus.SERVICE_UNAVAILABLE if fault else http.HTTPStatus.OK
            return connection.respond(status, f'{{"status": "{"ill" if fault else "ok"}"}}\n')
        if not is_authorized(self._token, request.headers.get('Authorization')):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, 'want a token\n')
        if len(self._clients) >= self._limits.max_connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, 'too many\n')
        return None

    async def _on_connection(self, connection: ServerConnection) -> None:
        client = _Client(connection, self._requests.connect())
        self._clients.add(connection)
        try:
            async for raw in connection:
                await self._on_message(client, raw)
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(connection)
            self._end_episode(client)
            self._requests.disconnect(client.connection_id)

    async def _on_message(self, client: _Client, raw: str | bytes) -> None:
        """Answer one message; an error is an answer, and the connection stays open."""
        kind, seq = 'message', 0
        try:
            message = check_request(text_key_codec.unpack(raw))
            kind, seq = message.get('type'), message.get('seq')
            payload = check_request(message.get('payload'))
            if type(seq) is not int:
                raise MalformedMessage(f'seq {seq!r:.40}: want an integer')
            if kind == 'hello':
                await self._send(client, 'hello', seq, self._describe())
            elif kind == 'episode_start':
                self._end_episode(client)
                client.episode = EpisodeRows(live=payload.get('mode') == 'live')
                await self._reset(client)
            elif kind == 'episode_end':
                self._end_episode(client)
            elif kind == 'observation':
                await self._on_observation(client, seq, payload)
            else:
                raise MalformedMessage(f'type {kind!r:.40}: want observation or episode_...')
        except ConnectionClosed:
            raise
        except Exception as error:  # noqa: BLE001  an error of one client must not stop the server
            await self._send_error(client, kind, seq, error)

    async def _on_observation(self, client: _Client, seq: int, payload: dict[str, Any]) -> None:
        episode, arrived_s = client.episode, time.monotonic()
        if not episode.live:
            if episode.rows is None or episode.next_row >= len(episode.rows):
                episode.rows, episode.next_row = await self._query(client, payload), 0
            row = episode.rows[episode.next_row]
            episode.next_row += 1
            await self._send(client, 'action', seq, {'actions': row})
            return
        row = self._select_row(episode, arrived_s)
        if episode.query is None and (
            episode.rows is None or arrived_s - episode.observed_s > REPLAN_SHARE * self._chunk_s
        ):
            episode.query = asyncio.ensure_future(
                self._query_live(client, episode, seq, payload, arrived_s)
            )
        if row is not None:
            await self._send(client, 'action', seq, {'actions': row})

    @property
    def _chunk_s(self) -> float:
        return self._profile.horizon / self._profile.step_hz

    def _select_row(self, episode: EpisodeRows, now_s: float) -> np.ndarray | None:
        """Return the row that is due by time; None: the chunk is over, the runner holds."""
        if episode.rows is None:
            return None
        row = int((now_s - episode.observed_s) * self._profile.step_hz)
        return episode.rows[row] if row < len(episode.rows) else None

    async def _query_live(
        self,
        client: _Client,
        episode: EpisodeRows,
        seq: int,
        payload: dict[str, Any],
        observed_s: float,
    ) -> None:
        first = episode.rows is None
        try:
            rows = await self._query(client, payload)
            episode.rows, episode.observed_s, episode.query = rows, observed_s, None
            row = self._select_row(episode, time.monotonic())
            if first and row is not None and client.episode is episode:
                await self._send(client, 'action', seq, {'actions': row})
        except ConnectionClosed:
            pass
        except Exception as error:  # noqa: BLE001  as in _on_message
            episode.query = None
            await self._send_error(client, 'observation', seq, error)

    async def _query(self, client: _Client, payload: dict[str, Any]) -> np.ndarray:
        answer = await asyncio.wrap_future(
            self._requests.submit(
                client.connection_id, self._profile, lambda: payload, endpoint='infer'
            )
        )
        for key in self._profile.actions_key or ():
            answer = answer[key]
        return np.atleast_2d(np.asarray(answer, np.float32))

    async def _reset(self, client: _Client) -> None:
        await asyncio.wrap_future(
            self._requests.submit(
                client.connection_id, self._profile, lambda: {}, endpoint='reset'
            )
        )

    def _end_episode(self, client: _Client) -> None:
        if client.episode.query is not None:
            client.episode.query.cancel()
        client.episode = EpisodeRows()

    def _describe(self) -> dict[str, Any]:
        return {
            'harness_version': 'wam',
            'protocol_version': PROTOCOL_VERSION,
            'model_server': self._model,
            'capabilities': {},
            'observation_params': {'send_wrist_image': True, 'send_state': True},
        }

    async def _send_error(
        self, client: _Client, kind: object, seq: object, error: Exception
    ) -> None:
        what = {'episode_start': 'episode_start_failed', 'observation': 'observation_failed'}
        text = f'{what.get(str(kind), "failed")}: {type(error).__name__}: {error}'
        await self._send(client, 'error', seq if type(seq) is int else 0, {'error': text})

    async def _send(self, client: _Client, kind: str, seq: int, payload: dict[str, Any]) -> None:
        message = {'type': kind, 'payload': payload, 'seq': seq, 'timestamp': time.time()}
        await client.connection.send(text_key_codec.pack(message))

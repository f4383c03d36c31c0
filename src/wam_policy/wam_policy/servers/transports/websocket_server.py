"""WebSocket server of the OpenPI protocol: connections, token, limits, health and metrics.

The event loop handles sockets; one executor thread runs the sessions. An invalid request is
answered with the reason and closes that client's connection; other clients are not affected.
"""

import asyncio
import hmac
import http
import itertools
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State

from wam_policy.servers import value_mapping
from wam_policy.servers.codecs import msgpack_codec
from wam_policy.servers.codecs.codec_table import check_request
from wam_policy.servers.server_metrics import BackendHealth, ServerMetrics
from wam_policy.servers.session_manager import InvalidClientRequest, SessionManager
from wam_policy.servers.transports.websocket_client import METADATA_HEADER

HEALTH_PATH, METRICS_PATH = '/healthz', '/metrics'


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits for clients."""

    max_connections: int = 64
    max_message_bytes: int = 64 * 1024 * 1024  # 8 frames of three 640x480 cameras are 22 MB
    shutdown_timeout_s: float = 5.0  # for a request in progress at shutdown


@dataclass(frozen=True, slots=True)
class ServerReply:
    """Answer to a request; with a close code, the connection is closed after it."""

    data: bytes | str
    close_code: CloseCode | None = None


class PolicyServer:
    """Serve a session manager over WebSocket until `stop`."""

    def __init__(
        self,
        session_manager: SessionManager,
        greeting: dict[str, Any],
        metadata: dict[str, Any],
        *,
        token: str = '',
        limits: ServerLimits | None = None,
        log: Callable[[str], None],
        log_requests: bool = True,
        backend: BackendHealth,
    ) -> None:
        """Create; `log` receives lines for the operator, one per request if `log_requests`.

        Every client is sent `greeting` on connect; one that asks for it, `metadata` instead.
        """
        self._session_manager = session_manager
        self._greeting_message = msgpack_codec.pack(greeting)
        self._metadata_message = msgpack_codec.pack(metadata)
        self._token, self._limits = token, limits or ServerLimits()
        self._log, self._log_requests = log, log_requests
        self._metrics = ServerMetrics(session_manager, backend)
        self._connection_ids = itertools.count(1)
        self._connections: set[ServerConnection] = set()
        self._busy_connections: set[ServerConnection] = set()
        self._stopping = asyncio.Event()
        self._backend = backend
        self._executor = ThreadPoolExecutor(1, thread_name_prefix='sessions')

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        """Listen until `stop`; call `on_ready` with the port. Raises OSError if it is in use."""
        try:
            async with serve(
                self._on_connection,
                host,
                port,
                compression=None,
                origins=[None],
                max_size=self._limits.max_message_bytes,
                max_queue=1,
                ping_interval=None,
                close_timeout=1.0,
                process_request=self._on_http,
            ) as listener:
                on_ready(next(iter(listener.sockets)).getsockname()[1])
                await self._stopping.wait()
                await self._shut_down(listener)
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Finish requests in progress, then stop; call from the event loop's thread."""
        self._stopping.set()

    async def _shut_down(self, listener: Listener) -> None:
        listener.close(close_connections=False)
        for connection in self._connections - self._busy_connections:
            await connection.close(CloseCode.GOING_AWAY, 'the server stops')
        deadline_s = time.monotonic() + self._limits.shutdown_timeout_s
        while self._busy_connections and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)

    def _on_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer health and metrics requests; reject a wrong token and too many connections."""
        if request.path == HEALTH_PATH:
            fault = self._backend.not_ready_reason
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE if fault else http.HTTPStatus.OK,
                f'{fault or "OK"}\n',
            )
        if not self._is_authorized(request.headers):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, 'want the header Authorization: Api-Key <token>\n'
            )
        if request.path == METRICS_PATH:
            page = self._metrics.render()
            return Response(
                200,
                'OK',
                Headers(
                    {
                        'Content-Type': 'text/plain; version=0.0.4; charset=utf-8',
                        'Content-Length': str(len(page)),
                        'Connection': 'close',
                    }
                ),
                page,
            )
        if len(self._connections) >= self._limits.max_connections:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                f'limit of {self._limits.max_connections} connections reached; retry later\n',
            )
        return None

    def _is_authorized(self, headers: Headers) -> bool:
        if not self._token:
            return True
        scheme, _, given = (headers.get('Authorization') or '').partition(' ')
        return scheme.lower() in ('api-key', 'bearer') and hmac.compare_digest(
            given.encode(), self._token.encode()
        )

    def _select_greeting(self, connection: ServerConnection) -> bytes:
        """Return all metadata to who asks by header or by `?metadata=full`, else the greeting."""
        request = connection.request
        assert request is not None  # there is no connection before its handshake
        query = parse_qs(urlsplit(request.path).query)
        wanted = [*request.headers.get_all(METADATA_HEADER), *query.get('metadata', [])]
        return self._metadata_message if 'full' in wanted else self._greeting_message

    async def _on_connection(self, connection: ServerConnection) -> None:
        owner = next(self._connection_ids)
        self._connections.add(connection)
        self._metrics.add_connections(1)
        try:
            await connection.send(self._select_greeting(connection))
            while not self._stopping.is_set():
                raw = await connection.recv()
                self._busy_connections.add(connection)
                try:
                    reply = await self._run_in_executor(
                        self._handle_message, owner, connection, raw, time.perf_counter()
                    )
                    await connection.send(reply.data)
                finally:
                    self._busy_connections.discard(connection)
                if reply.close_code is not None:
                    await connection.close(reply.close_code, 'see the previous message')
                    return
            await connection.close(CloseCode.GOING_AWAY, 'the server stops')
        except ConnectionClosed:
            pass
        finally:
            self._connections.discard(connection)
            self._metrics.add_connections(-1)
            with suppress(RuntimeError):  # the executor has shut down, and with it every session
                await self._run_in_executor(self._session_manager.disconnect, owner)

    async def _run_in_executor[T](self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, work, *arguments)

    def _handle_message(
        self, connection_id: int, connection: ServerConnection, raw: str | bytes, arrived_s: float
    ) -> ServerReply:
        """Decode and execute a message, encode the answer; runs in the executor's thread."""
        started_s = time.perf_counter()
        endpoint: object = 'other'
        outcome, reply = 'ok', ServerReply('')
        try:
            if connection.state is not State.OPEN:
                outcome = 'gone'  # closed while the request was queued
            else:
                message = check_request(msgpack_codec.unpack(raw))
                endpoint = self._session_manager.get_endpoint(message)
                answer = self._session_manager.handle_request(connection_id, message)
                reply = ServerReply(
                    answer if isinstance(answer, str) else msgpack_codec.pack(answer)
                )
        except (
            msgpack_codec.MalformedMessage,
            value_mapping.ProfileMismatch,
            InvalidClientRequest,
        ) as error:
            outcome = 'declined'
            reply = ServerReply(f'{type(error).__name__}: {error}', CloseCode.INVALID_DATA)
            self._log(f'connection {connection_id}: declined {endpoint!s:.40}: {error}')
        except Exception:  # noqa: BLE001  an error of one client must not stop the server
            outcome = 'failed'
            trace = traceback.format_exc()
            reply = ServerReply(trace, CloseCode.INTERNAL_ERROR)
            self._log(f'connection {connection_id}: {endpoint!s:.40} failed\n{trace}')
        waited_s, worked_s = started_s - arrived_s, time.perf_counter() - started_s
        self._metrics.count_request(endpoint, outcome, waited_s, worked_s)
        if self._log_requests and outcome == 'ok':
            self._log(
                f'connection {connection_id}: {endpoint} {1e3 * worked_s:.1f} ms, after '
                f'{1e3 * waited_s:.1f} ms in the queue'
            )
        return reply

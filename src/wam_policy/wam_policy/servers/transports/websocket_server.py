"""WebSocket server of the OpenPI protocol: connections, token, limits, health and metrics.

The event loop handles sockets; the request queue's thread runs the sessions. An invalid request is
answered with the reason and closes that client's connection; other clients are not affected.
"""

import asyncio
import contextlib
import http
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
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

from wam_policy.servers import handshake
from wam_policy.servers.codecs import msgpack_codec
from wam_policy.servers.codecs.codec_table import check_request
from wam_policy.servers.request_queue import INVALID_REQUEST_ERRORS, RequestQueue
from wam_policy.servers.server_metrics import BackendHealth, ServerMetrics
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.server_token import is_authorized
from wam_policy.servers.transports.websocket_client import METADATA_HEADER

HEALTH_PATH, METRICS_PATH = '/healthz', '/metrics'


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits for clients."""

    max_connections: int = 64
    max_message_bytes: int = 64 * 1024 * 1024  # 8 frames of three 640x480 cameras are 22 MB
    shutdown_timeout_s: float = 5.0  # for a request in progress at shutdown


@contextlib.asynccontextmanager
async def listen(
    on_connection: Callable[[ServerConnection], Awaitable[None]],
    on_http: Callable[[ServerConnection, Request], Response | None],
    host: str,
    port: int,
    limits: ServerLimits,
    on_ready: Callable[[int], None],
) -> AsyncIterator[Listener]:
    """Listen for WebSocket clients; call `on_ready` with the port.

    A web page cannot connect: browsers send an origin. One message of a connection waits at a
    time. Raises OSError if the port is in use.
    """
    async with serve(
        on_connection,
        host,
        port,
        compression=None,
        origins=[None],
        max_size=limits.max_message_bytes,
        max_queue=1,
        ping_interval=None,
        close_timeout=1.0,
        process_request=on_http,
    ) as listener:
        on_ready(next(iter(listener.sockets)).getsockname()[1])
        yield listener


class PolicyServer:
    """Serve the sessions of one profile over WebSocket until `stop`."""

    def __init__(
        self,
        requests: RequestQueue,
        profile: ServerProfile,
        metadata: Mapping[str, Any],
        *,
        token: str = '',
        limits: ServerLimits | None = None,
        metrics: ServerMetrics,
        backend: BackendHealth,
    ) -> None:
        """Create. A client that asks for it is sent `metadata` on connect, others a greeting."""
        self._requests, self._profile = requests, profile
        self._greeting_message = msgpack_codec.pack(handshake.make_greeting(profile))
        self._metadata_message = msgpack_codec.pack(dict(metadata))
        self._token, self._limits = token, limits or ServerLimits()
        self._metrics, self._backend = metrics, backend
        self._connections: set[ServerConnection] = set()
        self._busy_connections: set[ServerConnection] = set()
        self._stopping = asyncio.Event()

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        """Listen until `stop`; call `on_ready` with the port. Raises OSError if it is in use."""
        async with listen(
            self._on_connection, self._on_http, host, port, self._limits, on_ready
        ) as listener:
            await self._stopping.wait()
            await self._shut_down(listener)

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
        if not is_authorized(self._token, request.headers.get('Authorization')):
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

    def _select_greeting(self, connection: ServerConnection) -> bytes:
        """Return all metadata to who wants it by header or `?metadata=full`, else a greeting."""
        request = connection.request
        assert request is not None  # there is no connection before its handshake
        query = parse_qs(urlsplit(request.path).query)
        wanted = [*request.headers.get_all(METADATA_HEADER), *query.get('metadata', [])]
        return self._metadata_message if 'full' in wanted else self._greeting_message

    async def _on_connection(self, connection: ServerConnection) -> None:
        connection_id = self._requests.connect()
        self._connections.add(connection)
        self._metrics.add_connections(1)
        try:
            await self._talk(connection, connection_id)
            await connection.close(CloseCode.GOING_AWAY, 'the server stops')
        except ConnectionClosed:
            pass
        finally:
            self._connections.discard(connection)
            self._metrics.add_connections(-1)
            self._requests.disconnect(connection_id)

    async def _talk(self, connection: ServerConnection, connection_id: int) -> None:
        """Answer the requests of a connection until it is closed or the server stops."""
        await connection.send(self._select_greeting(connection))
        while not self._stopping.is_set():
            raw = await connection.recv()
            self._busy_connections.add(connection)
            try:
                if not await self._answer(connection, connection_id, raw):
                    return
            finally:
                self._busy_connections.discard(connection)

    async def _answer(
        self, connection: ServerConnection, connection_id: int, raw: str | bytes
    ) -> bool:
        """Answer one request; an error closes the connection, then return False."""
        future = self._requests.submit(
            connection_id,
            self._profile,
            lambda: check_request(msgpack_codec.unpack(raw)),
            lambda: connection.state is State.OPEN,
        )
        try:
            answer = await asyncio.wrap_future(future)
            await connection.send(
                answer if isinstance(answer, str) else msgpack_codec.pack(answer)
            )
            return True
        except ConnectionClosed:
            raise
        except INVALID_REQUEST_ERRORS as error:
            text, code = f'{type(error).__name__}: {error}', CloseCode.INVALID_DATA
        except Exception as error:  # noqa: BLE001  an error of one client must not stop the server
            text, code = ''.join(traceback.format_exception(error)), CloseCode.INTERNAL_ERROR
        await connection.send(text)
        await connection.close(code, 'see the previous message')
        return False

"""The protocol's server side: connections, a token, limits, health; one thread asks the engine.

The event loop never waits for the engine and its thread never touches a socket. Whatever a client
does wrong costs it its connection, after a text that says why; the others do not notice.
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

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State

from wam_policy.servers import value_mapping
from wam_policy.servers.codecs import msgpack_codec
from wam_policy.servers.server_metrics import Engine, Metrics
from wam_policy.servers.session_manager import Declined, Desk

HEALTH, METRICS = '/healthz', '/metrics'


@dataclass(frozen=True, slots=True)
class Limits:
    """Bound what clients may take."""

    connections: int = 64
    message_bytes: int = 64 * 1024 * 1024  # 8 frames of three 640x480 cameras are 22 MB
    grace_s: float = 5.0  # for a request under way when asked to stop


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold what goes back, and with which code the connection then closes, if it does."""

    data: bytes | str
    close: CloseCode | None = None


class Server:
    """Serve a desk until stopped."""

    def __init__(
        self,
        desk: Desk,
        configuration: dict[str, Any],
        *,
        token: str = '',
        limits: Limits | None = None,
        say: Callable[[str], None],
        each: bool = True,
        engine: Engine,
    ) -> None:
        """Take where lines for people go, and whether each request is one; the engine's health
        is ours.
        """
        self._desk, self._greeting = desk, msgpack_codec.packed(configuration)
        self._token, self._limits = token, limits or Limits()
        self._say, self._each = say, each
        self._metrics = Metrics(desk, engine)
        self._numbers = itertools.count(1)
        self._open: set[ServerConnection] = set()
        self._busy: set[ServerConnection] = set()
        self._stopping = asyncio.Event()
        self._engine = engine
        self._desk_thread = ThreadPoolExecutor(1, thread_name_prefix='desk')

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        """Listen until `stop`; calls `on_ready` with the port. Raises OSError if it is taken."""
        try:
            async with serve(
                self._on_connection,
                host,
                port,
                compression=None,
                origins=[None],
                max_size=self._limits.message_bytes,
                max_queue=1,
                ping_interval=None,
                close_timeout=1.0,
                process_request=self._on_http,
            ) as listener:
                on_ready(next(iter(listener.sockets)).getsockname()[1])
                await self._stopping.wait()
                await self._wind_down(listener)
        finally:
            self._desk_thread.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Finish what is under way and end; call it from the event loop's thread."""
        self._stopping.set()

    async def _wind_down(self, listener: Listener) -> None:
        listener.close(close_connections=False)
        for connection in self._open - self._busy:
            await connection.close(CloseCode.GOING_AWAY, 'the server stops')
        deadline_s = time.monotonic() + self._limits.grace_s
        while self._busy and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)

    def _on_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, and let in who may."""
        if request.path == HEALTH:
            fault = self._engine.fault
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE if fault else http.HTTPStatus.OK,
                f'{fault or "OK"}\n',
            )
        if not self._knows(request.headers):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, 'want the header Authorization: Api-Key <token>\n'
            )
        if request.path == METRICS:
            page = self._metrics.page()
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
        if len(self._open) >= self._limits.connections:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                f'{self._limits.connections} connections are open already\n',
            )
        return None

    def _knows(self, headers: Headers) -> bool:
        if not self._token:
            return True
        scheme, _, given = (headers.get('Authorization') or '').partition(' ')
        return scheme.lower() in ('api-key', 'bearer') and hmac.compare_digest(
            given.encode(), self._token.encode()
        )

    async def _on_connection(self, connection: ServerConnection) -> None:
        owner = next(self._numbers)
        self._open.add(connection)
        self._metrics.connected(1)
        try:
            await connection.send(self._greeting)
            while not self._stopping.is_set():
                raw = await connection.recv()
                self._busy.add(connection)
                try:
                    reply = await self._at_desk(
                        self._replied, owner, connection, raw, time.perf_counter()
                    )
                    await connection.send(reply.data)
                finally:
                    self._busy.discard(connection)
                if reply.close is not None:
                    await connection.close(reply.close, 'see the text before')
                    return
            await connection.close(CloseCode.GOING_AWAY, 'the server stops')
        except ConnectionClosed:
            pass
        finally:
            self._open.discard(connection)
            self._metrics.connected(-1)
            with suppress(RuntimeError):  # that thread has ended, and every session
                await self._at_desk(self._desk.leave, owner)

    async def _at_desk[T](self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._desk_thread, work, *arguments)

    def _replied(
        self, owner: int, connection: ServerConnection, raw: str | bytes, arrived_s: float
    ) -> Reply:
        """Decode, do and encode; in the desk's thread."""
        started_s = time.perf_counter()
        endpoint: object = 'other'
        outcome, reply = 'ok', Reply('')
        try:
            if connection.state is not State.OPEN:
                outcome = 'gone'  # it waited for its turn and left: nobody would read it
            else:
                message = msgpack_codec.request(raw)
                endpoint = self._desk.endpoint(message)
                answer = self._desk.answer(owner, message)
                reply = Reply(answer if isinstance(answer, str) else msgpack_codec.packed(answer))
        except (msgpack_codec.Malformed, value_mapping.Mismatch, Declined) as error:
            outcome = 'declined'
            reply = Reply(f'{type(error).__name__}: {error}', CloseCode.INVALID_DATA)
            self._say(f'connection {owner}: declined {endpoint!s:.40}: {error}')
        except Exception:  # noqa: BLE001  one client's fault must not end the others
            outcome = 'failed'
            trace = traceback.format_exc()
            reply = Reply(trace, CloseCode.INTERNAL_ERROR)
            self._say(f'connection {owner}: {endpoint!s:.40} failed\n{trace}')
        waited_s, worked_s = started_s - arrived_s, time.perf_counter() - started_s
        self._metrics.answered(endpoint, outcome, waited_s, worked_s)
        if self._each and outcome == 'ok':
            self._say(
                f'connection {owner}: {endpoint} {1e3 * worked_s:.1f} ms, after '
                f'{1e3 * waited_s:.1f} ms in the queue'
            )
        return reply

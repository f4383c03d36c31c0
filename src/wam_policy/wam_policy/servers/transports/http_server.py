"""HTTP server of `/act`: POST an observation, get a chunk; JSON with arrays or nested lists.

Its clients are those of MolmoAct2, GO-1 and others. A request without a session id belongs to its
connection, and has no memory of earlier ones. A page in a browser cannot use the server: requests
with an Origin are refused.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wam_policy.servers.codecs.codec_table import CODECS, check_request
from wam_policy.servers.request_queue import INVALID_REQUEST_ERRORS, RequestQueue
from wam_policy.servers.server_metrics import BackendHealth
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.server_token import is_authorized
from wam_policy.servers.transports.websocket_server import ServerLimits

ENDPOINTS = {'/act': 'infer', '/reset': 'reset'}
READY_PATHS = ('/act', '/health', '/healthz')
IDLE_TIMEOUT_S = 60.0  # of a connection, then it is closed; also for a body that stops


class ActServer:
    """Serve the sessions of one profile over HTTP until `stop`."""

    def __init__(
        self,
        requests: RequestQueue,
        profile: ServerProfile,
        metadata: Mapping[str, Any],
        *,
        token: str = '',
        limits: ServerLimits | None = None,
        backend: BackendHealth,
    ) -> None:
        """Create; `metadata` is the answer to GET /act."""
        self.requests, self.profile, self.metadata = requests, profile, dict(metadata)
        self.token, self.limits, self.backend = token, limits or ServerLimits(), backend
        self.codec = CODECS[profile.codec]
        self.shared_connection_id = requests.connect()  # of requests with a session id
        self.slots = threading.BoundedSemaphore(self.limits.max_connections)
        self.busy_count = 0  # requests in progress
        self._stopping = asyncio.Event()

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        """Listen until `stop`; call `on_ready` with the port. Raises OSError if it is in use.

        Every connection has a thread, because reading and decoding a body takes long.
        """
        act_server = self

        class Handler(_ActHandler):
            server_state = act_server

        server = ThreadingHTTPServer((host, port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name='act', daemon=True).start()
        on_ready(server.server_address[1])
        await self._stopping.wait()
        await asyncio.to_thread(server.shutdown)
        server.socket.close()  # not server_close, which waits for idle connections
        deadline_s = time.monotonic() + self.limits.shutdown_timeout_s
        while self.busy_count and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Finish requests in progress, then stop; call from the event loop's thread."""
        self._stopping.set()


class _ActHandler(BaseHTTPRequestHandler):
    """Answer the requests of one connection."""

    server_state: ActServer
    protocol_version = 'HTTP/1.1'
    timeout = IDLE_TIMEOUT_S

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection_id: int | None = None

    def handle(self) -> None:
        if not self.server_state.slots.acquire(blocking=False):
            self.close_connection = True
            self.requestline, self.request_version, self.command = '', 'HTTP/1.1', ''
            self._send(
                HTTPStatus.SERVICE_UNAVAILABLE,
                {'error': f'limit of {self.server_state.limits.max_connections} connections'},
            )
            return
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            pass  # the client is gone
        finally:
            self.server_state.slots.release()
            if self._connection_id is not None:
                self.server_state.requests.disconnect(self._connection_id)

    def do_GET(self) -> None:
        """Answer whether the model is ready, and what it is."""
        if self.path not in READY_PATHS:
            self._send(HTTPStatus.NOT_FOUND, {'error': f'no {self.path}; GET /act, POST /act'})
            return
        fault = self.server_state.backend.not_ready_reason
        if fault:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, {'status': 'not ready', 'error': fault})
        else:
            self._send(HTTPStatus.OK, {'status': 'ok', **self.server_state.metadata})

    def do_POST(self) -> None:
        """Answer an observation with actions, or start an episode."""
        state, body = self.server_state, self._read_body()
        if body is None:
            return
        endpoint = ENDPOINTS.get(self.path)
        if endpoint is None:
            self._send(HTTPStatus.NOT_FOUND, {'error': f'no {self.path}; POST /act or /reset'})
            return
        state.busy_count += 1
        try:
            message = check_request(state.codec.unpack(body))
            answer = state.requests.submit(
                self._get_connection_id(message), state.profile, lambda: message, endpoint=endpoint
            ).result()
        except INVALID_REQUEST_ERRORS as error:
            self._send(HTTPStatus.BAD_REQUEST, {'error': str(error)})
        except Exception as error:  # noqa: BLE001  an error of one client must not stop the server
            self._send(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                {'error': f'{endpoint} failed: {type(error).__name__}: {error}'},
            )
        else:
            if endpoint == 'reset':
                answer = {'status': 'ok', **state.metadata}
            elif isinstance(answer, dict):
                answer['dt_ms'] = answer.get('server_timing', {}).get('infer_ms', 0.0)
            self._send(HTTPStatus.OK, answer)
        finally:
            state.busy_count -= 1

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the request queue does."""

    def _get_connection_id(self, message: Mapping[str, Any]) -> int:
        state, key = self.server_state, self.server_state.profile.session_key
        if key is not None and str(key[0]) in message:
            return state.shared_connection_id
        if self._connection_id is None:
            self._connection_id = state.requests.connect()
        return self._connection_id

    def _read_body(self) -> bytes | None:
        """Return the body of an allowed request; otherwise answer it and return None."""
        state, length = self.server_state, self.headers.get('Content-Length', '')
        limit = state.limits.max_message_bytes
        refused: tuple[HTTPStatus, str] | None = None
        if not is_authorized(state.token, self.headers.get('Authorization')):
            refused = HTTPStatus.UNAUTHORIZED, 'want the header Authorization: Bearer <token>'
        elif self.headers.get('Origin'):
            refused = HTTPStatus.FORBIDDEN, 'pages in a browser are not served'
        elif not length.isdecimal():
            refused = HTTPStatus.LENGTH_REQUIRED, 'want the header Content-Length'
        elif len(length) > 12 or int(length) > limit:
            refused = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f'{length} bytes; the limit is {limit}'
        if refused is not None:
            self.close_connection = True  # the body was not read
            self._send(refused[0], {'error': refused[1]})
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the client has closed
            return None
        return body

    def _send(self, status: HTTPStatus, answer: Any) -> None:
        packed: Callable[[Any], bytes] = self.server_state.codec.pack
        body = packed(answer) if status is HTTPStatus.OK else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        if self.close_connection:
            self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(body)

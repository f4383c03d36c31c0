"""HTTP/1.1 connection to a policy server: one POST or GET per request, the connection kept alive.

Redirects are not followed and no proxy is used: a request goes to the given address or nowhere.
"""

import http.client
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

from wam_policy.servers.transports.policy_transport import (
    Reply,
    ServerUnreachable,
    TransportError,
    TransportSettings,
    describe_error,
    make_size_error,
    make_timeout_error,
)

READ_BYTES = 256 * 1024


class HttpClient:
    """Connection to `address`, http:// or https://."""

    greeting: bytes | None = None

    def __init__(self, address: str, settings: TransportSettings) -> None:
        """Connect; raises ServerUnreachable."""
        self.address, self._settings = address.rstrip('/'), settings
        parts = urlsplit(address)
        self._base_path = parts.path.rstrip('/')
        kind = http.client.HTTPConnection
        if parts.scheme == 'https':
            kind = http.client.HTTPSConnection
        self._http = kind(parts.hostname or '', parts.port, timeout=settings.connect_timeout_s)
        self._closed = False
        self._connect()

    @property
    def is_open(self) -> bool:
        """Return whether the transport was not closed; HTTP connects again by itself."""
        return not self._closed

    def exchange(
        self, route: str, body: bytes, timeout_s: float, *, has_answer: bool = True
    ) -> Reply:
        if self._closed:
            raise TransportError('the connection is closed')
        deadline_s = time.monotonic() + timeout_s
        is_reused = self._drop_if_stale()
        if not is_reused:
            try:
                self._connect()
            except ServerUnreachable:
                self.close()
                raise
        try:
            reply = self._exchange_once(route, body, deadline_s, timeout_s)
        except _ClosedBeforeAnswer as error:
            # between two requests a server may close at the same moment as the next is sent
            if not (is_reused and self._settings.may_repeat):
                raise self._fail(error) from error
            self._http.close()
            try:
                self._connect()
                reply = self._exchange_once(route, body, deadline_s, timeout_s)
            except (_ClosedBeforeAnswer, ServerUnreachable) as second_error:
                raise self._fail(second_error) from second_error
        return reply

    def close(self) -> None:
        self._closed = True
        self._http.close()

    def _connect(self) -> None:
        try:
            self._http.timeout = self._settings.connect_timeout_s
            self._http.connect()
        except (OSError, ssl.SSLError) as error:
            self._http.close()
            raise ServerUnreachable(
                f'no server at {self.address}: {describe_error(error)}'
            ) from error
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _drop_if_stale(self) -> bool:
        """Drop a connection that the server closed since; return whether one is left.

        Bytes that wait to be read belong to no request of ours: such a connection is dropped too.
        """
        sock = self._http.sock
        if sock is None:
            return False
        if select.select([sock], [], [], 0)[0]:
            self._http.close()
            return False
        return True

    def _exchange_once(
        self, route: str, body: bytes, deadline_s: float, timeout_s: float
    ) -> Reply:
        """Send a request and read its answer; the socket is shut down at the deadline.

        The time limit of a socket is one per read, so a server that sends byte by byte would
        never exceed it.
        """
        method, path = route.split(' ', 1)
        sock = self._http.sock
        remaining_s = max(0.001, deadline_s - time.monotonic())
        sock.settimeout(remaining_s)
        timer = threading.Timer(remaining_s, _shut_down, [sock])
        timer.daemon = True
        timer.start()
        response = None
        try:
            self._http.request(
                method, self._base_path + path, body or None, self._make_headers(bool(body))
            )
            response = self._http.getresponse()
            return self._read(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline_s - 0.001 or isinstance(error, TimeoutError):
                self.close()
                raise make_timeout_error(self.address, timeout_s) from None
            if response is None and isinstance(error, ConnectionError | BrokenPipeError):
                raise _ClosedBeforeAnswer(describe_error(error)) from error
            raise self._fail(error) from error
        finally:
            timer.cancel()

    def _read(self, response: http.client.HTTPResponse) -> Reply:
        limit = self._settings.max_answer_bytes
        if response.length is not None and response.length > limit:
            self.close()
            raise make_size_error(self.address, response.length, limit)
        parts, size = [], 0
        while part := response.read(READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > limit:
                self.close()
                raise make_size_error(self.address, None, limit)
        if response.length:
            raise http.client.IncompleteRead(b'', response.length)
        return Reply(b''.join(parts), status=response.status)

    def _make_headers(self, has_body: bool) -> dict[str, str]:
        headers = {'Accept': self._settings.content_type, **self._settings.make_headers()}
        return {**headers, 'Content-Type': self._settings.content_type} if has_body else headers

    def _fail(self, error: BaseException) -> TransportError:
        self.close()
        return TransportError(f'{self.address} closed the connection: {describe_error(error)}')


class _ClosedBeforeAnswer(Exception):
    """Report a connection that ended before the first byte of an answer."""


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

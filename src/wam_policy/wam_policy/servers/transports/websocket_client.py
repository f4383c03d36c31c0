"""WebSocket connection to a policy server, with one request in progress at a time.

Every error closes the connection: a timeout, a string where actions are expected, bytes that
cannot be decoded. The next session opens a new connection, so a late answer is never used.
"""

import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from wam_policy.servers.codecs import msgpack_codec

# name of the environment variable that client and server read
TOKEN_VARIABLE = 'WAM_TOKEN'  # nosec B105
# asks our server to say on connect all that it knows; other servers ignore it
METADATA_HEADER = 'WAM-Metadata'
CONNECT_TIMEOUT_S = 5.0  # each for the handshake and for the metadata
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # 1,000 rows of 1,000 float32 are 4 MB
LOGGED_TRACEBACK_LINES = 12  # last lines of the server's traceback


class WebSocketClientError(Exception):
    """Report that a request failed; the connection is closed."""


class ServerUnreachable(WebSocketClientError):
    """Report that no server answers at the address now; a retry may succeed."""


class ConnectionRejected(WebSocketClientError):
    """Report that the server refused the connection; a retry does not help."""


class RemoteServerError(WebSocketClientError):
    """Report an error that the server answered; `trace` is the whole text."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        last = next((line for line in reversed(trace.splitlines()) if line.strip()), 'empty text')
        super().__init__(f'the server failed: {last.strip()[:300]}')


class WebSocketClient:
    """Connection to `address`, with the metadata that the server sent on connect."""

    def __init__(
        self,
        address: str,
        token: str = '',  # nosec B107: empty, none is sent
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """Connect; raises ServerUnreachable or ConnectionRejected."""
        self.address = address
        headers = {METADATA_HEADER: 'full'}
        if token:
            headers['Authorization'] = f'Api-Key {token}'
        try:
            # legacy: the connection stays open after this call, without a context manager;
            # no compression: noisy images do not shrink, and it takes longer than sending;
            # no keep-alive pings: a server does not answer them while it computes
            self._connection: ClientConnection | None = connect(
                address,
                additional_headers=headers,
                compression=None,
                proxy=None,
                open_timeout=connect_timeout_s,
                close_timeout=0.5,
                ping_interval=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=1,
                legacy=True,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            reason = (
                f'the token is wrong or missing: set {TOKEN_VARIABLE}'
                if status in (401, 403)
                else f'it answered with HTTP status {status}'
            )
            kind = ServerUnreachable if status in (429, 502, 503, 504) else ConnectionRejected
            raise kind(f'{address} refused the connection: {reason}') from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ServerUnreachable(f'no server at {address}: {_describe_error(error)}') from error
        _disable_nagle(self._connection.socket)
        try:
            self.server_metadata = msgpack_codec.unpack(self._receive(connect_timeout_s))
        except msgpack_codec.MalformedMessage as error:
            self.close()
            raise ConnectionRejected(f'{address} sent no valid metadata: {error}') from error
        except WebSocketClientError as error:
            raise ServerUnreachable(f'{address} sent no valid metadata: {error}') from error

    @property
    def is_open(self) -> bool:
        """Return whether the server has not closed the connection, as far as it was noticed."""
        return self._connection is not None and self._connection.state is State.OPEN

    def request(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        """Send a message and return the decoded answer, or the string that the server sent.

        Raises WebSocketClientError or RemoteServerError and closes the connection;
        MalformedMessage if the message cannot be encoded (nothing is sent then).
        """
        raw = msgpack_codec.pack(dict(message))
        started_s = time.monotonic()
        connection = self._connection
        if connection is None:
            raise WebSocketClientError('the connection is closed')
        if connection.state is not State.OPEN:  # closed by the server between requests
            self.close()
            raise WebSocketClientError(f'{self.address} closed the connection')
        try:
            _set_send_timeout(connection.socket, timeout_s)
            connection.send(raw)
        except (ConnectionClosed, OSError) as error:
            self.close()
            raise WebSocketClientError(
                f'{self.address} closed the connection while sending: {_describe_error(error)}'
            ) from error
        answer = self._receive(max(0.001, timeout_s - (time.monotonic() - started_s)), timeout_s)
        if isinstance(answer, str):
            return answer
        try:
            return _check_answer(msgpack_codec.unpack(answer))
        except (msgpack_codec.MalformedMessage, RemoteServerError) as error:
            self.close()
            if isinstance(error, RemoteServerError):
                raise
            raise WebSocketClientError(
                f'{self.address} sent an invalid answer: {error}'
            ) from error

    def close(self) -> None:
        """Close without waiting for the server; repeated calls have no effect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                # both directions: the server is notified and our reader thread ends
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.close_socket()

    def _receive(self, remaining_s: float, timeout_s: float | None = None) -> str | bytes:
        assert self._connection is not None
        try:
            return self._connection.recv(remaining_s)
        except TimeoutError:
            self.close()
            raise WebSocketClientError(
                f'{self.address} did not answer within {timeout_s or remaining_s:g} s'
            ) from None
        except ConnectionClosed as error:
            self.close()
            raise WebSocketClientError(
                f'{self.address} closed the connection: {_describe_error(error)}'
            ) from error


def close_and_make_error(client: WebSocketClient, text: str) -> RemoteServerError:
    """Close the connection and return the error for an unexpected string as answer."""
    client.close()
    return RemoteServerError(text)


def _check_answer(answer: Any) -> Any:
    """Return the answer; raise RemoteServerError for an error sent in binary (vLLM-Omni)."""
    if isinstance(answer, dict) and answer.get('type') == 'error':
        raise RemoteServerError(str(answer.get('message', answer)))
    return answer


def _disable_nagle(sock: socket.socket) -> None:
    with suppress(OSError):  # not a TCP socket, as in tests
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _set_send_timeout(sock: socket.socket, timeout_s: float) -> None:
    """Limit the time to send: without it, sending to a host that went offline blocks."""
    seconds = int(timeout_s)
    sock.setsockopt(
        socket.SOL_SOCKET,
        socket.SO_SNDTIMEO,
        struct.pack('ll', seconds, int((timeout_s - seconds) * 1e6)),
    )


def _describe_error(error: BaseException) -> str:
    return str(error) or type(error).__name__

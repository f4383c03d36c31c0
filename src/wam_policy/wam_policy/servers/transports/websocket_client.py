"""WebSocket connection to a policy server: one message there, one message back."""

import socket
import struct
import time
from contextlib import suppress

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from wam_policy.servers.transports.policy_transport import (
    Reply,
    ServerUnreachable,
    TransportError,
    TransportSettings,
    describe_error,
    make_status_error,
    make_timeout_error,
)

# asks our server to say on connect all that it knows; other servers ignore it
METADATA_HEADER = 'WAM-Metadata'


class WebSocketClient:
    """Connection to `address`, ws:// or wss://, with what the server sent on connect."""

    def __init__(self, address: str, settings: TransportSettings) -> None:
        """Connect; raises ServerUnreachable or ConnectionRejected."""
        self.address = address
        try:
            # legacy: the connection stays open after this call, without a context manager;
            # no compression: noisy images do not shrink, and it takes longer than sending;
            # no keep-alive pings: a server does not answer them while it computes
            self._connection: ClientConnection | None = connect(
                address,
                additional_headers={METADATA_HEADER: 'full', **settings.make_headers()},
                compression=None,
                proxy=None,
                open_timeout=settings.connect_timeout_s,
                close_timeout=0.5,
                ping_interval=None,
                max_size=settings.max_answer_bytes,
                max_queue=1,
                legacy=True,
            )
        except InvalidStatus as error:
            raise make_status_error(address, error.response.status_code) from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ServerUnreachable(f'no server at {address}: {describe_error(error)}') from error
        _disable_nagle(self._connection.socket)
        self._greeting: bytes | None = None
        if settings.greets:
            try:
                self._greeting = self._receive(settings.connect_timeout_s).body
            except TransportError as error:
                raise ServerUnreachable(f'{address} sent no valid metadata: {error}') from error

    @property
    def greeting(self) -> bytes | None:
        return self._greeting

    @property
    def is_open(self) -> bool:
        """Return whether both sides are open; a server may close an idle connection."""
        connection = self._connection
        return connection is not None and connection.state is State.OPEN

    def exchange(
        self, route: str, body: bytes, timeout_s: float, *, has_answer: bool = True
    ) -> Reply:
        started_s = time.monotonic()
        connection = self._connection
        if connection is None:
            raise TransportError('the connection is closed')
        if connection.state is not State.OPEN:  # closed by the server between requests
            self.close()
            raise TransportError(f'{self.address} closed the connection')
        try:
            _set_send_timeout(connection.socket, timeout_s)
            connection.send(body)
        except (ConnectionClosed, OSError) as error:
            self.close()
            raise TransportError(
                f'{self.address} closed the connection while sending: {describe_error(error)}'
            ) from error
        if not has_answer:
            return Reply(b'')
        return self._receive(max(0.001, timeout_s - (time.monotonic() - started_s)), timeout_s)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                # both directions: the server is notified and our reader thread ends
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.close_socket()

    def _receive(self, remaining_s: float, timeout_s: float | None = None) -> Reply:
        assert self._connection is not None
        try:
            message = self._connection.recv(remaining_s)
        except TimeoutError:
            self.close()
            raise make_timeout_error(self.address, timeout_s or remaining_s) from None
        except ConnectionClosed as error:
            self.close()
            raise TransportError(
                f'{self.address} closed the connection: {describe_error(error)}'
            ) from error
        if isinstance(message, str):
            return Reply(message.encode(), is_text=True)
        return Reply(message)


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

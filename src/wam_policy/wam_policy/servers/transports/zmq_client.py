"""ZeroMQ connection (REQ) to a policy server (REP), as Isaac-GR00T's servers listen."""

import time

import zmq

from wam_policy.servers.transports.policy_transport import (
    Reply,
    ServerUnreachable,
    TransportError,
    TransportSettings,
    describe_error,
    make_size_error,
    make_timeout_error,
)


class ZmqClient:
    """Connection to `address`, zmq+tcp://HOST:PORT; a socket serves one request at a time.

    REQ sends and receives in turns, so after a failed request the socket is closed; a new one has
    a new identity, to which the server does not send a late answer.
    """

    greeting: bytes | None = None

    def __init__(self, address: str, settings: TransportSettings) -> None:
        """Connect; raises ServerUnreachable."""
        self.address, self._max_bytes = address, settings.max_answer_bytes
        self._context: zmq.Context | None = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        for option, value in (
            (zmq.LINGER, 0),  # closing does not wait for a server that is gone
            (zmq.IMMEDIATE, 1),  # nothing is queued for a server that is not there
            (zmq.MAXMSGSIZE, settings.max_answer_bytes),
        ):
            self._socket.setsockopt(option, value)
        try:
            self._socket.connect(address.removeprefix('zmq+'))
        except zmq.ZMQError as error:
            self.close()
            raise ServerUnreachable(f'no server at {address}: {error}') from error
        if not self._socket.poll(1000 * settings.connect_timeout_s, zmq.POLLOUT):
            self.close()
            raise ServerUnreachable(
                f'no server at {address}: no connection within {settings.connect_timeout_s:g} s'
            )

    @property
    def is_open(self) -> bool:
        """Return whether the socket was not closed; ZeroMQ connects again by itself."""
        return self._context is not None

    def exchange(
        self, route: str, body: bytes, timeout_s: float, *, has_answer: bool = True
    ) -> Reply:
        if self._context is None:
            raise TransportError('the connection is closed')
        deadline_s = time.monotonic() + timeout_s
        try:
            # a server that went away: the socket has no connection to send on
            if not self._socket.poll(1000 * timeout_s, zmq.POLLOUT):
                raise make_timeout_error(self.address, timeout_s)
            self._socket.send(body, zmq.NOBLOCK)
            remaining_s = max(0.0, deadline_s - time.monotonic())
            if not self._socket.poll(1000 * remaining_s, zmq.POLLIN):
                raise make_timeout_error(self.address, timeout_s)
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except TransportError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(
                f'{self.address}: the request failed: {describe_error(error)}'
            ) from error
        if len(parts) != 1:
            self.close()
            raise TransportError(f'{self.address} answered with {len(parts)} parts, want 1')
        if len(parts[0]) > self._max_bytes:
            self.close()
            raise make_size_error(self.address, len(parts[0]), self._max_bytes)
        return Reply(parts[0])

    def close(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._socket.close(0)
            context.term()

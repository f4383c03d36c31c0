"""What every transport to a policy server has in common: one request in flight, bytes both ways.

Contract, tested for all transports by tests/servers/test_transports.py:
- a timeout, an error of the network or a message beyond the size limit closes the connection;
- after an error nothing that arrives late is ever read: the next connection is a new one;
- the size is checked before memory is allocated for an answer, where the protocol tells it;
- only ServerUnreachable, ConnectionRejected and TransportError are raised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

# name of the environment variable that client and server read
TOKEN_VARIABLE = 'WAM_TOKEN'  # nosec B105
CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # 1,000 rows of 1,000 float32 are 4 MB
TEMPORARY_STATUSES = (429, 502, 503, 504)  # of HTTP: another try may succeed
TOKEN_STATUSES = (401, 403)


class TransportError(Exception):
    """Report that a request failed; the connection is closed."""


class ServerUnreachable(TransportError):
    """Report that no server answers at the address now; a retry may succeed."""


class ConnectionRejected(TransportError):
    """Report that the server refused the connection; a retry does not help."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer of a server, not decoded."""

    body: bytes
    is_text: bool = False  # a WebSocket text message: no answer of a binary protocol
    status: int = 200  # of HTTP


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Settings of a connection."""

    token: str = ''  # empty: none is sent
    token_scheme: str = 'Api-Key'  # nosec B105: of the Authorization header
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    max_answer_bytes: int = MAX_ANSWER_BYTES
    greets: bool = True  # WebSocket: the server sends a message on connect
    content_type: str = 'application/json'  # HTTP
    may_repeat: bool = False  # HTTP: a request may reach the server twice

    def make_headers(self) -> Mapping[str, str]:
        """Return the header with the token, or none."""
        return {'Authorization': f'{self.token_scheme} {self.token}'} if self.token else {}


class PolicyTransport(Protocol):
    """Connection to one server; the constructor connects."""

    address: str

    @property
    def greeting(self) -> bytes | None:
        """Return what the server sent on connect; None: its protocol has no greeting."""
        ...

    @property
    def is_open(self) -> bool:
        """Return whether a request can be sent."""
        ...

    def exchange(
        self, route: str, body: bytes, timeout_s: float, *, has_answer: bool = True
    ) -> Reply:
        """Send a message and return the answer; an empty one if `has_answer` is false.

        `route` is 'METHOD /path' of HTTP; other transports ignore it.
        """
        ...

    def close(self) -> None:
        """Close without waiting for the server; repeated calls have no effect."""
        ...


def describe_error(error: BaseException) -> str:
    """Return the text of an error, or its type if it has none."""
    return str(error) or type(error).__name__


def make_timeout_error(address: str, timeout_s: float) -> TransportError:
    """Return the error of a server that did not answer in time."""
    return TransportError(f'{address} did not answer within {timeout_s:g} s')


def make_size_error(address: str, size: int | None, limit: int) -> TransportError:
    """Return the error of an answer beyond the size limit."""
    what = 'an answer' if size is None else f'an answer of {size} bytes'
    return TransportError(
        f'{address} sent {what}; the limit is {limit} bytes '
        '(transport.max_answer_mb of the server profile)'
    )


def make_status_error(address: str, status: int) -> TransportError:
    """Return the error of a connection that was refused with an HTTP status."""
    if status in TOKEN_STATUSES:
        reason = f'the token is wrong or missing: set {TOKEN_VARIABLE}'
    else:
        reason = f'it answered with HTTP status {status}'
    kind = ServerUnreachable if status in TEMPORARY_STATUSES else ConnectionRejected
    return kind(f'{address} refused the connection: {reason}')

"""Requests to a policy server: templates filled, encoded, sent by a transport, answers checked.

Every failure closes the connection: a timeout, an answer that cannot be decoded, an error that the
server states. The next session opens a new one, so a late answer is never used. Servers state
errors in many forms, and all of them are recognized for all servers: a WebSocket text, an HTTP
status, the bytes or the string `ERROR`, a map with `error`, or one of the type `error`.
"""

import datetime
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from wam_policy.servers.codecs.codec_table import CODECS
from wam_policy.servers.codecs.wire_arrays import MalformedMessage
from wam_policy.servers.mapping.message_template import fill_template
from wam_policy.servers.mapping.nested_keys import ProfileMismatch, format_path, get_nested
from wam_policy.servers.profile_fields import SCHEMES, Operation, ServerProfile
from wam_policy.servers.transports.policy_transport import (
    TEMPORARY_STATUSES,
    TOKEN_STATUSES,
    ConnectionRejected,
    PolicyTransport,
    Reply,
    ServerUnreachable,
    TransportError,
    TransportSettings,
    make_status_error,
)

LOGGED_TRACEBACK_LINES = 12  # last lines of the server's traceback
TOKEN_FIELD = 'api_token'  # nosec B105: of a request map, GR00T
CONTENT_TYPES = {'json_numpy': 'application/json'}


class RemoteServerError(TransportError):
    """Report an error that the server answered; `trace` is the whole text."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        last = next((line for line in reversed(trace.splitlines()) if line.strip()), 'empty text')
        super().__init__(f'the server failed: {last.strip()[:300]}')


class PolicyClient:
    """Connection to one server in the language of a profile, with the server's metadata."""

    def __init__(
        self,
        profile: ServerProfile,
        address: str,
        token: str = '',  # nosec B107: empty, none is sent
    ) -> None:
        """Connect and greet; raises ServerUnreachable or ConnectionRejected."""
        self._profile, self._codec = profile, CODECS[profile.codec]
        self._token = token if profile.transport.auth == 'field' else ''
        self._timeouts, self._count = profile.transport.timeouts, 0
        self._transport = open_transport(profile, address, token)
        self.address = self._transport.address
        try:
            self.server_metadata = self._greet()
        except (ServerUnreachable, ConnectionRejected):
            self.close()
            raise
        except (MalformedMessage, RemoteServerError, ProfileMismatch) as error:
            self.close()
            raise ConnectionRejected(f'{self.address} sent no valid metadata: {error}') from error
        except TransportError as error:
            self.close()
            raise ServerUnreachable(f'{self.address} sent no valid metadata: {error}') from error

    @property
    def is_open(self) -> bool:
        return self._transport.is_open

    def request(
        self,
        name: str,
        variables: Mapping[str, Any],
        timeout_s: float,
        more: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send an operation of the profile and return the decoded answer.

        `more` is added to the message. Raises TransportError and closes the connection;
        MalformedMessage if the message cannot be encoded (nothing is sent then).
        """
        operation = self._profile.operations[name]
        body = b''
        identity = uuid.uuid4().hex
        if operation.message is not None:
            body = self._codec.pack(self._make_message(operation, variables, identity, more or {}))
        self._count += 1
        reply = self._transport.exchange(
            operation.route, body, timeout_s, has_answer=operation.has_answer
        )
        if not operation.has_answer:
            return None
        try:
            answer = self._decode(name, reply)
            self._check_identity(operation, answer, identity)
        except TransportError:
            self.close()
            raise
        except (MalformedMessage, ProfileMismatch) as error:
            self.close()
            raise TransportError(f'{self.address} sent an invalid answer: {error}') from error
        return answer

    def close(self) -> None:
        self._transport.close()

    def _greet(self) -> Any:
        """Return the metadata of the server: its first message, its answer, or none."""
        if self._transport.greeting is not None:
            metadata = self._codec.unpack(self._transport.greeting)
            _raise_stated_error(metadata)
            return metadata
        if 'greet' not in self._profile.operations:
            return {}
        answer = self.request('greet', {}, self._timeouts.connect_s)
        return {} if isinstance(answer, str) else answer

    def _make_message(
        self,
        operation: Operation,
        variables: Mapping[str, Any],
        identity: str,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC)
        always = {
            'id': identity,
            'number': self._count,
            'unix_time': time.time(),
            'iso_time': now.isoformat(),
        }
        message = {**fill_template(operation.message, {**always, **variables}), **more}
        return {**message, TOKEN_FIELD: self._token} if self._token else message

    def _decode(self, name: str, reply: Reply) -> Any:
        """Return the decoded answer; raises RemoteServerError for an error of the server."""
        if reply.is_text:
            text = reply.body.decode(errors='replace')
            # old servers confirm a reset by a text, and every server sends errors as one
            if name == 'reset' and 'Traceback' not in text:
                return text
            raise RemoteServerError(text)
        if reply.status != 200:
            if name == 'greet' and reply.status in (*TEMPORARY_STATUSES, *TOKEN_STATUSES):
                raise make_status_error(self.address, reply.status)
            raise RemoteServerError(self._describe_status(reply))
        if reply.body == b'ERROR':
            raise RemoteServerError('the server answered ERROR and no reason')
        if not reply.body and name in ('reset', 'observe'):
            return None
        answer = self._codec.unpack(reply.body)
        if isinstance(answer, str) and name not in ('reset', 'greet'):
            raise RemoteServerError(f'the server answered the text {answer!r:.200}')
        _raise_stated_error(answer)
        return answer

    def _describe_status(self, reply: Reply) -> str:
        """Return the text of an HTTP error: the reason in its body, if there is one."""
        try:
            answer = self._codec.unpack(reply.body)
        except MalformedMessage:
            answer = reply.body[:200].decode(errors='replace')
        if isinstance(answer, dict):
            answer = answer.get('error', answer.get('detail', answer))
        return f'HTTP status {reply.status}: {answer!s:.300}'

    def _check_identity(self, operation: Operation, answer: Any, identity: str) -> None:
        """Raise ProfileMismatch if an answer belongs to another request."""
        path = operation.id_key
        if path is None:
            return
        wanted = str(self._count - 1) if _uses_number(operation, path) else identity
        if str(get_nested(answer, path)) != wanted:
            raise ProfileMismatch(
                f'{format_path(path)}: the answer is to another request, '
                f'{get_nested(answer, path)!r:.60}'
            )


def open_transport(profile: ServerProfile, address: str, token: str) -> PolicyTransport:
    """Connect by the transport of a profile; raises ServerUnreachable or ConnectionRejected."""
    settings = TransportSettings(
        token='' if profile.transport.auth == 'field' else token,  # nosec B106
        token_scheme='Bearer' if profile.transport.auth == 'bearer' else 'Api-Key',  # nosec B106
        connect_timeout_s=profile.transport.timeouts.connect_s,
        max_answer_bytes=round(profile.transport.max_answer_mb * 1024 * 1024),
        greets=profile.transport.greets,
        content_type=CONTENT_TYPES.get(profile.codec, 'application/msgpack'),
        may_repeat=profile.transport.may_repeat,
    )
    return _load_transport(profile.transport.kind)(address, settings)


def make_server_url(server: str, profile: ServerProfile) -> str:
    """Append the profile's path to an address without one; ValueError for a bad address."""
    scheme, _, rest = server.partition('://')
    if scheme in ('grpc', 'grpcs'):
        raise ValueError(
            f"server {server!r}: LeRobot's gRPC carries pickles, which run code of the sender "
            'here, so it is not spoken; serve the policy with one of the servers in '
            'docs/how-to/servers, for LeRobot weights vla-eval'
        )
    wanted = [name for name, kind in SCHEMES.items() if kind == profile.transport.kind]
    if scheme not in wanted or not rest:
        raise ValueError(
            f'server {server!r}: want {" or ".join(f"{name}://HOST:PORT" for name in wanted)} '
            f'for the server profile {profile.name}'
        )
    return server if '/' in rest.rstrip('/') else server.rstrip('/') + profile.url_path


def _load_transport(kind: str) -> Callable[[str, TransportSettings], PolicyTransport]:
    """Import a transport when it is used: a robot without it needs not its packages."""
    if kind == 'http':
        from wam_policy.servers.transports.http_client import HttpClient

        return HttpClient
    if kind == 'zmq':
        from wam_policy.servers.transports.zmq_client import ZmqClient

        return ZmqClient
    from wam_policy.servers.transports.websocket_client import WebSocketClient

    return WebSocketClient


def _uses_number(operation: Operation, path: tuple[str | int, ...]) -> bool:
    return get_nested(operation.message, path) == '$number'


def _raise_stated_error(answer: Any) -> None:
    """Raise RemoteServerError if the answer is a map that states an error."""
    if not isinstance(answer, dict):
        return
    if 'error' in (answer.get('type'), answer.get('message_type')) or answer.get('error'):
        payload = answer.get('payload')
        found = payload if isinstance(payload, dict) else answer
        text = found.get('message') or found.get('error') or answer
        raise RemoteServerError(f'{text!s:.2000}')

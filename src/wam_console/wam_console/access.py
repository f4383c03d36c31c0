"""Who may open the page: the same origin, and the token where one is set.

Notable:
- Origin is checked for every socket and every post, on loopback too: otherwise any page that the
  operator's browser shows could steer the robot;
- without a token, Host must be a name of loopback, so that a foreign name that resolves to
  127.0.0.1 (DNS rebinding) gets nothing.
"""

import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

TOKEN_VARIABLE = 'WAM_CONSOLE_TOKEN'  # nosec B105: a name, not a token
MIN_TOKEN_LENGTH = 16
LOOPBACK_HOSTS = ('127.0.0.1', 'localhost', '::1')
MAX_SESSIONS = 64  # browsers that are logged in; the oldest is logged out


class AccessControl:
    """Check hosts, origins and sessions of one server."""

    def __init__(self, address: str, token: str) -> None:
        """Take the address to listen on; ValueError if it needs a token and has none."""
        if token and len(token) < MIN_TOKEN_LENGTH:
            raise ValueError(
                f'{TOKEN_VARIABLE} has {len(token)} characters, at least {MIN_TOKEN_LENGTH} are '
                'needed: export one made by `openssl rand -hex 16`'
            )
        if not token and address not in LOOPBACK_HOSTS:
            raise ValueError(
                f'address {address} can be reached from other machines and needs a token: '
                f'export {TOKEN_VARIABLE}=$(openssl rand -hex 16), or use 127.0.0.1'
            )
        self._token = token
        self._sessions: dict[str, None] = {}

    @property
    def needs_token(self) -> bool:
        return bool(self._token)

    def is_known_host(self, host: str) -> bool:
        """Return whether the Host header is one that the page may have."""
        return self.needs_token or (urlsplit(f'//{host}').hostname or '') in LOOPBACK_HOSTS

    def is_same_origin(self, origin: str, host: str) -> bool:
        """Return whether a request comes from a page of this server."""
        parts = urlsplit(origin)
        return bool(host) and parts.scheme in ('http', 'https') and parts.netloc == host

    def log_in(self, token: str) -> str | None:
        """Return a new session, or None for a wrong token."""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        session = secrets.token_urlsafe(32)
        self._sessions[session] = None
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def is_logged_in(self, cookies: Mapping[str, str], cookie_name: str) -> bool:
        return not self.needs_token or cookies.get(cookie_name, '') in self._sessions

"""The token of our server: how a client may send it, on any transport."""

import hmac


def is_authorized(token: str, header: str | None) -> bool:
    """Return whether an Authorization header (Api-Key or Bearer) has the token; '': all have."""
    scheme, _, given = (header or '').partition(' ')
    return not token or (scheme.lower() in ('api-key', 'bearer') and is_token(token, given))


def is_token(token: str, given: object) -> bool:
    """Return whether a text is the token, in a time that does not depend on it; '': all are."""
    if not token:
        return True
    return isinstance(given, str) and hmac.compare_digest(given.encode(), token.encode())

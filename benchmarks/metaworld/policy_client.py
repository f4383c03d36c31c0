"""Ask a policy server for chunks over the OpenPI protocol; needs only websockets and msgpack.

Written from the protocol, not on our server's code: a binary msgpack message each way, arrays as
maps with byte keys, a greeting with the metadata, an error as text.
"""

from contextlib import ExitStack
from typing import Any

import msgpack
import numpy as np
from websockets.sync.client import connect

MAX_ANSWER_BYTES = 16 * 1024 * 1024
RESET_REPLY = 'reset successful'


class PolicyServerError(RuntimeError):
    """Report what the server said instead of an answer."""


class OpenPiClient:
    """One connection; `metadata` is the greeting."""

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        """Connect to ws://host:port; raise OSError without a server."""
        self._timeout_s = timeout_s
        self._open = ExitStack()
        self._connection = self._open.enter_context(
            connect(
                address,
                compression=None,
                proxy=None,
                ping_interval=None,
                open_timeout=timeout_s,
                max_size=MAX_ANSWER_BYTES,
                additional_headers={'WAM-Metadata': 'full'},  # other servers ignore it
            )
        )
        self.metadata: dict[str, Any] = decode(self._connection.recv(timeout_s))

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one message, return the map of the answer; text is an error: PolicyServerError."""
        answer = self._exchange(message)
        if not isinstance(answer, dict):
            lines = str(answer).strip().splitlines() or ['empty text']
            raise PolicyServerError(f'{message.get("endpoint", "infer")}: {lines[-1]}')
        return answer

    def reset(self, message: dict[str, Any]) -> None:
        """Send a reset; raise PolicyServerError if the server does not confirm it."""
        answer = self._exchange({'endpoint': 'reset', **message})
        if answer != RESET_REPLY:
            raise PolicyServerError(f'reset: {answer!r:.200}')

    def close(self) -> None:
        self._open.close()

    def _exchange(self, message: dict[str, Any]) -> Any:
        packed = msgpack.packb(message, default=encode_array)
        assert packed is not None  # only a Packer without autoreset returns nothing
        self._connection.send(packed)
        return decode(self._connection.recv(self._timeout_s))


def encode_array(value: object) -> dict[bytes, Any]:
    """Return the map of an array, for msgpack's `default`."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f'{type(value).__name__} cannot be sent')
    array = np.ascontiguousarray(value)
    return {
        b'__ndarray__': True,
        b'data': array.tobytes(),
        b'dtype': array.dtype.str,
        b'shape': array.shape,
    }


def decode(raw: str | bytes) -> Any:
    """Return the content of a binary message, or the text of a text message."""
    if isinstance(raw, str):
        return raw
    return msgpack.unpackb(raw, object_hook=_decode_map, strict_map_key=False)


def _decode_map(found: dict[Any, Any]) -> Any:
    if b'__ndarray__' not in found:
        return found
    dtype = np.dtype(found[b'dtype'])
    return np.frombuffer(found[b'data'], dtype).reshape(found[b'shape'])

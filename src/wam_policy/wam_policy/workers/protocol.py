"""What a worker and its parent process agree on: messages, the inherited socket, exit statuses.

A message is 4 bytes of head length (big-endian), a JSON head and raw arrays.
- No pickle: a head is data, arrays have whitelisted dtypes in little-endian C order.
- Every size is checked before memory is allocated for it.
- Arrays are received into their final memory and sent without a copy.
- The meaning of the message kinds is defined elsewhere (see request_server).
"""

import ctypes
import json
import math
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Never

import numpy as np

DTYPES = ('uint8', 'int32', 'int64', 'float32', 'float64')
MAX_HEAD_BYTES = 256 * 1024
MAX_ARRAYS = 64
MAX_DIMENSIONS = 6
MAX_ARRAY_BYTES = 512 * 1024 * 1024  # of one message; 9 frames of 8 full-HD cameras
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024  # a whole commit of small views: the sender need not wait
ALIGNMENT = 64  # bytes; a cache line, the widest vector load

# exit statuses of a worker
EXIT_OK = 0  # asked to stop, or the parent closed the socket
EXIT_FAILED = 1  # another try may succeed
EXIT_PERMANENT_FAILURE = 2  # these arguments can never work
EXIT_PEER_LOST = 3  # the other worker exited

PR_SET_PDEATHSIG = 1  # linux/prctl.h

_LENGTH = struct.Struct('>I')
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class ProtocolError(Exception):
    """A message was invalid; the rest of the stream cannot be parsed."""


class PeerClosed(ProtocolError):
    """The other end closed between two messages, or rejects what is sent."""


class ProtocolTimeout(ProtocolError):
    """The other end stopped sending or reading; a message may be half transferred."""


class PeerLost(Exception):
    """The other worker exited or does not answer; this one cannot continue without it."""


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """Carry a kind, JSON fields and named arrays."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    arrays: Mapping[str, np.ndarray] = field(default_factory=lambda: _EMPTY)

    def with_id_of(self, request: 'WorkerMessage') -> 'WorkerMessage':
        """Return this message with the id of the request that it answers."""
        return replace(self, fields={**self.fields, 'id': request.fields.get('id')})


def make_socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets with buffers for a message of the usual size."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return ends


def send(sock: socket.socket, message: WorkerMessage, timeout_s: float | None = None) -> None:
    """Send one message.

    Raises ProtocolError if it exceeds a limit (nothing is sent then), PeerClosed or
    ProtocolTimeout.
    """
    head, arrays = _encode_head(message)
    parts = [memoryview(_LENGTH.pack(len(head)) + head)]
    parts += [memoryview(array.reshape(-1).view(np.uint8)) for array in arrays if array.size]
    deadline_s = _deadline_s(timeout_s)
    while parts:
        sock.settimeout(_remaining_s(deadline_s, 'sending'))
        try:
            sent = sock.sendmsg(parts)
        except TimeoutError:
            raise ProtocolTimeout('the other end did not read the message in time') from None
        except (BrokenPipeError, ConnectionResetError):
            raise PeerClosed('the other end has closed') from None
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


def receive(sock: socket.socket, timeout_s: float | None = None) -> WorkerMessage:
    """Receive one message; its arrays are writeable, aligned and not shared.

    Raises PeerClosed at an orderly end, ProtocolTimeout, or ProtocolError naming what was wrong.
    """
    deadline_s = _deadline_s(timeout_s)
    prefix = bytearray(_LENGTH.size)
    _receive_into(sock, prefix, deadline_s, 'head length', may_be_closed=True)
    (length,) = _LENGTH.unpack(prefix)
    if not 0 < length <= MAX_HEAD_BYTES:
        raise ProtocolError(f'head of {length} bytes; allowed 1 to {MAX_HEAD_BYTES}')
    raw = bytearray(length)
    _receive_into(sock, raw, deadline_s, 'head')
    kind, fields, layout = _parse_head(raw)
    sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in layout]
    # one block, not one per array: three views of 0.9 MB arrive in half the time (0.9 for 1.9 ms)
    block = np.empty(sum(size + -size % ALIGNMENT for size in sizes), dtype=np.uint8)
    arrays, start = {}, 0
    for (name, dtype, shape), size in zip(layout, sizes, strict=True):
        part = block[start : start + size]
        if size:
            _receive_into(sock, part, deadline_s, f'array {name!r} of {kind!r}')
        arrays[name] = part.view(dtype).reshape(shape)
        start += size + -size % ALIGNMENT
    return WorkerMessage(kind, fields, arrays)


def adopt_socket(fd: int, grace_s: float) -> socket.socket:
    """Return the socket inherited from the parent, and exit when the parent exits.

    A request that is in progress when the other end closes has `grace_s` to finish.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sock = socket.socket(fileno=fd)

    def exit_on_hangup() -> None:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        poll.poll()
        time.sleep(grace_s)  # an idle worker receives the end of file itself and exits in order
        os._exit(EXIT_OK)

    threading.Thread(target=exit_on_hangup, name='hang-up', daemon=True).start()
    return sock


def _deadline_s(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _remaining_s(deadline_s: float | None, what: str) -> float | None:
    if deadline_s is None:
        return None
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise ProtocolTimeout(f'time ran out while {what}')
    return left_s


def _receive_into(
    sock: socket.socket,
    target: bytearray | np.ndarray,
    deadline_s: float | None,
    what: str,
    may_be_closed: bool = False,
) -> None:
    """Receive exactly len(target) bytes; `may_be_closed`: an end before the first is orderly."""
    view = memoryview(target)
    got = 0
    while got < len(view):
        sock.settimeout(_remaining_s(deadline_s, f'receiving the {what}'))
        try:
            count = sock.recv_into(view[got:])
        except TimeoutError:
            raise ProtocolTimeout(
                f'no more after {got} of {len(view)} bytes of the {what}'
            ) from None
        except ConnectionResetError:
            count = 0  # it closed with our bytes unread
        if count == 0:
            if may_be_closed and got == 0:
                raise PeerClosed('the other end has closed')
            raise ProtocolError(
                f'truncated: closed after {got} of {len(view)} bytes of the {what}'
            )
        got += count


def _encode_head(message: WorkerMessage) -> tuple[bytes, list[np.ndarray]]:
    reserved = {'kind', 'arrays'} & message.fields.keys()
    if reserved:
        raise ProtocolError(f'{message.kind!r}: field {", ".join(sorted(reserved))} is reserved')
    arrays = [_to_wire_array(name, array) for name, array in message.arrays.items()]
    layout = [
        {'name': name, 'dtype': array.dtype.name, 'shape': list(array.shape)}
        for name, array in zip(message.arrays, arrays, strict=True)
    ]
    try:
        head = json.dumps(
            {**message.fields, 'kind': message.kind, 'arrays': layout},
            allow_nan=False,
            separators=(',', ':'),
        ).encode()
    except (TypeError, ValueError) as error:
        raise ProtocolError(f'{message.kind!r}: a field is not plain JSON: {error}') from error
    if len(head) > MAX_HEAD_BYTES:
        raise ProtocolError(
            f'{message.kind!r}: head of {len(head)} bytes; allowed {MAX_HEAD_BYTES}'
        )
    _check_layout(layout)
    return head, arrays


def _to_wire_array(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.name not in DTYPES:
        raise ProtocolError(
            f'array {name!r}: dtype {array.dtype} is not allowed; allowed {", ".join(DTYPES)}'
        )
    # asarray, as ascontiguousarray would make a scalar one-dimensional
    return np.asarray(array, dtype=array.dtype.newbyteorder('<'), order='C')


def _parse_head(raw: bytearray) -> tuple[str, dict[str, Any], list[tuple]]:
    try:
        head = json.loads(raw.decode(), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f'head is not JSON: {error}') from None
    if not isinstance(head, dict):
        raise ProtocolError(f'head is a JSON {type(head).__name__}, want an object')
    kind, described = head.pop('kind', None), head.pop('arrays', None)
    if not isinstance(kind, str) or not kind:
        raise ProtocolError(f'head names no kind: {kind!r:.80}')
    if not isinstance(described, list):
        raise ProtocolError(f'{kind!r}: "arrays" is {described!r:.80}, want a list')
    return kind, head, _check_layout(described)


def _reject_constant(constant: str) -> Never:
    raise ValueError(f'{constant} is not JSON')


def _check_layout(entries: list) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
    """Check array descriptions against every limit: (name, dtype, shape) of each."""
    if len(entries) > MAX_ARRAYS:
        raise ProtocolError(f'{len(entries)} arrays; allowed {MAX_ARRAYS}')
    found, total = [], 0
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {'name', 'dtype', 'shape'}:
            raise ProtocolError(f'array description {entry!r:.80}: want name, dtype, shape')
        name, dtype, shape = entry['name'], entry['dtype'], entry['shape']
        if not isinstance(name, str) or any(name == other for other, *_ in found):
            raise ProtocolError(f'array name {name!r:.80} is not a new string')
        if dtype not in DTYPES:
            raise ProtocolError(
                f'array {name!r:.80}: dtype {dtype!r:.80} is not allowed; '
                f'allowed {", ".join(DTYPES)}'
            )
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_DIMENSIONS
            or not all(type(side) is int and side >= 0 for side in shape)
        ):
            raise ProtocolError(
                f'array {name!r:.80}: shape {shape!r:.80} is not a list of at most '
                f'{MAX_DIMENSIONS} whole numbers'
            )
        kind = np.dtype(dtype).newbyteorder('<')
        total += math.prod(shape) * kind.itemsize
        if total > MAX_ARRAY_BYTES:
            raise ProtocolError(
                f'array {name!r:.80} brings the arrays to {total} bytes; allowed {MAX_ARRAY_BYTES}'
            )
        found.append((name, kind, tuple(shape)))
    return found

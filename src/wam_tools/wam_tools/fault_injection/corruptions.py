"""What may be done to the bytes of a topic on their way: pure functions of one message.

A trick takes a serialised message and returns those to send instead, none for a loss. Stamps are
patched in place: in every stamped message they are the first eight bytes after the encapsulation.
"""

import random
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from wam_msgs.msg import ActionChunk
from wam_policy.nodes import message_conversion

Trick = Callable[[bytes], Sequence[bytes]]
STAMP = struct.Struct('<iI')
ENCAPSULATION = 4  # bytes of header in front of a message
STAMP_AT = ENCAPSULATION
SEED = 1


def passed(raw: bytes) -> Sequence[bytes]:
    return (raw,)


def lost(share: float, seed: int = SEED) -> Trick:
    """Lose a share of the messages, always the same ones."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    return lambda raw: () if dice.random() < share else (raw,)


def frozen(*, stamped: bool) -> Trick:
    """Repeat the first message; `stamped`: with the stamps of those it stands for."""
    kept: list[bytes] = []

    def trick(raw: bytes) -> Sequence[bytes]:
        if not kept:
            kept.append(raw)
        return (with_stamp(kept[0], stamp_ns(raw)) if stamped else kept[0],)

    return trick


def slowed(every: int) -> Trick:
    """Hand on one message of `every`."""
    seen = [0]

    def trick(raw: bytes) -> Sequence[bytes]:
        seen[0] += 1
        return (raw,) if seen[0] % every == 0 else ()

    return trick


def shifted(by_s: float) -> Trick:
    """Set every stamp off."""
    return lambda raw: (with_stamp(raw, stamp_ns(raw) + round(by_s * 1e9)),)


def garbage(raw: bytes) -> Sequence[bytes]:
    """Return as many bytes that mean nothing, behind the header without which DDS reads none."""
    noise = random.Random(SEED).randbytes(len(raw) - ENCAPSULATION)  # noqa: S311 - no secret
    return (raw[:ENCAPSULATION] + noise,)


def stamp_ns(raw: bytes) -> int:
    sec, nanosec = STAMP.unpack_from(raw, STAMP_AT)
    return sec * message_conversion.NS_PER_S + nanosec


def with_stamp(raw: bytes, ns: int) -> bytes:
    sec, nanosec = divmod(ns, message_conversion.NS_PER_S)
    return raw[:STAMP_AT] + STAMP.pack(sec, nanosec) + raw[STAMP_AT + STAMP.size :]


def changed(kind: type, change: Callable[[Any], None]) -> Trick:
    """Return a trick that changes the message itself."""

    def trick(raw: bytes) -> Sequence[bytes]:
        msg = deserialize_message(raw, kind)
        change(msg)
        return (serialize_message(msg),)

    return trick


# --- pictures -------------------------------------------------------------------------------


def resized(msg: Image) -> None:
    """Halve the picture: it is whole, and not of the size it was."""
    pixels = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, -1)[::2, ::2]
    small = message_conversion.image(
        pixels, message_conversion.ns(msg.header.stamp), msg.header.frame_id
    )
    msg.height, msg.width, msg.step = small.height, small.width, small.step
    msg.data = small.data


def recoded(msg: Image) -> None:
    """Call the picture what it is not."""
    msg.encoding = 'mono16'


def cut(msg: Image) -> None:
    """Leave out the last rows, and say that they are there."""
    msg.data = msg.data[: len(msg.data) // 2]


# --- joint states ---------------------------------------------------------------------------


def not_a_number(msg: JointState) -> None:
    msg.position[1] = float('nan')


def renamed(msg: JointState) -> None:
    msg.name = [f'other_{name}' for name in msg.name]


def reordered(msg: JointState) -> None:
    msg.name = list(msg.name)[::-1]
    msg.position, msg.velocity = msg.position[::-1], msg.velocity[::-1]


def incomplete(msg: JointState) -> None:
    msg.name, msg.position, msg.velocity = list(msg.name)[2:], msg.position[2:], msg.velocity[2:]


# --- chunks ---------------------------------------------------------------------------------


def poisoned(msg: ActionChunk) -> None:
    msg.positions[17] = float('nan')


def shortened(msg: ActionChunk) -> None:
    """Announce more rows than there are."""
    msg.horizon += 1


def misnamed(msg: ActionChunk) -> None:
    msg.joint_names[3] = 'elbow'


def disordered() -> Trick:
    """Swap every two messages."""
    waiting: list[bytes] = []

    def trick(raw: bytes) -> Sequence[bytes]:
        if not waiting:
            waiting.append(raw)
            return ()
        return raw, waiting.pop()

    return trick


def of_session(session: str, seen_ns: int) -> Trick:
    """Follow each message with one that another session made of what it saw at `seen_ns`."""

    def trick(raw: bytes) -> Sequence[bytes]:
        msg = deserialize_message(raw, ActionChunk)
        msg.session, msg.header.stamp = session, message_conversion.time(seen_ns)
        return raw, serialize_message(msg)

    return trick


# name -> what makes a fresh trick; arguments come from the command
TRICKS: dict[str, Callable[..., Trick]] = {
    'pass': lambda: passed,
    'lose': lost,
    'freeze': partial(frozen, stamped=False),
    'stick': partial(frozen, stamped=True),
    'slow': slowed,
    'shift': shifted,
    'garbage': lambda: garbage,
    'resize': lambda: changed(Image, resized),
    'recode': lambda: changed(Image, recoded),
    'cut': lambda: changed(Image, cut),
    'nan': lambda: changed(JointState, not_a_number),
    'rename': lambda: changed(JointState, renamed),
    'reorder': lambda: changed(JointState, reordered),
    'omit': lambda: changed(JointState, incomplete),
    'duplicate': lambda: lambda raw: (raw, raw),
    'poison': lambda: changed(ActionChunk, poisoned),
    'shorten': lambda: changed(ActionChunk, shortened),
    'misname': lambda: changed(ActionChunk, misnamed),
    'disorder': disordered,
    'session': of_session,
}

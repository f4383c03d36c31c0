"""What may be done to the bytes of a topic on their way: pure functions of one message.

A trick takes a serialized message and returns those to send instead, none for a loss. Stamps are
patched in place: in every stamped message they are the first eight bytes after the encapsulation.
"""

import math
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

Corruption = Callable[[bytes], Sequence[bytes]]
STAMP_STRUCT = struct.Struct('<iI')
ENCAPSULATION_BYTES = 4  # bytes of header in front of a message
STAMP_OFFSET = ENCAPSULATION_BYTES
RANDOM_SEED = 1


def pass_through(raw: bytes) -> Sequence[bytes]:
    return (raw,)


def make_random_loss(share: float, seed: int = RANDOM_SEED) -> Corruption:
    """Lose a share of the messages, always the same ones."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    return lambda raw: () if dice.random() < share else (raw,)


def make_freeze(*, keep_new_stamps: bool) -> Corruption:
    """Repeat the first message; `stamped`: with the stamps of those it stands for."""
    kept: list[bytes] = []

    def corrupt(raw: bytes) -> Sequence[bytes]:
        if not kept:
            kept.append(raw)
        return (replace_stamp(kept[0], read_stamp_ns(raw)) if keep_new_stamps else kept[0],)

    return corrupt


def make_decimation(factor: int) -> Corruption:
    """Hand on one message of `every`."""
    seen = [0]

    def corrupt(raw: bytes) -> Sequence[bytes]:
        seen[0] += 1
        return (raw,) if seen[0] % factor == 0 else ()

    return corrupt


def make_stamp_shift(offset_s: float) -> Corruption:
    """Set every stamp off."""
    return lambda raw: (replace_stamp(raw, read_stamp_ns(raw) + round(offset_s * 1e9)),)


def randomize_bytes(raw: bytes) -> Sequence[bytes]:
    """Return as many bytes that mean nothing, behind the header without which DDS reads none."""
    # no secret: pseudo-random numbers do
    noise = random.Random(RANDOM_SEED).randbytes(len(raw) - ENCAPSULATION_BYTES)
    return (raw[:ENCAPSULATION_BYTES] + noise,)


def read_stamp_ns(raw: bytes) -> int:
    sec, nanosec = STAMP_STRUCT.unpack_from(raw, STAMP_OFFSET)
    return sec * message_conversion.NS_PER_S + nanosec


def replace_stamp(raw: bytes, ns: int) -> bytes:
    sec, nanosec = divmod(ns, message_conversion.NS_PER_S)
    return (
        raw[:STAMP_OFFSET]
        + STAMP_STRUCT.pack(sec, nanosec)
        + raw[STAMP_OFFSET + STAMP_STRUCT.size :]
    )


def make_message_edit(message_type: type, edit: Callable[[Any], None]) -> Corruption:
    """Return a trick that changes the message itself."""

    def corrupt(raw: bytes) -> Sequence[bytes]:
        msg = deserialize_message(raw, message_type)
        edit(msg)
        return (serialize_message(msg),)

    return corrupt


# --- pictures -------------------------------------------------------------------------------


def halve_image(msg: Image) -> None:
    """Halve the picture: it is whole, and not of the size it was."""
    pixels = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, -1)[::2, ::2]
    small = message_conversion.image_to_msg(
        pixels, message_conversion.to_ns(msg.header.stamp), msg.header.frame_id
    )
    msg.height, msg.width, msg.step = small.height, small.width, small.step
    msg.data = small.data


def blacken_image(msg: Image) -> None:
    """Cover the lens."""
    msg.data = bytes(len(msg.data))


def set_wrong_encoding(msg: Image) -> None:
    """Call the picture what it is not."""
    msg.encoding = 'mono16'


def truncate_image_data(msg: Image) -> None:
    """Leave out the last rows, and say that they are there."""
    msg.data = msg.data[: len(msg.data) // 2]


# --- joint states ---------------------------------------------------------------------------


def set_nan_position(msg: JointState) -> None:
    msg.position[1] = float('nan')


def scale_to_degrees(msg: JointState) -> None:
    """Publish degrees, as a driver does that leaves its vendor's unit."""
    msg.position = [math.degrees(value) for value in msg.position]


def set_nan_efforts(msg: JointState) -> None:
    """Measure no effort of the last joint, a gripper; the arms' stay."""
    msg.effort = [0.0] * (len(msg.name) - 1) + [float('nan')]


def rename_joints(msg: JointState) -> None:
    msg.name = [f'other_{name}' for name in msg.name]


def reverse_joints(msg: JointState) -> None:
    msg.name = list(msg.name)[::-1]
    msg.position, msg.velocity = msg.position[::-1], msg.velocity[::-1]


def drop_joints(msg: JointState) -> None:
    msg.name, msg.position, msg.velocity = list(msg.name)[2:], msg.position[2:], msg.velocity[2:]


# --- chunks ---------------------------------------------------------------------------------


def set_nan_target(msg: ActionChunk) -> None:
    msg.positions[17] = float('nan')


def increment_horizon(msg: ActionChunk) -> None:
    """Announce more rows than there are."""
    msg.horizon += 1


def rename_chunk_joint(msg: ActionChunk) -> None:
    msg.joint_names[3] = 'elbow'


def make_pair_swap() -> Corruption:
    """Swap every two messages."""
    waiting: list[bytes] = []

    def corrupt(raw: bytes) -> Sequence[bytes]:
        if not waiting:
            waiting.append(raw)
            return ()
        return raw, waiting.pop()

    return corrupt


def make_old_session_echo(session: str, seen_ns: int) -> Corruption:
    """Follow each message with one that another session made of what it saw at `seen_ns`."""

    def corrupt(raw: bytes) -> Sequence[bytes]:
        msg = deserialize_message(raw, ActionChunk)
        msg.session, msg.header.stamp = session, message_conversion.time_to_msg(seen_ns)
        return raw, serialize_message(msg)

    return corrupt


# name -> what makes a fresh trick; arguments come from the command
CORRUPTIONS: dict[str, Callable[..., Corruption]] = {
    'pass': lambda: pass_through,
    'lose': make_random_loss,
    'freeze': partial(make_freeze, keep_new_stamps=False),
    'stick': partial(make_freeze, keep_new_stamps=True),
    'slow': make_decimation,
    'shift': make_stamp_shift,
    'garbage': lambda: randomize_bytes,
    'resize': lambda: make_message_edit(Image, halve_image),
    'blacken': lambda: make_message_edit(Image, blacken_image),
    'recode': lambda: make_message_edit(Image, set_wrong_encoding),
    'cut': lambda: make_message_edit(Image, truncate_image_data),
    'nan': lambda: make_message_edit(JointState, set_nan_position),
    'degrees': lambda: make_message_edit(JointState, scale_to_degrees),
    'nan effort': lambda: make_message_edit(JointState, set_nan_efforts),
    'rename': lambda: make_message_edit(JointState, rename_joints),
    'reorder': lambda: make_message_edit(JointState, reverse_joints),
    'omit': lambda: make_message_edit(JointState, drop_joints),
    'duplicate': lambda: lambda raw: (raw, raw),
    'poison': lambda: make_message_edit(ActionChunk, set_nan_target),
    'shorten': lambda: make_message_edit(ActionChunk, increment_horizon),
    'misname': lambda: make_message_edit(ActionChunk, rename_chunk_joint),
    'disorder': make_pair_swap,
    'session': make_old_session_echo,
}

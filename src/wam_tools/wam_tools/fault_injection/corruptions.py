"""Corruptions of serialized messages.

A corruption takes a serialized message and returns the messages to send instead, none for a loss.
Stamps are patched in the bytes: in every stamped message they are the first eight bytes after the
encapsulation header.
"""

import math
import random
import struct
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from wam_msgs.msg import ActionChunk
from wam_policy.nodes import message_conversion
from wam_policy.nodes.images import image_conversion

Corruption = Callable[[bytes], Sequence[bytes]]
STAMP_STRUCT = struct.Struct('<iI')
ENCAPSULATION_BYTES = 4  # CDR header of a message
STAMP_OFFSET = ENCAPSULATION_BYTES
RANDOM_SEED = 1


def pass_through(raw: bytes) -> Sequence[bytes]:
    return (raw,)


def make_random_loss(share: float, seed: int = RANDOM_SEED) -> Corruption:
    """Return a corruption that loses a share of the messages, the same ones for a seed."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    return lambda raw: () if rng.random() < share else (raw,)


def make_freeze(*, keep_new_stamps: bool) -> Corruption:
    """Return a corruption that repeats the first message, with its own or with new stamps."""
    kept: list[bytes] = []

    def corrupt(raw: bytes) -> Sequence[bytes]:
        if not kept:
            kept.append(raw)
        return (replace_stamp(kept[0], read_stamp_ns(raw)) if keep_new_stamps else kept[0],)

    return corrupt


def make_decimation(factor: int) -> Corruption:
    """Return a corruption that forwards one message of `factor`."""
    count = [0]

    def corrupt(raw: bytes) -> Sequence[bytes]:
        count[0] += 1
        return (raw,) if count[0] % factor == 0 else ()

    return corrupt


def make_stamp_shift(offset_s: float) -> Corruption:
    """Return a corruption that shifts every stamp by `offset_s`."""
    return lambda raw: (replace_stamp(raw, read_stamp_ns(raw) + round(offset_s * 1e9)),)


def randomize_bytes(raw: bytes) -> Sequence[bytes]:
    """Return random bytes of equal length after the CDR header, without which DDS drops them."""
    # not security-relevant
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
    """Return a corruption that edits the deserialized message."""

    def corrupt(raw: bytes) -> Sequence[bytes]:
        msg = deserialize_message(raw, message_type)
        edit(msg)
        return (serialize_message(msg),)

    return corrupt


# --- images ---------------------------------------------------------------------------------


def halve_image(msg: Image) -> None:
    """Halve the size of a valid image."""
    pixels = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, -1)[::2, ::2]
    small = image_conversion.image_to_msg(
        pixels, message_conversion.to_ns(msg.header.stamp), msg.header.frame_id
    )
    msg.height, msg.width, msg.step = small.height, small.width, small.step
    msg.data = small.data


def blacken_image(msg: Image) -> None:
    """Set all pixels to black, as with a covered lens."""
    msg.data = bytes(len(msg.data))


def set_wrong_encoding(msg: Image) -> None:
    """Set an encoding that does not match the data."""
    msg.encoding = 'mono16'


def truncate_image_data(msg: Image) -> None:
    """Remove the second half of the data without changing the height."""
    msg.data = msg.data[: len(msg.data) // 2]


# --- joint states ---------------------------------------------------------------------------


def set_nan_position(msg: JointState) -> None:
    msg.position[1] = float('nan')


def scale_to_degrees(msg: JointState) -> None:
    """Convert the positions to degrees, as a driver with the vendor's unit publishes."""
    msg.position = [math.degrees(value) for value in msg.position]


def _list_efforts(msg: JointState) -> list[float]:
    return list(msg.effort) or [0.0] * len(msg.name)


def _find_gripper(msg: JointState) -> int:
    """Return the index of the last gripper; other joints may come after it, as of the waist."""
    return max(i for i, name in enumerate(msg.name) if 'gripper' in name)


def set_nan_efforts(msg: JointState) -> None:
    """Set the effort of the last gripper to NaN."""
    msg.effort = _list_efforts(msg)
    msg.effort[_find_gripper(msg)] = float('nan')


def set_large_effort(msg: JointState) -> None:
    """Set the effort of the first joint to more than any motor has."""
    msg.effort = [1e3, *_list_efforts(msg)[1:]]


def set_large_and_nan_effort(msg: JointState) -> None:
    """Set the effort of the first joint to more than any motor has, and a gripper's to NaN."""
    set_large_effort(msg)
    set_nan_efforts(msg)


def remove_efforts(msg: JointState) -> None:
    msg.effort = []


def shift_far(msg: JointState) -> None:
    """Set the second joint 60 rad away from where it is, as with a raw encoder count."""
    msg.position[1] += 60.0


def set_millimeters(msg: JointState) -> None:
    """Set the last gripper to its opening in millimeters."""
    msg.position[_find_gripper(msg)] = 45.0


def rename_joints(msg: JointState) -> None:
    msg.name = [f'other_{name}' for name in msg.name]


def select_joints(msg: JointState, rows: slice) -> None:
    msg.name = list(msg.name)[rows]
    for field in ('position', 'velocity', 'effort'):
        setattr(msg, field, getattr(msg, field)[rows])


def reverse_joints(msg: JointState) -> None:
    select_joints(msg, slice(None, None, -1))


def drop_joints(msg: JointState) -> None:
    select_joints(msg, slice(2, None))


def split_joint_state(raw: bytes) -> Sequence[bytes]:
    """Publish every second joint in a message of its own, as a second driver does."""
    msg = deserialize_message(raw, JointState)
    parts = []
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        part = deepcopy(msg)
        select_joints(part, rows)
        parts.append(serialize_message(part))
    return parts


# --- chunks ---------------------------------------------------------------------------------


def set_nan_target(msg: ActionChunk) -> None:
    msg.positions[17] = float('nan')


def increment_horizon(msg: ActionChunk) -> None:
    """Set a horizon one larger than the number of rows."""
    msg.horizon += 1


def rename_chunk_joint(msg: ActionChunk) -> None:
    names = list(msg.joint_names)
    msg.joint_names = [*names[:3], 'elbow', *names[4:]]


def make_pair_swap() -> Corruption:
    """Return a corruption that swaps every two messages."""
    waiting: list[bytes] = []

    def corrupt(raw: bytes) -> Sequence[bytes]:
        if not waiting:
            waiting.append(raw)
            return ()
        return raw, waiting.pop()

    return corrupt


def make_old_session_echo(session: str, seen_ns: int) -> Corruption:
    """Return a corruption that adds a copy of each chunk with another session and stamp."""

    def corrupt(raw: bytes) -> Sequence[bytes]:
        msg = deserialize_message(raw, ActionChunk)
        msg.session, msg.header.stamp = session, message_conversion.time_to_msg(seen_ns)
        return raw, serialize_message(msg)

    return corrupt


# name -> factory of a corruption; its arguments are in the command
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
    'large effort': lambda: make_message_edit(JointState, set_large_effort),
    'large and nan effort': lambda: make_message_edit(JointState, set_large_and_nan_effort),
    'no effort': lambda: make_message_edit(JointState, remove_efforts),
    'far': lambda: make_message_edit(JointState, shift_far),
    'millimeters': lambda: make_message_edit(JointState, set_millimeters),
    'split': lambda: split_joint_state,
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

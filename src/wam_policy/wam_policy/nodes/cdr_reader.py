"""Read serialized messages field by field, without making Python objects of all of them.

rclpy takes 0.3 ms, with the interpreter locked, to unpack a trajectory of 32 points: an object and
four arrays per point. Here its numbers become three arrays.
"""

import struct

import numpy as np
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory
from wam_policy.nodes.message_conversion import trajectory_from_msg

ENCAPSULATION_BYTES = 4  # bytes before the first field; alignment counts after


class CdrReader:
    """Walk through plain CDR, the first version, in the byte order it names."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) < ENCAPSULATION_BYTES or raw[0] != 0 or raw[1] not in (0, 1):
            raise ValueError('not a plain CDR message')
        self._body = memoryview(raw)[ENCAPSULATION_BYTES:]
        self.byte_order = '<' if raw[1] else '>'
        self._offset = 0

    def read_number(self, format_code: str) -> int:
        size = struct.calcsize(format_code)
        self._offset += -self._offset % size
        try:
            (value,) = struct.unpack_from(self.byte_order + format_code, self._body, self._offset)
        except struct.error as error:
            raise ValueError('the message ends within a field') from error
        self._offset += size
        return value

    def read_sequence(self) -> memoryview:
        """Return a sequence of bytes."""
        length = self.read_number('I')
        block = self._body[self._offset : self._offset + length]
        if len(block) != length:
            raise ValueError('the message ends within a field')
        self._offset += length
        return block

    def read_string(self) -> str:
        return bytes(self.read_sequence()).rstrip(b'\0').decode('utf-8', 'replace')

    def read_stamp_ns(self) -> int:
        """Return a builtin_interfaces Time or Duration in ns."""
        return self.read_number('i') * NS_PER_S + self.read_number('I')

    def read_doubles_start(self) -> tuple[int, memoryview]:
        """Return the length of a sequence of float64, and everything from its values on."""
        length = self.read_number('I')
        self._offset += -self._offset % 8
        return length, self._body[self._offset :]


def read_header_stamp_ns(raw: bytes) -> int:
    """Return the stamp of a serialized message that begins with a header, ns."""
    return CdrReader(raw).read_stamp_ns()


def read_trajectory(raw: bytes) -> Trajectory:
    """Return a serialized trajectory_msgs/JointTrajectory of ours, as trajectory_from_msg does.

    Raises ValueError for one that is not a command of ours.
    """
    reader = CdrReader(raw)
    stamp_ns, _ = reader.read_stamp_ns(), reader.read_string()
    names = tuple(reader.read_string() for _ in range(reader.read_number('I')))
    count, joints = reader.read_number('I'), len(names)
    if count and joints:
        first_length, values = reader.read_doubles_start()
        found = _read_points(reader.byte_order, count, joints, values)
        if first_length == joints and found is not None:
            blocks = (found[name].astype(np.float64) for name in ('p', 'v', 'a'))
            times_ns = found['sec'].astype(np.int64) * NS_PER_S + found['nanosec']
            return Trajectory(names, stamp_ns, times_ns, *blocks)
    # points of unequal size, or with efforts: not as our planner sends them
    return trajectory_from_msg(deserialize_message(raw, JointTrajectory))


def _read_points(
    byte_order: str, count: int, joints: int, values: memoryview
) -> np.ndarray | None:
    """Return the points of a trajectory from their bytes, which begin at the first position.

    None where a point has not exactly `joints` positions, velocities and accelerations and no
    effort.
    """
    number, joint_values = f'{byte_order}u4', (f'{byte_order}f8', (joints,))
    point = np.dtype(
        [
            ('p', *joint_values),
            ('v_length', number),
            ('', number),  # padding to 8 bytes
            ('v', *joint_values),
            ('a_length', number),
            ('', number),
            ('a', *joint_values),
            ('effort_length', number),
            ('sec', f'{byte_order}i4'),
            ('nanosec', number),
            ('next_length', number),  # of the positions of the next point
        ]
    )
    if len(values) + 4 < count * point.itemsize:  # the last point has none after it
        return None
    found = np.frombuffer(bytes(values) + bytes(4), point, count)
    is_regular = (
        (found['v_length'] == joints).all()
        and (found['a_length'] == joints).all()
        and (found['next_length'][:-1] == joints).all()
        and not found['effort_length'].any()
    )
    return found if is_regular else None

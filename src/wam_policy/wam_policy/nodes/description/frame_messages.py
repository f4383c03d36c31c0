"""Messages of /tf, made once and filled again and again: half the time of making them anew."""

from collections.abc import Iterable, Mapping

import numpy as np
from geometry_msgs.msg import TransformStamped
from tf2_msgs.msg import TFMessage

from wam_policy.core.robot.kinematic_tree import JointFrames, LinkJoint
from wam_policy.nodes.message_conversion import time_to_msg


class FrameMessages:
    """Turn joint positions into the transforms of some links."""

    def __init__(self, joints: Iterable[LinkJoint], prefix: str = '') -> None:
        """Take the joints whose child links are published, as `prefix` + link."""
        self._frames = JointFrames(tuple(joints))
        self._transforms = []
        for joint in self._frames.joints:
            transform = TransformStamped(child_frame_id=prefix + joint.child)
            transform.header.frame_id = prefix + joint.parent
            self._transforms.append(transform)

    def make_message(self, values: Mapping[str, float], stamp_ns: int) -> TFMessage:
        """Return the frames of all links whose joint is in `values`, in their parent links."""
        stamp, known = time_to_msg(stamp_ns), []
        positions, quaternions = self._frames.compute(values)
        is_known = np.isfinite(positions[:, 0]).tolist()
        rows = zip(
            self._transforms, is_known, positions.tolist(), quaternions.tolist(), strict=True
        )
        for transform, is_there, (x, y, z), (qx, qy, qz, qw) in rows:
            if not is_there:
                continue
            transform.header.stamp = stamp
            move, turn = transform.transform.translation, transform.transform.rotation
            move.x, move.y, move.z = x, y, z
            turn.x, turn.y, turn.z, turn.w = qx, qy, qz, qw
            known.append(transform)
        return TFMessage(transforms=known)


def make_identity(parent: str, child: str) -> TransformStamped:
    """Return the transform of two equal frames."""
    transform = TransformStamped(child_frame_id=child)
    transform.header.frame_id = parent
    return transform

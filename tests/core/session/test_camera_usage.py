import numpy as np

from wam_policy.core.session.camera_usage import MAX_STAMPS_PER_CAMERA, FrameUsage
from wam_policy.core.types import Frame


def frame(stamp_ns, camera='head'):
    return Frame(camera, stamp_ns, np.zeros((1, 1, 3), np.uint8))


def test_each_frame_counts_once_per_camera():
    usage = FrameUsage()
    usage.add([frame(1), frame(2), frame(1)])
    usage.add([frame(1), frame(1, 'hand')])
    assert usage.used == 3


def test_memory_is_bounded():
    usage = FrameUsage()
    usage.add(frame(i) for i in range(MAX_STAMPS_PER_CAMERA + 10))
    assert usage.used == MAX_STAMPS_PER_CAMERA + 10
    assert sum(map(len, usage._stamps_ns.values())) == MAX_STAMPS_PER_CAMERA

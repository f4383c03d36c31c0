"""How many camera frames were of use: picked for a query or a commit before newer ones came."""

from collections.abc import Iterable

from wam_policy.core.types import Frame

MAX_STAMPS_PER_CAMERA = 512  # stamps per camera; a pick is never older than that


class FrameUsage:
    """Count each frame once, however often it is picked."""

    def __init__(self) -> None:
        self._stamps_ns: dict[str, dict[int, None]] = {}
        self.used = 0

    def add(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            stamps_ns = self._stamps_ns.setdefault(frame.camera, {})
            if frame.stamp_ns in stamps_ns:
                continue
            self.used += 1
            stamps_ns[frame.stamp_ns] = None
            if len(stamps_ns) > MAX_STAMPS_PER_CAMERA:
                del stamps_ns[next(iter(stamps_ns))]

"""Measure when the messages of a bag were stamped and received, without decoding them."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wam_policy.recording import bag_access

CAMERA_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
HEADER_TYPE = 'std_msgs/msg/Header'
STAMP_BYTES = (4, 12)  # of plain CDR: after the encapsulation, seconds and nanoseconds


@dataclass(slots=True)
class TopicTiming:
    """Hold the times of one topic's messages in ns; stamps only where the type has a header."""

    topic: str
    type: str
    received_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    delays_ns: list[int] = field(default_factory=list)  # from the stamp to reception
    unstamped: int = 0  # messages whose header has stamp 0

    @property
    def times_ns(self) -> np.ndarray:
        """Return the stamps, or without them the times of reception, in order."""
        stamps_ns = [] if self.unstamped else self.stamps_ns
        return np.sort(np.array(stamps_ns or self.received_ns, dtype=np.int64))

    def add(self, received_ns: int, stamp_ns: int | None) -> None:
        """Count a message; None: its type has no header."""
        self.received_ns.append(received_ns)
        if stamp_ns == 0:
            self.unstamped += 1
        elif stamp_ns is not None:
            self.stamps_ns.append(stamp_ns)
            self.delays_ns.append(received_ns - stamp_ns)

    def describe(self) -> str:
        """Return count, rate, longest gap and the offset from stamp to reception as text."""
        parts = [f'{len(self.received_ns):>8}  {self.topic}  {self.type}']
        steps_s = np.diff(self.times_ns) / 1e9
        if len(steps_s) and np.median(steps_s) > 0:
            parts.append(f'{1 / np.median(steps_s):.1f} Hz, longest gap {steps_s.max():.3f} s')
        if self.delays_ns:
            late_ms = np.array(self.delays_ns) / 1e6
            parts.append(
                f'received {np.median(late_ms):.0f} ms after the stamp '
                f'({late_ms.min():.0f} to {late_ms.max():.0f})'
            )
        if self.unstamped:
            parts.append(
                f'{self.unstamped} messages have stamp 0: export with --use-reception-time'
            )
        return '  '.join(parts)


def read_timings(path: Path) -> list[TopicTiming]:
    """Return the times of every topic, in the order of names; raise ValueError as open_reader."""
    with bag_access.open_reader(path) as reader:
        found = {c.topic: TopicTiming(c.topic, c.msgtype) for c in reader.connections}
        stamped = {c.msgtype for c in reader.connections if _has_header(reader, c.msgtype)}
        try:
            for connection, received_ns, raw in reader.messages():
                if connection.msgtype not in stamped:
                    found[connection.topic].add(received_ns, None)
                elif len(raw) >= STAMP_BYTES[1]:  # else damaged: no stamp to read
                    found[connection.topic].add(received_ns, _read_stamp_ns(raw))
        except Exception as error:  # noqa: BLE001 — a damaged file fails in any way
            raise ValueError(
                f'{path}: damaged: {error}; {bag_access.describe_fix(path)}'
            ) from error
    return [found[name] for name in sorted(found)]


def describe_camera_skew(timings: list[TopicTiming]) -> Iterator[str]:
    """Yield how far apart in ms the images of several cameras are that belong together."""
    every = [timing for timing in timings if timing.type in CAMERA_TYPES]
    cameras = [timing for timing in every if timing.received_ns]
    silent = [timing.topic for timing in every if not timing.received_ns]
    if silent:
        yield f'  cameras without an image: {", ".join(silent)}'
    if len(cameras) < 2:
        return
    slowest = min(cameras, key=lambda timing: len(timing.received_ns))
    spans = [_nearest_offsets(slowest.times_ns, other.times_ns) for other in cameras]
    skew_ms = (np.max(spans, axis=0) - np.min(spans, axis=0)) / 1e6
    yield (
        f'  cameras: the nearest images are {np.median(skew_ms):.0f} ms apart (largest '
        f'{skew_ms.max():.0f} ms)'
        f'{", by time of reception" if any(t.unstamped for t in cameras) else ""}'
    )


def _nearest_offsets(times_ns: np.ndarray, others_ns: np.ndarray) -> np.ndarray:
    """Return the offset of the nearest of `others_ns` to each of `times_ns`."""
    after = np.searchsorted(others_ns, times_ns).clip(1, max(len(others_ns) - 1, 1))
    around = np.stack([others_ns[after - 1], others_ns[after.clip(max=len(others_ns) - 1)]])
    offsets = around - times_ns
    return np.take_along_axis(offsets, np.abs(offsets).argmin(axis=0)[None], axis=0)[0]


def _has_header(reader: bag_access.AnyReader, message_type: str) -> bool:
    fields: Mapping = reader.typestore.fielddefs
    definition = fields.get(message_type)
    return bool(definition and definition[1] and definition[1][0][1][1] == HEADER_TYPE)


def _read_stamp_ns(raw: bytes) -> int:
    """Return the stamp of a serialized message that begins with a header."""
    order = '<' if raw[1] & 1 else '>'
    sec, nanosec = struct.unpack_from(f'{order}iI', raw, STAMP_BYTES[0])
    return sec * 1_000_000_000 + nanosec

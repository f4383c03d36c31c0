"""Read from a bag what a page of an episode shows; bags of others as far as their topics allow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from wam_policy.nodes.images import image_conversion
from wam_policy.recording import bag_access

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
PREDICTION = 'predicted_video'  # end of the topic's name
SERIES_PERIOD_NS = 45_000_000  # joint values closer together than this are left out
IMAGE_PERIOD_NS = 90_000_000
MAX_EVENTS, MAX_TEXT = 400, 300
SHOWN_ENCODINGS = {*image_conversion.COLOR_ENCODINGS, *image_conversion.MONO_ENCODINGS}
WARNING_LEVEL = 30  # of rcl_interfaces/msg/Log


@dataclass(slots=True)
class ImageTrack:
    """Hold the images of one topic; stamps in ns, images as JPEG or PNG."""

    topic: str
    stamps_ns: list[int] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class JointSeries:
    """Hold positions of some joints over time: rows of values, one per joint."""

    source: str  # controller or topic
    names: tuple[str, ...]
    stamps_ns: list[int] = field(default_factory=list)
    measured: list[list[float]] = field(default_factory=list)
    commanded: list[list[float]] = field(default_factory=list)  # empty: not in the bag


@dataclass(slots=True)
class StateTrack:
    """Hold what a state or text was from an instant on."""

    title: str
    changes: list[tuple[int, str]] = field(default_factory=list)  # (ns, text)


@dataclass(slots=True)
class Episode:
    """Hold everything that the page shows."""

    name: str
    metadata: Mapping[str, str]
    start_ns: int = 0
    end_ns: int = 0
    cameras: dict[str, ImageTrack] = field(default_factory=dict)
    prediction: ImageTrack | None = None
    predicted_ahead_s: list[float] = field(default_factory=list)
    joints: dict[str, JointSeries] = field(default_factory=dict)
    tracks: dict[str, StateTrack] = field(default_factory=dict)
    events: list[tuple[int, str, str]] = field(default_factory=list)  # (ns, kind, text)
    counts: dict[str, int] = field(default_factory=dict)  # topic -> messages
    remarks: list[str] = field(default_factory=list)  # what could not be shown, and why

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def read_episode(path: Path) -> Episode:
    """Read a bag; raise ValueError in one sentence if there is nothing to show."""
    metadata = bag_access.read_metadata(path)
    episode = Episode(path.stem if path.is_file() else path.name, metadata)
    with bag_access.open_reader(path) as reader:
        collect = _Collector(episode)
        try:
            for connection, received_ns, raw in reader.messages():
                episode.start_ns = min(episode.start_ns or received_ns, received_ns)
                episode.end_ns = max(episode.end_ns, received_ns)
                topic = connection.topic
                episode.counts[topic] = episode.counts.get(topic, 0) + 1
                handler = collect.find_handler(topic, connection.msgtype)
                if handler is not None and collect.is_due(topic, connection.msgtype, received_ns):
                    handler(topic, received_ns, reader.deserialize(raw, connection.msgtype))
        except Exception as error:  # noqa: BLE001 — a damaged file fails in any way
            raise ValueError(
                f'{path}: damaged: {error}; {bag_access.describe_fix(path)}'
            ) from error
    if not episode.cameras and not episode.joints:
        topics = ', '.join(episode.counts) or 'no topics'
        raise ValueError(
            f'{path}: nothing to show: neither color images nor joint states among {topics}'
        )
    _use_best_joints(episode)
    return episode


def _use_best_joints(episode: Episode) -> None:
    """Leave out joints of topics that others have together with their commands."""
    known = {
        name for series in episode.joints.values() if series.commanded for name in series.names
    }
    for source, series in list(episode.joints.items()):
        kept = [column for column, name in enumerate(series.names) if name not in known]
        if series.commanded or len(kept) == len(series.names):
            continue
        if not kept:
            del episode.joints[source]
            continue
        series.names = tuple(series.names[column] for column in kept)
        series.measured = [[row[column] for column in kept] for row in series.measured]


class _Collector:
    """Put messages into an episode; handlers take topic, time of reception and message."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._used_ns: dict[str, int] = {}
        self._handlers: Mapping[str, Callable[[str, int, Any], None]] = {
            'sensor_msgs/msg/Image': self._on_image,
            'sensor_msgs/msg/CompressedImage': self._on_image,
            'sensor_msgs/msg/JointState': self._on_joint_state,
            'control_msgs/msg/JointTrajectoryControllerState': self._on_controller_state,
            'std_msgs/msg/String': self._on_text,
            'std_msgs/msg/Bool': self._on_estop,
            'wam_msgs/msg/PolicyStatus': self._on_policy_status,
            'wam_msgs/msg/MotionStatus': self._on_motion_status,
            'wam_msgs/msg/SimStatus': self._on_sim_status,
            'rcl_interfaces/msg/Log': self._on_log,
        }

    def find_handler(self, topic: str, kind: str) -> Callable[[str, int, Any], None] | None:
        if kind == 'std_msgs/msg/String' and not topic.endswith(('instruction', 'task')):
            return None
        if kind == 'std_msgs/msg/Bool' and not topic.endswith('estop'):
            return None
        return self._handlers.get(kind)

    def is_due(self, topic: str, kind: str, received_ns: int) -> bool:
        """Tell whether to decode a message; cameras and joints come more often than is shown."""
        if kind in IMAGE_TYPES and not topic.removesuffix('/compressed').endswith(PREDICTION):
            period_ns = IMAGE_PERIOD_NS * 2 // 3
        elif kind.endswith(('JointState', 'ControllerState')):
            period_ns = SERIES_PERIOD_NS
        else:
            return True
        if received_ns - self._used_ns.get(topic, -period_ns) < period_ns:
            return False
        self._used_ns[topic] = received_ns
        return True

    def _on_image(self, topic: str, received_ns: int, message: Any) -> None:
        episode = self._episode
        try:
            data = _encode_image(message)
        except ValueError as error:
            remark = f'{topic}: {error}'
            if remark not in episode.remarks:
                episode.remarks.append(remark)
            return
        name = topic.removesuffix('/compressed')
        stamp_ns = _get_stamp_ns(message, received_ns)
        if name.endswith(PREDICTION):
            episode.prediction = camera = episode.prediction or ImageTrack(name)
            episode.predicted_ahead_s.append((stamp_ns - received_ns) / 1e9)
        else:
            camera = episode.cameras.setdefault(name, ImageTrack(name))
        camera.stamps_ns.append(stamp_ns)
        camera.images.append(data)

    def _on_joint_state(self, topic: str, received_ns: int, message: Any) -> None:
        names = tuple(message.name)
        if not names or len(message.position) != len(names):
            return
        series = self._episode.joints.setdefault(topic, JointSeries(topic, names))
        if series.names == names:
            series.stamps_ns.append(_get_stamp_ns(message, received_ns))
            series.measured.append([float(value) for value in message.position])

    def _on_controller_state(self, topic: str, received_ns: int, message: Any) -> None:
        names = tuple(message.joint_names)
        measured, commanded = message.feedback.positions, message.reference.positions
        if not len(names) == len(measured) == len(commanded) > 0:
            return
        source = topic.strip('/').split('/')[-2] if topic.count('/') > 1 else topic
        series = self._episode.joints.setdefault(source, JointSeries(source, names))
        if series.names == names:
            series.stamps_ns.append(_get_stamp_ns(message, received_ns))
            series.measured.append([float(value) for value in measured])
            series.commanded.append([float(value) for value in commanded])

    def _on_text(self, topic: str, received_ns: int, message: Any) -> None:
        text = message.data[:MAX_TEXT]
        self._track('instruction', received_ns, text)
        self._add_event(received_ns, 'instruction', text or 'empty: stop and hold')

    def _on_estop(self, topic: str, received_ns: int, message: Any) -> None:
        if message.data:
            self._add_event(received_ns, 'stop', 'stop latched')

    def _on_policy_status(self, topic: str, received_ns: int, message: Any) -> None:
        self._track('policy', received_ns, message.state_name)
        if 'instruction' not in self._episode.tracks and message.instruction:
            self._track('instruction', received_ns, message.instruction)
        if not message.trained and message.state_name == 'RUNNING':
            self._remark('the model has random weights: its motion means nothing')

    def _on_motion_status(self, topic: str, received_ns: int, message: Any) -> None:
        changed = self._track('motion', received_ns, message.state_name)
        if changed and message.reason:
            self._add_event(received_ns, 'motion', f'{message.state_name}: {message.reason}')
        if message.dry_run:
            self._remark('dry run: nothing was sent to the robot')

    def _on_sim_status(self, topic: str, received_ns: int, message: Any) -> None:
        changed = self._track('task', received_ns, 'done' if message.success else 'open')
        if changed and message.success:
            self._add_event(received_ns, 'success', f'task done: {message.instruction}')

    def _on_log(self, topic: str, received_ns: int, message: Any) -> None:
        if message.level >= WARNING_LEVEL:
            kind = 'warning' if message.level == WARNING_LEVEL else 'error'
            self._add_event(received_ns, kind, f'{message.name}: {message.msg}'[:MAX_TEXT])

    def _track(self, title: str, received_ns: int, text: str) -> bool:
        """Note a state; return whether it changed."""
        changes = self._episode.tracks.setdefault(title, StateTrack(title)).changes
        if changes and changes[-1][1] == text:
            return False
        changes.append((received_ns, text))
        return True

    def _add_event(self, at_ns: int, kind: str, text: str) -> None:
        if len(self._episode.events) < MAX_EVENTS:
            self._episode.events.append((at_ns, kind, text[:MAX_TEXT]))
        else:
            self._remark(f'more than {MAX_EVENTS} events: the first are listed')

    def _remark(self, text: str) -> None:
        if text not in self._episode.remarks:
            self._episode.remarks.append(text)


def _get_stamp_ns(message: Any, received_ns: int) -> int:
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec or received_ns


def _encode_image(message: Any) -> bytes:
    """Return a color image as JPEG or PNG; raise ValueError for depth and unknown formats."""
    if hasattr(message, 'format'):
        if 'compressedDepth' in message.format:
            raise ValueError('depth images are not shown')
        return bytes(message.data)
    if message.encoding not in SHOWN_ENCODINGS:
        raise ValueError(f'images of encoding {message.encoding} are not shown')
    rgb = image_conversion.frame_from_msg(message, 'of the bag', allow_mono=True).rgb
    _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return jpeg.tobytes()

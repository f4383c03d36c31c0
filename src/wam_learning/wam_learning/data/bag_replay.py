"""Replay an episode into a Synchronizer with the message conversions of the live nodes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wam_learning.data import bag_reader
from wam_learning.data.bag_reader import BagMessage, DamagedMessage
from wam_learning.data.time_sync import (
    DroppedSample,
    SynchronizedSample,
    Synchronizer,
    use_next_states,
)
from wam_policy import robot_names
from wam_policy.core.observation.joint_state_merger import JointStateMerger
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.instruction import clean_instruction
from wam_policy.core.types import Frame, JointState
from wam_policy.nodes import message_conversion
from wam_policy.nodes.images import image_conversion
from wam_policy.recording import bag_access
from wam_policy.recording.episode_info import NAMESPACE_KEY

COMPRESSED_IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
JOINT_STATE_TYPE = 'sensor_msgs/msg/JointState'
MAX_INSTRUCTION_LENGTH = 400  # characters, the default of policy_node
TRAJECTORIES, NEXT_STATE = 'trajectories', 'next-state'
RECEPTION_TIME = 'use --use-reception-time'
MAX_CLOCK_OFFSET_S = 10.0  # between a stamp and its reception: more is another clock


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Say how the messages of a bag are to be read."""

    joint_states_topic: str = '/joint_states'
    instruction: str | None = None  # instead of the recorded one
    # TRAJECTORIES, NEXT_STATE, or topics of commanded joint states
    actions: tuple[str, ...] = (TRAJECTORIES,)
    remap: Mapping[str, str] = field(default_factory=dict)  # topic in the bag -> ours
    use_reception_time: bool = False  # instead of the stamps of images and joint states
    robot_namespace: str = ''  # of the robot's topics in the bag; empty: as the recorder says

    @property
    def command_topics(self) -> tuple[str, ...]:
        """Return the topics of commanded joint states."""
        return tuple(name for name in self.actions if name not in (TRAJECTORIES, NEXT_STATE))

    def describe_actions(self) -> str:
        """Return what an action of the data set is, for its metadata."""
        if self.command_topics:
            return f'commanded joint states of {", ".join(self.command_topics)}'
        if NEXT_STATE in self.actions:
            return 'joint positions measured one row later'
        return 'setpoints of the trajectory controllers'


DEFAULT_OPTIONS = ReplayOptions()


class BagReplay:
    """Replay one episode; `invalid_messages` counts the messages that failed conversion."""

    def __init__(
        self, folder: Path, robot: Embodiment, options: ReplayOptions = DEFAULT_OPTIONS
    ) -> None:
        """Find the topics of the robot; raise ValueError with those that are missing."""
        recorded = bag_reader.read_topics(folder)
        metadata = bag_access.read_metadata(folder)
        namespace = options.robot_namespace or metadata.get(NAMESPACE_KEY, '')
        self._names = {**_find_namespaced(robot, namespace), **options.remap}  # theirs -> ours
        topics = {self._names.get(name, name): kind for name, kind in recorded.items()}
        self._folder, self._robot, self._options = folder, robot, options
        self._their_names = {
            ours: theirs for theirs, ours in self._names.items() if theirs in recorded
        }
        self._command_topics = {}
        if options.actions == (TRAJECTORIES,):
            self._command_topics = {
                c.topic: c.name for c in robot.controllers if c.topic in topics
            }
        self._camera_topics = _find_camera_topics(robot, topics)
        self._instruction_topics = {
            name
            for name, kind in topics.items()
            if kind == 'std_msgs/msg/String' and name.endswith('/instruction')
        }
        self._require_topics(topics)
        override = options.instruction
        self.synchronizer = Synchronizer(
            robot,
            override if override is not None else metadata.get('instruction', ''),
            needs_commands=NEXT_STATE not in options.actions,
        )
        self._joint_state_merger = JointStateMerger(
            robot.observed, max_age_s=robot.safety.observation.joints_max_age_s
        )
        self.invalid_messages: Counter[str] = Counter()
        self.clock_offset: str = ''  # the first stamp of another clock than the recorder's

    def read_samples(self) -> Iterator[SynchronizedSample | DroppedSample]:
        """Yield samples and dropped samples in order of time."""
        samples = self._read_samples()
        if NEXT_STATE in self._options.actions:
            return use_next_states(samples, self._robot)
        return samples

    def _read_samples(self) -> Iterator[SynchronizedSample | DroppedSample]:
        wanted = {
            self._options.joint_states_topic,
            *self._options.command_topics,
            *self._instruction_topics,
            *self._command_topics,
            *self._camera_topics,
        }
        theirs = {self._their_names.get(name, name) for name in wanted}
        for message in bag_reader.read_messages(self._folder, theirs):
            topic = self._names.get(message.topic, message.topic)
            if isinstance(message, DamagedMessage):
                self.invalid_messages[f'{topic}: cannot be decoded ({message.error})'] += 1
                continue
            try:
                self._add_message(topic, message)
            except ValueError as error:
                self.invalid_messages[f'{topic}: {error}'] += 1
            yield from self.synchronizer.pop_samples()
        yield from self.synchronizer.flush()

    def _require_topics(self, topics: Mapping[str, str]) -> None:
        """Raise ValueError with the topics that are missing or of another type."""
        options, robot = self._options, self._robot
        missing = [
            f'{camera.topic}[/compressed]'
            for camera in robot.cameras
            if camera.key not in self._camera_topics.values()
        ]
        states = (options.joint_states_topic, *options.command_topics)
        missing += [topic for topic in states if topic not in topics]
        hint = f'was it recorded from a {robot.name}? If its topics have other names: --remap'
        if options.actions == (TRAJECTORIES,) and not self._command_topics:
            missing += [controller.topic for controller in robot.controllers]
            others = [
                name
                for name, kind in topics.items()
                if kind == JOINT_STATE_TYPE and name != options.joint_states_topic
            ]
            commanded = f'--actions {others[0]} or ' if others else ''
            hint = f'{hint}; for actions without trajectories: {commanded}--actions {NEXT_STATE}'
        if missing:
            raise ValueError(f'{self._folder}: has no {", ".join(missing)}; {hint}')
        wrong = [f'{t} is {topics[t]}' for t in states if topics[t] != JOINT_STATE_TYPE]
        if wrong:
            raise ValueError(
                f'{self._folder}: {", ".join(wrong)}; want {JOINT_STATE_TYPE}, which has names'
            )

    def _add_message(self, topic: str, message: BagMessage) -> None:
        content, log_ns = message.content, message.log_ns
        if topic in self._camera_topics:
            read = (
                image_conversion.frame_from_compressed_msg
                if message.type == COMPRESSED_IMAGE_TYPE
                else image_conversion.frame_from_msg
            )
            frame = read(content, self._camera_topics[topic])
            self.synchronizer.on_frame(self._check_stamp(topic, frame, log_ns), log_ns)
        elif topic in self._command_topics:
            self.synchronizer.on_command(self._command_topics[topic], content, log_ns)
        elif topic == self._options.joint_states_topic:
            part = message_conversion.joint_state_part_from_msg(content, self._robot.observed)
            joints = self._joint_state_merger.add(self._check_stamp(topic, part, log_ns))
            if joints is not None:
                self.synchronizer.on_joints(joints, log_ns)
        elif topic in self._options.command_topics:
            part = message_conversion.joint_state_part_from_msg(content, self._robot.commanded)
            self.synchronizer.on_commanded_joints(part, log_ns)
        elif self._options.instruction is None:
            self.synchronizer.on_instruction(
                clean_instruction(content.data, MAX_INSTRUCTION_LENGTH), log_ns
            )

    def _check_stamp[T: (Frame, JointState)](self, topic: str, sample: T, log_ns: int) -> T:
        """Return the sample with the stamp to use; raise ValueError if it has none."""
        if self._options.use_reception_time:
            return replace(sample, stamp_ns=log_ns)
        if not sample.stamp_ns:
            raise ValueError(f'stamp 0, not stamped by its driver; {RECEPTION_TIME}')
        offset_s = (log_ns - sample.stamp_ns) / 1e9
        if abs(offset_s) > MAX_CLOCK_OFFSET_S and not self.clock_offset:
            self.clock_offset = (
                f'{topic}: received {offset_s:.0f} s after its stamp, limit '
                f'{MAX_CLOCK_OFFSET_S:g} s: stamps of another clock; {RECEPTION_TIME}'
            )
        return sample


def _find_namespaced(robot: Embodiment, namespace: str) -> dict[str, str]:
    """Return the robot's topics in `namespace` -> without it; nothing without a namespace."""
    if not namespace:
        return {}
    topics = robot_names.list_robot_topics(robot)
    return {robot_names.add_namespace(namespace, topic): topic for topic in topics}


def _find_camera_topics(robot: Embodiment, topics: Mapping[str, str]) -> dict[str, str]:
    """Return topic -> camera key; prefer raw images if both forms were recorded."""
    found = {}
    for camera in robot.cameras:
        topic = next(
            (name for name in (camera.topic, f'{camera.topic}/compressed') if name in topics), None
        )
        if topic is not None:
            found[topic] = camera.key
    return found

"""Replay an episode into a Synchronizer with the message conversions of the live nodes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from wam_learning.data import bag_reader
from wam_learning.data.bag_reader import BagMessage, DamagedMessage
from wam_learning.data.time_sync import DroppedSample, SynchronizedSample, Synchronizer
from wam_policy.core.observation.joint_state_merger import JointStateMerger
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.instruction import clean_instruction
from wam_policy.nodes import message_conversion
from wam_policy.recording import bag_access

COMPRESSED_IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
MAX_INSTRUCTION_LENGTH = 400  # characters, the default of policy_node


class BagReplay:
    """Replay one episode; `invalid_messages` counts the messages that failed conversion."""

    def __init__(
        self,
        folder: Path,
        robot: Embodiment,
        joint_states: str = '/joint_states',
        instruction: str | None = None,
    ) -> None:
        """Find the topics of the robot; raise ValueError with those that are missing.

        `instruction` overrides the recorded one.
        """
        topics = bag_reader.read_topics(folder)
        self._folder, self._robot = folder, robot
        self._instruction_override = instruction
        self._command_topics = {c.topic: c.name for c in robot.controllers if c.topic in topics}
        self._camera_topics = _find_camera_topics(robot, topics)
        self._joint_states_topic = joint_states
        self._instruction_topics = {
            name
            for name, kind in topics.items()
            if kind == 'std_msgs/msg/String' and name.endswith('/instruction')
        }
        missing = [
            f'{camera.topic}[/compressed]'
            for camera in robot.cameras
            if camera.key not in self._camera_topics.values()
        ]
        missing += [topic for topic in (joint_states,) if topic not in topics]
        if not self._command_topics:
            missing += [controller.topic for controller in robot.controllers]
        if missing:
            raise ValueError(
                f'{folder}: has no {", ".join(missing)}; was it recorded from a {robot.name}?'
            )
        recorded = bag_access.read_metadata(folder).get('instruction', '')
        self.synchronizer = Synchronizer(
            robot, instruction if instruction is not None else recorded
        )
        self._joint_state_merger = JointStateMerger(
            robot.observed, max_age_s=robot.safety.observation.joints_max_age_s
        )
        self.invalid_messages: Counter[str] = Counter()

    def read_samples(self) -> Iterator[SynchronizedSample | DroppedSample]:
        """Yield samples and dropped samples in order of time."""
        wanted = {
            self._joint_states_topic,
            *self._instruction_topics,
            *self._command_topics,
            *self._camera_topics,
        }
        for message in bag_reader.read_messages(self._folder, wanted):
            if isinstance(message, DamagedMessage):
                self.invalid_messages[f'{message.topic}: cannot be decoded ({message.error})'] += 1
                continue
            try:
                self._add_message(message)
            except ValueError as error:
                self.invalid_messages[f'{message.topic}: {error}'] += 1
            yield from self.synchronizer.pop_samples()
        yield from self.synchronizer.flush()

    def _add_message(self, message: BagMessage) -> None:
        topic, content, log_ns = message.topic, message.content, message.log_ns
        if topic in self._camera_topics:
            read = (
                message_conversion.frame_from_compressed_msg
                if message.type == COMPRESSED_IMAGE_TYPE
                else message_conversion.frame_from_msg
            )
            self.synchronizer.on_frame(read(content, self._camera_topics[topic]), log_ns)
        elif topic in self._command_topics:
            self.synchronizer.on_command(self._command_topics[topic], content, log_ns)
        elif topic == self._joint_states_topic:
            part = message_conversion.joint_state_part_from_msg(content, self._robot.observed)
            joints = self._joint_state_merger.add(part)
            if joints is not None:
                self.synchronizer.on_joints(joints, log_ns)
        elif self._instruction_override is None:
            self.synchronizer.on_instruction(
                clean_instruction(content.data, MAX_INSTRUCTION_LENGTH), log_ns
            )


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

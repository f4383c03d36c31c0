"""Play an episode into a timeline through the door that the live nodes use."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from wam_learning.data import bag_reader
from wam_learning.data.bag_reader import Message
from wam_learning.data.time_sync import Gap, Row, Timeline
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.instruction import cleaned
from wam_policy.nodes import message_conversion

COMPRESSED = 'sensor_msgs/msg/CompressedImage'
MAX_INSTRUCTION_LENGTH = 400  # characters, as policy_node takes them by default


class Replay:
    """Feed one episode to a timeline; `refused` counts what the door turned away."""

    def __init__(
        self,
        folder: Path,
        robot: Embodiment,
        joint_states: str = '/joint_states',
        instruction: str | None = None,
    ) -> None:
        """Find the robot's topics; ValueError lists those that are missing.

        `instruction` overrides what the bag says, for recordings that say nothing.
        """
        there = bag_reader.topics(folder)
        self._folder, self._robot = folder, robot
        self._fixed = instruction
        self._controllers = {c.topic: c.name for c in robot.controllers if c.topic in there}
        self._cameras = _cameras(robot, there)
        self._joint_states = joint_states
        self._words = {
            name
            for name, kind in there.items()
            if kind == 'std_msgs/msg/String' and name.endswith('/instruction')
        }
        missing = [
            f'{camera.topic}[/compressed]'
            for camera in robot.cameras
            if camera.key not in self._cameras.values()
        ]
        missing += [topic for topic in (joint_states,) if topic not in there]
        if not self._controllers:
            missing += [controller.topic for controller in robot.controllers]
        if missing:
            raise ValueError(
                f'{folder}: has no {", ".join(missing)}; was it recorded from a {robot.name}?'
            )
        said = bag_reader.about(folder).get('instruction', '')
        self.timeline = Timeline(robot, instruction if instruction is not None else said)
        self.refused: Counter[str] = Counter()

    def rows(self) -> Iterator[Row | Gap]:
        """Yield rows and gaps in order."""
        wanted = {self._joint_states, *self._words, *self._controllers, *self._cameras}
        for message in bag_reader.messages(self._folder, wanted):
            try:
                self._feed(message)
            except ValueError as error:
                self.refused[f'{message.topic}: {error}'] += 1
            yield from self.timeline.taken()
        yield from self.timeline.finish()

    def _feed(self, message: Message) -> None:
        topic, content, log_ns = message.topic, message.content, message.log_ns
        if topic in self._cameras:
            read = (
                message_conversion.frame_of_compressed
                if message.type == COMPRESSED
                else message_conversion.frame
            )
            self.timeline.on_frame(read(content, self._cameras[topic]), log_ns)
        elif topic in self._controllers:
            self.timeline.on_command(self._controllers[topic], content, log_ns)
        elif topic == self._joint_states:
            self.timeline.on_joints(
                message_conversion.joint_state(content, self._robot.observed), log_ns
            )
        elif self._fixed is None:
            self.timeline.on_instruction(cleaned(content.data, MAX_INSTRUCTION_LENGTH), log_ns)


def _cameras(robot: Embodiment, there: Mapping[str, str]) -> dict[str, str]:
    """Return topic -> camera key; where a camera was recorded twice, the raw one."""
    found = {}
    for camera in robot.cameras:
        topic = next(
            (name for name in (camera.topic, f'{camera.topic}/compressed') if name in there), None
        )
        if topic is not None:
            found[topic] = camera.key
    return found

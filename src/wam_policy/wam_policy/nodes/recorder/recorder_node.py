"""recorder_node: everything a robot is seen and driven by, one bag per episode.

Notable:
- messages stay the bytes they came as; only images are touched, and only to compress them;
- an episode is written by threads of its own (writer), callbacks only hand over;
- what the robot published last before an episode (status, camera_info) belongs to it;
- episodes that a kill or a full disk interrupted are repaired when the node is configured.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diagnostic_updater import Updater
from rclpy.context import Context
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from std_msgs.msg import String

from wam_msgs.msg import EpisodeStatus, MotionStatus, SimStatus
from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.core.session.instruction import clean_instruction
from wam_policy.nodes import message_conversion, parameters, qos, robot_parameters
from wam_policy.nodes.callback_guard import CallbackGuard, NotConfiguredError
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder.episode_writer import DISK_TIMEOUT_S, EpisodeWriter
from wam_policy.nodes.recorder.record_episode_action import RecordEpisodeAction
from wam_policy.nodes.recorder.recorded_topics import (
    INSTRUCTION_TOPIC,
    MOTION_STATUS_TOPIC,
    RecordedTopic,
    list_recorded_topics,
)
from wam_policy.nodes.recorder.recorder_state import EpisodeRecorder, RecorderSnapshot
from wam_policy.nodes.run_node import SHUTDOWN_TIMEOUT_S, run_node
from wam_policy.nodes.stop_detector import StopDetector
from wam_policy.nodes.topic_events import poll_topic_events
from wam_policy.recording import bag_folder, bag_repair
from wam_policy.recording.episode_info import EpisodeEnd, TaskSuccess, parse_labels

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STATUS_PERIOD_S = 0.5
MAX_INSTRUCTION_LENGTH = 400  # characters, as policy_node takes them by default


@dataclass(frozen=True, slots=True)
class _ConfiguredRecorder:
    """Hold what exists from configuration to cleanup."""

    episode_recorder: EpisodeRecorder
    recorded_topics: tuple[RecordedTopic, ...]
    status_publisher: Publisher
    # filled last: what calls back finds the rest
    services: list[Service] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)


class RecorderNode(LifecycleNode):
    """Record episodes on request, or one for every instruction."""

    def __init__(
        self,
        context: Context | None = None,
        namespace: str | None = None,
        parameter_overrides: list[Parameter] | None = None,
    ) -> None:
        super().__init__(
            'recorder',
            context=context,
            namespace=namespace,
            parameter_overrides=parameter_overrides,
        )
        self._now_ns = NodeClock(self.get_clock())
        self._configured: _ConfiguredRecorder | None = None
        self._inputs: list[Subscription] = []
        self._instruction = ''
        self._stop_detector = StopDetector()
        self._achieved_instructions: set[str] = set()  # instructions the simulator saw fulfilled
        self._last_logged = ''  # state and reason that were logged last
        self._params = parameters.read(self, RecorderParams)  # early: visible unconfigured
        parameters.add_on_change_callback(
            self, RecorderParams, lambda: bool(self._inputs), self._on_params
        )
        updater = Updater(self)
        updater.setHardwareID('none')
        self.guard = CallbackGuard(self, updater, release=self._release)
        self._record_action = RecordEpisodeAction(
            self,
            lambda: self._configured is not None,
            self.start_episode,
            self.end_episode,
            self.make_status,
        )

    @property
    def _episode_recorder(self) -> EpisodeRecorder:
        return self._require_configured().episode_recorder

    def _require_configured(self) -> _ConfiguredRecorder:
        if self._configured is None:
            raise NotConfiguredError('recorder_node: not configured; configure it first')
        return self._configured

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, RecorderParams)
            robot = robot_parameters.load_robot(self, given)
            root = Path(given.output_dir).expanduser().resolve()
            root.mkdir(parents=True, exist_ok=True)
            self._repair_interrupted(root)
            topics = list_recorded_topics(robot, given)
            episode_recorder = EpisodeRecorder(
                root,
                robot,
                given,
                [(source, self.resolve_topic_name(source.topic)) for source in topics],
                os.environ.get('ROS_DISTRO', ''),
            )
        except (ValueError, OSError) as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        self.get_logger().info(f'episodes of {robot.name} go to {root}')
        self._configured = configured = _ConfiguredRecorder(
            episode_recorder,
            topics,
            status_publisher=self.create_publisher(EpisodeStatus, 'episode', qos.LATCHED),
        )
        configured.services.extend(
            (
                self.guard.create_service(StartEpisode, '~/start', self._on_start_episode),
                self.guard.create_service(StopEpisode, '~/stop', self._on_stop_episode),
            )
        )
        configured.timers.append(self.create_timer(STATUS_PERIOD_S, self._on_status_timer))
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._inputs = [
            self._subscribe(index, source)
            for index, source in enumerate(self._require_configured().recorded_topics)
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_activity()
        return super().on_deactivate(state)

    def close(self) -> None:
        """Save the episode that is recorded; the node is of no use afterwards."""
        self._release()

    def _end_activity(self) -> None:
        """Save what is recorded and stop listening."""
        self.end_episode(EpisodeEnd('the recorder was stopped', self._read_task_success()))
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self.destroy_subscription(subscription)
        for name in self._episode_recorder.wait_until_saved():
            self.get_logger().error(f'{name} could not be saved in time; ./wam bag repair')
        self._publish_status()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        configured = self._configured
        if configured is None:
            return
        self._end_activity()
        self._record_action.end_recording()
        for timer in configured.timers:
            self.destroy_timer(timer)
        for service in configured.services:
            self.destroy_service(service)
        self.destroy_publisher(configured.status_publisher)
        self._configured = None

    def _repair_interrupted(self, root: Path) -> None:
        """Finish what an earlier life left unfinished; what cannot be finished is left alone."""
        for folder in bag_folder.find_interrupted(root):
            try:
                found = bag_repair.repair(folder)
            except (bag_repair.BagInUse, ValueError, OSError) as error:
                self.get_logger().warning(f'{folder.name} was not repaired: {error}')
                continue
            self.get_logger().warning(
                f'{folder.name} was interrupted and is repaired: {found.contents.message_count} '
                f'messages over {found.contents.duration_s:.1f} s'
            )

    # inputs

    def _subscribe(self, topic_index: int, recorded_topic: RecordedTopic) -> Subscription:
        lost = SubscriptionEventCallbacks(
            message_lost=lambda event: self._episode_recorder.count_lost(
                topic_index, event.total_count_change
            )
        )
        return self.create_subscription(
            recorded_topic.message_type,
            recorded_topic.topic,
            partial(self._on_message, topic_index, recorded_topic),
            recorded_topic.qos,
            event_callbacks=lost,
            raw=True,
        )

    def _on_message(self, topic_index: int, recorded_topic: RecordedTopic, raw: bytes) -> None:
        now_ns = self._now_ns()
        if recorded_topic.topic == INSTRUCTION_TOPIC:
            self._on_instruction(deserialize_message(raw, String).data)
        elif recorded_topic.message_type is SimStatus:
            sim = deserialize_message(raw, SimStatus)
            if sim.success:
                self._achieved_instructions.add(sim.instruction)
        elif recorded_topic.topic == MOTION_STATUS_TOPIC:
            self._on_motion_status(deserialize_message(raw, MotionStatus))
        self._episode_recorder.put(topic_index, now_ns, raw)

    def _on_instruction(self, text: str) -> None:
        """Follow the policy's words; where every instruction is an episode, begin a new one."""
        try:
            plain = clean_instruction(text, MAX_INSTRUCTION_LENGTH)
        except ValueError as error:
            self.get_logger().warning(f'{error}')  # the policy keeps the last one, so do we
            return
        if plain == self._instruction or self._stop_detector.is_latched:
            return
        self._instruction = plain
        if not self._params.auto_record:
            return
        self.end_episode(
            EpisodeEnd(
                'a new instruction came' if plain else 'the instruction became empty',
                self._read_task_success(),
            )
        )
        if plain:
            try:
                self.start_episode(plain, [])
            except (ValueError, OSError) as error:
                self.get_logger().error(f'not recording {plain!r}: {error}')

    def _on_motion_status(self, msg: MotionStatus) -> None:
        """End the episode of an instruction that a stop took away: it is not a success."""
        reason = self._stop_detector.update(msg)
        if not reason or not self._instruction:
            return
        self._instruction = ''
        if self._params.auto_record:
            self.end_episode(EpisodeEnd(reason, TaskSuccess.NO))

    def _on_params(self, changed: RecorderParams) -> None:
        self._params = changed

    def _on_start_episode(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        try:
            response.episode_name = self.start_episode(request.instruction, list(request.labels))
            response.success, response.message = True, 'recording'
        except (ValueError, OSError) as error:
            response.message = str(error)
        return response

    def _on_stop_episode(
        self, request: StopEpisode.Request, response: StopEpisode.Response
    ) -> StopEpisode.Response:
        """Answer when the episode is saved, or gone."""
        writer = self.end_episode(
            EpisodeEnd(
                'stopped',
                TaskSuccess.YES if request.task_success else TaskSuccess.NO,
                request.note,
            )
        )
        if writer is None:
            response.message = self.make_status().reason or 'nothing is being recorded'
            return response
        response.episode_name = writer.name
        response.success, response.message = self.wait_until_saved(writer)
        if not request.keep and writer.is_finished:
            self._episode_recorder.discard(writer)
            response.success, response.message = True, 'discarded'
        self._publish_status()
        return response

    # what the services, the action and the command line share

    def start_episode(self, instruction: str, label_arguments: list[str]) -> str:
        """Start an episode and return its name; ValueError and OSError say why not.

        An empty instruction is the one that is followed now.
        """
        if not self._inputs:
            raise ValueError('the recorder is not active')
        words = clean_instruction(instruction, MAX_INSTRUCTION_LENGTH) or self._instruction
        name = self._episode_recorder.start(self._now_ns(), words, parse_labels(label_arguments))
        self._achieved_instructions.clear()
        self._publish_status()
        return name

    def end_episode(self, ending: EpisodeEnd) -> EpisodeWriter | None:
        """End the episode and return its writer, which saves it; None if there is none."""
        poll_topic_events(self)  # messages lost up to now belong to it
        return self._episode_recorder.finish(ending)

    def wait_until_saved(self, writer: EpisodeWriter) -> tuple[bool, str]:
        """Wait until an episode is saved; return whether it is, and what to say about it."""
        if not writer.join():
            return False, 'the disk does not answer'
        progress = writer.progress()
        if progress.contents is None:
            return False, progress.write_error
        return True, (
            f'saved {progress.contents.message_count} messages over '
            f'{progress.contents.duration_s:.1f} s, {sum(progress.dropped_counts)} dropped'
        )

    def make_status(self) -> EpisodeStatus:
        now_ns = self._now_ns()
        return make_status_msg(
            self._episode_recorder.snapshot(now_ns), self._episode_recorder.topics, now_ns
        )

    def _read_task_success(self) -> TaskSuccess:
        """Return what the simulator knows about the present episode; a robot knows nothing."""
        current = self._episode_recorder.current
        done = current is not None and current.instruction in self._achieved_instructions
        return TaskSuccess.YES if done else TaskSuccess.UNKNOWN

    # outputs

    def _on_status_timer(self) -> None:
        self._record_action.update()
        self._publish_status()

    def _publish_status(self) -> None:
        status = self.make_status()
        self._require_configured().status_publisher.publish(status)
        dropping = 'messages are dropped' if any(status.dropped_counts) else ''
        summary = '; '.join(
            filter(None, (f'{status.state}', status.episode_name, status.reason, dropping))
        )
        if summary != self._last_logged:
            self._last_logged = summary
            self._log_status(status, dropping)

    def _log_status(self, status: EpisodeStatus, drop_warning: str) -> None:
        if status.state == EpisodeStatus.ERROR:
            self.get_logger().error(status.reason)
        elif status.reason or drop_warning:
            lost = [
                f'{name}: {count}'
                for name, count in zip(status.topic_names, status.dropped_counts, strict=True)
                if count
            ]
            self.get_logger().warning(
                '; '.join(
                    filter(
                        None,
                        (
                            status.episode_name,
                            status.reason,
                            f'dropped {", ".join(lost)}' if lost else '',
                        ),
                    )
                )
            )
        elif status.state == EpisodeStatus.RECORDING:
            self.get_logger().info(f'recording {status.episode_name}')


def make_status_msg(
    snapshot: RecorderSnapshot, topic_names: Sequence[str], now_ns: int
) -> EpisodeStatus:
    """Return the message that shows a snapshot."""
    msg = EpisodeStatus(
        state=snapshot.state.value,
        episode_name=snapshot.episode,
        instruction=snapshot.instruction,
        duration=snapshot.duration_s,
        size_bytes=snapshot.progress.size_bytes,
        topic_names=list(topic_names),
        message_counts=list(snapshot.progress.written_counts),
        dropped_counts=list(snapshot.progress.dropped_counts),
        reason=snapshot.reason,
    )
    msg.header.stamp = message_conversion.time_to_msg(now_ns)
    return msg


def main(args: list[str] | None = None) -> None:
    # a slow disk gets the time that it is promised
    run_node(
        RecorderNode, 'recorder', args, shutdown_timeout_s=DISK_TIMEOUT_S + SHUTDOWN_TIMEOUT_S
    )


if __name__ == '__main__':
    main()

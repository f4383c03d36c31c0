"""recorder_node: everything a robot is seen and driven by, one bag per episode.

Notable:
- messages stay the bytes they came as; only images are touched, and only to compress them;
- an episode is written by threads of its own (tape), callbacks only hand over;
- what the robot said last before an episode (status, camera_info) belongs to it;
- episodes that a kill or a full disk interrupted are repaired when the node is configured.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.context import Context
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from wam_msgs.msg import EpisodeStatus, SimStatus
from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.core.robot import embodiment
from wam_policy.core.session.instruction import cleaned
from wam_policy.nodes import parameters, qos
from wam_policy.nodes.node_clock import Now
from wam_policy.nodes.parameters import RecorderParams
from wam_policy.nodes.recorder import episode_status
from wam_policy.nodes.recorder.episode_writer import STUCK_S, Tape
from wam_policy.nodes.recorder.record_episode_action import RecordAction
from wam_policy.nodes.recorder.recorded_topics import INSTRUCTION, SIM_STATUS, Source, sources
from wam_policy.nodes.recorder.recorder_state import Episodes
from wam_policy.nodes.run_node import ENDING_S, spun
from wam_policy.recording import bag_folder, bag_repair
from wam_policy.recording.episode_info import Ending, Success, labels

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STATUS_PERIOD_S = 0.5
MAX_INSTRUCTION_LENGTH = 400  # characters, as policy_node takes them by default


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
        self._now_ns = Now(self.get_clock())
        self._params: RecorderParams | None = None
        self._episodes: Episodes | None = None
        self._sources: tuple[Source, ...] = ()
        self._inputs: list = []
        self._instruction = ''
        self._achieved: set[str] = set()  # instructions the simulator saw fulfilled
        self._told = ''  # state and reason that were logged last
        parameters.read(self, RecorderParams)  # declared early: visible before configuration
        parameters.guard(self, RecorderParams, lambda: bool(self._inputs), self._on_params)

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, RecorderParams)
            robot = embodiment.load(given.embodiment)
            root = Path(given.folder).expanduser().resolve()
            root.mkdir(parents=True, exist_ok=True)
            self._repair(root)
            self._sources = sources(robot, given)
            self._episodes = Episodes(
                root,
                robot,
                given,
                [(source, self.resolve_topic_name(source.topic)) for source in self._sources],
                os.environ.get('ROS_DISTRO', ''),
            )
        except (ValueError, OSError) as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        self.get_logger().info(f'episodes of {robot.name} go to {root}')
        self._status_out = self.create_publisher(EpisodeStatus, 'episode', qos.LATCHED)
        self._commands = [
            self.create_service(StartEpisode, '~/start', self._on_start),
            self.create_service(StopEpisode, '~/stop', self._on_stop),
        ]
        self._action = RecordAction(self, self.begin, self.end, self.status)
        self._timer = self.create_timer(STATUS_PERIOD_S, self._on_status_timer)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._inputs = [self._listened(lane, source) for lane, source in enumerate(self._sources)]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_activity()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_error(state)

    def close(self) -> None:
        """Save the episode that is recorded; the node is of no use afterwards."""
        self._release()

    def _end_activity(self) -> None:
        """Save what is recorded and stop listening."""
        self.end(Ending('the recorder was stopped', self._success()))
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self.destroy_subscription(subscription)
        for name in self._episodes.join():
            self.get_logger().error(f'{name} could not be saved in time; ./wam bag repair')
        self._publish_status()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        if self._episodes is None:
            return
        self._end_activity()
        self._action.close()
        self.destroy_timer(self._timer)
        for service in self._commands:
            self.destroy_service(service)
        self.destroy_publisher(self._status_out)
        self._episodes = None

    def _repair(self, root: Path) -> None:
        """Finish what an earlier life left unfinished; what cannot be finished is left alone."""
        for folder in bag_folder.interrupted(root):
            try:
                found = bag_repair.repair(folder)
            except (bag_repair.Busy, ValueError, OSError) as error:
                self.get_logger().warning(f'{folder.name} was not repaired: {error}')
                continue
            self.get_logger().warning(
                f'{folder.name} was interrupted and is repaired: {found.contents.messages} '
                f'messages over {found.contents.duration_s:.1f} s'
            )

    # inputs

    def _listened(self, lane: int, source: Source) -> Any:
        lost = SubscriptionEventCallbacks(
            message_lost=lambda event: self._episodes.lose(lane, event.total_count_change)
        )
        return self.create_subscription(
            source.kind,
            source.topic,
            partial(self._on_message, lane, source),
            source.qos,
            event_callbacks=lost,
            raw=True,
        )

    def _on_message(self, lane: int, source: Source, raw: bytes) -> None:
        now_ns = self._now_ns()
        if source.topic == INSTRUCTION:
            self._on_instruction(deserialize_message(raw, String).data)
        elif source.topic == SIM_STATUS:
            sim = deserialize_message(raw, SimStatus)
            if sim.success:
                self._achieved.add(sim.instruction)
        self._episodes.put(lane, now_ns, raw)

    def _on_instruction(self, text: str) -> None:
        """Follow the policy's words; where every instruction is an episode, begin a new one."""
        try:
            plain = cleaned(text, MAX_INSTRUCTION_LENGTH)
        except ValueError as error:
            self.get_logger().warning(f'{error}')  # the policy keeps the last one, so do we
            return
        if plain == self._instruction:
            return
        self._instruction = plain
        if not self._params.each_instruction:
            return
        self.end(
            Ending(
                'a new instruction came' if plain else 'the instruction became empty',
                self._success(),
            )
        )
        if plain:
            try:
                self.begin(plain, [])
            except (ValueError, OSError) as error:
                self.get_logger().error(f'not recording {plain!r}: {error}')

    def _on_params(self, changed: RecorderParams) -> None:
        self._params = changed

    def _on_start(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        try:
            response.episode = self.begin(request.instruction, list(request.labels))
            response.success, response.message = True, 'recording'
        except (ValueError, OSError) as error:
            response.message = str(error)
        return response

    def _on_stop(
        self, request: StopEpisode.Request, response: StopEpisode.Response
    ) -> StopEpisode.Response:
        """Answer when the episode is saved, or gone."""
        tape = self.end(
            Ending('stopped', Success.YES if request.task_success else Success.NO, request.note)
        )
        if tape is None:
            response.message = self.status().reason or 'nothing is being recorded'
            return response
        response.episode = tape.name
        response.success, response.message = self.saved(tape)
        if not request.keep and tape.over:
            self._episodes.discard(tape)
            response.success, response.message = True, 'discarded'
        self._publish_status()
        return response

    # what the services, the action and the command line share

    def begin(self, instruction: str, given_labels: list[str]) -> str:
        """Start an episode and return its name; ValueError and OSError say why not.

        An empty instruction is the one that is followed now.
        """
        if not self._inputs:
            raise ValueError('the recorder is not active')
        words = cleaned(instruction, MAX_INSTRUCTION_LENGTH) or self._instruction
        name = self._episodes.begin(self._now_ns(), words, labels(given_labels))
        self._achieved.clear()
        self._publish_status()
        return name

    def end(self, ending: Ending) -> Tape | None:
        """End the episode and return its tape, which saves it; None if there is none."""
        return self._episodes.end(ending)

    def saved(self, tape: Tape) -> tuple[bool, str]:
        """Wait until an episode is saved; return whether it is, and what to say about it."""
        if not tape.join():
            return False, 'the disk does not answer'
        progress = tape.progress()
        if progress.saved is None:
            return False, progress.fault
        return True, (
            f'saved {progress.saved.messages} messages over '
            f'{progress.saved.duration_s:.1f} s, {sum(progress.dropped)} dropped'
        )

    def status(self) -> EpisodeStatus:
        now_ns = self._now_ns()
        return episode_status.message(
            self._episodes.snapshot(now_ns), self._episodes.topics, now_ns
        )

    def _success(self) -> Success:
        """Return what the simulator knows about the present episode; a robot knows nothing."""
        current = self._episodes.current
        done = current is not None and current.instruction in self._achieved
        return Success.YES if done else Success.UNKNOWN

    # outputs

    def _on_status_timer(self) -> None:
        self._action.advance()
        self._publish_status()

    def _publish_status(self) -> None:
        status = self.status()
        self._status_out.publish(status)
        dropping = 'messages are dropped' if any(status.dropped) else ''
        told = '; '.join(
            filter(None, (f'{status.state}', status.episode, status.reason, dropping))
        )
        if told != self._told:
            self._told = told
            self._log(status, dropping)

    def _log(self, status: EpisodeStatus, dropping: str) -> None:
        if status.state == EpisodeStatus.ERROR:
            self.get_logger().error(status.reason)
        elif status.reason or dropping:
            lost = [
                f'{name}: {count}'
                for name, count in zip(status.topic_names, status.dropped, strict=True)
                if count
            ]
            self.get_logger().warning(
                '; '.join(
                    filter(
                        None,
                        (
                            status.episode,
                            status.reason,
                            f'dropped {", ".join(lost)}' if lost else '',
                        ),
                    )
                )
            )
        elif status.state == EpisodeStatus.RECORDING:
            self.get_logger().info(f'recording {status.episode}')


def main(args: list[str] | None = None) -> None:
    # a slow disk gets the time that it is promised
    spun(RecorderNode, args, ending_s=STUCK_S + ENDING_S)


if __name__ == '__main__':
    main()

"""The action `record`: one episode with a time limit, feedback on the way and an outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from wam_msgs.action import RecordEpisode
from wam_msgs.msg import EpisodeStatus
from wam_policy.nodes.recorder.episode_writer import EpisodeWriter
from wam_policy.recording.episode_info import EpisodeEnd

Result = RecordEpisode.Result
MAX_TIME_LIMIT_S = 86_400.0  # a day; infinity is no number of nanoseconds


@dataclass(slots=True, eq=False)
class _ActiveRecording:
    """Hold the goal that records and when its time is over."""

    goal_handle: ServerGoalHandle
    episode: str
    start_ns: int
    end_ns: int
    done: Future  # set with (outcome, message, messages written, messages dropped)


class RecordEpisodeAction:
    """Serve the action of one node, as long as the node: see topic_events."""

    def __init__(
        self,
        node: LifecycleNode,
        is_configured: Callable[[], bool],
        start_episode: Callable[[str, list[str]], str],
        end_episode: Callable[[EpisodeEnd], EpisodeWriter | None],
        get_status: Callable[[], EpisodeStatus],
    ) -> None:
        self._node, self._is_configured = node, is_configured
        self._start_episode, self._end_episode = start_episode, end_episode
        self._get_status = get_status
        self._active_recording: _ActiveRecording | None = None
        self._server = ActionServer(
            node,
            RecordEpisode,
            'record',
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def end_recording(self) -> None:
        """End the recording of a goal, as the node's configuration is undone."""
        current = self._active_recording
        if current is not None and not current.done.done():
            self._finish(current, Result.FAILED, 'the recorder is shutting down')

    def update(self) -> None:
        """Judge the goal and tell how it goes; called at the rate of the status."""
        current = self._active_recording
        if current is None or current.done.done():
            return
        status = self._get_status()
        if status.state == EpisodeStatus.ERROR:
            self._finish(current, Result.FAILED, status.reason)
        elif status.episode_name != current.episode:
            self._finish(current, Result.STOPPED, 'the episode was ended by someone else')
        elif current.goal_handle.is_cancel_requested:
            self._finish(current, Result.CANCELED, 'it was canceled; what was recorded is kept')
        elif self._now_ns() >= current.end_ns:
            self._finish(current, Result.TIMED_OUT, 'its time is over')
        else:
            current.goal_handle.publish_feedback(RecordEpisode.Feedback(status=status))

    def _finish(self, recording: _ActiveRecording, outcome: int, message: str) -> None:
        writer = None
        if outcome in (Result.CANCELED, Result.TIMED_OUT):
            writer = self._end_episode(EpisodeEnd(message))
        status = self._get_status()
        if writer is not None:
            writer.join()
            progress = writer.progress()
            status.message_counts = list(progress.written_counts)
            status.dropped_counts = list(progress.dropped_counts)
            if progress.write_error:
                outcome, message = Result.FAILED, progress.write_error
        recording.done.set_result(
            (outcome, message, sum(status.message_counts), sum(status.dropped_counts))
        )

    def _on_goal(self, goal: RecordEpisode.Goal) -> GoalResponse:
        usable = (
            self._is_configured()
            and self._active_recording is None
            and 0.0 < goal.time_limit <= MAX_TIME_LIMIT_S
        )
        if not usable:
            self._node.get_logger().warning(
                'record refused: it needs a configured recorder, no other goal and a time limit '
                f'above 0 s, at most {MAX_TIME_LIMIT_S:.0f} s'
            )
        return GoalResponse.ACCEPT if usable else GoalResponse.REJECT

    async def _execute(self, goal: ServerGoalHandle) -> RecordEpisode.Result:
        request = goal.request
        try:
            name = self._start_episode(request.instruction, list(request.labels))
        except (ValueError, OSError) as error:
            goal.abort()
            return Result(outcome=Result.FAILED, message=str(error))
        start_ns = self._now_ns()
        self._active_recording = current = _ActiveRecording(
            goal,
            name,
            start_ns,
            start_ns + round(request.time_limit * 1e9),
            Future(executor=self._node.executor),
        )
        # rclpy does not say what a Future holds
        outcome, message, messages, dropped = cast(tuple[int, str, int, int], await current.done)
        self._active_recording = None
        {
            Result.TIMED_OUT: goal.succeed,
            Result.STOPPED: goal.succeed,
            Result.CANCELED: goal.canceled,
        }.get(outcome, goal.abort)()
        return Result(
            outcome=outcome,
            episode_name=name,
            message=message,
            message_count=messages,
            dropped_count=dropped,
            duration=(self._now_ns() - start_ns) / 1e9,
        )

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

"""The action `record`: one episode with a time limit, feedback on the way and an outcome."""

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from wam_msgs.action import RecordEpisode
from wam_msgs.msg import EpisodeStatus
from wam_policy.nodes.recorder.episode_writer import Tape
from wam_policy.recording.episode_info import Ending

Result = RecordEpisode.Result


@dataclass(slots=True, eq=False)
class _Current:
    """Hold the goal that records and when its time is over."""

    goal: ServerGoalHandle
    episode: str
    start_ns: int
    end_ns: int
    over: Future  # set with (outcome, message)


class RecordAction:
    """Serve the action of one configured node."""

    def __init__(
        self,
        node: LifecycleNode,
        begin: Callable[[str, list[str]], str],
        end: Callable[[Ending], Tape | None],
        status: Callable[[], EpisodeStatus],
    ) -> None:
        self._node, self._begin, self._end, self._status = node, begin, end, status
        self._current: _Current | None = None
        self._server = ActionServer(
            node,
            RecordEpisode,
            'record',
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def close(self) -> None:
        if self._current is not None:
            self._conclude(Result.FAILED, 'the recorder is shutting down')
        self._server.destroy()

    def advance(self) -> None:
        """Judge the goal and tell how it goes; called at the rate of the status."""
        current = self._current
        if current is None or current.over.done():
            return
        status = self._status()
        if status.state == EpisodeStatus.ERROR:
            self._conclude(Result.FAILED, status.reason)
        elif status.episode != current.episode:
            self._conclude(Result.STOPPED, 'the episode was ended by someone else')
        elif current.goal.is_cancel_requested:
            self._conclude(Result.CANCELLED, 'it was cancelled; what was recorded is kept')
        elif self._now_ns() >= current.end_ns:
            self._conclude(Result.TIME_OVER, 'its time is over')
        else:
            current.goal.publish_feedback(RecordEpisode.Feedback(status=status))

    def _conclude(self, outcome: int, message: str) -> None:
        tape = None
        if outcome in (Result.CANCELLED, Result.TIME_OVER):
            tape = self._end(Ending(message))
        status = self._status()
        if tape is not None:
            tape.join()
            progress = tape.progress()
            status.messages, status.dropped = list(progress.messages), list(progress.dropped)
            if progress.fault:
                outcome, message = Result.FAILED, progress.fault
        self._current.over.set_result(
            (outcome, message, sum(status.messages), sum(status.dropped))
        )

    def _on_goal(self, goal: RecordEpisode.Goal) -> GoalResponse:
        usable = self._current is None and goal.time_limit > 0.0
        if not usable:
            self._node.get_logger().warning(
                'record refused: it needs a time limit above 0 s and no other goal'
            )
        return GoalResponse.ACCEPT if usable else GoalResponse.REJECT

    async def _execute(self, goal: ServerGoalHandle) -> RecordEpisode.Result:
        asked = goal.request
        try:
            name = self._begin(asked.instruction, list(asked.labels))
        except (ValueError, OSError) as error:
            goal.abort()
            return Result(outcome=Result.FAILED, message=str(error))
        start_ns = self._now_ns()
        self._current = current = _Current(
            goal,
            name,
            start_ns,
            start_ns + round(asked.time_limit * 1e9),
            Future(executor=self._node.executor),
        )
        outcome, message, messages, dropped = await current.over
        self._current = None
        {
            Result.TIME_OVER: goal.succeed,
            Result.STOPPED: goal.succeed,
            Result.CANCELLED: goal.canceled,
        }.get(outcome, goal.abort)()
        return Result(
            outcome=outcome,
            episode=name,
            message=message,
            messages=messages,
            dropped=dropped,
            duration=(self._now_ns() - start_ns) / 1e9,
        )

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

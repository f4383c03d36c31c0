"""The action `run`: one instruction with a time limit, feedback on the way and an outcome.

It only speaks for the policy: whoever gives a newer instruction, by topic or by action, replaces
the run. When a run is over the robot holds, unless it was replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from wam_msgs.action import RunInstruction
from wam_msgs.msg import MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.session.instruction_goal import Outcome, Run, World
from wam_policy.core.session.policy_session import State
from wam_policy.nodes import qos
from wam_policy.nodes.policy.inference_loop import Shared

SIM_STATUS_TOPIC = '/sim/status'  # only a simulated robot has one
CLOSED = 'the policy is shutting down'
STOPPED = (MotionStatus.ESTOPPED, MotionStatus.PROTECTIVE_STOP)


@dataclass(slots=True, eq=False)
class _Current:
    """Hold one run that goes on and the goal it answers."""

    run: Run
    goal: ServerGoalHandle
    over: Future  # set with (outcome, message) once it is over


class Runs:
    """Serve the action of one configured node."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        active: Callable[[], bool],
        status: Callable[[], PolicyStatus],
    ) -> None:
        self._node, self._shared, self._active, self._status = node, shared, active, status
        self._current: list[_Current] = []
        self._achieved = ''  # instruction the simulator says is fulfilled
        self._motion_fault = ''
        self._inputs = [
            node.create_subscription(SimStatus, SIM_STATUS_TOPIC, self._on_sim, qos.REQUEST),
            node.create_subscription(MotionStatus, 'motion_status', self._on_motion, qos.LATCHED),
        ]
        self._server = ActionServer(
            node,
            RunInstruction,
            'run',
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def close(self) -> None:
        for current in self._current:
            current.over.set_result((Outcome.FAILED, CLOSED))
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._server.destroy()

    def advance(self) -> None:
        """Judge every run and tell how it goes; called at the rate of the status."""
        now_ns = self._node.get_clock().now().nanoseconds
        for current in [c for c in self._current if not c.over.done()]:
            with self._shared as policy:
                order = policy.orders
                state, reason = policy.condition(now_ns)
            fault = reason if state is State.ERROR else self._motion_fault
            world = World(now_ns, order, fault, self._achieved, current.goal.is_cancel_requested)
            outcome = current.run.outcome(world)
            if outcome is None:
                current.goal.publish_feedback(self._feedback(current.run, now_ns))
                continue
            if outcome is not Outcome.REPLACED:
                with self._shared as policy:
                    policy.on_instruction('')
            current.over.set_result((outcome, fault or outcome.value))

    def _on_goal(self, goal: RunInstruction.Goal) -> GoalResponse:
        usable = self._active() and goal.instruction.strip() and goal.time_limit > 0.0
        if not usable:
            self._node.get_logger().warning(
                'run refused: it needs an active policy, words and a time limit above 0 s'
            )
        return GoalResponse.ACCEPT if usable else GoalResponse.REJECT

    async def _execute(self, goal: ServerGoalHandle) -> RunInstruction.Result:
        start_ns = self._node.get_clock().now().nanoseconds
        with self._shared as policy:
            try:
                order = policy.start(goal.request.instruction)
            except ValueError as error:
                goal.abort()
                return RunInstruction.Result(
                    outcome=RunInstruction.Result.FAILED, message=str(error)
                )
            run = Run(
                policy.instruction,
                order,
                start_ns,
                round(goal.request.time_limit * 1e9),
                policy.tally.chunks,
            )
        current = _Current(run, goal, Future(executor=self._node.executor))
        self._current.append(current)
        outcome, message = await current.over
        self._current.remove(current)
        {
            Outcome.SUCCEEDED: goal.succeed,
            Outcome.TIME_OVER: goal.succeed,
            Outcome.CANCELLED: goal.canceled,
        }.get(outcome, goal.abort)()
        now_ns = self._node.get_clock().now().nanoseconds
        with self._shared as policy:
            chunks = policy.tally.chunks - run.first_chunk
        return RunInstruction.Result(
            outcome=getattr(RunInstruction.Result, outcome.name),
            message=message,
            chunks=chunks,
            duration=(now_ns - run.start_ns) / 1e9,
        )

    def _feedback(self, run: Run, now_ns: int) -> RunInstruction.Feedback:
        status = self._status()
        elapsed_s = (now_ns - run.start_ns) / 1e9
        return RunInstruction.Feedback(
            state=status.state,
            state_name=status.state_name,
            elapsed=elapsed_s,
            remaining=max(0.0, run.limit_ns / 1e9 - elapsed_s),
            chunks=status.chunks - run.first_chunk,
            query_rate_hz=status.query_rate_hz,
        )

    def _on_sim(self, msg: SimStatus) -> None:
        self._achieved = msg.instruction if msg.success else ''

    def _on_motion(self, msg: MotionStatus) -> None:
        self._motion_fault = (
            f'motion is {msg.state_name}: {msg.reason}' if msg.state in STOPPED else ''
        )

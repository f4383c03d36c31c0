"""The action `run`: one instruction with a time limit, feedback on the way and an outcome.

It only speaks for the policy: whoever gives a newer instruction, by topic or by action, replaces
the run. When a run is over the robot holds, unless it was replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.subscription import Subscription
from rclpy.task import Future

from wam_msgs.action import RunInstruction
from wam_msgs.msg import PolicyStatus, SimStatus
from wam_policy.core.session.instruction_goal import (
    GoalContext,
    InstructionGoal,
    InstructionOutcome,
)
from wam_policy.core.session.policy_session import PolicyState
from wam_policy.nodes import qos
from wam_policy.nodes.policy.inference_loop import LockedPolicy
from wam_policy.robot_names import add_namespace

SIM_STATUS_TOPIC = '/sim/status'  # only a simulated robot has one
MAX_TIME_LIMIT_S = 86_400.0  # a day; infinity is no number of nanoseconds
CLOSED_MESSAGE = 'the policy is shutting down'


@dataclass(slots=True, eq=False)
class _ActiveRun:
    """Hold one run that goes on and the goal it answers."""

    instruction_goal: InstructionGoal
    goal_handle: ServerGoalHandle
    done: Future  # set with (outcome, message) once it is over


class RunInstructionAction:
    """Serve the action of one node, as long as the node: see topic_events."""

    def __init__(
        self,
        node: LifecycleNode,
        is_active: Callable[[], bool],
        get_status: Callable[[], PolicyStatus],
    ) -> None:
        self._node, self._is_active, self._get_status = node, is_active, get_status
        self._locked_policy: LockedPolicy | None = None  # from configuration to cleanup
        self._active_runs: list[_ActiveRun] = []
        self._achieved_instruction = ''  # instruction the simulator says is fulfilled
        self._inputs: list[Subscription] = []
        self._server = ActionServer(
            node,
            RunInstruction,
            'run',
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def attach(self, locked_policy: LockedPolicy, robot_namespace: str) -> None:
        """Take goals for `locked_policy` while the node is active."""
        self._locked_policy = locked_policy
        self._achieved_instruction = ''
        self._inputs.append(
            self._node.create_subscription(
                SimStatus,
                add_namespace(robot_namespace, SIM_STATUS_TOPIC),
                self._on_sim_status,
                qos.REQUEST,
            )
        )

    def detach(self) -> None:
        """End all runs, as the node's configuration is undone."""
        self._locked_policy = None
        for current in self._active_runs:
            if not current.done.done():
                current.done.set_result((InstructionOutcome.FAILED, CLOSED_MESSAGE))
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self._node.destroy_subscription(subscription)

    def update(self) -> None:
        """Judge every run and tell how it goes; called at the rate of the status."""
        locked_policy = self._locked_policy
        if locked_policy is None:
            return
        now_ns = self._node.get_clock().now().nanoseconds
        for current in [c for c in self._active_runs if not c.done.done()]:
            with locked_policy as policy:
                order = policy.instruction_count
                fault = policy.permanent_failure or policy.stop_reason
                state, reason = policy.get_state(now_ns)
            world = GoalContext(
                now_ns,
                order,
                fault,
                self._achieved_instruction,
                current.goal_handle.is_cancel_requested,
            )
            outcome = current.instruction_goal.evaluate(world)
            if outcome is None:
                current.goal_handle.publish_feedback(
                    self._make_feedback(current.instruction_goal, now_ns)
                )
                continue
            if outcome is not InstructionOutcome.PREEMPTED:
                with locked_policy as policy:
                    policy.on_instruction('')
            message = fault or outcome.value
            if outcome is InstructionOutcome.TIMED_OUT and state is not PolicyState.RUNNING:
                message = f'{message}; the policy is {state.name}: {reason}'
            current.done.set_result((outcome, message))

    def _on_goal(self, goal: RunInstruction.Goal) -> GoalResponse:
        usable = (
            self._is_active()
            and goal.instruction.strip()
            and 0.0 < goal.time_limit <= MAX_TIME_LIMIT_S
        )
        if not usable:
            self._node.get_logger().warning(
                'run refused: it needs an active policy, an instruction and a time limit '
                f'above 0 s, at most {MAX_TIME_LIMIT_S:.0f} s'
            )
        return GoalResponse.ACCEPT if usable else GoalResponse.REJECT

    async def _execute(self, goal: ServerGoalHandle) -> RunInstruction.Result:
        start_ns = self._node.get_clock().now().nanoseconds
        locked_policy = self._locked_policy
        if locked_policy is None:  # cleaned up since the goal was accepted
            goal.abort()
            return RunInstruction.Result(
                outcome=RunInstruction.Result.FAILED, message=CLOSED_MESSAGE
            )
        with locked_policy as policy:
            try:
                order = policy.start_instruction(goal.request.instruction)
            except ValueError as error:
                goal.abort()
                return RunInstruction.Result(
                    outcome=RunInstruction.Result.FAILED, message=str(error)
                )
            run = InstructionGoal(
                policy.instruction,
                order,
                start_ns,
                round(goal.request.time_limit * 1e9),
                policy.counters.chunks,
            )
        current = _ActiveRun(run, goal, Future(executor=self._node.executor))
        self._active_runs.append(current)
        # rclpy does not say what a Future holds
        outcome, message = cast(tuple[InstructionOutcome, str], await current.done)
        self._active_runs.remove(current)
        {
            InstructionOutcome.SUCCEEDED: goal.succeed,
            InstructionOutcome.TIMED_OUT: goal.succeed,
            InstructionOutcome.CANCELED: goal.canceled,
        }.get(outcome, goal.abort)()
        now_ns = self._node.get_clock().now().nanoseconds
        with locked_policy as policy:
            chunks = policy.counters.chunks - run.chunks_before
        return RunInstruction.Result(
            outcome=getattr(RunInstruction.Result, outcome.name),
            message=message,
            chunks_published=chunks,
            duration=(now_ns - run.start_ns) / 1e9,
        )

    def _make_feedback(
        self, instruction_goal: InstructionGoal, now_ns: int
    ) -> RunInstruction.Feedback:
        status = self._get_status()
        elapsed_s = (now_ns - instruction_goal.start_ns) / 1e9
        return RunInstruction.Feedback(
            state=status.state,
            state_name=status.state_name,
            elapsed=elapsed_s,
            remaining=max(0.0, instruction_goal.time_limit_ns / 1e9 - elapsed_s),
            chunks_published=status.chunks_published - instruction_goal.chunks_before,
            query_rate_hz=status.query_rate_hz,
        )

    def _on_sim_status(self, msg: SimStatus) -> None:
        self._achieved_instruction = msg.instruction if msg.success else ''

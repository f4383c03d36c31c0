"""Keep a node running whatever its callbacks raise, and make what they raise visible.

rclpy ends the executor, and with it the process, on any exception of a callback; a lifecycle
transition that does not fit and a parameter of an unknown type are enough. Here
- a request that does not fit is refused: an answer, and one line in the log;
- everything else is a fault of the node: traceback in the log, ERROR on /diagnostics, and the
  node's own reaction (motion_node stops the robot).
"""

import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_updater import DiagnosticStatusWrapper, Updater
from lifecycle_msgs.msg import State, TransitionDescription
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.service import Service

from wam_policy.core.session.policy_health import DiagnosticLevel

LOG_PERIOD_S = 10.0  # the same fault again is logged this often; all are counted
MAX_REASON = 300  # characters; a request may put any text into an error
DIAGNOSTICS_TASK = 'callbacks'
ENDING_STATES = (
    State.TRANSITION_STATE_CLEANINGUP,
    State.TRANSITION_STATE_SHUTTINGDOWN,
    State.TRANSITION_STATE_ERRORPROCESSING,
)

ServiceCallback = Callable[[Any, Any], Any]


class NotConfiguredError(RuntimeError):
    """Raised where a callback needs what only a configured or active node has.

    The executor may still deliver what was queued when the node was cleaned up: that is refused
    like any request that does not fit, and no fault.
    """


class CallbackGuard:
    """Answer what does not fit, record what fails; one per node, made in its constructor."""

    def __init__(
        self,
        node: Node,
        updater: Updater,
        on_fault: Callable[[str], None] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Guard the services that rclpy made; `on_fault(reason)` is the node's own reaction.

        It may be called from any thread in which `record` is called. `release` undoes the
        configuration, as far as there is one: it runs first in cleanup, shutdown and error.
        """
        self._node, self._on_fault = node, on_fault
        self._logged_s: dict[tuple, float] = {}  # (type, file, line) -> when it was logged
        self.count, self.last_reason = 0, ''
        services: list[Any] = list(node.services)  # their callbacks are declared read-only
        transitions: Service | None = None
        for service in services:
            if service.srv_type is GetAvailableTransitions:
                transitions = transitions or service  # the other one is the whole graph
            service.callback = partial(self._answer, service.callback, service.srv_type)
            if service.srv_type is SetParameters:
                service.callback = partial(_set_one_by_one, service.callback)
        for service in services:
            if service.srv_type is ChangeState and transitions is not None:
                service.callback = partial(
                    self._change_state, service.callback, transitions.callback
                )
        if isinstance(node, LifecycleNode):
            for state_id, callback in node._callbacks.items():
                prepare = release if state_id in ENDING_STATES else lambda: None
                node._callbacks[state_id] = partial(self._run_transition, prepare, callback)
        updater.add(DIAGNOSTICS_TASK, self._diagnose)

    def create_service(self, service_type: Any, name: str, callback: ServiceCallback) -> Service:
        """Create a service that answers with the reason also where `callback` raises."""
        return self._node.create_service(
            service_type, name, partial(self._answer, callback, service_type, is_own=True)
        )

    def wrap(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return `function` made to record what it raises; for loops that must go on."""

        def run() -> None:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - recorded
                self.record(error)

        return run

    def record(self, error: Exception) -> None:
        """Log what a callback or a thread raised, show it, and let the node react."""
        if isinstance(error, NotConfiguredError):
            self._node.get_logger().warning(f'{error}', throttle_duration_sec=1.0)
            return
        self.count += 1
        self.last_reason = describe_error(error)
        frames = traceback.extract_tb(error.__traceback__)
        place = (type(error), *((frames[-1].filename, frames[-1].lineno) if frames else ()))
        now_s = time.monotonic()
        if now_s - self._logged_s.get(place, -LOG_PERIOD_S) >= LOG_PERIOD_S:
            self._logged_s[place] = now_s
            self._node.get_logger().error(
                f'fault in this node: {self.last_reason}\n'
                + ''.join(traceback.format_exception(error))
            )
        if self._on_fault is None:
            return
        try:
            self._on_fault(self.last_reason)
        except Exception as second:  # noqa: BLE001 - there is nobody else to tell
            self._node.get_logger().error(
                f'the reaction to it failed, too: {describe_error(second)}\n'
                + ''.join(traceback.format_exception(second))
            )

    def _answer(
        self,
        callback: ServiceCallback,
        service_type: Any,
        request: Any,
        response: Any,
        *,
        is_own: bool = False,
    ) -> Any:
        """Return the answer of `callback`, or a refusal with the reason if it raises."""
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001 - answered, logged and shown
            reason = describe_error(error)
            if is_own and not isinstance(error, NotConfiguredError):
                self.record(error)
            else:  # rclpy raises for values that it does not know: the request is wrong
                self._node.get_logger().warning(
                    f'{service_type.__name__} refused: {reason}', throttle_duration_sec=1.0
                )
            return _make_refusal(service_type, request, reason)

    def _change_state(
        self,
        change: ServiceCallback,
        list_transitions: ServiceCallback,
        request: ChangeState.Request,
        response: ChangeState.Response,
    ) -> ChangeState.Response:
        """Refuse a transition that does not start in the present state."""
        fitting: list[TransitionDescription] = list_transitions(
            GetAvailableTransitions.Request(), GetAvailableTransitions.Response()
        ).available_transitions
        requested = request.transition
        if any(
            each.transition.label == requested.label
            if requested.label
            else each.transition.id == requested.id
            for each in fitting
        ):
            return change(request, response)
        possible = ', '.join(f'{each.transition.label} ({each.transition.id})' for each in fitting)
        state = fitting[0].start_state.label if fitting else 'finalized'
        self._node.get_logger().warning(
            f'transition {requested.label or requested.id} refused: node is {state}; possible: '
            f'{possible or "none, start the node anew"}',
            throttle_duration_sec=1.0,
        )
        return ChangeState.Response(success=False)

    def _run_transition(
        self,
        prepare: Callable[[], None],
        callback: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
    ) -> TransitionCallbackReturn:
        """Run a transition; rclpy turns what it raises into ERROR without a word."""
        try:
            prepare()
            return callback(state)
        except Exception as error:  # noqa: BLE001 - recorded
            self.record(error)
            return TransitionCallbackReturn.ERROR

    def _diagnose(self, out: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        if self.count:
            out.summary(
                bytes([DiagnosticLevel.ERROR]), f'{self.count} faults, last: {self.last_reason}'
            )
        else:
            out.summary(bytes([DiagnosticLevel.OK]), 'no faults')
        return out


def describe_error(error: Exception) -> str:
    """Return type and text of an exception in one line of at most MAX_REASON characters."""
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    return text if len(text) <= MAX_REASON else f'{text[: MAX_REASON - 3]}...'


def _set_one_by_one(
    set_parameters: ServiceCallback,
    request: SetParameters.Request,
    response: SetParameters.Response,
) -> SetParameters.Response:
    """Set each parameter by itself: one that raises must not hide what happened to the others."""
    for each in request.parameters:
        response.results += set_parameters(
            SetParameters.Request(parameters=[each]), SetParameters.Response()
        ).results
    return response


def _make_refusal(service_type: Any, request: Any, reason: str) -> Any:
    """Return a response that says no; services without a place for a reason get an empty one."""
    response = service_type.Response()
    refused = SetParametersResult(successful=False, reason=reason)
    if service_type is SetParameters:
        response.results = [refused] * len(request.parameters)
    elif service_type is SetParametersAtomically:
        response.result = refused
    elif hasattr(response, 'message'):
        response.message = reason
    return response

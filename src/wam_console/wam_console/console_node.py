"""console_node: the operator's page in a browser, on the stack's public interfaces.

It is an ordinary node: it holds nothing up, and the robot moves or rests the same without it.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from diagnostic_updater import Updater
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription

from wam_console.access import TOKEN_VARIABLE, AccessControl
from wam_console.command_executor import CommandExecutor
from wam_console.console_params import ConsoleParams
from wam_console.stack_subscriber import StackSubscriber, is_polled
from wam_console.viewer_hub import ViewerHub
from wam_console.web_server import WebServer, bind_socket
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import parameters, robot_parameters
from wam_policy.nodes.callback_guard import CallbackGuard
from wam_policy.nodes.run_node import run_node

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@dataclass(frozen=True, slots=True)
class _ConfiguredConsole:
    """Hold what exists from configuration to cleanup."""

    params: ConsoleParams
    robot: Embodiment
    access: AccessControl


@dataclass(frozen=True, slots=True)
class _ActiveConsole:
    """Hold what exists while the node is active."""

    stack: StackSubscriber
    executor: CommandExecutor
    server: WebServer


class ConsoleNode(LifecycleNode):
    """Serve the page while active."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('console', context=context)
        self._configured: _ConfiguredConsole | None = None
        self._active: _ActiveConsole | None = None
        parameters.read(self, ConsoleParams)  # early: visible before configuration
        parameters.add_on_change_callback(
            self, ConsoleParams, lambda: self._active is not None, lambda _: None
        )
        updater = Updater(self)
        updater.setHardwareID('none')
        self.guard = CallbackGuard(self, updater, release=self._release)

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Give what the executor serves; the page polls the others."""
        return (each for each in super().subscriptions if not is_polled(each))

    @property
    def url(self) -> str:
        """Return the address of the page; empty while the node is not active."""
        return self._active.server.url if self._active else ''

    @property
    def stack(self) -> StackSubscriber | None:
        return self._active.stack if self._active else None

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            params = parameters.read(self, ConsoleParams)
            access = AccessControl(params.address, os.environ.get(TOKEN_VARIABLE, ''))
            robot = robot_parameters.load_robot(self, params)
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        self._configured = _ConfiguredConsole(params, robot, access)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        configured = self._configured
        if configured is None:
            return FAILURE
        params = configured.params
        try:
            listener = bind_socket(params.address, params.port)
            stack = StackSubscriber(self, configured.robot, params)
        except (ValueError, OSError) as error:
            self.get_logger().error(f'cannot be activated: {error}')
            return FAILURE
        executor = CommandExecutor(self, params.robot_namespace)
        hub = ViewerHub(stack, executor.execute, self.guard.record)
        server = WebServer(listener, configured.access, hub)
        self._active = _ActiveConsole(stack, executor, server)
        server.start()
        if params.port not in (0, server.port):
            self.get_logger().warning(f'port {params.port} is in use')
        self.get_logger().info(f"operator's page: {server.url}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_server()
        return super().on_deactivate(state)

    def close(self) -> None:
        """Close the page; nothing is sent to the robot."""
        self._release()

    def _stop_server(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.server.stop()
            active.executor.close()
            active.stack.close()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        self._stop_server()
        self._configured = None


def main(args: list[str] | None = None) -> None:
    # what a browser does wrong is no news for the operator's terminal
    logging.getLogger('uvicorn').setLevel(logging.CRITICAL)
    run_node(ConsoleNode, 'console', args)


if __name__ == '__main__':
    main()

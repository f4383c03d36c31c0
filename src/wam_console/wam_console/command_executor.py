"""Carry out what the page asks for: publish an instruction, call a service of the stack."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Empty, String
from std_srvs.srv import SetBool, Trigger

from wam_console import commands
from wam_console.commands import RobotCommand
from wam_msgs.srv import Reload, StartEpisode, StopEpisode
from wam_policy.nodes import qos
from wam_policy.robot_names import add_namespace

OnResult = Callable[['CommandResult'], None]
SERVICES: tuple[tuple[str, Any, str], ...] = (
    ('estop', Trigger, 'estop'),
    ('reset', Trigger, 'reset'),
    ('enable', SetBool, 'enable'),
    ('reload', Reload, 'reload'),
    ('start_episode', StartEpisode, 'recorder/start'),
    ('stop_episode', StopEpisode, 'recorder/stop'),
    ('next_scene', Trigger, '/sim/reset'),
)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Tell what came of a command."""

    success: bool
    message: str


class CommandExecutor:
    """Publishers and clients of one node; any thread may call `execute`."""

    def __init__(self, node: Node, robot_namespace: str) -> None:
        self._node = node
        self._instructions = node.create_publisher(String, 'instruction', qos.REQUEST)
        self._estop_signal = node.create_publisher(Empty, 'estop_signal', qos.REQUEST)
        self._clients: dict[str, Client] = {
            name: node.create_client(service_type, add_namespace(robot_namespace, topic))
            for name, service_type, topic in SERVICES
        }

    def close(self) -> None:
        for client in self._clients.values():
            self._node.destroy_client(client)
        self._node.destroy_publisher(self._instructions)
        self._node.destroy_publisher(self._estop_signal)

    def execute(self, command: RobotCommand, on_result: OnResult) -> None:
        """Start a command; `on_result` is called once, perhaps in another thread.

        It is not called if a service never answers: the caller limits the time.
        """
        match command:
            case commands.Instruct(text=text):
                self._publish_instruction(text, on_result)
            case commands.Hold():
                self._publish_instruction('', on_result)
            case commands.Estop():
                # the topic works from every RMW and does not wait for an answer
                self._estop_signal.publish(Empty())
                self._call('estop', Trigger.Request(), on_result)
            case commands.ResetStop():
                self._call('reset', Trigger.Request(), on_result)
            case commands.Enable():
                self._call('enable', SetBool.Request(data=True), on_result)
            case commands.Disable():
                self._call('enable', SetBool.Request(data=False), on_result)
            case commands.Reload(checkpoint=checkpoint):
                self._call('reload', Reload.Request(checkpoint=checkpoint), on_result)
            case commands.StartEpisode():
                self._call('start_episode', StartEpisode.Request(), on_result)
            case commands.StopEpisode(keep=keep, success=success, note=note):
                self._call(
                    'stop_episode',
                    StopEpisode.Request(keep=keep, task_success=success, note=note),
                    on_result,
                )
            case commands.NextScene():
                self._call('next_scene', Trigger.Request(), on_result)

    def _publish_instruction(self, text: str, on_result: OnResult) -> None:
        if not self._instructions.get_subscription_count():
            on_result(CommandResult(False, 'no node takes instructions: policy_node is missing'))
            return
        self._instructions.publish(String(data=text))
        on_result(CommandResult(True, 'sent' if text else 'stop and hold: sent'))

    def _call(self, name: str, request: Any, on_result: OnResult) -> None:
        client = self._clients[name]
        if not client.service_is_ready():
            on_result(
                CommandResult(False, f'no node serves {client.service_name}: it is not running')
            )
            return

        def finish(future: Future) -> None:
            error = future.exception()
            response = None if error else future.result()
            if response is None:
                on_result(CommandResult(False, f'{client.service_name} failed: {error}'))
                return
            done = bool(response.success)
            message = response.message or ('done' if done else 'refused without a reason')
            on_result(CommandResult(done, message))

        client.call_async(request).add_done_callback(finish)

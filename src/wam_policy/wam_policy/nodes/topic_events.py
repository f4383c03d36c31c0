"""Poll what the middleware reports about topics, instead of letting the executor handle it.

rclpy's EventsExecutor (7.1.11) aborts the process when a waitable is removed while one of its
events is queued: dropping the queued call runs `__exit__` of its wait set without the GIL. Every
subscription and publisher has waitables, for incompatible QoS and lost messages. Messages that are
lost while a node destroys its inputs therefore ended its process. The executor is not given these
waitables; `poll_topic_events` reads them. An action server is a waitable, too, and has to be
served: keep it as long as its node.
"""

from typing import Any

from rclpy.event_handler import EventHandler
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.waitable import Waitable

POLL_PERIOD_S = 1.0  # how late a lost message or an incompatible QoS is told


class _NodeWithoutEvents:
    """Show an executor a node, without the waitables of topic events."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    @property
    def executor(self) -> Executor | None:
        return self._node.executor

    @executor.setter
    def executor(self, executor: Executor) -> None:
        self._node.executor = executor
        executor.remove_node(self._node)  # the setter has added the node itself

    @property
    def waitables(self) -> list[Waitable]:
        return [each for each in self._node.waitables if not isinstance(each, EventHandler)]


class _AllReady:
    """Be the wait set of which every event is ready."""

    def add_event(self, event: Any) -> int:
        return 0

    def is_ready(self, kind: str, index: int) -> bool:
        return True


def add_node(executor: Executor, node: Node) -> None:
    """Add `node` to `executor`; call `poll_topic_events` now and then, in the same thread."""
    executor.add_node(_NodeWithoutEvents(node))  # pyright: ignore[reportArgumentType]


def poll_topic_events(node: Node) -> None:
    """Call the callbacks of what was reported about the topics of `node` since the last call."""
    for handler in list(node.waitables):
        if not isinstance(handler, EventHandler):
            continue
        handler.add_to_wait_set(_AllReady())
        handler.is_ready(_AllReady())
        event = handler.take_data()
        if event is not None and event.total_count_change:
            handler.callback(event)

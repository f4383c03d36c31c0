"""Reads what the trajectory controllers are, for core.motion.controller_checks to judge.

Parameters come from their standard services, every second; activity and speed scaling from their
states, subscribers and publishers from the graph, goals from the status of their actions. Nothing
here waits: what has not answered in time is a check that is not active.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from action_msgs.msg import GoalStatus, GoalStatusArray
from control_msgs.msg import JointTrajectoryControllerState
from controller_manager_msgs.srv import ListControllers
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.publisher import Publisher
from rclpy.task import Future

from wam_policy.core.motion.controller_checks import (
    ControllerFault,
    ControllerReading,
    find_faults,
    find_inactive_checks,
    find_speed_difference,
    list_parameters,
)
from wam_policy.core.robot.embodiment import Controller
from wam_policy.nodes import qos
from wam_policy.robot_names import add_namespace

CHECK_PERIOD_S = 0.1  # of the graph: how late a second publisher may be noticed
READ_PERIOD_S = 1.0  # of parameters and controller manager
ANSWER_TIMEOUT_S = 2.0  # a service that has not answered by then does not
STATE_TIMEOUT_S = 1.0  # a controller that reports is active; without reports it may not be
STATE_PERIOD_S = 0.02  # a factor is looked at so often: some report a thousand times a second
DIFFERENCE_TIMEOUT_S = 0.5  # controllers may run at different speeds for so long
MANAGER_SERVICE = '/controller_manager/list_controllers'
# beginnings of the names of nodes that subscribe to trajectories and follow none
OWN_OBSERVERS = ('recorder', 'description', 'console')
OBSERVERS = (*OWN_OBSERVERS, 'rosbag2', 'rviz', 'rqt', 'plotjuggler', 'foxglove', '_ros2cli')
UNKNOWN_NODE = '_NODE_NAME_UNKNOWN_'
OPEN_GOALS = (
    GoalStatus.STATUS_ACCEPTED,
    GoalStatus.STATUS_EXECUTING,
    GoalStatus.STATUS_CANCELING,
)


class ControllerMonitor:
    """Keep a reading per controller, and what is wrong with any of them."""

    def __init__(
        self,
        node: Node,
        outputs: Sequence[tuple[Publisher, Controller]],
        min_speed_scaling: float,
        robot_namespace: str,
    ) -> None:
        """Watch the controllers that `outputs` publish to, until closed.

        The robot's controller manager is the one in `robot_namespace`.
        """
        self._node, self._min_speed_scaling = node, min_speed_scaling
        self._speeds_differ_since_s: float | None = None
        self._watches = [_ControllerWatch(node, publisher, each) for publisher, each in outputs]
        service = add_namespace(robot_namespace, MANAGER_SERVICE)
        self._manager = node.create_client(ListControllers, service) if outputs else None
        self._manager_answer: Future | None = None
        self._next_read_s = 0.0
        self.faults: tuple[ControllerFault, ...] = ()
        self.inactive_checks: tuple[str, ...] = ()
        self._timer = node.create_timer(
            CHECK_PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Watch no more."""
        self._node.destroy_timer(self._timer)
        if self._manager is not None:
            self._node.destroy_client(self._manager)
        for watch in self._watches:
            watch.close()
        self._watches = []

    def check_enable(self) -> str | None:
        """Return why motion must not be enabled, with what to change."""
        unread = [watch.reading.controller.name for watch in self._watches if watch.is_unread]
        if self.faults:
            return '; '.join(fault.text for fault in self.faults)
        return f'the settings of {", ".join(unread)} are being read' if unread else None

    def needs_state(self, controller: str) -> bool:
        """Tell whether a state of `controller` should be looked at for its speed scaling."""
        return self._find_watch(controller).needs_state(time.monotonic())

    def on_state(self, controller: str, msg: JointTrajectoryControllerState) -> float | None:
        """Take a state of a controller; return how fast its trajectories pass, None: unknown."""
        watch = self._find_watch(controller)
        watch.on_state(msg, time.monotonic())
        self._judge()
        return watch.reading.speed_factor

    def _find_watch(self, controller: str) -> '_ControllerWatch':
        return next(w for w in self._watches if w.reading.controller.name == controller)

    def _on_timer(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_read_s:
            self._next_read_s = now_s + READ_PERIOD_S
            for watch in self._watches:
                watch.request_parameters(now_s)
            self._request_controllers()
        for watch in self._watches:
            watch.read_graph()
            watch.expire(now_s)
        self._judge()

    def _request_controllers(self) -> None:
        """Ask the controller manager, if there is one: simulator and stream_node have none."""
        if self._manager is None:
            return
        if self._manager_answer is not None:  # of a second ago: nobody answers any more
            self._manager.remove_pending_request(self._manager_answer)
            self._manager_answer = None
        if self._manager.service_is_ready():
            self._manager_answer = self._manager.call_async(ListControllers.Request())
            self._manager_answer.add_done_callback(self._on_controllers)

    def _on_controllers(self, future: Future) -> None:
        self._manager_answer = None
        answer = future.result()
        if answer is None:  # cancelled, as at the end of the node
            return
        states = {each.name: each.state for each in answer.controller}
        for watch in self._watches:
            watch.on_listed(states.get(watch.reading.controller.name))

    def _judge(self) -> None:
        readings = [watch.reading for watch in self._watches]
        faults = [
            fault
            for reading in readings
            for fault in find_faults(reading, self._min_speed_scaling)
        ]
        difference, now_s = find_speed_difference(readings), time.monotonic()
        if not difference:
            self._speeds_differ_since_s = None
        elif self._speeds_differ_since_s is None:
            self._speeds_differ_since_s = now_s  # a change reaches them one after the other
        elif now_s - self._speeds_differ_since_s > DIFFERENCE_TIMEOUT_S:
            faults.append(ControllerFault(difference))
        self.faults = tuple(faults)
        self.inactive_checks = tuple(
            text
            for watch in self._watches
            if not watch.is_unread
            for text in find_inactive_checks(watch.reading)
        )


class _ControllerWatch:
    """Read one controller."""

    def __init__(self, node: Node, publisher: Publisher, controller: Controller) -> None:
        self._node, self._publisher = node, publisher
        self.reading = reading = ControllerReading(controller)
        self._wanted_names = frozenset(list_parameters(controller))
        base = reading.node_name
        self._lister = node.create_client(ListParameters, f'{base}/list_parameters')
        self._getter = node.create_client(GetParameters, f'{base}/get_parameters')
        self._goal_subscription = node.create_subscription(
            GoalStatusArray,
            f'{base}/follow_joint_trajectory/_action/status',
            self._on_goals,
            qos.LATCHED,
        )
        self._request: tuple[Any, Future, float] | None = None  # client, answer, when asked
        self._since_s = time.monotonic()
        # matched, subscriptions, publications when names were last looked at
        self._counts: tuple[int, int, int] | None = None
        self._listed_state: str | None = None  # by the controller manager
        self._state_s: float | None = None  # when its last state came
        self.is_unread = True

    def close(self) -> None:
        for client in (self._lister, self._getter):
            self._node.destroy_client(client)
        self._node.destroy_subscription(self._goal_subscription)

    def needs_state(self, now_s: float) -> bool:
        return self._state_s is None or now_s - self._state_s >= STATE_PERIOD_S

    def on_state(self, msg: JointTrajectoryControllerState, now_s: float) -> None:
        self._state_s = now_s
        self.reading = replace(
            self.reading, is_active=True, speed_scaling=msg.speed_scaling_factor
        )

    def on_listed(self, state: str | None) -> None:
        self._listed_state = state

    def expire(self, now_s: float) -> None:
        """Forget what is too old to rely on, and give up waiting for an answer."""
        if self._state_s is None or now_s - self._state_s > STATE_TIMEOUT_S:
            listed = self._listed_state
            self.reading = replace(
                self.reading,
                is_active=None if listed is None else listed == 'active',
                speed_scaling=None,
            )
        if self._request is not None and now_s - self._request[2] > ANSWER_TIMEOUT_S:
            client, answer, _ = self._request
            client.remove_pending_request(answer)
            self._request = None
            self._on_parameters(None)
        if self.is_unread and now_s - self._since_s > ANSWER_TIMEOUT_S:
            self.is_unread = False  # nobody offers the service

    def request_parameters(self, now_s: float) -> None:
        """Ask which parameters there are: to ask for one that is not makes rclcpp answer none."""
        self._counts = None  # the same number may be others
        if self._request is None and self._lister.service_is_ready():
            self._send(self._lister, ListParameters.Request(), self._on_names, now_s)

    def read_graph(self) -> None:
        """Count who listens to and who publishes on the topic; look at names on a change."""
        topic = self._publisher.topic_name
        counts = (
            self._publisher.get_subscription_count(),
            self._node.count_subscribers(topic),
            self._node.count_publishers(topic),
        )
        if counts == self._counts:
            return
        listeners = [info.node_name for info in self._node.get_subscriptions_info_by_topic(topic)]
        senders = [
            f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            for info in self._node.get_publishers_info_by_topic(topic)
        ]
        # names come a moment after the endpoints they belong to: look again until they are there
        named = not any(UNKNOWN_NODE in name for name in (*listeners, *senders))
        self._counts = counts if named else None
        followers = [name for name in listeners if not name.startswith(OBSERVERS)]
        own_name = self._node.get_fully_qualified_name()
        if own_name in senders:
            senders.remove(own_name)  # once: another node may have our name
        self.reading = replace(
            self.reading,
            subscriber_count=min(counts[0], len(followers)),
            other_publishers=tuple(sorted(senders)),
        )

    def _send(
        self, client: Client, request: Any, on_answer: Callable[[Any], None], now_s: float
    ) -> None:
        answer = client.call_async(request)
        self._request = client, answer, now_s

        def on_done(future: Future) -> None:
            if self._request is not None and self._request[1] is future:
                self._request = None
                on_answer(future.result())

        answer.add_done_callback(on_done)

    def _on_names(self, response: ListParameters.Response) -> None:
        names = sorted(self._wanted_names.intersection(response.result.names))
        self._send(
            self._getter,
            GetParameters.Request(names=names),
            partial(self._on_values, names),
            time.monotonic(),
        )

    def _on_values(self, names: list[str], response: GetParameters.Response) -> None:
        values = map(parameter_value_to_python, response.values)
        self._on_parameters(
            {name: value for name, value in zip(names, values, strict=False) if value is not None}
        )

    def _on_parameters(self, parameters: dict[str, Any] | None) -> None:
        self.is_unread = False
        self.reading = replace(self.reading, parameters=parameters)

    def _on_goals(self, msg: GoalStatusArray) -> None:
        running = sum(each.status in OPEN_GOALS for each in msg.status_list)
        self.reading = replace(self.reading, action_goals=running)

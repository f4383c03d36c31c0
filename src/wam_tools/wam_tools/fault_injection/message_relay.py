"""Relay between robot, policy and motion that corrupts messages on command.

The stack is unmodified: simulator and policy are remapped to hidden topics, and this program
forwards their serialized messages to the usual topics. Commands are JSON lines on standard input;
each is answered by a line. The relay has real-time priority, like a robot's driver.
"""

import argparse
import heapq
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import rclpy
from control_msgs.msg import JointTrajectoryControllerState
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import qos
from wam_policy.nodes.motion.control_loop import set_realtime_priority
from wam_policy.nodes.run_node import ExecutorThread, freeze_gc
from wam_tools.fault_injection.corruptions import CORRUPTIONS, pass_through

HIDDEN_PREFIX, ALL_ROUTES = '/hidden', '*'
CHUNK_TOPIC = '/wam/action_chunk'
# deep queues on hidden topics, so that only the relay loses messages
HIDDEN_BEST_EFFORT_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
HIDDEN_RELIABLE_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
CLOCK_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
TIMER_PERIOD_S = 0.002
DUPLICATE_SPACING_S = 0.03  # between duplicates; a queue of depth 1 would drop the first


@dataclass(frozen=True, slots=True)
class RelayRoute:
    """One relayed topic: hidden name -> usual name, or the reverse towards the robot."""

    name: str
    message_type: type
    topic: str  # the usual name
    qos: QoSProfile
    to_robot: bool = False  # subscribe to the usual name, publish the hidden one

    @property
    def hidden_topic(self) -> str:
        return HIDDEN_PREFIX + self.topic


def make_routes(robot: Embodiment) -> tuple[RelayRoute, ...]:
    return (
        *(RelayRoute(camera.key, Image, camera.topic, qos.IMAGE) for camera in robot.cameras),
        RelayRoute('joints', JointState, '/joint_states', qos.JOINTS),
        RelayRoute('chunks', ActionChunk, CHUNK_TOPIC, qos.CHUNK),
        RelayRoute('clock', Clock, '/clock', CLOCK_QOS),
        *(
            RelayRoute(
                controller.name, JointTrajectory, controller.topic, qos.TRAJECTORY, to_robot=True
            )
            for controller in robot.controllers
        ),
        *(
            RelayRoute(
                f'{controller.name} state',
                JointTrajectoryControllerState,
                controller.state_topic,
                qos.JOINTS,
            )
            for controller in robot.controllers
        ),
    )


class MessageRelay(Node):
    """Forward messages, with one corruption per route."""

    def __init__(self, robot: Embodiment) -> None:
        super().__init__('tamper')
        self._corruptions, self._delay_s, self._route_publishers = {}, {}, {}
        self._route_subscriptions: dict[str, Subscription] = {}
        self._delayed_messages: list[tuple[float, int, str, bytes]] = []  # heap by due time
        self._count = 0
        self._routes = {route.name: route for route in make_routes(robot)}
        for route in self._routes.values():
            sent = route.hidden_topic if route.to_robot else route.topic
            self._corruptions[route.name], self._delay_s[route.name] = pass_through, 0.0
            self._route_publishers[route.name] = self.create_publisher(
                route.message_type, sent, route.qos
            )
            self._subscribe(route)
        self.create_timer(TIMER_PERIOD_S, self._on_timer)

    def _subscribe(self, route: RelayRoute) -> None:
        reliable = route.qos.reliability is ReliabilityPolicy.RELIABLE
        self._route_subscriptions[route.name] = self.create_subscription(
            route.message_type,
            route.topic if route.to_robot else route.hidden_topic,
            partial(self._on_message, route.name),
            HIDDEN_RELIABLE_QOS if reliable else HIDDEN_BEST_EFFORT_QOS,
            raw=True,
        )

    def handle_command(self, command: dict) -> None:
        """Set delay and corruption of a route; raise ValueError or KeyError if invalid."""
        if command['route'] == ALL_ROUTES:  # clock shift, reversed towards the robot
            by_s = float(command['shift_s'])
            for route in self._routes.values():
                values = [-by_s if route.to_robot else by_s]
                self.handle_command({'route': route.name, 'corruption': 'shift', 'values': values})
            return
        name, route = command['route'], self._routes[command['route']]
        if 'reliable' in command:  # a best-effort publisher does not match reliable subscribers
            before = self._route_publishers[name]
            self._route_publishers[name] = self.create_publisher(
                route.message_type,
                route.topic,
                route.qos if command['reliable'] else HIDDEN_BEST_EFFORT_QOS,
            )
            self.destroy_publisher(before)
        if command.get('subscribed', True):
            if name not in self._route_subscriptions:
                self._subscribe(route)
        else:
            self.destroy_subscription(self._route_subscriptions.pop(name))
        self._delay_s[name] = float(command.get('delay_s', 0.0))
        self._corruptions[name] = CORRUPTIONS[command.get('corruption', 'pass')](
            *command.get('values', ())
        )

    def _on_message(self, name: str, raw: bytes) -> None:
        for place, changed in enumerate(self._corruptions[name](raw)):
            delay_s = self._delay_s[name] + place * DUPLICATE_SPACING_S
            if delay_s:
                self._count += 1
                heapq.heappush(
                    self._delayed_messages,
                    (time.monotonic() + delay_s, self._count, name, changed),
                )
            else:
                self._route_publishers[name].publish(changed)

    def _on_timer(self) -> None:
        while self._delayed_messages and self._delayed_messages[0][0] <= time.monotonic():
            *_, name, raw = heapq.heappop(self._delayed_messages)
            self._route_publishers[name].publish(raw)


def main(argv: Sequence[str] | None = None) -> None:
    """Relay until the end of standard input or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog='python -m wam_tools.fault_injection.message_relay', description=main.__doc__
    )
    parser.add_argument('--robot', choices=embodiment.list_robots(), required=True)
    options = parser.parse_args(argv)
    set_realtime_priority()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    relay = MessageRelay(embodiment.load_embodiment(options.robot))
    freeze_gc()
    spinning = ExecutorThread([relay])
    print('ready', flush=True)
    try:
        for line in sys.stdin:
            relay.handle_command(json.loads(line))
            print('done', flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        spinning.stop()
        relay.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()

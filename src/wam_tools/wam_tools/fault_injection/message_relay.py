"""A relay between robot, policy and motion that can be told to spoil what passes.

The stack is unmodified: the simulator and the policy are remapped to hidden topics, and this
program hands their bytes on under the names that everybody knows. Commands come as JSON lines on
standard input, each is answered by a line. Like the robot it stands for, it runs in real time.
"""

import argparse
import heapq
import json
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
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import qos
from wam_policy.nodes.motion.control_loop import favoured
from wam_policy.nodes.run_node import Spinning, settle
from wam_tools.fault_injection.corruptions import TRICKS, passed

HIDDEN, EVERY = '/hidden', '*'
CHUNK_TOPIC = '/wam/action_chunk'
# What is hidden arrives whole, whatever the machine does: losses are ours to make.
SOURCE = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
WHOLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
CLOCK = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
TICK_S = 0.002
APART_S = 0.03  # two messages for one: a queue of one would keep the second only


@dataclass(frozen=True, slots=True)
class Route:
    """Say which topic is relayed, from which hidden name to which known one, or the other way."""

    name: str
    kind: type
    topic: str  # the known name
    qos: QoSProfile
    inward: bool = False  # towards the robot: heard where known, sent hidden

    @property
    def hidden(self) -> str:
        return HIDDEN + self.topic


def routes(robot: Embodiment) -> tuple[Route, ...]:
    """Return what is relayed for a robot."""
    return (
        *(Route(camera.key, Image, camera.topic, qos.IMAGE) for camera in robot.cameras),
        Route('joints', JointState, '/joint_states', qos.JOINTS),
        Route('chunks', ActionChunk, CHUNK_TOPIC, qos.CHUNK),
        Route('clock', Clock, '/clock', CLOCK),
        *(
            Route(controller.name, JointTrajectory, controller.topic, qos.TRAJECTORY, inward=True)
            for controller in robot.controllers
        ),
        *(
            Route(
                f'{controller.name} state',
                JointTrajectoryControllerState,
                controller.state_topic,
                qos.JOINTS,
            )
            for controller in robot.controllers
        ),
    )


class Relay(Node):
    """Hand messages on, through a trick per route."""

    def __init__(self, robot: Embodiment) -> None:
        super().__init__('tamper')
        self._tricks, self._delay_s, self._out = {}, {}, {}
        self._waiting: list[tuple[float, int, str, bytes]] = []  # a heap, by when due
        self._count = 0
        self._routes = {route.name: route for route in routes(robot)}
        for route in self._routes.values():
            heard, sent = (
                (route.topic, route.hidden) if route.inward else (route.hidden, route.topic)
            )
            self._tricks[route.name], self._delay_s[route.name] = passed, 0.0
            self._out[route.name] = self.create_publisher(route.kind, sent, route.qos)
            reliable = route.qos.reliability is ReliabilityPolicy.RELIABLE
            self.create_subscription(
                route.kind,
                heard,
                partial(self._on_message, route.name),
                WHOLE if reliable else SOURCE,
                raw=True,
            )
        self.create_timer(TICK_S, self._on_timer)

    def obey(self, command: dict) -> None:
        """Change what happens on a route; ValueError and KeyError for a command that is none."""
        if command['route'] == EVERY:  # time itself: what goes to the robot is set back
            by_s = float(command['shift_s'])
            for route in self._routes.values():
                values = [-by_s if route.inward else by_s]
                self.obey({'route': route.name, 'trick': 'shift', 'values': values})
            return
        name, route = command['route'], self._routes[command['route']]
        if 'reliable' in command:  # heard by nobody who insists on more than it offers
            before = self._out[name]
            self._out[name] = self.create_publisher(
                route.kind, route.topic, route.qos if command['reliable'] else SOURCE
            )
            self.destroy_publisher(before)
        self._delay_s[name] = float(command.get('delay_s', 0.0))
        self._tricks[name] = TRICKS[command.get('trick', 'pass')](*command.get('values', ()))

    def _on_message(self, name: str, raw: bytes) -> None:
        for place, changed in enumerate(self._tricks[name](raw)):
            delay_s = self._delay_s[name] + place * APART_S
            if delay_s:
                self._count += 1
                heapq.heappush(
                    self._waiting, (time.monotonic() + delay_s, self._count, name, changed)
                )
            else:
                self._out[name].publish(changed)

    def _on_timer(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            *_, name, raw = heapq.heappop(self._waiting)
            self._out[name].publish(raw)


def main(given: Sequence[str] | None = None) -> None:
    """Relay until standard input ends, or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog='python -m wam_tools.fault_injection.message_relay', description=main.__doc__
    )
    parser.add_argument('--robot', choices=embodiment.names(), required=True)
    chosen = parser.parse_args(given)
    favoured()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    relay = Relay(embodiment.load(chosen.robot))
    settle()
    spinning = Spinning([relay])
    print('ready', flush=True)
    try:
        for line in sys.stdin:
            relay.obey(json.loads(line))
            print('done', flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        spinning.stop()
        relay.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()

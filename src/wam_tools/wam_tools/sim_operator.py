"""The stage hand of a simulated robot: sends the arms home, sets up scenes, speaks to the stack.

It moves nothing by itself: the way home is asked of motion_node like everything else.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from rclpy.context import Context
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from wam_msgs.msg import ActionChunk, MotionStatus, PolicyStatus, SimGoal, SimStatus
from wam_msgs.srv import BeginEpisode
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.policy_session import State
from wam_policy.nodes import message_conversion, qos
from wam_tools.homing import HOME, Homing
from wam_tools.stack_monitor import STACK

HOMING_PERIOD_S = 0.15
HOME_RAD = 0.04  # this near to rest is at rest
LATCHED = (MotionStatus.ESTOPPED, MotionStatus.PROTECTIVE_STOP)
ANSWER_S = 10.0  # for a service
HOMING_S = 40.0  # a slow first move across the whole range, and more
FULL_SPEED_S = 1.2  # from the end of a first move
PAUSE_S = 0.3  # until pictures of a new scene have come


class Trouble(Exception):
    """The stage cannot be set; the reason says why."""


class Stage(Node):
    """Prepare episodes in a running stack; methods block, another thread spins."""

    def __init__(self, robot: Embodiment, context: Context | None = None) -> None:
        super().__init__('stage', namespace=STACK, context=context)
        self._robot = robot
        self.sim, self.motion = SimStatus(), MotionStatus()
        self.policy = PolicyStatus()
        self.on_chunk: Callable[[ActionChunk], None] = lambda _: None
        self._joints: bytes | None = None  # the newest, unparsed: few of them are looked at
        self._homings = 0
        new = self.create_subscription
        new(SimStatus, '/sim/status', lambda msg: setattr(self, 'sim', msg), qos.REQUEST)
        new(MotionStatus, 'motion_status', lambda msg: setattr(self, 'motion', msg), qos.LATCHED)
        new(PolicyStatus, 'status', lambda msg: setattr(self, 'policy', msg), qos.LATCHED)
        new(ActionChunk, 'action_chunk', self._on_chunk, qos.CHUNK)
        new(JointState, '/joint_states', partial(setattr, self, '_joints'), qos.JOINTS, raw=True)
        self._words = self.create_publisher(String, 'instruction', qos.REQUEST)
        self._chunks = self.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)
        self._begin = self.create_client(BeginEpisode, '/sim/begin')
        self._following = self.create_client(Trigger, '/sim/reset')
        self._enable = self.create_client(SetBool, 'enable')
        self._reset = self.create_client(Trigger, 'reset')

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def say(self, instruction: str) -> int:
        """Give an instruction; return when, in ns of the node's clock."""
        self._words.publish(String(data=instruction))
        return self.now_ns()

    def hushed(self, asked: threading.Event) -> None:
        """Take the instruction away and wait until the policy follows none."""
        end_s = time.monotonic() + ANSWER_S
        while self.policy.instruction or self.policy.state == State.RUNNING.value:
            self.say('')
            self._wait(asked, 0.05, end_s, 'the policy does not let go of its instruction')

    def go_home(self, asked: threading.Event) -> None:
        """Bring the arms to rest, at full speed for whatever comes; ends a protective stop.

        Raises Trouble where they do not get there; returns early when `asked` is set.
        """
        self._driven(asked)
        end_s = time.monotonic() + HOMING_S
        self._homings += 1
        began_ns, sequence, slow = self.now_ns(), 0, self.motion.first_move
        homing = Homing(
            self._robot, self._measured(), began_ns, slow, f'{HOME}-{began_ns}-{self._homings}'
        )
        settled_s: float | None = None
        while not asked.is_set():
            sequence += 1
            self._chunks.publish(
                message_conversion.chunk_message(
                    homing.chunk(self.now_ns(), sequence), self._robot.name, self.now_ns(), True
                )
            )
            self._wait(asked, HOMING_PERIOD_S, end_s, 'the arms do not come home')
            if self.motion.state in LATCHED:
                raise Trouble(f'on the way home: {self.motion.reason}')
            off_rad = np.abs(self._measured() - homing.rest).max()
            over = self.now_ns() - began_ns > homing.duration_s * 1e9
            if not over or off_rad > HOME_RAD or self.motion.first_move:
                settled_s = None
                continue
            settled_s = settled_s or time.monotonic()
            if time.monotonic() - settled_s >= (FULL_SPEED_S if slow else 0.0):
                return

    def begin(
        self,
        seed: int,
        family: str,
        combinations: str,
        goals: Sequence[Mapping[str, Any]],
        asked: threading.Event,
    ) -> str:
        """Show a scene and watch goals; return what it asks for. Trouble says why not."""
        fields, before = ('family', 'slot', 'side', 'onto'), self.sim.episode
        end_s = time.monotonic() + ANSWER_S
        said = self._called(
            self._begin,
            BeginEpisode.Request(
                seed=seed,
                family=family,
                combinations=combinations,
                goals=[SimGoal(**{name: goal[name] for name in fields}) for goal in goals],
            ),
        )
        if not said.success:
            raise Trouble(f'scene {seed}: {said.message}')
        self._told(before, end_s, asked)
        return said.instruction

    def next_scene(self, asked: threading.Event) -> None:
        """Show the scene that the simulator has next; Trouble says why not."""
        before, end_s = self.sim.episode, time.monotonic() + ANSWER_S
        said = self._called(self._following, Trigger.Request())
        if not said.success:
            raise Trouble(said.message)
        self._told(before, end_s, asked)

    def _told(self, before: int, end_s: float, asked: threading.Event) -> None:
        """Wait until the simulator tells of another episode and its pictures have come."""
        while self.sim.episode == before:  # what it said before is of another scene
            self._wait(asked, 0.01, end_s, 'the simulator does not tell of the new scene')
        asked.wait(PAUSE_S)

    def _driven(self, asked: threading.Event) -> None:
        """Release a latched stop and enable motion, if that is needed."""
        end_s = time.monotonic() + ANSWER_S
        while not asked.is_set():
            if self.motion.state in LATCHED:
                self._called(self._reset, Trigger.Request())
            elif self.motion.state in (MotionStatus.DISABLED, MotionStatus.UNCONFIGURED):
                self._called(self._enable, SetBool.Request(data=True))
            elif self.motion.state == MotionStatus.HOLDING:
                return
            self._wait(
                asked,
                0.1,
                end_s,
                f'motion is not ready: {self.motion.state_name}: {self.motion.reason}',
            )

    def _called(self, client: Any, request: Any) -> Any:
        if not client.wait_for_service(ANSWER_S):
            raise Trouble(f'there is no service {client.srv_name}')
        done, future = threading.Event(), client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(ANSWER_S):
            raise Trouble(f'{client.srv_name} does not answer')
        return future.result()

    def _measured(self) -> np.ndarray:
        """Return the measured posture [commanded]."""
        if self._joints is None:
            raise Trouble('no joint states')
        return message_conversion.joint_state(
            deserialize_message(self._joints, JointState), self._robot.commanded
        ).position

    def _wait(self, asked: threading.Event, seconds: float, end_s: float, what: str) -> None:
        asked.wait(seconds)
        if time.monotonic() > end_s:
            raise Trouble(what)

    def _on_chunk(self, msg: ActionChunk) -> None:
        if not msg.session.startswith(HOME):
            self.on_chunk(msg)

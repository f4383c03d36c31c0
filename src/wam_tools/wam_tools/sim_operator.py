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
from wam_policy.core.session.policy_session import PolicyState
from wam_policy.nodes import message_conversion, qos
from wam_tools.homing import HOME_SESSION, HomingMotion
from wam_tools.stack_monitor import STACK_NAMESPACE

HOMING_PERIOD_S = 0.15
HOME_TOLERANCE_RAD = 0.04  # this near to rest is at rest
LATCHED_STATES = (MotionStatus.ESTOPPED, MotionStatus.PROTECTIVE_STOP)
SERVICE_TIMEOUT_S = 10.0  # for a service
HOMING_TIMEOUT_S = 40.0  # a slow first move across the whole range, and more
FIRST_MOVE_SETTLE_S = 1.2  # from the end of a first move
SCENE_SETTLE_S = 0.3  # until pictures of a new scene have come


class SceneSetupError(Exception):
    """The stage cannot be set; the reason says why."""


class SimOperator(Node):
    """Prepare episodes in a running stack; methods block, another thread spins."""

    def __init__(self, robot: Embodiment, context: Context | None = None) -> None:
        super().__init__('stage', namespace=STACK_NAMESPACE, context=context)
        self._robot = robot
        self.sim, self.motion = SimStatus(), MotionStatus()
        self.policy = PolicyStatus()
        self.on_chunk: Callable[[ActionChunk], None] = lambda _: None
        self._joint_state_bytes: bytes | None = (
            None  # the newest, unparsed: few of them are looked at
        )
        self._homing_count = 0
        new = self.create_subscription
        new(SimStatus, '/sim/status', lambda msg: setattr(self, 'sim', msg), qos.REQUEST)
        new(MotionStatus, 'motion_status', lambda msg: setattr(self, 'motion', msg), qos.LATCHED)
        new(PolicyStatus, 'status', lambda msg: setattr(self, 'policy', msg), qos.LATCHED)
        new(ActionChunk, 'action_chunk', self._on_chunk, qos.CHUNK)
        new(
            JointState,
            '/joint_states',
            partial(setattr, self, '_joint_state_bytes'),
            qos.JOINTS,
            raw=True,
        )
        self._instruction_publisher = self.create_publisher(String, 'instruction', qos.REQUEST)
        self._chunk_publisher = self.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)
        self._begin_client = self.create_client(BeginEpisode, '/sim/begin')
        self._next_scene_client = self.create_client(Trigger, '/sim/reset')
        self._enable_client = self.create_client(SetBool, 'enable')
        self._reset_client = self.create_client(Trigger, 'reset')

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def publish_instruction(self, instruction: str) -> int:
        """Give an instruction; return when, in ns of the node's clock."""
        self._instruction_publisher.publish(String(data=instruction))
        return self.now_ns()

    def clear_instruction(self, stop_event: threading.Event) -> None:
        """Take the instruction away and wait until the policy follows none."""
        end_s = time.monotonic() + SERVICE_TIMEOUT_S
        while self.policy.instruction or self.policy.state == PolicyState.RUNNING.value:
            self.publish_instruction('')
            self._wait(stop_event, 0.05, end_s, 'the policy does not let go of its instruction')

    def go_home(self, stop_event: threading.Event) -> None:
        """Bring the arms to rest, at full speed for whatever comes; ends a protective stop.

        Raises Trouble where they do not get there; returns early when `asked` is set.
        """
        self._ensure_enabled(stop_event)
        end_s = time.monotonic() + HOMING_TIMEOUT_S
        self._homing_count += 1
        began_ns, sequence, slow = self.now_ns(), 0, self.motion.first_move
        homing = HomingMotion(
            self._robot,
            self._measured_positions(),
            began_ns,
            slow,
            f'{HOME_SESSION}-{began_ns}-{self._homing_count}',
        )
        settled_s: float | None = None
        while not stop_event.is_set():
            sequence += 1
            self._chunk_publisher.publish(
                message_conversion.chunk_to_msg(
                    homing.make_chunk(self.now_ns(), sequence),
                    self._robot.name,
                    self.now_ns(),
                    True,
                )
            )
            self._wait(stop_event, HOMING_PERIOD_S, end_s, 'the arms do not come home')
            if self.motion.state in LATCHED_STATES:
                raise SceneSetupError(f'on the way home: {self.motion.reason}')
            off_rad = np.abs(self._measured_positions() - homing.home).max()
            over = self.now_ns() - began_ns > homing.duration_s * 1e9
            if not over or off_rad > HOME_TOLERANCE_RAD or self.motion.first_move:
                settled_s = None
                continue
            settled_s = settled_s or time.monotonic()
            if time.monotonic() - settled_s >= (FIRST_MOVE_SETTLE_S if slow else 0.0):
                return

    def begin_episode(
        self,
        seed: int,
        family: str,
        task_split: str,
        goals: Sequence[Mapping[str, Any]],
        stop_event: threading.Event,
    ) -> str:
        """Show a scene and watch goals; return what it asks for. Trouble says why not."""
        before = self.sim.episode_index
        end_s = time.monotonic() + SERVICE_TIMEOUT_S
        said = self._call_service(
            self._begin_client,
            BeginEpisode.Request(
                seed=seed,
                task_family=family,
                task_split=task_split,
                goals=[
                    SimGoal(
                        task_family=goal['family'],
                        slot=goal['slot'],
                        side=goal['side'],
                        target=goal['onto'],
                    )
                    for goal in goals
                ],
            ),
        )
        if not said.success:
            raise SceneSetupError(f'scene {seed}: {said.message}')
        self._wait_new_scene(before, end_s, stop_event)
        return said.instruction

    def show_next_scene(self, stop_event: threading.Event) -> None:
        """Show the scene that the simulator has next; Trouble says why not."""
        before, end_s = self.sim.episode_index, time.monotonic() + SERVICE_TIMEOUT_S
        said = self._call_service(self._next_scene_client, Trigger.Request())
        if not said.success:
            raise SceneSetupError(said.message)
        self._wait_new_scene(before, end_s, stop_event)

    def _wait_new_scene(
        self, previous_episode: int, end_s: float, stop_event: threading.Event
    ) -> None:
        """Wait until the simulator tells of another episode and its pictures have come."""
        while (
            self.sim.episode_index == previous_episode
        ):  # what it said before is of another scene
            self._wait(stop_event, 0.01, end_s, 'the simulator does not tell of the new scene')
        stop_event.wait(SCENE_SETTLE_S)

    def _ensure_enabled(self, stop_event: threading.Event) -> None:
        """Release a latched stop and enable motion, if that is needed."""
        end_s = time.monotonic() + SERVICE_TIMEOUT_S
        while not stop_event.is_set():
            if self.motion.state in LATCHED_STATES:
                self._call_service(self._reset_client, Trigger.Request())
            elif self.motion.state in (MotionStatus.DISABLED, MotionStatus.UNCONFIGURED):
                self._call_service(self._enable_client, SetBool.Request(data=True))
            elif self.motion.state == MotionStatus.HOLDING:
                return
            self._wait(
                stop_event,
                0.1,
                end_s,
                f'motion is not ready: {self.motion.state_name}: {self.motion.reason}',
            )

    def _call_service(self, client: Any, request: Any) -> Any:
        if not client.wait_for_service(SERVICE_TIMEOUT_S):
            raise SceneSetupError(f'there is no service {client.srv_name}')
        done, future = threading.Event(), client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(SERVICE_TIMEOUT_S):
            raise SceneSetupError(f'{client.srv_name} does not answer')
        return future.result()

    def _measured_positions(self) -> np.ndarray:
        """Return the measured posture [commanded]."""
        if self._joint_state_bytes is None:
            raise SceneSetupError('no joint states')
        return message_conversion.joint_state_from_msg(
            deserialize_message(self._joint_state_bytes, JointState), self._robot.commanded
        ).position

    def _wait(
        self, stop_event: threading.Event, seconds: float, end_s: float, timeout_message: str
    ) -> None:
        stop_event.wait(seconds)
        if time.monotonic() > end_s:
            raise SceneSetupError(timeout_message)

    def _on_chunk(self, msg: ActionChunk) -> None:
        if not msg.session.startswith(HOME_SESSION):
            self.on_chunk(msg)

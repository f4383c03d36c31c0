"""Operate a simulated robot: move the arms home, set up scenes, send instructions.

It moves the arms only through motion_node, with chunks that lead home.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.context import Context
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

from wam_msgs.msg import ActionChunk, MotionStatus, SimGoal
from wam_msgs.srv import BeginEpisode
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import gripper_mask
from wam_policy.core.session.policy_session import PolicyState
from wam_policy.core.types import Chunk
from wam_policy.nodes import message_conversion, qos
from wam_tools.stack_node import StackNode

HOME_SESSION = 'home'  # prefix of the sessions of homing chunks
MEAN_SPEED = 0.6  # rad/s, mean of the joint with the largest distance
FIRST_MOVE_MEAN_SPEED = 0.12  # the same for a first move, which has a lower speed limit
GRIPPER_SPEED_SHARE = 0.5  # of a gripper's velocity limit: a quintic peaks at 1.9 of its mean
MIN_DURATION_S = 0.3
ROWS = 24
HOMING_PERIOD_S = 0.15
HOME_TOLERANCE_RAD = 0.04  # within this of home counts as home
LATCHED_STATES = (MotionStatus.ESTOPPED, MotionStatus.PROTECTIVE_STOP)
SERVICE_TIMEOUT_S = 10.0  # for a service
HOMING_TIMEOUT_S = 40.0  # more than a slow first move over the whole range
FIRST_MOVE_SETTLE_S = 1.2  # from the end of a first move
SCENE_SETTLE_S = 0.3  # until images of a new scene have arrived


class SceneSetupError(Exception):
    """Report that a scene could not be set up."""


def make_chunk(
    robot: Embodiment, session: str, sequence: int, stamp_ns: int, rows: np.ndarray
) -> Chunk:
    """Return a chunk of targets [rows commanded] at the robot's rate, the first as reference."""
    step_s, joints = robot.step_dt_s, robot.commanded
    return Chunk(stamp_ns, session, sequence, step_s, joints, rows, rows[0], robot.config_hash, {})


@dataclass(frozen=True, slots=True, eq=False)
class HomingMotion:
    """Quintic motion from joint positions to home, with zero acceleration at both ends."""

    robot: Embodiment
    start: np.ndarray  # [commanded]
    start_ns: int
    slow: bool
    session: str

    @property
    def home(self) -> np.ndarray:
        return self.robot.home_positions(self.robot.commanded)

    @property
    def duration_s(self) -> float:
        """Return the duration of the motion, s.

        An opening is no angle: a gripper moves at a share of its own speed.
        """
        distance, grippers = np.abs(self.home - self.start), gripper_mask(self.robot)
        speed = FIRST_MOVE_MEAN_SPEED if self.slow else MEAN_SPEED
        velocity = self.robot.limits().velocity
        seconds = np.where(grippers, distance / (GRIPPER_SPEED_SHARE * velocity), distance / speed)
        return max(MIN_DURATION_S, float(seconds.max()))

    def make_chunk(self, now_ns: int, sequence: int) -> Chunk:
        """Return the chunk that starts at `now_ns`."""
        robot = self.robot
        passed_s = (now_ns - self.start_ns) / NS_PER_S + np.arange(ROWS) * robot.step_dt_s
        x = np.clip(passed_s / self.duration_s, 0.0, 1.0)[:, None]
        share = x**3 * (10.0 - 15.0 * x + 6.0 * x * x)  # no speed or acceleration at the ends
        rows = self.start + share * (self.home - self.start)
        return make_chunk(robot, self.session, sequence, now_ns, rows)


class SimOperator(StackNode):
    """Prepare episodes in a running stack; methods block while another thread spins the node."""

    def __init__(self, robot: Embodiment, context: Context | None = None) -> None:
        super().__init__('stage', robot, context)
        self.on_chunk: Callable[[ActionChunk], None] = lambda _: None
        # the newest message, serialized: few of them are read
        self._joint_state_bytes: bytes | None = None
        self._homing_count = 0
        self.create_subscription(ActionChunk, 'action_chunk', self._on_chunk, qos.CHUNK)
        self.create_subscription(
            JointState,
            '/joint_states',
            partial(setattr, self, '_joint_state_bytes'),
            qos.JOINTS,
            raw=True,
        )
        self._chunk_publisher = self.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)

    def clear_instruction(self, stop_event: threading.Event) -> None:
        """Clear the instruction and wait until the policy has none."""
        end_s = time.monotonic() + SERVICE_TIMEOUT_S
        while self.policy.instruction or self.policy.state == PolicyState.RUNNING.value:
            self.publish_instruction('')
            self._wait(stop_event, 0.05, end_s, 'the policy does not clear its instruction')

    def go_home(self, stop_event: threading.Event) -> None:
        """Move the arms home and complete a first move; releases a protective stop.

        Raises SceneSetupError if they do not arrive; returns early if `stop_event` is set.
        """
        self._ensure_enabled(stop_event)
        end_s = time.monotonic() + HOMING_TIMEOUT_S
        self._homing_count += 1
        began_ns, sequence, slow = self.now_ns(), 0, self.motion.first_move
        homing = HomingMotion(
            self.robot,
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
                    self.robot.name,
                    self.now_ns(),
                    True,
                )
            )
            self._wait(stop_event, HOMING_PERIOD_S, end_s, 'the arms do not reach home')
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
        """Show a scene with goals; return its instruction. Raises SceneSetupError."""
        before = self.sim.episode_index
        end_s = time.monotonic() + SERVICE_TIMEOUT_S
        response = self._call(
            BeginEpisode,
            '/sim/begin',
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
        )
        if not response.success:
            raise SceneSetupError(f'scene {seed}: {response.message}')
        self._wait_new_scene(before, end_s, stop_event)
        return response.instruction

    def show_next_scene(self, stop_event: threading.Event) -> None:
        """Show the next scene of the simulator. Raises SceneSetupError."""
        before, end_s = self.sim.episode_index, time.monotonic() + SERVICE_TIMEOUT_S
        response = self._call(Trigger, '/sim/reset')
        if not response.success:
            raise SceneSetupError(response.message)
        self._wait_new_scene(before, end_s, stop_event)

    def _wait_new_scene(
        self, previous_episode: int, end_s: float, stop_event: threading.Event
    ) -> None:
        """Wait until the simulator reports another episode and its images have arrived."""
        # the old status is that of the previous scene
        while self.sim.episode_index == previous_episode:
            self._wait(stop_event, 0.01, end_s, 'the simulator does not report the new scene')
        stop_event.wait(SCENE_SETTLE_S)

    def _ensure_enabled(self, stop_event: threading.Event) -> None:
        """Release a latched stop and enable motion if needed."""
        end_s = time.monotonic() + SERVICE_TIMEOUT_S
        while not stop_event.is_set():
            if self.motion.state in LATCHED_STATES:
                self._call(Trigger, 'reset')
            elif self.motion.state in (MotionStatus.DISABLED, MotionStatus.UNCONFIGURED):
                self._call(SetBool, 'enable', data=True)
            elif self.motion.state == MotionStatus.HOLDING:
                return
            self._wait(
                stop_event,
                0.1,
                end_s,
                f'motion is not ready: {self.reason}',
            )

    def _call(self, service_type: Any, name: str, **fields: Any) -> Any:
        answer = self.call_service(service_type, name, SERVICE_TIMEOUT_S, **fields)
        if answer is None:
            raise SceneSetupError(f'{name} does not answer within {SERVICE_TIMEOUT_S:g} s')
        return answer

    def _measured_positions(self) -> np.ndarray:
        """Return the measured joint positions [commanded]."""
        if self._joint_state_bytes is None:
            raise SceneSetupError('no joint states')
        return message_conversion.joint_state_from_msg(
            deserialize_message(self._joint_state_bytes, JointState), self.robot.commanded
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

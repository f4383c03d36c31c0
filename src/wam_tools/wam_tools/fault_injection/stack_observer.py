"""The watch: what a stack says and what its joints really do, seen from outside.

Statements are kept with their time, so that a fault can be looked for in what was said since it
began. The joints are those of the simulator itself, ahead of anything that spoils its messages.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from wam_msgs.msg import EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.motion.control_loop import set_realtime_priority
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools.fault_injection.message_relay import HIDDEN_PREFIX
from wam_tools.stack_launch import StackLaunchError
from wam_tools.stack_node import StackNode

REST_S, REST_RAD = 0.33, 2e-3  # joints that stay this close together for so long rest
LIMITED_QUANTITIES = ('velocity', 'acceleration', 'jerk', 'measured_velocity')
LIMIT_TOLERANCE = 1e-6  # of the limits; the message carries 32-bit floats
# A sign of life that fails to come for this long is a finding of its own.
STATUS_TIMEOUT_S = {'policy': 1.6, 'motion': 0.5, 'recorder': 1.6, 'sim': 1.6}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Hold one statement: who said what, and when (monotonic)."""

    time_s: float
    source: str
    text: str


class ExecutionMetrics:
    """Keep the worst of what the simulated controllers executed since `begin`, at physics rate."""

    def __init__(self, robot: Embodiment) -> None:
        self._revolute = np.array(
            [robot.joint(name).kind == 'revolute' for name in robot.commanded]
        )
        self.reset(0)

    def reset(self, from_ns: int) -> None:
        """Take statuses from this stamp on."""
        self.from_ns, self.status_count = from_ns, 0
        self.start_s = time.monotonic()
        self.max_ratios: dict[str, float] = dict.fromkeys(LIMITED_QUANTITIES, 0.0)
        self.max_step_rad = 0.0
        self.limit_violations: set[tuple[str, str]] = set()  # (joint, quantity) beyond its limit

    def on_status(self, msg: SimStatus) -> None:
        if message_conversion.to_ns(msg.header.stamp) < self.from_ns:
            return
        self.status_count += 1
        self.max_step_rad = max(
            self.max_step_rad, float(np.array(msg.max_setpoint_step)[self._revolute].max())
        )
        for name in LIMITED_QUANTITIES:
            ratios = np.array(getattr(msg, f'max_{name}_ratio'))
            self.max_ratios[name] = max(self.max_ratios[name], float(ratios.max()))
            self.limit_violations |= {
                (msg.joint_names[joint], name)
                for joint in np.flatnonzero(ratios > 1.0 + LIMIT_TOLERANCE)
            }


class StackClient(StackNode):
    """Record what one stack publishes and how its joints move."""

    def __init__(self, robot: Embodiment, domain_id: int) -> None:
        self.episode = EpisodeStatus()
        self.log_entries: list[LogEntry] = []
        self.metrics = ExecutionMetrics(robot)
        self._lock = threading.Lock()
        self._last_status_s = dict.fromkeys(STATUS_TIMEOUT_S, float('inf'))
        self._silent_nodes: set[str] = set()
        self._position_history: deque[tuple[float, np.ndarray]] = deque(maxlen=2000)
        self._last_joint_state_ns = 0
        set_realtime_priority()  # who waits for the machine measures the machine
        context = Context()
        rclpy.init(context=context, domain_id=domain_id)
        super().__init__('watch', robot, context)
        new = self.create_subscription
        new(EpisodeStatus, 'episode', self._on_episode, qos.LATCHED)
        new(JointState, f'{HIDDEN_PREFIX}/joint_states', self._on_joints, qos.JOINTS)
        self._executor_thread = ExecutorThread([self])
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # what we start is not us

    def close(self) -> None:
        self._executor_thread.stop()
        self.destroy_node()
        rclpy.shutdown(context=self.context)

    def reset_metrics(self) -> None:
        """Begin the figures of what is executed anew; NoStack where the simulator does not."""
        if self.call_service(Trigger, '/sim/recount', 5.0) is None:
            raise StackLaunchError('the simulator does not answer')
        self.metrics.reset(self._last_joint_state_ns)

    # what was said

    def add_log_entry(self, source: str, text: str) -> None:
        """Keep a statement; the same one again is none."""
        with self._lock:
            before = next(
                (said for said in reversed(self.log_entries) if said.source == source), None
            )
            if before is None or before.text != text:
                self.log_entries.append(LogEntry(time.monotonic(), source, text))

    def find_log_entry(self, pattern: str, since_s: float) -> LogEntry | None:
        """Return the first statement since then that matches, as 'who: text'."""
        self._check_status_timeouts()
        with self._lock:
            recent = [said for said in self.log_entries if said.time_s >= since_s]
        return next(
            (said for said in recent if re.search(pattern, f'{said.source}: {said.text}')), None
        )

    def allow_repeated_entry(self, source: str) -> None:
        """Let the next statement count, whether or not it is that of before."""
        self.add_log_entry(source, '')

    def expect_status(self, source: str) -> None:
        """Begin to miss a node: its silence was known so far."""
        self._last_status_s[source] = float('inf')
        self._silent_nodes.discard(source)

    def _check_status_timeouts(self) -> None:
        now_s = time.monotonic()
        for who, heard_s in self._last_status_s.items():
            if now_s - heard_s > STATUS_TIMEOUT_S[who] and who not in self._silent_nodes:
                self._silent_nodes.add(who)
                self.add_log_entry('watch', f'{who} is silent')

    def _record_status_time(self, source: str) -> None:
        self._last_status_s[source] = time.monotonic()
        self._silent_nodes.discard(source)

    # what the joints do

    def find_rest_start_s(self, since_s: float) -> float | None:
        """Return when the joints came to rest after `since_s`, if they rest now."""
        past = self._copy_position_history()
        if not past:
            return None
        last_s, last = past[-1]
        begun_s = last_s
        for at_s, position in reversed(past):
            if np.abs(position - last).max() > REST_RAD:
                break
            begun_s = at_s
        if last_s - begun_s < REST_S and time.monotonic() - last_s < REST_S:
            return None  # a simulator that stopped has joints that rest
        return max(begun_s, since_s)

    def is_moving(self) -> bool:
        """Tell whether the joints have moved within the last moments."""
        return bool(self._position_history) and self.find_rest_start_s(0.0) is None

    def _copy_position_history(self) -> list[tuple[float, np.ndarray]]:
        with self._lock:
            return list(self._position_history)

    # callbacks

    def on_policy_status(self, msg: PolicyStatus) -> None:
        super().on_policy_status(msg)
        self.add_log_entry('session', msg.session)  # a reason may be gone before the next status
        self._record_status_time('policy')
        self.add_log_entry('policy', f'{msg.state_name}: {msg.reason}')

    def on_motion_status(self, msg: MotionStatus) -> None:
        rejected = msg.chunks_rejected > self.motion.chunks_rejected
        super().on_motion_status(msg)
        self._record_status_time('motion')
        self.add_log_entry('motion', f'{msg.state_name}: {msg.reason}')
        if rejected:
            self.add_log_entry('rejection', f'{msg.chunks_rejected}: {msg.reason}')

    def _on_episode(self, msg: EpisodeStatus) -> None:
        self.episode = msg
        self._record_status_time('recorder')
        self.add_log_entry('recorder', f'{msg.state} {msg.episode_name}: {msg.reason}')

    def on_sim_status(self, msg: SimStatus) -> None:
        super().on_sim_status(msg)
        self._record_status_time('sim')
        self.metrics.on_status(msg)

    def _on_joints(self, msg: JointState) -> None:
        state = message_conversion.joint_state_from_msg(msg, self.robot.commanded)
        with self._lock:
            self._last_joint_state_ns = state.stamp_ns
            self._position_history.append((time.monotonic(), state.position))


def poll_until(condition: Callable[[], Any], timeout_s: float, poll_s: float = 0.02) -> Any:
    """Return what `condition` gives as soon as it is something; None if it never is in time."""
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > end_s:
            return None
        time.sleep(poll_s)
    return found

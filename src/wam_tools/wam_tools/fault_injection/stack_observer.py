"""Observe the reports of a stack and the motion of its simulated joints.

Reports are stored with their time, so that those since the injection of a fault can be searched.
Joint positions are read from the simulator's hidden topic, before the relay corrupts them.
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
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from wam_msgs.msg import EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.controller_parameters import ControllerParameterServer
from wam_policy.nodes.motion.control_loop import set_realtime_priority
from wam_policy.nodes.run_node import ExecutorThread
from wam_tools.fault_injection.message_relay import HIDDEN_PREFIX
from wam_tools.stack_launch import StackLaunchError
from wam_tools.stack_node import StackNode

REST_S, REST_RAD = 0.33, 2e-3  # joints that stay this close together for so long rest
LIMITED_QUANTITIES = ('velocity', 'acceleration', 'jerk', 'measured_velocity')
LIMIT_TOLERANCE = 1e-6  # relative; the message has 32-bit floats
JOYSTICK_RELEASED, JOYSTICK_HELD = [0], [1]  # its only button
SIM_UPDATE_RATE_HZ = 500  # of the simulated controllers
JOYSTICK_PERIOD_S = 0.05  # of joy_node by default
# A node without a status for this long is reported as silent.
STATUS_TIMEOUT_S = {'policy': 1.6, 'motion': 0.5, 'recorder': 1.6, 'sim': 1.6}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One report: time (monotonic, s), source and text."""

    time_s: float
    source: str
    text: str


class ExecutionMetrics:
    """Maxima of the motion that the simulated controllers executed since `reset`."""

    def __init__(self, robot: Embodiment) -> None:
        self._revolute = np.array(
            [robot.joint(name).kind == 'revolute' for name in robot.commanded]
        )
        self.reset(0)

    def reset(self, from_ns: int) -> None:
        """Reset the maxima; only statuses from this stamp on count."""
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
                (joint, name)
                for joint, ratio in zip(msg.joint_names, ratios, strict=True)
                if ratio > 1.0 + LIMIT_TOLERANCE
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
        set_realtime_priority()  # so that load does not affect the measured times
        context = Context()
        rclpy.init(context=context, domain_id=domain_id)
        super().__init__('watch', robot, context)
        new = self.create_subscription
        new(EpisodeStatus, 'episode', self._on_episode, qos.LATCHED)
        new(JointState, f'{HIDDEN_PREFIX}/joint_states', self._on_joints, qos.JOINTS)
        self.joystick_buttons: list[int] | None = None  # None: it publishes nothing
        self._joystick_publisher = self.create_publisher(Joy, 'joy', qos.REQUEST)
        self.create_timer(JOYSTICK_PERIOD_S, self._publish_joystick)
        # in place of the simulator's, which cannot be changed
        self.controller_parameters = ControllerParameterServer(
            self, robot, SIM_UPDATE_RATE_HZ
        ).parameters
        self._executor_thread = ExecutorThread([self])
        # child processes do not inherit it
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def close(self) -> None:
        self._executor_thread.stop()
        self.destroy_node()
        rclpy.shutdown(context=self.context)

    def _publish_joystick(self) -> None:
        if self.joystick_buttons is not None:
            self._joystick_publisher.publish(Joy(buttons=self.joystick_buttons))

    def reset_metrics(self) -> None:
        """Reset the metrics here and in the simulator; StackLaunchError without a response."""
        if self.call_service(Trigger, '/sim/recount', 5.0) is None:
            raise StackLaunchError('the simulator does not answer')
        self.metrics.reset(self._last_joint_state_ns)

    # reports

    def add_log_entry(self, source: str, text: str) -> None:
        """Add an entry unless it equals the last one of its source."""
        with self._lock:
            before = next(
                (entry for entry in reversed(self.log_entries) if entry.source == source), None
            )
            if before is None or before.text != text:
                self.log_entries.append(LogEntry(time.monotonic(), source, text))

    def find_log_entry(self, pattern: str, since_s: float) -> LogEntry | None:
        """Return the first entry since `since_s` whose 'source: text' matches."""
        self._check_status_timeouts()
        with self._lock:
            recent = [entry for entry in self.log_entries if entry.time_s >= since_s]
        return next(
            (entry for entry in recent if re.search(pattern, f'{entry.source}: {entry.text}')),
            None,
        )

    def allow_repeated_entry(self, source: str) -> None:
        """Let the next entry of a source count even if it equals the last one."""
        self.add_log_entry(source, '')

    def expect_status(self, source: str) -> None:
        """Expect the status of a restarted node again."""
        self._last_status_s[source] = float('inf')
        self._silent_nodes.discard(source)

    def _check_status_timeouts(self) -> None:
        now_s = time.monotonic()
        for source, last_s in self._last_status_s.items():
            if now_s - last_s > STATUS_TIMEOUT_S[source] and source not in self._silent_nodes:
                self._silent_nodes.add(source)
                with self._lock:  # an event: a node that falls silent again is told again
                    self.log_entries.append(LogEntry(now_s, 'watch', f'{source} is silent'))

    def _record_status_time(self, source: str) -> None:
        self._last_status_s[source] = time.monotonic()
        self._silent_nodes.discard(source)

    # joints

    def find_rest_start_s(self, since_s: float) -> float | None:
        """Return when the joints came to rest after `since_s`, if they rest now."""
        past = self._copy_position_history()
        if not past:
            return None
        last_s, last = past[-1]
        rest_start_s = last_s
        for at_s, position in reversed(past):
            if np.abs(position - last).max() > REST_RAD:
                break
            rest_start_s = at_s
        if last_s - rest_start_s < REST_S and time.monotonic() - last_s < REST_S:
            return None  # too few samples; a stopped simulator counts as rest
        return max(rest_start_s, since_s)

    def is_moving(self) -> bool:
        """Return whether the joints have moved within REST_S."""
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
        self.add_log_entry('checks', ', '.join(msg.inactive_checks))
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
    """Return the first true result of `condition`, or None after `timeout_s`."""
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > end_s:
            return None
        time.sleep(poll_s)
    return found

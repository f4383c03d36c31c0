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
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wam_msgs.msg import EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.motion.control_loop import favoured
from wam_policy.nodes.run_node import Spinning
from wam_tools.fault_injection.message_relay import HIDDEN

STACK = 'wam'
REST_S, REST_RAD = 0.33, 2e-3  # joints that stay this close together for so long rest
LIMITED = ('velocity', 'acceleration', 'jerk', 'measured_velocity')
TOLERANCE = 1e-6  # of the limits; the message carries 32-bit floats
# A sign of life that fails to come for this long is a finding of its own.
SILENCE_S = {'policy': 1.6, 'motion': 0.5, 'recorder': 1.6, 'sim': 1.6}


@dataclass(frozen=True, slots=True)
class Said:
    """Hold one statement: who said what, and when (monotonic)."""

    at_s: float
    who: str
    text: str


class NoStack(Exception):
    """The stack could not be brought up or spoken to."""


class Figures:
    """Keep the worst of what the simulated controllers executed since `begin`, at physics rate."""

    def __init__(self, robot: Embodiment) -> None:
        self._revolute = np.array(
            [robot.joint(name).kind == 'revolute' for name in robot.commanded]
        )
        self.begin(0)

    def begin(self, from_ns: int) -> None:
        """Take statuses from this stamp on."""
        self.from_ns, self.statuses = from_ns, 0
        self.begun_s = time.monotonic()
        self.ratios: dict[str, float] = dict.fromkeys(LIMITED, 0.0)
        self.step_rad = 0.0
        self.over: set[tuple[str, str]] = set()  # (joint, quantity) beyond its limit

    def on_status(self, msg: SimStatus) -> None:
        if message_conversion.ns(msg.header.stamp) < self.from_ns:
            return
        self.statuses += 1
        self.step_rad = max(self.step_rad, float(np.array(msg.step)[self._revolute].max()))
        for name in LIMITED:
            ratios = np.array(getattr(msg, f'{name}_ratio'))
            self.ratios[name] = max(self.ratios[name], float(ratios.max()))
            self.over |= {
                (msg.joint_names[joint], name)
                for joint in np.flatnonzero(ratios > 1.0 + TOLERANCE)
            }


class Watch:
    """Listen to one stack and speak to it as a user would; one thread calls, another spins."""

    def __init__(self, robot: Embodiment, domain: int) -> None:
        self.robot = robot
        self.policy, self.motion, self.sim = PolicyStatus(), MotionStatus(), SimStatus()
        self.episode = EpisodeStatus()
        self.said: list[Said] = []
        self.figures = Figures(robot)
        self._lock = threading.Lock()
        self._heard_s = dict.fromkeys(SILENCE_S, float('inf'))
        self._silent: set[str] = set()
        self._past: deque[tuple[float, np.ndarray]] = deque(maxlen=2000)
        self._joints_ns = 0
        favoured()  # who waits for the machine measures the machine
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('watch', namespace=STACK, context=self.context)
        new = self.node.create_subscription
        new(PolicyStatus, 'status', self._on_policy, qos.LATCHED)
        new(MotionStatus, 'motion_status', self._on_motion, qos.LATCHED)
        new(EpisodeStatus, 'episode', self._on_episode, qos.LATCHED)
        new(SimStatus, '/sim/status', self._on_sim, qos.REQUEST)
        new(JointState, f'{HIDDEN}/joint_states', self._on_joints, qos.JOINTS)
        self._words = self.node.create_publisher(String, 'instruction', qos.REQUEST)
        self._spinning = Spinning([self.node])
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # what we start is not us

    def close(self) -> None:
        self._spinning.stop()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def say(self, text: str) -> None:
        self._words.publish(String(data=text))

    def others(self) -> bool:
        """Tell whether a stack is in this domain already; ask a second after the start."""
        return self.node.count_publishers('status') > 0

    def call(self, kind: Any, name: str, timeout_s: float, **fields: Any) -> Any:
        """Call a service and return its answer; None if there is none in time."""
        client = self.node.create_client(kind, name)
        try:
            end_s, done = time.monotonic() + timeout_s, threading.Event()
            if not client.wait_for_service(timeout_s):
                return None
            future = client.call_async(kind.Request(**fields))
            future.add_done_callback(lambda _: done.set())
            return future.result() if done.wait(max(0.0, end_s - time.monotonic())) else None
        finally:
            self.node.destroy_client(client)

    def recount(self) -> None:
        """Begin the figures of what is executed anew; NoStack where the simulator does not."""
        if self.call(Trigger, '/sim/recount', 5.0) is None:
            raise NoStack('the simulator does not answer')
        self.figures.begin(self._joints_ns)

    # what was said

    def note(self, who: str, text: str) -> None:
        """Keep a statement; the same one again is none."""
        with self._lock:
            before = next((said for said in reversed(self.said) if said.who == who), None)
            if before is None or before.text != text:
                self.said.append(Said(time.monotonic(), who, text))

    def found(self, pattern: str, since_s: float) -> Said | None:
        """Return the first statement since then that matches, as 'who: text'."""
        self._listen_for_silence()
        with self._lock:
            recent = [said for said in self.said if said.at_s >= since_s]
        return next(
            (said for said in recent if re.search(pattern, f'{said.who}: {said.text}')), None
        )

    def repeat(self, who: str) -> None:
        """Let the next statement count, whether or not it is that of before."""
        self.note(who, '')

    def expect(self, who: str) -> None:
        """Begin to miss a node: its silence was known so far."""
        self._heard_s[who] = float('inf')
        self._silent.discard(who)

    def _listen_for_silence(self) -> None:
        now_s = time.monotonic()
        for who, heard_s in self._heard_s.items():
            if now_s - heard_s > SILENCE_S[who] and who not in self._silent:
                self._silent.add(who)
                self.note('watch', f'{who} is silent')

    def _heard(self, who: str) -> None:
        self._heard_s[who] = time.monotonic()
        self._silent.discard(who)

    # what the joints do

    def resting_since(self, since_s: float) -> float | None:
        """Return when the joints came to rest after `since_s`, if they rest now."""
        past = self._positions()
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

    def moving(self) -> bool:
        """Tell whether the joints have moved within the last moments."""
        return bool(self._past) and self.resting_since(0.0) is None

    def _positions(self) -> list[tuple[float, np.ndarray]]:
        with self._lock:
            return list(self._past)

    # callbacks

    def _on_policy(self, msg: PolicyStatus) -> None:
        self.policy = msg
        self.note('session', msg.session)  # a reason may be gone before the next status
        self._heard('policy')
        self.note('policy', f'{msg.state_name}: {msg.reason}')

    def _on_motion(self, msg: MotionStatus) -> None:
        rejected = msg.chunks_rejected > self.motion.chunks_rejected
        self.motion = msg
        self._heard('motion')
        self.note('motion', f'{msg.state_name}: {msg.reason}')
        if rejected:
            self.note('rejection', f'{msg.chunks_rejected}: {msg.reason}')

    def _on_episode(self, msg: EpisodeStatus) -> None:
        self.episode = msg
        self._heard('recorder')
        self.note('recorder', f'{msg.state} {msg.episode}: {msg.reason}')

    def _on_sim(self, msg: SimStatus) -> None:
        self.sim = msg
        self._heard('sim')
        self.figures.on_status(msg)

    def _on_joints(self, msg: JointState) -> None:
        state = message_conversion.joint_state(msg, self.robot.commanded)
        with self._lock:
            self._joints_ns = state.stamp_ns
            self._past.append((time.monotonic(), state.position))


def until(condition: Callable[[], Any], timeout_s: float, poll_s: float = 0.02) -> Any:
    """Return what `condition` gives as soon as it is something; None if it never is in time."""
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > end_s:
            return None
        time.sleep(poll_s)
    return found

"""Setpoints for a driver that wants a stream: trajectories followed, and a last line of defense.

The controllers' rules are those of jtc_emulator, so every accepted trajectory ends at rest by
itself: a sender that dies, or joint states that stop, need no stop here. What does need one is
this stream itself: after a gap the trajectory has moved on and its set-point would be a jump.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from wam_policy.core.motion.jtc_emulator import TrajectoryFollower, check_lateness
from wam_policy.core.motion.monitors import JointStateMonitor
from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState

# A set-point that moves further than its joint's cap allows in this time has jumped
JUMP_TOLERANCE_S = 0.02


class SetpointStream:
    """Follow trajectories from the measured posture on; hold whenever something is wrong."""

    def __init__(self, robot: Embodiment) -> None:
        self.robot, self.limits = robot, robot.limits()
        self.timeout_ns = round(robot.safety.adapter_timeout_s * NS_PER_S)
        self.joint_monitor = JointStateMonitor(robot)
        column = {name: i for i, name in enumerate(robot.commanded)}
        self.columns: Mapping[str, np.ndarray] = {
            controller.name: np.array([column[name] for name in controller.joints])
            for controller in robot.controllers
        }
        self.followers: dict[str, TrajectoryFollower] = {}  # empty until a posture was taken over
        self.setpoint: np.ndarray | None = None  # last one sent, [joints]
        self.setpoint_rates = np.zeros((2, len(robot.commanded)))  # its velocity and acceleration
        self.sent_ns: int | None = None
        self.rejected = 0
        self.reason = "waiting for the robot's posture"

    def accept(self, controller: str, message: Any, now_ns: int) -> str | None:
        """Hand a trajectory to `controller`; return why it was not taken."""
        reason = self.joint_monitor.check_age(now_ns) or self._try_accept(
            controller, message, now_ns
        )
        if reason:
            self.rejected += 1
            self.reason = f'{controller}: {reason}'
        return reason

    def on_joints(self, state: JointState, now_ns: int) -> str | None:
        """Take a measured posture; return why it was refused."""
        return self.joint_monitor.update(state, now_ns)

    def tick(self, now_ns: int) -> np.ndarray | None:
        """Return the set-point to send now, [joints]; None before there is a posture to hold."""
        before, sent_ns = self.setpoint, self.sent_ns
        if before is None or sent_ns is None or abs(now_ns - sent_ns) > self.timeout_ns:
            stale = self.joint_monitor.check_age(now_ns)
            if stale:
                self.reason = stale
                return None
            self._hold(
                self.joint_monitor.position,
                'holding the measured posture'
                if sent_ns is None
                else 'the stream had a gap: holding the measured posture',
            )
        else:
            self._advance(before, sent_ns, now_ns)
        self.sent_ns = now_ns
        return self.setpoint

    def reset(self) -> None:
        """Begin anew: the next tick takes over the measured posture."""
        self.followers, self.setpoint, self.sent_ns = {}, None, None
        self.joint_monitor.reset()
        self.reason = "waiting for the robot's posture"

    @property
    def is_following(self) -> bool:
        """Tell whether a trajectory that has not ended is being followed."""
        return self.sent_ns is not None and any(
            follower.end_ns is not None and follower.end_ns > self.sent_ns
            for follower in self.followers.values()
        )

    def _try_accept(self, controller: str, message: Any, now_ns: int) -> str | None:
        """Take the message unless the set-point would jump to it; return why not."""
        if not self.followers:
            return 'no posture has been taken over yet'
        running, candidate = self.followers[controller], copy(self.followers[controller])
        flaw = candidate.accept(message, now_ns)
        if flaw:
            return flaw
        jump = np.abs(candidate.sample(now_ns).position - running.sample(now_ns).position)
        joint = int(
            np.argmax(jump - JUMP_TOLERANCE_S * self.limits.velocity[self.columns[controller]])
        )
        if jump[joint] > JUMP_TOLERANCE_S * self.limits.velocity[self.columns[controller]][joint]:
            return f'{candidate.names[joint]} would jump by {jump[joint]:.3f}'
        flaw = check_lateness(
            running, candidate, now_ns, self.limits.jerk[self.columns[controller]]
        )
        if flaw:
            return flaw
        self.followers[controller] = candidate
        self.reason = 'following trajectories'
        return None

    def _advance(self, before: np.ndarray, sent_ns: int, now_ns: int) -> None:
        """Go on from the set-point `before` [joints], sent at `sent_ns`."""
        motion = np.empty((3, len(before)))
        for name, follower in self.followers.items():
            due = follower.sample(now_ns)
            motion[:, self.columns[name]] = due.position, due.velocity, due.acceleration
        wanted, rates = motion[0], motion[1:]
        reach = self.limits.velocity * ((now_ns - sent_ns) / NS_PER_S + JUMP_TOLERANCE_S)
        fault = self._check_excess(np.abs(wanted - before) - reach, 'jumps') or self._check_excess(
            np.abs(wanted - self.joint_monitor.position) - self.limits.step,
            'is too far from the measured posture',
        )
        if fault:
            self._hold(before, fault)
        else:
            self.setpoint, self.setpoint_rates = wanted, rates

    def _check_excess(self, excess: np.ndarray, what: str) -> str | None:
        joint = int(excess.argmax())
        return (
            f'set-point of {self.robot.commanded[joint]} {what}: holding'
            if excess[joint] > 0.0
            else None
        )

    def _hold(self, position: np.ndarray, reason: str) -> None:
        """Stay at `position` until a new trajectory comes."""
        self.setpoint, self.reason = np.array(position), reason
        self.setpoint_rates = np.zeros_like(self.setpoint_rates)
        self.followers = {
            controller.name: TrajectoryFollower(
                controller.joints, self.setpoint[self.columns[controller.name]]
            )
            for controller in self.robot.controllers
        }

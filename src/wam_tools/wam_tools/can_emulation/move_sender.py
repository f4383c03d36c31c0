"""Whoever sends moves to stream_node and listens to it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion import qp_planner
from wam_policy.core.motion.trajectory import Trajectory, make_hold
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos

PLANNING_LEAD_NS = 1_000_000_000  # for planning here, on a busy machine: late ones are refused


class MoveSender:
    """Plan moves, publish them as trajectories, and hold what the stack publishes."""

    def __init__(self, context: Context, robot: Embodiment) -> None:
        self.robot, self.node = robot, rclpy.create_node('bench', context=context)
        new = self.node.create_subscription
        self.joint_states: list[JointState] = []
        self.controller_states: list[JointTrajectoryControllerState] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.sent_trajectory: Trajectory | None = None
        new(JointState, '/joint_states', self.joint_states.append, qos.JOINTS)
        new(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)
        new(
            JointTrajectoryControllerState,
            robot.controllers[0].state_topic,
            self.controller_states.append,
            qos.JOINTS,
        )
        self.trajectory_publishers = [
            (self.node.create_publisher(JointTrajectory, c.topic, qos.TRAJECTORY), c)
            for c in robot.controllers
        ]

    def on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.diagnostics |= {status.name: status for status in msg.status}

    @property
    def positions(self) -> np.ndarray:
        """Return the newest measured positions of the commanded joints, [dof]."""
        return message_conversion.joint_state_from_msg(
            self.joint_states[-1], self.robot.commanded
        ).position

    def move(self, offset: np.ndarray, rows: int = 20) -> np.ndarray:
        """Send a move of all joints by `offset` over 1/30 s per row; return where it ends."""
        self.wait(
            lambda: all(pub.get_subscription_count() for pub, _ in self.trajectory_publishers)
        )
        start = qp_planner.compute_switch_ns(
            self.node.get_clock().now().nanoseconds, PLANNING_LEAD_NS
        )
        here = self.positions
        goal = here + offset
        plan = qp_planner.plan_tracking(
            make_hold(self.robot.commanded, here, 0),
            start,
            here + np.linspace(0, 1, rows)[:, None] * (goal - here),
            limits.limits_with_margin(self.robot),
        )
        self.sent_trajectory = plan
        for publisher, controller in self.trajectory_publishers:
            publisher.publish(message_conversion.trajectory_to_msg(plan, controller.joints))
        return plan.goal

    def wait(
        self,
        condition: Callable[[], Any],
        timeout_s: float = 45.0,
        error: type[Exception] = AssertionError,
    ) -> Any:
        """Return the first true result of `condition`; raise `error` after `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while not (found := condition()):
            if time.monotonic() > end_s:
                raise error(self.diagnostics)
            time.sleep(0.01)
        return found

"""Whoever sends trajectories to stream_node, listens to it, and is the arms of an AgiBot G1."""

import time
from contextlib import suppress
from functools import partial

import numpy as np
import rclpy
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion import qp_planner
from wam_policy.core.motion.trajectory import make_hold
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes import message_conversion, qos

G1 = load_embodiment('agibot_g1')
RESEND_AFTER_S = 5.0
PLANNING_LEAD_NS = 1_000_000_000  # for planning here, on a busy machine: late ones are refused


class StreamTestBench:
    """Send trajectories, listen to everything; and be the arms of an AgiBot G1."""

    def __init__(self, context, robot, reports_enabled):
        self.robot, self.node = robot, rclpy.create_node('bench', context=context)
        new, out = self.node.create_subscription, self.node.create_publisher
        self.joint_states, self.arm_commands, self.gripper_commands, self.diagnostics = (
            [],
            [],
            [],
            {},
        )
        new(JointState, '/joint_states', self.joint_states.append, qos.JOINTS)
        new(JointState, '/wbc/arm_command', self.arm_commands.append, qos.STREAM)
        new(JointState, '/wbc/left_ee_command', self.gripper_commands.append, qos.STREAM)
        new(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)
        self.sent_trajectory, self.controller_states = None, []
        new(
            JointTrajectoryControllerState,
            robot.controllers[0].state_topic,
            self.controller_states.append,
            qos.JOINTS,
        )
        self.arm_state_publisher = out(JointState, '/hal/arm_joint_state', qos.JOINTS)
        self.trajectory_publishers = [
            (out(JointTrajectory, c.topic, qos.TRAJECTORY), c) for c in robot.controllers
        ]
        self.arm_joint_names, self.arm_positions = [], np.linspace(-0.3, 0.3, 14)
        self.reports_enabled = reports_enabled and robot is G1
        self.node.create_timer(0.01, self.on_robot_timer)

    def on_diagnostics(self, msg):
        self.diagnostics |= {status.name: status for status in msg.status}

    def on_robot_timer(self):
        if self.reports_enabled:
            msg = JointState(name=self.arm_joint_names, position=self.arm_positions.tolist())
            msg.header.stamp = self.node.get_clock().now().to_msg()
            self.arm_state_publisher.publish(msg)

    @property
    def positions(self):
        return message_conversion.joint_state_from_msg(
            self.joint_states[-1], self.robot.commanded
        ).position

    def move_to(self, offset, has_arrived):
        """Move all joints by `offset`; return where, once `has_arrived` of it is true.

        Where the machine stalled for longer than the stream tolerates, it holds: then again.
        """
        target = self.positions + offset
        while not has_arrived(goal := self.move(target - self.positions)):
            with suppress(TimeoutError):
                self.wait(partial(has_arrived, goal), RESEND_AFTER_S, TimeoutError)
                break
            self.controller_states.clear()  # of the move that was given up, with its hold
            del self.arm_commands[:-1]
        return goal

    def move(self, offset, rows=20):
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

    def wait(self, condition, timeout_s=45.0, error=AssertionError):
        end_s = time.monotonic() + timeout_s
        while not (found := condition()):
            if time.monotonic() > end_s:
                raise error(self.diagnostics)
            time.sleep(0.01)
        return found

"""The arms of an AgiBot G1 for stream_node, and whoever sends trajectories to it."""

from contextlib import suppress
from functools import partial

import numpy as np
from sensor_msgs.msg import JointState

from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.nodes import qos
from wam_tools.can_emulation.move_sender import MoveSender

G1 = load_embodiment('agibot_g1')
RESEND_AFTER_S = 5.0


class StreamTestBench(MoveSender):
    """Send trajectories, listen to everything; and be the arms of an AgiBot G1."""

    def __init__(self, context, robot, reports_enabled):
        super().__init__(context, robot)
        new = self.node.create_subscription
        self.arm_commands, self.gripper_commands = [], []
        new(JointState, '/wbc/arm_command', self.arm_commands.append, qos.STREAM)
        new(JointState, '/wbc/left_ee_command', self.gripper_commands.append, qos.STREAM)
        self.arm_state_publisher = self.node.create_publisher(
            JointState, '/hal/arm_joint_state', qos.JOINTS
        )
        self.arm_joint_names, self.arm_positions = [], np.linspace(-0.3, 0.3, 14)
        self.reports_enabled = reports_enabled and robot is G1
        self.node.create_timer(0.01, self.on_robot_timer)

    def on_robot_timer(self):
        if self.reports_enabled:
            msg = JointState(name=self.arm_joint_names, position=self.arm_positions.tolist())
            msg.header.stamp = self.node.get_clock().now().to_msg()
            self.arm_state_publisher.publish(msg)

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

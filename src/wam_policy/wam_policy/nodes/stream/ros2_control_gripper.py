"""Adapter to the grippers of a robot whose arms have trajectory controllers of their own.

ros2_control follows the arms' trajectories. A gripper of ros2_control has other units than ours
and no trajectory controller: its position goes to a forward_command_controller. Where the arms
stand, and what they measure, comes from their joint_state_broadcaster and is no business of this.
"""

from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion, qos

NOT_REPORTED = 'the joint_state_broadcaster of ros2_control does not report it'


class Ros2ControlGripper:
    """Read the grippers from joint states of ros2_control and command them.

    The gripper's own controller holds the last command, whatever becomes of this process.
    """

    held_arms: tuple[str, ...] = ()
    exhaustion, release_warning_s = '', 0.0

    def __init__(
        self, node: Node, robot: Embodiment, on_joint_state: Callable[[JointState], None]
    ) -> None:
        """Open the topics; `robot` commands its grippers only."""
        self._robot, self._on_joint_state = robot, on_joint_state
        self.fault = ''
        self.warnings: list[str] = []
        self.inactive_checks: dict[str, str] = {
            'temperature': NOT_REPORTED,
            'driver_faults': NOT_REPORTED,
        }
        self._subscription = node.create_subscription(
            JointStateMsg,
            robot.vendor['gripper_state_topic'],
            self._on_joint_state_msg,
            qos.JOINTS,
        )
        self._publisher = node.create_publisher(
            Float64MultiArray, robot.vendor['command_topic'], qos.STREAM
        )

    def read(self) -> None:
        """Do nothing: the state comes by itself."""

    def send(self, setpoint: np.ndarray) -> None:
        """Command the setpoint [commanded joints], in the order of the robot's grippers."""
        at = dict(zip(self._robot.commanded, setpoint.tolist(), strict=True))
        raw = [float(gripper.to_raw(at[gripper.name])) for gripper in self._robot.grippers]
        self._publisher.publish(Float64MultiArray(data=raw))

    def close(self) -> None:
        """Do nothing: the gripper's controller holds."""

    def _on_joint_state_msg(self, msg: JointStateMsg) -> None:
        """Hand on the grippers of a message that has them all; ignore others, ours included."""
        wanted = [gripper.command_name for gripper in self._robot.grippers]
        if not set(wanted) <= set(msg.name):
            return
        try:
            measured = message_conversion.joint_state_from_msg(msg, wanted)
            position = np.array(
                [
                    message_conversion.gripper_opening_from_raw(float(raw), gripper)
                    for raw, gripper in zip(measured.position, self._robot.grippers, strict=True)
                ]
            )
        except ValueError as error:
            self.fault = str(error)
            return
        self.fault = ''
        # openings per radian; negative where the joint's value grows as the gripper closes
        rates = np.array([1.0 / (g.raw_open - g.raw_closed) for g in self._robot.grippers])
        names = tuple(gripper.name for gripper in self._robot.grippers)
        self._on_joint_state(
            JointState(
                measured.stamp_ns,
                names,
                position,
                None if measured.velocity is None else measured.velocity * rates,
                np.zeros(len(names)),  # unknown: the effort of a grip is meant
            )
        )

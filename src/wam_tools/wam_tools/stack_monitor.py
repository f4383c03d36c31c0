"""Measure a running stack from its topics."""

import time
from functools import partial

from rclpy.context import Context
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion, qos
from wam_policy.robot_names import JOINT_STATES_TOPIC
from wam_tools.run_metrics import RunMetrics
from wam_tools.sim_operator import HOME_SESSION
from wam_tools.stack_node import StackNode

EXECUTED_QUANTITIES = ('velocity', 'acceleration', 'jerk')


class StackMonitor(StackNode):
    """Measure one stack and its simulated robot; publishes only instructions."""

    def __init__(
        self, robot: Embodiment, context: Context | None = None, robot_namespace: str = ''
    ) -> None:
        self.metrics = RunMetrics(robot)
        self.task = ''  # instruction of the scene
        self.trained: bool | None = None
        self._joint_state_count = 0  # joint states received
        super().__init__('monitor', robot, context, robot_namespace)

    def subscribe(self) -> None:
        """Start measuring."""
        new = self.create_subscription
        new(ActionChunk, 'action_chunk', self._on_chunk, qos.CHUNK)
        new(String, self.name_of('/sim/task'), self._on_task, qos.LATCHED)
        joint_states = self.name_of(JOINT_STATES_TOPIC)
        new(JointStateMsg, joint_states, self._on_joints, qos.JOINTS, raw=True)
        for controller in self.robot.controllers:
            new(
                JointTrajectory,
                controller.topic,
                partial(self._on_trajectory, controller.name),
                qos.TRAJECTORY,
            )

    def ensure_instruction(self, instruction: str) -> None:
        """Send `instruction` unless the policy has it already or has no subscriber yet."""
        following = self.policy.instruction == instruction
        if not following and self._instruction_publisher.get_subscription_count():
            self.publish_instruction(instruction)

    def executed_ratios(self) -> dict[str, float]:
        """Return the largest limit usage of the executed motion per quantity."""
        return {
            name: max(getattr(self.sim, f'max_{name}_ratio'), default=0.0)
            for name in EXECUTED_QUANTITIES
        }

    def _on_chunk(self, msg: ActionChunk) -> None:
        if msg.session.startswith(HOME_SESSION):  # homing between two tasks
            return
        now_ns, now_s = self.now_ns(), time.monotonic()
        self.trained = msg.trained
        self.metrics.on_chunk(
            message_conversion.chunk_from_msg(msg),
            message_conversion.to_ns(msg.inference_end_stamp),
            now_ns,
            now_s,
        )

    def _on_joints(self, serialized: bytes) -> None:
        # one of ten messages is sufficient for the distance, with a tenth of the parsing
        self._joint_state_count += 1
        if self._joint_state_count % 10 == 1:
            msg = deserialize_message(serialized, JointStateMsg)
            self.metrics.on_joints(
                message_conversion.joint_state_from_msg(msg, self.robot.commanded)
            )

    def _on_trajectory(self, controller: str, msg: JointTrajectory) -> None:
        self.metrics.on_trajectory(controller, message_conversion.trajectory_from_msg(msg))

    def _on_task(self, msg: String) -> None:
        self.task = msg.data

    def on_policy_status(self, msg: PolicyStatus) -> None:
        # image rates come from the policy: another subscriber would double their transport
        super().on_policy_status(msg)
        self.metrics.on_camera_rates(dict(zip(msg.camera_names, msg.camera_rate_hz, strict=True)))

    def on_sim_status(self, msg: SimStatus) -> None:
        super().on_sim_status(msg)
        self.metrics.on_real_time_factor(msg.real_time_factor)

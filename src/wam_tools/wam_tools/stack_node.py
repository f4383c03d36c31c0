"""A node outside of a stack that reads its statuses, instructs it and calls its services."""

import threading
import time
from functools import partial
from typing import Any

from rclpy.context import Context
from rclpy.node import Node
from std_msgs.msg import String

from wam_msgs.msg import MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import qos
from wam_policy.robot_names import JOINT_STATES_TOPIC, add_namespace, put_in_namespace

STACK_NAMESPACE = 'wam'  # the stack's default namespace


class StackNode(Node):
    """Hold the newest statuses of one stack and its simulator; empty messages before the first.

    Methods block; another thread must spin the node.
    """

    def __init__(
        self,
        name: str,
        robot: Embodiment,
        context: Context | None = None,
        robot_namespace: str = '',
    ) -> None:
        namespace = '/'.join(filter(None, (robot_namespace, STACK_NAMESPACE)))
        super().__init__(name, namespace=namespace, context=context)
        self.robot = put_in_namespace(robot, robot_namespace)
        self.name_of = partial(add_namespace, robot_namespace)  # of '/sim/status', ...
        self.policy, self.motion, self.sim = PolicyStatus(), MotionStatus(), SimStatus()
        new = self.create_subscription
        new(PolicyStatus, 'status', self.on_policy_status, qos.LATCHED)
        new(MotionStatus, 'motion_status', self.on_motion_status, qos.LATCHED)
        new(SimStatus, self.name_of('/sim/status'), self.on_sim_status, qos.REQUEST)
        self._instruction_publisher = self.create_publisher(String, 'instruction', qos.REQUEST)

    def on_policy_status(self, msg: PolicyStatus) -> None:
        self.policy = msg

    def on_motion_status(self, msg: MotionStatus) -> None:
        self.motion = msg

    def on_sim_status(self, msg: SimStatus) -> None:
        self.sim = msg

    def is_stack_running(self) -> bool:
        """Return whether a stack of this robot runs here; call it at least 1 s after the start."""
        topics = ('status', self.name_of(JOINT_STATES_TOPIC))
        return any(self.count_publishers(topic) > 0 for topic in topics)

    @property
    def reason(self) -> str:
        """Return state and reason of policy and motion, as far as they published any."""
        reasons = [
            f'{who}: {status.state_name}: {status.reason}'
            for who, status in (('policy', self.policy), ('motion', self.motion))
            if status.state_name
        ]
        return '; '.join(reasons) or 'no node of the stack has published a status yet'

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def publish_instruction(self, text: str) -> int:
        """Publish an instruction; return when, in ns of the node's clock."""
        self._instruction_publisher.publish(String(data=text))
        return self.now_ns()

    def call_service(
        self, service_type: Any, name: str, timeout_s: float = 10.0, **fields: Any
    ) -> Any:
        """Call a service and return its response; None if there is none within `timeout_s`."""
        client = self.create_client(service_type, name)
        try:
            end_s = time.monotonic() + timeout_s
            if not client.wait_for_service(timeout_s):
                return None
            done, future = threading.Event(), client.call_async(service_type.Request(**fields))
            future.add_done_callback(lambda _: done.set())
            return future.result() if done.wait(max(0.0, end_s - time.monotonic())) else None
        finally:
            self.destroy_client(client)

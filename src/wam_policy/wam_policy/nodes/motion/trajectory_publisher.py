"""Where trajectories go: one message per controller, or one of all joints as a dry run."""

from collections.abc import Callable

from rclpy.node import Node
from rclpy.publisher import Publisher
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot.embodiment import Controller, Embodiment
from wam_policy.nodes import message_conversion, qos


class TrajectoryPublisher:
    """Own the publishers of a robot's trajectories until closed."""

    def __init__(self, node: Node, robot: Embodiment, dry_run: bool) -> None:
        """Open one per controller; with `dry_run` none of these, so that nothing can move."""
        self._node, self._robot, self._dry_run = node, robot, dry_run
        self._dry_run_output = node.create_publisher(
            JointTrajectory, '~/dry_run_trajectory', qos.TRAJECTORY
        )
        self.controller_outputs: list[tuple[Publisher, Controller]] = [
            (node.create_publisher(JointTrajectory, controller.topic, qos.TRAJECTORY), controller)
            for controller in (() if dry_run else robot.controllers)
        ]

    def close(self) -> None:
        """Publish no more."""
        for publisher in (self._dry_run_output, *(out for out, _ in self.controller_outputs)):
            self._node.destroy_publisher(publisher)

    def make_publish_fn(self, trajectory: Trajectory) -> Callable[[], None]:
        """Return a function that sends a trajectory; making the messages takes milliseconds."""
        outgoing = [
            (publisher, message_conversion.trajectory_to_msg(trajectory, controller.joints))
            for publisher, controller in self.controller_outputs
        ]
        if self._dry_run:
            joints = self._robot.commanded
            outgoing.append(
                (self._dry_run_output, message_conversion.trajectory_to_msg(trajectory, joints))
            )

        def publish() -> None:
            for publisher, msg in outgoing:
                publisher.publish(msg)

        return publish

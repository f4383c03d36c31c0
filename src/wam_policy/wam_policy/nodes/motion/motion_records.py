"""What motion_node holds: from configuration to cleanup, and while it is active.

A record of its own tells the type checker that its parts exist together. Of its lists, which are
filled last, come the callbacks: they may run in another thread before the transition ends.
"""

from dataclasses import dataclass, field

from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from wam_policy.core.motion.motion_control import MotionControl
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes.motion.control_loop import ControlLoop
from wam_policy.nodes.motion.controller_monitor import ControllerMonitor
from wam_policy.nodes.motion.joystick_input import JoystickInput
from wam_policy.nodes.motion.planner_thread import PlannerThread
from wam_policy.nodes.motion.trajectory_publisher import TrajectoryPublisher


@dataclass(frozen=True, slots=True)
class ConfiguredMotion:
    """Hold what exists from configuration to cleanup."""

    robot: Embodiment
    motion: MotionControl
    joystick: JoystickInput
    trajectory_publisher: TrajectoryPublisher
    controller_monitor: ControllerMonitor
    services: list[Service] = field(default_factory=list)
    estop_subscriptions: list[Subscription] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ActiveMotion:
    """Hold what exists from activation to deactivation."""

    planner_thread: PlannerThread
    control_loop: ControlLoop
    inputs: list[Subscription] = field(default_factory=list)

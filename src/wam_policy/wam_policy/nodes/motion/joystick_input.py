"""The joystick of motion_node: sensor_msgs/Joy in, the rules of core.motion.joystick_deadman.

Its age is measured on the monotonic clock: simulated time that stands still loses no joystick.
"""

import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Joy

from wam_policy.core.motion.joystick_deadman import JoystickDeadman
from wam_policy.nodes import qos
from wam_policy.nodes.parameters import MotionParams


class JoystickInput:
    """Listen from configuration to cleanup, if any button is used."""

    def __init__(
        self, node: Node, params: MotionParams, lease_s: float, on_estop: Callable[[str], None]
    ) -> None:
        """Take the robot's `lease_s` where no time-out is set; ValueError names what is wrong.

        `on_estop(reason)` is called once per press of the e-stop button.
        """
        self.deadman = JoystickDeadman(
            params.joy_deadman_button,
            params.joy_estop_button,
            lease_s if params.joy_timeout_s == -1.0 else params.joy_timeout_s,
        )
        self._node, self._on_estop = node, on_estop
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """Listen from now on."""
        if self.deadman.is_used:
            self._subscription = self._node.create_subscription(
                Joy, 'joy', self._on_joy, qos.JOINTS
            )

    def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def check(self) -> str | None:
        """Return why nothing may move now."""
        return self.deadman.check(time.monotonic_ns())

    def _on_joy(self, msg: Joy) -> None:
        was_pressed = self.deadman.is_estop_pressed
        self.deadman.on_buttons(msg.buttons, time.monotonic_ns())
        if self.deadman.is_estop_pressed and not was_pressed:
            self._on_estop('e-stop button of the joystick')

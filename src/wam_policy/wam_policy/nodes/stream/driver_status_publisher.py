"""What stream_node publishes on driver_status: faults, warnings and checks without inputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rclpy.node import Node
from rclpy.publisher import Publisher

from wam_msgs.msg import DriverStatus
from wam_policy.nodes import message_conversion, qos

CALLS_PER_STATUS = 10  # 1 Hz where `update` is called at 10 Hz


class Driver(Protocol):
    """Report to `DriverStatusPublisher`."""

    @property
    def inactive_checks(self) -> Mapping[str, str]:
        """Return the checks that the robot gives no input for, with the reason."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Return what is worth a look and stops nothing."""
        ...


class DriverStatusPublisher:
    """Publish changes at once, and a status every second."""

    def __init__(self, node: Node, robot_name: str, driver: Driver) -> None:
        self._robot_name, self._driver = robot_name, driver
        self._now_ns: Callable[[], int] = lambda: node.get_clock().now().nanoseconds
        self.publisher: Publisher = node.create_publisher(
            DriverStatus, 'driver_status', qos.LATCHED
        )
        self._last: tuple = ()
        self._calls = 0

    def update(self, fault: str) -> None:
        """Take the fault there is now, empty if none; publish if something is new or due."""
        inactive, warnings = dict(self._driver.inactive_checks), list(self._driver.warnings)
        status = fault, inactive, warnings
        self._calls += 1
        if status == self._last and self._calls < CALLS_PER_STATUS:
            return
        self._last, self._calls = status, 0
        msg = DriverStatus(
            robot=self._robot_name,
            fault=fault,
            warnings=warnings,
            inactive_checks=list(inactive),
            inactive_reasons=list(inactive.values()),
        )
        msg.header.stamp = message_conversion.time_to_msg(self._now_ns())
        self.publisher.publish(msg)

    def describe(self) -> dict[str, str]:
        """Return rows for /diagnostics."""
        return {
            f'check {name}': f'not active: {why}'
            for name, why in self._driver.inactive_checks.items()
        } | {f'warning {i}': text for i, text in enumerate(self._driver.warnings, 1)}

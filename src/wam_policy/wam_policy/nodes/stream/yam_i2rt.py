"""Two YAM arms through i2rt's robot objects, whose own threads keep the 250 Hz."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from rclpy.node import Node

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion, parameters
from wam_policy.nodes.parameters import StreamParams
from wam_policy.nodes.stream.channel_lock import ChannelLock
from wam_policy.nodes.stream.i2rt_arm import DriverFault, I2rtArm, import_driver

DRIVER_STARTUP_S = 0.05  # the driver's thread has moved on by then


class YamI2rt:
    """Read and command both arms; the grippers' last joint is 0 closed .. 1 open."""

    def __init__(
        self, node: Node, robot: Embodiment, on_joint_state: Callable[[JointState], None]
    ) -> None:
        """Open both arms; ValueError names what is missing and the fix, and nothing stays open."""
        self._node, self._robot, self._on_joint_state = node, robot, on_joint_state
        self._wiring = wiring = robot.vendor
        open_robot = import_driver(wiring['arm_type'], wiring['gripper_type'])
        self._locks: list[ChannelLock] = []
        self._arms: dict[str, I2rtArm] = {}
        self._lock_channels(parameters.read(node, StreamParams).robot_namespace)
        node.get_logger().warning('opening the arms: linear grippers now drive from end to end')
        self.fault = ''
        self.exhaustion = ''  # why the arms cannot be held much longer
        self.release_warning_s: float = wiring['release']['warning_s']
        self._measured_ns = 0
        self._has_temperatures = True
        for side, arm in wiring['arms'].items():
            try:
                self._arms[side] = I2rtArm(
                    side,
                    arm['channel'],
                    open_robot,
                    round(wiring['measurement_timeout_s'] * 1e9),
                )
            except ValueError:
                self.close()
                raise
        time.sleep(DRIVER_STARTUP_S)

    def _lock_channels(self, robot_namespace: str) -> None:
        """Raise ValueError, with nothing locked, where another robot uses one of them."""
        for arm in self._wiring['arms'].values():
            try:
                self._locks.append(ChannelLock(arm['channel'], robot_namespace))
            except ValueError:
                self.close()
                raise

    @property
    def held_arms(self) -> tuple[str, ...]:
        """Return the arms that sag when the driver is closed: those that it still drives."""
        return tuple(f'{side} arm' for side, arm in self._arms.items() if arm.is_driven)

    def read(self) -> None:
        """Take both arms' state and hand it on if it is new; keep `fault` up to date.

        The state's stamp is the time at which the arm that measured earlier did.
        """
        now_ns = time.monotonic_ns()
        try:
            readings = {side: arm.read(now_ns) for side, arm in self._arms.items()}
            faults = [self._check_temperature(side, r.hottest_c) for side, r in readings.items()]
            limit_c = self._wiring['release']['temperature_c']
            hottest_c = max((r.hottest_c or 0.0 for r in readings.values()), default=0.0)
            self.exhaustion = (
                f'a motor has {hottest_c:.0f} degrees, more than {limit_c:g}'
                if hottest_c > limit_c
                else ''
            )
            measured_ns = min(reading.measured_ns for reading in readings.values())
            if measured_ns > self._measured_ns:
                self._measured_ns = measured_ns
                position, velocity, effort = (
                    {
                        name: value
                        for side, reading in readings.items()
                        for name, value in zip(
                            self._wiring['arms'][side]['joints'],
                            getattr(reading, field).tolist(),
                            strict=field != 'effort',
                        )
                    }
                    for field in ('position', 'velocity', 'effort')
                )
                age_ns = now_ns - measured_ns
                self._publish_state(
                    self._node.get_clock().now().nanoseconds - age_ns, position, velocity, effort
                )
        except (DriverFault, ValueError) as error:
            self.fault = str(error)
            return
        self.fault = '; '.join(filter(None, faults))

    @property
    def inactive_checks(self) -> dict[str, str]:
        """Return the safety checks that the arms give no input for, with the reason."""
        return (
            {}
            if self._has_temperatures
            else {'temperature': 'this version of i2rt reports no temperatures'}
        )

    @property
    def warnings(self) -> list[str]:
        """Return nothing: i2rt tells faults only."""
        return []

    def send(self, setpoint: np.ndarray) -> None:
        """Command the set-point [commanded joints]."""
        at = dict(zip(self._robot.commanded, setpoint.tolist(), strict=True))
        for gripper in self._robot.grippers:
            at[gripper.name] = float(gripper.to_raw(at[gripper.name]))
        for side, arm in self._wiring['arms'].items():
            self._arms[side].command(np.array([at[name] for name in arm['joints']]))

    def close(self) -> None:
        """End the drivers. Without torque the arms sag: they must rest on something."""
        if self._arms:
            self._node.get_logger().warning('closing the arms: they lose torque and sag')
        arms, self._arms = self._arms, {}
        for arm in arms.values():
            reason = arm.close()
            if reason:
                self._node.get_logger().error(reason)
        while self._locks:
            self._locks.pop().close()

    def _publish_state(
        self,
        stamp_ns: int,
        position: dict[str, float],
        velocity: Mapping[str, float],
        effort: Mapping[str, float],
    ) -> None:
        """Hand on one state; ValueError names a value out of its range."""
        for gripper in self._robot.grippers:
            position[gripper.name] = message_conversion.gripper_opening_from_raw(
                position[gripper.name], gripper
            )
        observed = self._robot.observed
        state = JointState(
            stamp_ns,
            observed,
            np.array([position[name] for name in observed]),
            np.array([velocity[name] for name in observed]),
            self._order_efforts(effort),
        )
        self._on_joint_state(state)

    def _order_efforts(self, measured: Mapping[str, float]) -> np.ndarray | None:
        """Return the efforts of all joints, grippers' 0 where unknown; None without the arms'."""
        grips = {gripper.name: 0.0 for gripper in self._robot.grippers}
        known = grips | dict(measured)
        if not set(self._robot.observed) <= set(known):
            return None
        return np.array([known[name] for name in self._robot.observed])

    def _check_temperature(self, side: str, hottest_c: float | None) -> str:
        """Return that an arm is too hot; log once that its temperatures cannot be seen."""
        if hottest_c is None:
            if self._has_temperatures:
                self._has_temperatures = False
                self._node.get_logger().warning(
                    "i2rt reports no temperatures: the check of the motors' heat is not active"
                )
            return ''
        if not hottest_c <= self._wiring['max_rotor_temperature_c']:
            return f'{side} arm: a motor has {hottest_c:.0f} degrees'
        return ''

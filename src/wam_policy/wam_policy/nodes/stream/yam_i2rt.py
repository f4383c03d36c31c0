"""Two YAM arms through i2rt's robot objects, whose own threads keep the 250 Hz.

What that driver does, and this file respects: opening an arm with a linear gripper drives the
gripper from end to end; `command_joint_pos` clips the array it is given in place; the last
command is repeated for ever; ending it (`close`, or the process) cuts torque, and the arm sags.
So nothing is opened before configuration, arrays are copied, and closing says what it means.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rclpy.node import Node

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion

DRIVER_STARTUP_S = 0.05  # the driver's thread has moved on by then


class YamI2rt:
    """Read and command both arms; the grippers' last joint is 0 closed .. 1 open."""

    def __init__(
        self, node: Node, robot: Embodiment, on_joint_state: Callable[[JointState], None]
    ) -> None:
        """Open both arms; ValueError names what is missing and the fix."""
        self._node, self._robot, self._on_joint_state = node, robot, on_joint_state
        self._vendor_config = wiring = robot.vendor
        open_arm, arm_type, gripper_type = _import_driver(wiring)
        node.get_logger().warning('opening the arms: linear grippers now drive from end to end')
        self._arms: dict[str, Any] = {}
        self.fault = ''
        for side, arm in wiring['arms'].items():
            try:
                # floating, not stiff, until the first command
                self._arms[side] = open_arm(
                    channel=arm['channel'],
                    arm_type=arm_type,
                    gripper_type=gripper_type,
                    zero_gravity_mode=True,
                )
            except (OSError, RuntimeError) as error:
                self.close()
                raise ValueError(
                    f'{side} arm on {arm["channel"]} does not open: {error}; is the '
                    'CAN interface up (ip link), the arm powered and not in use by '
                    'another program?'
                ) from error
        time.sleep(DRIVER_STARTUP_S)

    def read(self) -> None:
        """Take both arms' posture and hand it on; keep `fault` up to date."""
        position: dict[str, float] = {}
        velocity: dict[str, float] = {}
        effort: dict[str, float] = {}
        fault = ''
        for side, arm in self._vendor_config['arms'].items():
            robot = self._arms[side]
            if not getattr(getattr(robot, 'motor_chain', None), 'running', True):
                # its values would stay as they are and look fresh
                self.fault = f'{side} arm: the driver has stopped; see its messages, then restart'
                return
            seen = robot.get_observations()
            values = np.concatenate([seen['joint_pos'], seen['gripper_pos']])
            speeds = np.concatenate([seen['joint_vel'], seen.get('gripper_vel', [0.0])])
            position |= dict(zip(arm['joints'], values.tolist(), strict=True))
            velocity |= dict(zip(arm['joints'], speeds.tolist(), strict=True))
            pushes = np.concatenate([seen.get('joint_eff', []), seen.get('gripper_eff', [])])
            effort |= dict(zip(arm['joints'], pushes.tolist(), strict=False))
            hottest = max(
                float(np.max(seen.get(part, 0.0))) for part in ('temp_rotor', 'temp_mos')
            )
            if hottest > self._vendor_config['max_rotor_temperature_c']:
                fault = f'{side} arm: a motor has {hottest:.0f} degrees'
        now_ns = self._node.get_clock().now().nanoseconds
        try:
            for gripper in self._robot.grippers:
                position[gripper.name] = message_conversion.gripper_opening_from_raw(
                    position[gripper.name], gripper
                )
            state = JointState(
                now_ns,
                self._robot.observed,
                np.array([position[name] for name in self._robot.observed]),
                np.array([velocity[name] for name in self._robot.observed]),
                self._order_efforts(effort),
            )
        except ValueError as error:
            self.fault = str(error)
            return
        self.fault = fault
        self._on_joint_state(state)

    def _order_efforts(self, measured: Mapping[str, float]) -> np.ndarray | None:
        """Return the efforts of all joints, grippers' 0 where unknown; None without the arms'."""
        grips = {gripper.name: 0.0 for gripper in self._robot.grippers}
        known = grips | dict(measured)
        if not set(self._robot.observed) <= set(known):
            return None
        return np.array([known[name] for name in self._robot.observed])

    def send(self, setpoint: np.ndarray) -> None:
        """Command the set-point [commanded joints]."""
        at = dict(zip(self._robot.commanded, setpoint.tolist(), strict=True))
        for gripper in self._robot.grippers:
            at[gripper.name] = float(gripper.to_raw(at[gripper.name]))
        for side, arm in self._vendor_config['arms'].items():
            self._arms[side].command_joint_pos(np.array([at[name] for name in arm['joints']]))

    def close(self) -> None:
        """End the drivers. Without torque the arms sag: they must rest on something."""
        if self._arms:
            self._node.get_logger().warning('closing the arms: they lose torque and sag')
        arms, self._arms = self._arms, {}
        for robot in arms.values():
            robot.close()


def _import_driver(vendor_config: Any) -> tuple[Callable[..., Any], Any, Any]:
    """Return i2rt's way to open an arm, its arm type and its gripper type."""
    try:
        opener = importlib.import_module('i2rt.robots.get_robot').get_yam_robot
        kinds = importlib.import_module('i2rt.robots.utils')
    except ImportError as error:
        raise ValueError(
            "i2rt is not installed in this node's Python, and YAM arms are driven through it: "
            "pip install the i2rt package of the arms' maker (version 1.2 or newer)"
        ) from error
    return (
        opener,
        kinds.ArmType[vendor_config['arm_type'].upper()],
        kinds.GripperType[vendor_config['gripper_type'].upper()],
    )

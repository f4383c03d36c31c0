"""Adapter to the GDK topics of an AgiBot G1: joint positions in, setpoints out.

The robot runs Humble and must not share a DDS graph with this stack: a bridge carries these
topics. The vendor's genie_msgs is not needed to build: without it, `use_vendor_messages` must be
false, and grippers and body are assumed, see AgibotParams.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState
from wam_policy.nodes import message_conversion, parameters, qos
from wam_policy.nodes.parameters import parameter, validate_fields

OVER_CURRENT_STATUS = 3  # a hand's status; 5, stalled, is what a hand does that grips


@dataclass(frozen=True, slots=True)
class AgibotParams:
    """Configure how stream_node meets an AgiBot G1."""

    use_vendor_messages: bool = parameter(
        True,
        "read grippers, head and waist through the vendor's genie_msgs; false: assume them",
        deprecated_name='vendor_messages',
    )
    assumed_gripper_opening: float = parameter(
        1.0,
        'opening of both grippers at start if use_vendor_messages is false; later it is what '
        'was sent last',
        low=0.0,
        high=1.0,
        deprecated_name='assumed_opening',
    )
    __post_init__ = validate_fields


class AgibotGdk:
    """Read and command the arms and grippers through the GDK's topics.

    The robot's own controllers hold the last command, whatever becomes of this process.
    """

    held_arms: tuple[str, ...] = ()
    exhaustion, release_warning_s = '', 0.0

    def __init__(
        self, node: Node, robot: Embodiment, on_joint_state: Callable[[JointState], None]
    ) -> None:
        """Open the topics; ValueError names what is missing and the fix."""
        self._node, self._robot, self._on_joint_state = node, robot, on_joint_state
        self._vendor_config = wiring = robot.vendor
        self._params = parameters.read(node, AgibotParams)
        self._arm_joint_names: tuple[str, ...] | None = None  # what the robot calls its arm joints
        self._arm_positions: np.ndarray | None = None
        self._other_positions: dict[str, float] = {}  # grippers and body, canonical
        self._faults_by_source: dict[str, str] = {}  # where it is wrong -> what
        types = _import_vendor_messages() if self._params.use_vendor_messages else None
        new = partial(node.create_subscription, qos_profile=qos.JOINTS)
        self._inputs = [new(JointStateMsg, wiring['arm_state_topic'], self._on_arm_state)]
        if types is None:
            self._other_positions = {
                name: robot.home[name] for name in robot.observed if name not in robot.commanded
            }
            self._other_positions |= {
                gripper.name: self._params.assumed_gripper_opening for gripper in robot.grippers
            }
        else:
            for name, topic in wiring['gripper_state_topics'].items():
                self._inputs.append(
                    new(types.EndState, topic, partial(self._on_gripper_state, name))
                )
            for name, topic in wiring['arm_data_topics'].items():
                self._inputs.append(new(types.ArmState, topic, partial(self._on_arm_data, name)))
            for part, kind in (('head', types.HeadState), ('waist', types.WaistState)):
                self._inputs.append(
                    new(
                        kind,
                        wiring[f'{part}_state_topic'],
                        partial(self._on_body_state, wiring[f'{part}_joints']),
                    )
                )
        self._arm_publisher = node.create_publisher(
            JointStateMsg, wiring['arm_command_topic'], qos.STREAM
        )
        self._gripper_publishers = {
            name: node.create_publisher(JointStateMsg, topic, qos.STREAM)
            for name, topic in wiring['gripper_command_topics'].items()
        }

    @property
    def fault(self) -> str:
        """Return what is wrong with the robot's state; empty while nothing is."""
        return '; '.join(self._faults_by_source.values())

    def read(self) -> None:
        """Do nothing: the robot's state comes by itself."""

    @property
    def inactive_checks(self) -> dict[str, str]:
        """Return the safety checks that the robot gives no input for, with the reason."""
        if self._params.use_vendor_messages:
            return {}
        return dict.fromkeys(
            ('temperature', 'driver_faults', 'gripper_position', 'body_position'),
            'use_vendor_messages is false',
        )

    @property
    def warnings(self) -> list[str]:
        """Return what the robot reports that is worth a look and stops nothing."""
        return []

    def send(self, setpoint: np.ndarray) -> None:
        """Command the setpoint [commanded joints]; arms in rad, grippers in raw units."""
        at = dict(zip(self._robot.commanded, setpoint.tolist(), strict=True))
        stamp = self._node.get_clock().now().to_msg()
        arms = JointStateMsg(
            name=list(self._arm_joint_names or self._vendor_config['arm_joints']),
            position=[at[name] for name in self._vendor_config['arm_joints']],
        )
        arms.header.stamp = stamp
        self._arm_publisher.publish(arms)
        for gripper in self._robot.grippers:
            hand = JointStateMsg(
                name=[gripper.command_name], position=[float(gripper.to_raw(at[gripper.name]))]
            )
            hand.header.stamp = stamp
            self._gripper_publishers[gripper.name].publish(hand)
            if not self._params.use_vendor_messages:
                self._other_positions[gripper.name] = at[gripper.name]

    def close(self) -> None:
        """Close the topics; the robot stays where the last command left it."""
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        for publisher in (self._arm_publisher, *self._gripper_publishers.values()):
            self._node.destroy_publisher(publisher)
        self._inputs = []

    def _on_arm_state(self, msg: JointStateMsg) -> None:
        """Take the arms, the message that paces the state; some builds send 42 values or more."""
        joints, layouts = (
            self._vendor_config['arm_joints'],
            self._vendor_config['arm_state_layouts'],
        )
        first = max(
            (layout for layout in layouts if len(msg.position) >= layout['at_least']),
            key=lambda layout: layout['at_least'],
            default={'first': 0},
        )['first']
        names = tuple(msg.name)[first : first + len(joints)] or None
        if self._arm_positions is not None and names != self._arm_joint_names:
            self._faults_by_source['arms'] = (
                f"the robot's arm joints were called {self._arm_joint_names}, now "
                f'{names}: another source '
                'on the topic? restart the node when it is gone'
            )
            return
        try:
            self._arm_positions = message_conversion.positions_from_unnamed_msg(
                msg, joints, layouts
            )
        except ValueError as error:
            self._faults_by_source['arms'] = str(error)
            return
        self._arm_joint_names = names
        self._faults_by_source.pop('arms', None)
        known = dict(zip(joints, self._arm_positions, strict=True)) | self._other_positions
        if not set(self._robot.observed) <= set(known):
            return  # no state of grippers, head or waist yet
        # without a stamp of its own the state is as old as its arrival
        stamp_ns = (
            message_conversion.to_ns(msg.header.stamp) or self._node.get_clock().now().nanoseconds
        )
        self._on_joint_state(
            JointState(
                stamp_ns,
                self._robot.observed,
                np.array([known[name] for name in self._robot.observed]),
            )
        )

    def _on_arm_data(self, arm_name: str, msg: Any) -> None:
        """Check the fault flags and temperatures of an arm's motors."""
        limit_c = self._vendor_config['max_motor_temperature_c']
        wrong = [f'error {msg.system_error}'] if msg.system_error else []
        wrong += [
            f'motor {motor.id} has fault flags {motor.status:#x}'
            for motor in msg.motor_states
            if motor.status
        ]
        wrong += [
            f'motor {motor.id} has {motor.temperature:.0f} degrees'
            for motor in msg.motor_states
            if motor.temperature > limit_c
        ]
        self._faults_by_source.pop(f'{arm_name} data', None)
        if wrong:
            self._faults_by_source[f'{arm_name} data'] = f'{arm_name}: {", ".join(wrong)}'

    def _on_gripper_state(self, gripper_name: str, msg: Any) -> None:
        """Store one gripper; reject a reading in another unit and clear the stored opening."""
        if not msg.end_state:
            return
        try:
            self._other_positions[gripper_name] = message_conversion.gripper_opening_from_raw(
                msg.end_state[0].position, self._robot.gripper(gripper_name)
            )
            self._faults_by_source.pop(gripper_name, None)
            if getattr(msg.end_state[0], 'status', 0) == OVER_CURRENT_STATUS:
                self._faults_by_source[gripper_name] = f'{gripper_name}: over-current'
        except ValueError as error:
            self._other_positions.pop(gripper_name, None)
            self._faults_by_source[gripper_name] = str(error)

    def _on_body_state(self, joints: tuple[str, ...], msg: Any) -> None:
        """Take head or waist: motors by name where it names them as we do, else in our order."""
        positions = [motor.position for motor in msg.motor_states]
        named = dict(zip(msg.name, positions, strict=False))
        if not set(joints) <= set(named):
            named = dict(zip(joints, positions, strict=False))
        self._other_positions |= {
            name: value for name, value in named.items() if name in joints and np.isfinite(value)
        }


def _import_vendor_messages() -> Any:
    try:
        return importlib.import_module('genie_msgs.msg')
    except ImportError as error:
        raise ValueError(
            'genie_msgs is not installed, and grippers, head and waist are read through it: build '
            "the messages of the vendor's GDK for this ROS distribution and source them, or set "
            'use_vendor_messages to false and assumed_gripper_opening to what the grippers are now'
        ) from error

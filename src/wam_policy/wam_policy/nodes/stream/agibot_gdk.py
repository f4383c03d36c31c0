"""Adapter to the GDK topics of an AgiBot G1: joint positions in, setpoints out.

The robot runs Humble and must not share a DDS graph with this stack: a bridge carries these
topics. The vendor's genie_msgs is not needed to build: without it, `use_vendor_messages` must be
false, and grippers and body are assumed, see AgibotParams.
"""

import importlib
import time
from collections.abc import Callable, Sequence
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
from wam_policy.nodes.stream import agibot_status

BODY_PARTS = ('head', 'waist')
MOTION_CONTROL = 'motion control'


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
        self._warnings_by_source: dict[str, str] = {}
        self._arm_data: dict[str, Any] = {}  # newest ArmState of each arm
        self._arrived_s: dict[str, float] = {}  # part -> when it came last, monotonic
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
            if hasattr(types, 'MotionControlStatus'):  # not in every version
                kind, topic = types.MotionControlStatus, wiring['motion_control_topic']
                self._inputs.append(new(kind, topic, self._on_motion_control))
            for part, kind in zip(BODY_PARTS, (types.HeadState, types.WaistState), strict=True):
                topic = wiring[f'{part}_state_topic']
                self._inputs.append(new(kind, topic, partial(self._on_body_state, part)))
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
        if not self._params.use_vendor_messages:
            return dict.fromkeys(
                ('temperature', 'driver_faults', 'gripper_position', 'body_position'),
                'use_vendor_messages is false',
            )
        silent = [
            topic
            for arm, topic in self._vendor_config['arm_data_topics'].items()
            if not self._is_fresh(arm)
        ]
        if silent:
            reason = f'nothing comes on {", ".join(silent)}'
            return {'temperature': reason, 'driver_faults': reason}
        blind = agibot_status.find_blind_checks(self._arm_data.values(), self._motors_per_arm)
        if not self._is_fresh(MOTION_CONTROL):
            topic = self._vendor_config['motion_control_topic']
            blind.setdefault(
                'driver_faults', f'nothing comes on {topic}: mode and errors of the robot'
            )
        return blind

    @property
    def warnings(self) -> list[str]:
        """Return what the robot reports that is worth a look and stops nothing."""
        return [*self._warnings_by_source.values(), *self._describe_missing()]

    @property
    def _motors_per_arm(self) -> int:
        wiring = self._vendor_config
        return len(wiring['arm_joints']) // len(wiring['arm_data_topics'])

    def _is_fresh(self, part: str) -> bool:
        arrived_s = self._arrived_s.get(part)
        limit_s = self._vendor_config['max_part_age_s']
        return arrived_s is not None and time.monotonic() - arrived_s <= limit_s

    def _describe_missing(self) -> list[str]:
        """Return the parts without which no joint states are published."""
        if not self._params.use_vendor_messages:
            return []
        wiring = self._vendor_config
        topics = dict(wiring['gripper_state_topics']) | {
            part: wiring[f'{part}_state_topic'] for part in BODY_PARTS
        }
        return [
            f'{part}: nothing comes on {topic}, so no joint states are published'
            for part, topic in topics.items()
            if not self._is_fresh(part)
        ]

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
        joints = self._vendor_config['arm_joints']
        layouts = self._vendor_config['arm_state_layouts']
        first = max(
            (layout for layout in layouts if len(msg.position) >= layout['at_least']),
            key=lambda layout: layout['at_least'],
            default={'first': 0},
        )['first']
        names = tuple(msg.name)[first : first + len(joints)] or None
        wrong = agibot_status.check_arm_order(names) if names else None
        if self._arm_positions is not None and names != self._arm_joint_names:
            wrong = (
                f"the robot's arm joints were called {self._arm_joint_names}, now "
                f'{names}: another source '
                'on the topic? restart the node when it is gone'
            )
        if wrong:
            self._faults_by_source['arms'] = wrong
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
        if not set(self._robot.observed) <= set(known) or self._describe_missing():
            return  # no state of grippers, head or waist yet, or no more
        # without a stamp of its own the state is as old as its arrival
        stamp_ns = (
            message_conversion.to_ns(msg.header.stamp) or self._node.get_clock().now().nanoseconds
        )
        efforts = dict(zip(joints, self._read_arm_efforts(), strict=True))
        self._on_joint_state(
            JointState(
                stamp_ns,
                self._robot.observed,
                np.array([known[name] for name in self._robot.observed]),
                effort=np.array([efforts.get(name, np.nan) for name in self._robot.observed])
                if self._arm_data
                else None,
            )
        )

    def _read_arm_efforts(self) -> np.ndarray:
        """Return the efforts of all arm joints, [arm joints], NaN where none came lately."""
        count = self._motors_per_arm
        return np.concatenate(
            [
                agibot_status.read_efforts(self._arm_data[arm], count)
                if self._is_fresh(arm)
                else np.full(count, np.nan)
                for arm in self._vendor_config['arm_data_topics']
            ]
        )

    def _note(self, source: str, faults: Sequence[str], warnings: Sequence[str]) -> None:
        """Keep what is wrong with one part of the robot, and what is worth a look."""
        for reports, texts in (
            (self._faults_by_source, faults),
            (self._warnings_by_source, warnings),
        ):
            reports.pop(source, None)
            if texts:
                reports[source] = f'{source}: {", ".join(texts)}'

    def _on_arm_data(self, arm_name: str, msg: Any) -> None:
        """Check the state of an arm and of its motors; keep their efforts."""
        self._arm_data[arm_name], self._arrived_s[arm_name] = msg, time.monotonic()
        self._note(
            arm_name,
            agibot_status.find_arm_faults(msg, self._vendor_config),
            agibot_status.find_arm_warnings(msg, self._vendor_config),
        )

    def _on_motion_control(self, msg: Any) -> None:
        """Check the robot's own motion control: its mode and its errors."""
        self._arrived_s[MOTION_CONTROL] = time.monotonic()
        self._note(
            MOTION_CONTROL,
            agibot_status.find_motion_control_faults(msg, self._vendor_config),
            agibot_status.find_motion_control_warnings(msg, self._vendor_config),
        )

    def _on_gripper_state(self, gripper_name: str, msg: Any) -> None:
        """Store one gripper; reject a reading in another unit and clear the stored opening."""
        if not msg.end_state:
            return  # as good as none: it is missed after max_part_age_s
        self._arrived_s[gripper_name] = time.monotonic()
        self._note(gripper_name, (), agibot_status.find_hand_warnings(msg))
        try:
            self._other_positions[gripper_name] = message_conversion.gripper_opening_from_raw(
                msg.end_state[0].position, self._robot.gripper(gripper_name)
            )
        except ValueError as error:
            self._other_positions.pop(gripper_name, None)
            self._faults_by_source[gripper_name] = str(error)

    def _on_body_state(self, part: str, msg: Any) -> None:
        """Take head or waist: by name where the message has names, else in our order."""
        self._arrived_s[part] = time.monotonic()
        joints = self._vendor_config[f'{part}_joints']
        try:
            self._other_positions |= agibot_status.read_body(
                msg, joints, self._vendor_config['joint_names']
            )
            self._note(part, (), ())
        except ValueError as error:
            for name in joints:
                self._other_positions.pop(name, None)
            self._note(part, [str(error)], ())


def _import_vendor_messages() -> Any:
    try:
        return importlib.import_module('genie_msgs.msg')
    except ImportError as error:
        raise ValueError(
            'genie_msgs is not installed, and grippers, head and waist are read through it: build '
            "the messages of the vendor's GDK for this ROS distribution and source them, or set "
            'use_vendor_messages to false and assumed_gripper_opening to what the grippers are now'
        ) from error

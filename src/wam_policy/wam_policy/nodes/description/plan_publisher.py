"""Publish where the newest trajectories and the newest chunk lead: plan/*, for viewers alone.

Notable:
- trajectories are kept as the bytes they came as and read at the rate of plan/*, not at theirs;
- the ghost shows where the plan comes to rest; without a plan it stands where the robot stands;
- contacts are those of the newest chunk as the model asked for it: what motion_node executes
  stops before them.
"""

from collections.abc import Mapping

import numpy as np
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from wam_msgs.msg import ActionChunk
from wam_policy.core.motion.collision_check import CollisionChecker
from wam_policy.core.motion.trajectory import NS_PER_S, PlannedPath, Trajectory, sample_plan
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.kinematic_tree import KinematicTree
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.cdr_reader import read_trajectory
from wam_policy.nodes.description import plan_markers
from wam_policy.nodes.description.demand import OnDemandPublishers
from wam_policy.nodes.description.frame_messages import FrameMessages, make_identity
from wam_policy.nodes.message_conversion import time_to_msg
from wam_policy.nodes.motion import collision_model
from wam_policy.nodes.parameters import DescriptionParams

GHOST_PREFIX = 'plan/'  # of the ghost's frames; RViz calls it TF prefix
TOOL_SUFFIX = '_tool'  # of the links whose paths are shown
MAX_CHUNK_AGE_S = 1.0


class PlanPublisher:
    """Turn trajectories and chunks into messages for viewers."""

    def __init__(
        self,
        node: Node,
        robot: Embodiment,
        tree: KinematicTree,
        params: DescriptionParams,
        outputs: OnDemandPublishers,
    ) -> None:
        self._robot, self._tree, self._params, self._outputs = robot, tree, params, outputs
        self._logger = node.get_logger()
        self._tools = tuple(link for link in tree.links if link.endswith(TOOL_SUFFIX))
        self._raw: dict[str, bytes] = {}  # newest trajectory by source
        self._trajectories: dict[str, Trajectory] = {}
        self._raw_chunk: bytes | None = None
        self._ghost_frames = FrameMessages(tree.joints, GHOST_PREFIX)
        self._checker: CollisionChecker | None = None
        self._shown: set[str] = set()  # topics whose viewers have something to delete
        outputs.add('joint_states', JointState, 'plan/joint_states', qos.PREVIEW)
        outputs.add('markers', MarkerArray, 'plan/markers', qos.PREVIEW)
        outputs.add('contacts', MarkerArray, 'plan/contacts', qos.PREVIEW)
        for tool in self._tools:
            topic = f'plan/{tool.removesuffix(TOOL_SUFFIX)}_path'
            outputs.add(tool, Path, topic, qos.PREVIEW)

    def on_trajectory(self, source: str, raw: bytes) -> None:
        """Keep the newest of one controller."""
        self._raw[source] = raw

    def on_chunk(self, raw: bytes) -> None:
        """Keep the newest."""
        self._raw_chunk = raw

    def publish(self, measured: Mapping[str, float], stamp_ns: int, now_ns: int) -> None:
        """Publish what somebody subscribes to; needs every observed joint in `measured`."""
        if any(name not in measured for name in self._robot.observed):
            return
        plan = sample_plan(self._read_trajectories(), self._robot.observed, measured, now_ns)
        goal = dict(measured) if plan is None else plan.goal
        if self._outputs.is_wanted('joint_states'):
            self._outputs.publish('joint_states', _make_joint_state(goal, now_ns))
        if self._outputs.is_wanted('frames'):
            message = self._ghost_frames.make_message(goal, stamp_ns)
            root = make_identity(self._tree.root, GHOST_PREFIX + self._tree.root)
            root.header.stamp = time_to_msg(stamp_ns)
            self._outputs.publish('frames', TFMessage(transforms=[root, *message.transforms]))
        self._publish_paths(plan, now_ns)
        if self._outputs.is_wanted('contacts'):
            self._publish_contacts(measured, now_ns)

    def _read_trajectories(self) -> list[Trajectory]:
        """Return the newest trajectory of each controller; one that is not ours is left out."""
        pending, self._raw = self._raw, {}
        for source, raw in pending.items():
            try:
                self._trajectories[source] = read_trajectory(raw)
            except ValueError as error:
                self._trajectories.pop(source, None)
                self._logger.warning(f'{source}: {error}', throttle_duration_sec=10.0)
        return list(self._trajectories.values())

    def _publish_paths(self, plan: PlannedPath | None, now_ns: int) -> None:
        outputs, root = self._outputs, self._tree.root
        wanted = [tool for tool in self._tools if outputs.is_wanted(tool)]
        if plan is None:
            for tool in wanted:
                if tool in self._shown:
                    empty = np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 4))
                    outputs.publish(tool, plan_markers.make_path(root, now_ns, *empty))
            if outputs.is_wanted('markers') and 'markers' in self._shown:
                outputs.publish('markers', plan_markers.make_deletion(root, now_ns))
            self._shown -= {'markers', *wanted}
            return
        needed = self._tools if outputs.is_wanted('markers') else wanted
        poses = {
            tool: self._tree.compute_path(tool, plan.names, plan.positions, {}) for tool in needed
        }
        for tool in wanted:
            outputs.publish(
                tool, plan_markers.make_path(root, now_ns, plan.times_ns, *poses[tool])
            )
        if outputs.is_wanted('markers'):
            lines = [(tool, positions) for tool, (positions, _) in poses.items()]
            outputs.publish(
                'markers',
                plan_markers.make_tool_markers(root, now_ns, lines, plan.count_past(now_ns)),
            )
        self._shown |= {'markers', *wanted}

    def _publish_contacts(self, measured: Mapping[str, float], now_ns: int) -> None:
        raw, self._raw_chunk = self._raw_chunk, None
        if raw is None or self._params.collision_check == 'none':
            return
        message = self._find_contact(raw, measured, now_ns)
        if message is None and 'contacts' in self._shown:
            self._outputs.publish('contacts', plan_markers.make_deletion(self._tree.root, now_ns))
            self._shown.discard('contacts')
        elif message is not None:
            self._outputs.publish('contacts', message)
            self._shown.add('contacts')

    def _find_contact(
        self, raw: bytes, measured: Mapping[str, float], now_ns: int
    ) -> MarkerArray | None:
        """Return markers at the first contact that the chunk leads to, or None."""
        robot = self._robot
        try:
            chunk = message_conversion.chunk_from_msg(deserialize_message(raw, ActionChunk))
            columns = [chunk.names.index(name) for name in robot.commanded]
            if self._checker is None:  # loads mujoco: only where somebody looks
                self._checker = collision_model.make_collision_checker(robot, self._params)
        except ValueError as error:
            self._logger.warning(f'no contacts: {error}', throttle_duration_sec=10.0)
            return None
        age_s = (now_ns - chunk.stamp_ns) / NS_PER_S
        if self._checker is None or not 0.0 <= age_s <= MAX_CHUNK_AGE_S:
            return None
        here = [measured[name] for name in robot.commanded]
        path = np.vstack([here, chunk.targets[:, columns]])
        still = np.array([measured[name] for name in robot.observed[len(robot.commanded) :]])
        contact = self._checker.find_first_contact(path, still)
        if contact is None:
            return None
        point = self._checker.locate_pair(path[contact.row], still, contact.pair)
        due_s = contact.row * chunk.step_dt_s - age_s
        text = f'{contact.pair} in {due_s:.1f} s'
        return plan_markers.make_contact_markers(self._tree.root, now_ns, point, text)


def _make_joint_state(positions: Mapping[str, float], now_ns: int) -> JointState:
    message = JointState(name=list(positions), position=list(positions.values()))
    message.header.stamp = time_to_msg(now_ns)
    return message

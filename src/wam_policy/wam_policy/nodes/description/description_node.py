"""description_node: the robot and its plan as viewers draw them; nothing depends on it.

Notable:
- messages are made only while somebody subscribes, and inputs are subscribed to only then;
- joint states are read at the rate of /tf, not at that of the robot;
- it computes nothing that motion needs and runs in a process of its own.
"""

from collections import deque
from functools import partial

from diagnostic_updater import Updater
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from wam_msgs.msg import ActionChunk
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.kinematic_tree import KinematicTree
from wam_policy.nodes import parameters, qos, robot_parameters
from wam_policy.nodes.callback_guard import CallbackGuard
from wam_policy.nodes.description.demand import OnDemandPublishers
from wam_policy.nodes.description.frame_messages import FrameMessages
from wam_policy.nodes.description.plan_publisher import PlanPublisher
from wam_policy.nodes.message_conversion import to_ns
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.parameters import DescriptionParams
from wam_policy.nodes.run_node import run_node
from wam_policy.robot_names import add_namespace

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
DEMAND_PERIOD_S = 0.5  # how long a new viewer may wait for its first message
PARTS = 8  # joint states kept between two readings: of several publishers, each with a part


class DescriptionNode(LifecycleNode):
    """Publish robot_description, frames and plan previews."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('description', context=context)
        self._now_ns = NodeClock(self.get_clock())
        self._outputs = OnDemandPublishers(self)
        self._inputs: list[Subscription] = []
        self._tickers: list[Timer] = []
        self._plan: PlanPublisher | None = None
        self._joint_states: deque[bytes] = deque(maxlen=PARTS)
        self._measured: dict[str, float] = {}
        self._stamp_ns = 0
        self._params = parameters.read(self, DescriptionParams)  # early: visible unconfigured
        parameters.add_on_change_callback(
            self, DescriptionParams, lambda: bool(self._tickers), self._on_params
        )
        updater = Updater(self)
        updater.setHardwareID('none')
        self.guard = CallbackGuard(self, updater, release=self.close)

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, DescriptionParams)
            self._robot = robot_parameters.load_robot(self, given)
            self._urdf = embodiment.load_urdf(given.embodiment)
            tree = KinematicTree.from_urdf(self._urdf)
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        moving = [joint for joint in tree.joints if joint.type != 'fixed']
        self._wanted_joints = tree.sources
        self._fixed_frames = FrameMessages(
            [joint for joint in tree.joints if joint.type == 'fixed']
        )
        self._moving_frames = FrameMessages(moving)
        name = partial(add_namespace, given.robot_namespace)
        self._outputs.add('frames', TFMessage, name('/tf'), qos.FRAMES)
        if given.publish_frames:
            self._outputs.add('fixed_frames', TFMessage, name('/tf_static'), qos.LATCHED)
            self._outputs.add('description', String, name('/robot_description'), qos.LATCHED)
        self._plan = PlanPublisher(self, self._robot, tree, given, self._outputs)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._params.publish_frames:
            self._outputs.publish('description', String(data=self._urdf))
            self._outputs.publish(
                'fixed_frames', self._fixed_frames.make_message({}, self._now_ns())
            )
        self._open_inputs()
        self._tickers = [
            self.create_timer(1.0 / self._params.frame_rate_hz, self._on_frame_timer),
            self.create_timer(1.0 / self._params.plan_rate_hz, self._on_plan_timer),
            self.create_timer(DEMAND_PERIOD_S, self._on_demand_timer),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_activity()
        return super().on_deactivate(state)

    def close(self) -> None:
        """Undo the configuration, as far as there is one."""
        self._end_activity()
        self._outputs.close()
        self._plan = None

    def _end_activity(self) -> None:
        for timer in self._tickers:
            self.destroy_timer(timer)
        self._tickers = []
        self._close_inputs()

    # inputs

    def _open_inputs(self) -> None:
        plan = self._plan
        if self._inputs or plan is None:
            return
        new = partial(self.create_subscription, raw=True)
        topic = robot_parameters.find_joint_states_topic(self._params)
        self._inputs = [
            new(JointState, topic, self._on_joint_state, qos.JOINTS),
            new(ActionChunk, 'action_chunk', plan.on_chunk, qos.CHUNK),
            new(
                JointTrajectory,
                'motion/dry_run_trajectory',
                partial(plan.on_trajectory, 'dry run'),
                qos.TRAJECTORY,
            ),
            *(
                new(
                    JointTrajectory,
                    controller.topic,
                    partial(plan.on_trajectory, controller.name),
                    qos.TRAJECTORY,
                )
                for controller in self._robot.controllers
            ),
        ]

    def _close_inputs(self) -> None:
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self.destroy_subscription(subscription)
        self._joint_states.clear()
        self._measured.clear()  # what is measured later must not mix with it

    def _on_joint_state(self, raw: bytes) -> None:
        self._joint_states.append(raw)

    def _on_params(self, changed: DescriptionParams) -> None:
        self._params = changed

    # outputs

    def _on_demand_timer(self) -> None:
        is_anything_wanted = self._outputs.refresh()
        if is_anything_wanted:
            self._open_inputs()
        else:
            self._close_inputs()

    def _on_frame_timer(self) -> None:
        if not (self._params.publish_frames and self._outputs.is_wanted('frames')):
            return
        if self._read_joint_states():
            self._outputs.publish(
                'frames', self._moving_frames.make_message(self._measured, self._stamp_ns)
            )

    def _on_plan_timer(self) -> None:
        if not self._inputs or self._plan is None:
            return
        self._read_joint_states()
        if self._measured:
            self._plan.publish(self._measured, self._stamp_ns, self._now_ns())

    def _read_joint_states(self) -> bool:
        """Take what came since the last reading; return whether a joint of ours was in it."""
        arrived = list(self._joint_states)
        self._joint_states.clear()
        missing, is_new = set(self._wanted_joints), False
        for raw in reversed(arrived):
            message = deserialize_message(raw, JointState)
            found = missing.intersection(message.name)
            if not found:
                continue
            self._measured |= {
                name: position
                for name, position in zip(message.name, message.position, strict=False)
                if name in found and position == position  # NaN: not reported
            }
            self._stamp_ns = (
                max(self._stamp_ns, to_ns(message.header.stamp))
                if is_new
                else (to_ns(message.header.stamp))
            )
            missing -= found
            is_new = True
            if not missing:
                break
        return is_new


def main(args: list[str] | None = None) -> None:
    """Run until SIGINT or SIGTERM."""
    run_node(DescriptionNode, 'description', args)


if __name__ == '__main__':
    main()

"""stream_node: the controllers of a robot whose own interface wants a stream of joint positions.

Notable:
- takes the same trajectories as joint_trajectory_controller, by the same rules (core.follower);
- publishes the robot's posture as joint_states, in our names and units, even in a dry run;
- a loop of its own sends a set-point at the vendor's rate; it holds when anything is wrong;
- what the driver finds wrong (heat, error flags) is told on robot_fault: motion_node stops for it;
- deactivating stops sending: the robot's own interface then keeps the last set-point.
"""

import threading
from functools import partial
from typing import Any

import numpy as np
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion import motion_health
from wam_policy.core.motion.setpoint_stream import SetpointStream
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.policy_health import DiagnosticLevel
from wam_policy.core.types import JointState, Setpoint
from wam_policy.nodes import message_conversion, parameters, qos
from wam_policy.nodes.callback_guard import CallbackGuard
from wam_policy.nodes.controller_parameters import ControllerParameterServer
from wam_policy.nodes.motion.control_loop import ControlLoop, set_realtime_priority
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.parameters import StreamParams
from wam_policy.nodes.run_node import run_node
from wam_policy.nodes.stream.agibot_gdk import AgibotGdk
from wam_policy.nodes.stream.yam_i2rt import YamI2rt

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ADAPTERS = {'agibot_gdk': AgibotGdk, 'i2rt': YamI2rt}
CHECK_PERIOD_S = 0.1
REPORT_PERIOD_S = 0.02  # motion_node waits for a report after each command's switch


class StreamNode(LifecycleNode):
    """Be the trajectory controllers of a robot that has none."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('stream', context=context)
        self._now_ns = NodeClock(self.get_clock())
        self._params: StreamParams | None = None
        self._robot: Embodiment | None = None
        self._adapter: AgibotGdk | YamI2rt | None = None
        self._control_loop: ControlLoop | None = None
        self._joint_state_publisher: Any = None
        self._lock = threading.RLock()  # an adapter may read within a tick, or by itself
        self._sending = False
        self._logged_reason = ''
        parameters.read(self, StreamParams)  # declared early: visible before configuration
        parameters.add_on_change_callback(
            self, StreamParams, lambda: self._adapter is not None, self._on_params
        )
        self._updater = Updater(self)
        self._updater.setHardwareID('none')
        self._own_fault = ''  # what a callback raised since the node was configured
        self.guard = CallbackGuard(self, self._updater, self._on_fault)

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, StreamParams)
            self._robot = robot = embodiment.load_embodiment(given.embodiment)
            kind = ADAPTERS.get(robot.vendor.get('adapter'))
            if kind is None:
                raise ValueError(
                    f'{robot.name} has no adapter of {", ".join(ADAPTERS)}; its '
                    'controllers must come from ros2_control'
                )
            self._stream, self._own_fault = SetpointStream(robot), ''
            self._joint_state_publisher = self.create_publisher(
                JointStateMsg, given.joint_states_topic, qos.JOINTS
            )
            self._adapter = kind(self, robot, self._on_joint_state)
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            if self._joint_state_publisher is not None:
                self.destroy_publisher(self._joint_state_publisher)
                self._joint_state_publisher = None
            return FAILURE
        self._inputs = [
            self.create_subscription(
                JointTrajectory,
                controller.topic,
                partial(self._on_trajectory, controller.name),
                qos.TRAJECTORY,
            )
            for controller in robot.controllers
        ]
        self._controller_state_publishers = {
            controller.name: self.create_publisher(
                JointTrajectoryControllerState, controller.state_topic, qos.JOINTS
            )
            for controller in robot.controllers
        }
        self._parameter_server = ControllerParameterServer(
            self, robot, round(robot.vendor['stream_hz'])
        )
        self._updater.setHardwareID(robot.name)
        self._updater.add('stream', self._diagnose)
        self._check_timer = self.create_timer(
            CHECK_PERIOD_S, self._on_check_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._report_timer = self.create_timer(
            REPORT_PERIOD_S, self._on_report_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._fault_publisher = self.create_publisher(String, 'robot_fault', qos.LATCHED)
        self._published_fault: str | None = None
        self._control_loop = ControlLoop(self._tick, 1.0 / robot.vendor['stream_hz'])
        self._control_loop.start()  # reads from here on; sends when active
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to send, from the measured posture on; refuse while the robot's state is wrong."""
        with self._lock:
            if self._adapter.fault:  # that nothing has come yet is not one
                self.get_logger().error(f'cannot be activated: {self._adapter.fault}')
                return FAILURE
            self._stream.reset()
            self._sending = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        with self._lock:
            self._sending = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_error(state)

    def close(self) -> None:
        """Stop sending and let go of the robot; the node is of no use afterwards."""
        self._release()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        if self._control_loop is None:
            return
        self._sending = False
        self._control_loop.close()
        self._control_loop = None
        self._adapter.close()
        self._adapter = None
        self._parameter_server.close()
        for timer in (self._check_timer, self._report_timer):
            self.destroy_timer(timer)
        self._updater.removeByName('stream')
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for publisher in (
            self._joint_state_publisher,
            self._fault_publisher,
            *self._controller_state_publishers.values(),
        ):
            self.destroy_publisher(publisher)

    # inputs

    def _on_trajectory(self, controller: str, msg: JointTrajectory) -> None:
        with self._lock:
            if self._sending:
                self._stream.accept(controller, msg, self._now_ns())

    def _on_joint_state(self, state: JointState) -> None:
        """Publish the robot's posture; the adapter calls this where it learns of it."""
        with self._lock:
            self._stream.on_joints(state, self._now_ns())
        self._joint_state_publisher.publish(message_conversion.joint_state_to_msg(state))

    def _on_params(self, changed: StreamParams) -> None:
        self._params = changed

    def _on_fault(self, reason: str) -> None:
        """Tell motion_node with the next check, which stops the robot; sending goes on."""
        self._own_fault = f'fault in stream_node: {reason}'

    # outputs

    def _tick(self) -> None:
        with self._lock:
            self._adapter.read()
            setpoint = self._stream.tick(self._now_ns()) if self._sending else None
            if setpoint is None or not self._params.enable_motion:
                return
            self._adapter.send(setpoint)

    def _on_check_timer(self) -> None:
        """Report once per change."""
        with self._lock:
            fault = self._describe_fault()
            reason = fault or self._stream.reason
        if fault != self._published_fault:  # motion_node stops for it
            self._published_fault = fault
            self._fault_publisher.publish(String(data=fault))
        if reason != self._logged_reason:
            self._logged_reason = reason
            self.get_logger().info(reason)

    def _describe_fault(self) -> str:
        """Return what is wrong with robot or stream.

        A loop that failed does not end the process: drivers hold the last set-point only as long
        as it lives.
        """
        if self._control_loop.error is not None:
            return f'the stream ended by a fault of its own: {self._control_loop.error!r}'
        return self._adapter.fault or self._own_fault

    def _on_report_timer(self) -> None:
        """Say what the controllers follow: the set-point sent last, stamped with its tick."""
        with self._lock:
            stream = self._stream
            if stream.setpoint is None:
                return
            stamp_ns, measured = stream.sent_ns, stream.joint_monitor.position
            sent = np.stack([stream.setpoint, *stream.setpoint_rates])
        for controller in self._robot.controllers:
            columns = stream.columns[controller.name]
            msg = message_conversion.setpoint_to_msg(
                Setpoint(controller.name, stamp_ns, *sent[:, columns]), controller
            )
            msg.feedback.positions = measured[columns].tolist()
            msg.error.positions = (sent[0] - measured)[columns].tolist()
            self._controller_state_publishers[controller.name].publish(msg)

    def _diagnose(self, out: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        adapter, loop = self._adapter, self._control_loop
        if adapter is None or loop is None:
            return out
        with self._lock:
            fault, reason = self._describe_fault(), self._stream.reason
            following, rejected = self._stream.is_following, self._stream.rejected
        level, timing = motion_health.diagnose_loop(loop.jitter_p99_ms, loop.late_ticks)
        out.summary(bytes([DiagnosticLevel.ERROR if fault else level]), fault or reason)
        for key, value in (
            ('sending', self._sending and self._params.enable_motion),
            ('following', following),
            ('rejected', rejected),
            ('loop', timing),
            *adapter.describe().items(),
        ):
            out.add(key, str(value))
        return out


def main(args: list[str] | None = None) -> None:
    set_realtime_priority()
    run_node(StreamNode, args)


if __name__ == '__main__':
    main()

"""stream_node: the controllers of a robot whose own interface wants a stream of joint positions.

Notable:
- takes the same trajectories as joint_trajectory_controller, by the same rules (jtc_emulator);
- serves only the controllers that the robot lacks: with ros2_control its grippers';
- publishes the robot's joint states in our names and units, even in a dry run;
- a loop of its own sends a set-point at the vendor's rate; it holds when anything is wrong;
- faults of the driver (heat, error flags) go out on robot_fault: motion_node stops for them;
- deactivating and ending let the trajectory that is followed come to its rest first;
- a driver that must stay open to hold the arms up is closed on ~/release only, see arm_holder.py.
  Until then the process goes on, whatever ends around it; stream_process starts it apart from
  the launch for that reason.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from lifecycle_msgs.msg import State
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from wam_policy.core.motion import motion_state
from wam_policy.core.motion.setpoint_stream import SetpointStream
from wam_policy.core.robot.embodiment import Controller, Embodiment
from wam_policy.core.session.policy_health import DiagnosticLevel
from wam_policy.core.types import JointState, Setpoint
from wam_policy.nodes import message_conversion, parameters, qos, robot_parameters
from wam_policy.nodes.callback_guard import CallbackGuard, NotConfiguredError
from wam_policy.nodes.controller_parameters import ControllerParameterServer
from wam_policy.nodes.motion.control_loop import ControlLoop, set_realtime_priority
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.parameters import StreamParams
from wam_policy.nodes.run_node import run_node
from wam_policy.nodes.stream import start_record
from wam_policy.nodes.stream.agibot_gdk import AgibotGdk
from wam_policy.nodes.stream.arm_holder import ArmHolder
from wam_policy.nodes.stream.driver_status_publisher import DriverStatusPublisher
from wam_policy.nodes.stream.ros2_control_gripper import Ros2ControlGripper
from wam_policy.nodes.stream.yam_i2rt import YamI2rt

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ADAPTERS = {'agibot_gdk': AgibotGdk, 'i2rt': YamI2rt, 'ros2_control': Ros2ControlGripper}
CHECK_PERIOD_S = 0.1
REPORT_PERIOD_S = 0.02  # motion_node waits for a report after each command's switch


@dataclass(frozen=True, slots=True)
class _ConfiguredStream:
    """Hold what exists from configuration to cleanup."""

    robot: Embodiment
    stream: SetpointStream
    holder: ArmHolder
    control_loop: ControlLoop
    publishers: list[Publisher]
    fault_publisher: Publisher
    driver_status: DriverStatusPublisher
    inputs: list[Subscription]
    state_publishers: list[tuple[Controller, Publisher]]
    timers: list[Timer]
    parameter_server: ControllerParameterServer


class StreamNode(LifecycleNode):
    """Be the trajectory controllers that a robot lacks."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('stream', context=context)
        self._now_ns = NodeClock(self.get_clock())
        self._configured: _ConfiguredStream | None = None
        self._lock = threading.RLock()  # an adapter may read within a tick, or by itself
        self._sending = False  # while trajectories are accepted and set-points sent
        self._coming_to_rest = False  # set-points are still sent, until the trajectory has ended
        self._ending = False  # the process was requested to end
        self._is_taken_over = False  # what is configured is the next start's
        self._starter: int | None = None  # handle of the program that took this one over
        self._is_opening = False
        self._logged_reason = ''
        self._published_fault: str | None = None
        self._params = parameters.read(self, StreamParams)  # early: visible before configuration
        parameters.add_on_change_callback(
            self, StreamParams, lambda: self._configured is not None, self._on_params
        )
        self.create_service(Trigger, '~/release', self._on_release)
        self._updater = Updater(self)
        self._updater.setHardwareID('none')
        self._own_fault = ''  # what a callback raised since the node was configured
        self.guard = CallbackGuard(self, self._updater, self._on_fault)

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        kept = self._configured  # after an error: the arms are still held
        if kept is not None and self._is_taken_over:
            self._is_taken_over = False
            return super().on_configure(state)
        if self._ending or (kept is not None and kept.holder.is_holding):
            reason = (
                kept.holder.describe() if kept is not None else 'the process was requested to end'
            )
            self.get_logger().error(f'cannot be configured: {reason}')
            return FAILURE
        self._close_configured()
        self._is_opening = True  # takes seconds
        try:
            return self._configure(state)
        finally:
            self._is_opening = False

    def _configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        joint_state_publisher: Publisher | None = None
        try:
            self._params = given = parameters.read(self, StreamParams)
            robot = robot_parameters.load_robot(self, given)
            kind = ADAPTERS.get(robot.vendor.get('adapter', ''))
            if kind is None:
                raise ValueError(f'{robot.name} has no adapter of {", ".join(ADAPTERS)}')
            if 'served_controllers' in robot.vendor:  # the others are ros2_control's
                robot = robot.with_controllers(robot.vendor['served_controllers'])
            stream, self._own_fault = SetpointStream(robot), ''
            joint_state_publisher = self.create_publisher(
                JointStateMsg, robot_parameters.find_joint_states_topic(given), qos.JOINTS
            )
            adapter = kind(
                self, robot, partial(self._on_joint_state, joint_state_publisher, stream)
            )
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            if joint_state_publisher is not None:
                self.destroy_publisher(joint_state_publisher)
            return FAILURE
        self._configure_with(robot, stream, adapter, joint_state_publisher)
        return super().on_configure(state)

    def _configure_with(
        self,
        robot: Embodiment,
        stream: SetpointStream,
        adapter: AgibotGdk | YamI2rt | Ros2ControlGripper,
        joint_state_publisher: Publisher,
    ) -> None:
        """Create what needs the open adapter, and start to read."""
        fault_publisher = self.create_publisher(String, 'robot_fault', qos.LATCHED)
        driver_status = DriverStatusPublisher(self, robot.name, adapter)
        state_publishers = [
            (
                controller,
                self.create_publisher(
                    JointTrajectoryControllerState, controller.state_topic, qos.JOINTS
                ),
            )
            for controller in robot.controllers
        ]
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._configured = configured = _ConfiguredStream(
            robot,
            stream,
            ArmHolder(adapter, f'{self.get_fully_qualified_name()}/release'),
            # reads from here on; sends when active
            ControlLoop(self.guard.wrap(self._tick), 1.0 / robot.vendor['stream_hz']),
            publishers=[
                joint_state_publisher,
                fault_publisher,
                driver_status.publisher,
                *(publisher for _, publisher in state_publishers),
            ],
            fault_publisher=fault_publisher,
            driver_status=driver_status,
            inputs=[
                self.create_subscription(
                    JointTrajectory,
                    controller.topic,
                    partial(self._on_trajectory, controller.name),
                    qos.TRAJECTORY,
                )
                for controller in robot.controllers
            ],
            state_publishers=state_publishers,
            timers=[
                self.create_timer(CHECK_PERIOD_S, self._on_check_timer, clock=steady),
                self.create_timer(REPORT_PERIOD_S, self._on_report_timer, clock=steady),
            ],
            parameter_server=ControllerParameterServer(
                self, robot, round(robot.vendor['stream_hz'])
            ),
        )
        self._published_fault = None
        self._updater.setHardwareID(robot.name)
        self._updater.add('stream', self._diagnose)
        configured.control_loop.start()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to send, from the measured position on; refuse while its state is wrong."""
        configured = self._require_configured()
        with self._lock:
            fault = configured.holder.describe_released() or configured.holder.adapter.fault
            if fault:  # that nothing has come yet is not one
                self.get_logger().error(f'cannot be activated: {fault}')
                return FAILURE
            configured.stream.reset()
            self._sending, self._coming_to_rest = True, False
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._come_to_rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        configured = self._require_configured()
        if self._is_taken_over:
            return super().on_cleanup(state)
        if configured.holder.is_holding:
            self.get_logger().error(f'cannot be cleaned up: {configured.holder.describe()}')
            return FAILURE
        self._close_configured()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close_unless_holding()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close_unless_holding()
        return super().on_error(state)

    def may_exit(self) -> bool:
        """Tell whether the process may end; the first call asks the node to prepare for it.

        False while a trajectory is being followed, and while nothing but this process's driver
        holds the arms up.
        """
        if self._is_opening:
            return False
        if not self._ending:
            self._ending = True
            self._come_to_rest()
            if self._configured is not None and self._configured.holder.is_holding:
                self.get_logger().warning(
                    f'requested to end: {self._configured.holder.describe()} '
                    f'(process {os.getpid()})'
                )
        configured = self._configured
        if configured is None:
            return True
        return not self._is_moving() and not configured.holder.is_holding

    def take_over(self) -> bool:
        """Become the node of the next start: not configured, with the driver open.

        The launch then configures and activates it. Refused, with a log message, unless it holds
        arms at rest.
        """
        configured = self._configured
        machine = self._state_machine
        if configured is not None and configured.holder.is_holding and not self._is_moving():
            self._is_taken_over = True
            if machine.current_state[0] == State.PRIMARY_STATE_ACTIVE:
                self.trigger_deactivate()
            if machine.current_state[0] == State.PRIMARY_STATE_INACTIVE:
                self.trigger_cleanup()
            self._is_taken_over = machine.current_state[0] == State.PRIMARY_STATE_UNCONFIGURED
        if not self._is_taken_over:
            self.get_logger().error(
                'cannot be taken over by the next start: it holds no arm, the arms move, or '
                'it was shut down'
            )
            return False
        self._ending, self._starter = False, start_record.open_starter()
        return True

    def close(self) -> None:
        """Stop sending and let go of the robot; the node is of no use afterwards."""
        self._close_configured()

    def _come_to_rest(self) -> None:
        """Follow what was accepted to its end, which is at rest; a stop may still replace it."""
        with self._lock:
            self._coming_to_rest = self._sending
            self._sending = False

    def _is_moving(self) -> bool:
        configured = self._configured
        with self._lock:
            return (
                configured is not None
                and (self._sending or self._coming_to_rest)
                and configured.control_loop.error is None
                and configured.stream.is_following
            )

    def _close_unless_holding(self) -> None:
        if self._configured is not None and self._configured.holder.is_holding:
            self._come_to_rest()
            self.get_logger().warning(self._configured.holder.describe())
            return
        self._close_configured()

    def _close_configured(self) -> None:
        """Undo the configuration, as far as there is one."""
        configured = self._configured
        if configured is None:
            return
        self._sending = self._coming_to_rest = False
        configured.control_loop.close()
        configured.holder.close()
        configured.parameter_server.close()
        self._configured = None
        for timer in configured.timers:
            self.destroy_timer(timer)
        self._updater.removeByName('stream')
        for subscription in configured.inputs:
            self.destroy_subscription(subscription)
        for publisher in configured.publishers:
            self.destroy_publisher(publisher)

    def _require_configured(self) -> _ConfiguredStream:
        if self._configured is None:
            raise NotConfiguredError('stream_node: not configured; configure it first')
        return self._configured

    # inputs

    def _on_trajectory(self, controller: str, msg: JointTrajectory) -> None:
        with self._lock:
            if self._configured is not None and (self._sending or self._is_moving()):
                self._configured.stream.accept(controller, msg, self._now_ns())

    def _on_joint_state(
        self, publisher: Publisher, stream: SetpointStream, state: JointState
    ) -> None:
        """Publish the robot's joint states; the adapter calls this where it learns of them."""
        with self._lock:
            stream.on_joints(state, self._now_ns())
        publisher.publish(message_conversion.joint_state_to_msg(state))

    def _on_params(self, changed: StreamParams) -> None:
        self._params = changed

    def _on_fault(self, reason: str) -> None:
        """Tell motion_node with the next check, which stops the robot; sending goes on."""
        self._own_fault = f'fault in stream_node: {reason}'

    def _on_release(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Close the driver, at rest only and never under a running stack."""
        configured = self._configured
        if configured is None or not configured.holder.is_holding:
            response.success, response.message = True, 'no arm is held by this process'
            return response
        with self._lock:
            refusal = self._find_release_refusal(configured)
            if not refusal:
                self._sending = self._coming_to_rest = False
                configured.holder.close()
        response.success = not refusal
        response.message = refusal or 'released: the arms have no torque'
        self.get_logger().warning(f'release: {response.message}')
        return response

    def _find_release_refusal(self, configured: _ConfiguredStream) -> str:
        if self._sending:
            return (
                'refused: the stack is running; end it first (Ctrl-C at the launch), or '
                'deactivate this node'
            )
        if self._is_moving():
            return 'refused: the arms still follow a trajectory'
        if configured.holder.adapter.fault:
            return ''  # what is measured cannot be relied on
        moving = configured.stream.joint_monitor.check_at_rest()
        return f'refused: {moving}' if moving else ''

    # outputs

    def _tick(self) -> None:
        configured = self._configured
        if configured is None:
            return
        with self._lock:
            holder, stream = configured.holder, configured.stream
            if not holder.is_open:
                return
            holder.adapter.read()
            if not self._sending and not self._coming_to_rest:
                return
            setpoint = stream.tick(self._now_ns())
            if setpoint is not None and self._params.enable_motion:
                holder.adapter.send(setpoint)
            if self._coming_to_rest and not stream.is_following:
                self._coming_to_rest = False

    def _on_check_timer(self) -> None:
        """Report once per change; release arms that cannot be held much longer."""
        configured = self._require_configured()
        if self._starter is not None and start_record.has_ended(self._starter):
            self._starter = None
            os.kill(
                os.getpid(), signal.SIGINT
            )  # as the end of the first one, see detached_process
        with self._lock:
            fault = self._describe_fault(configured)
            reason = fault or configured.stream.reason
            if not self._is_moving() and configured.holder.check(time.monotonic()):
                self._sending = self._coming_to_rest = False
                configured.holder.close()
        for line in configured.holder.take_messages():
            self.get_logger().error(line)
        if fault != self._published_fault:  # motion_node stops for it
            self._published_fault = fault
            configured.fault_publisher.publish(String(data=fault))
        with self._lock:
            configured.driver_status.update(fault)
        if reason != self._logged_reason:
            self._logged_reason = reason
            self.get_logger().info(reason)

    def _describe_fault(self, configured: _ConfiguredStream) -> str:
        """Return what is wrong with robot or stream.

        A loop that failed does not end the process: drivers hold the last set-point only as long
        as it lives.
        """
        if configured.control_loop.error is not None:
            return f'the stream ended by a fault of its own: {configured.control_loop.error!r}'
        holder = configured.holder
        return holder.describe_released() or holder.adapter.fault or self._own_fault

    def _on_report_timer(self) -> None:
        """Publish what the controllers follow: the set-point sent last, stamped with its tick."""
        configured = self._require_configured()
        with self._lock:
            stream = configured.stream
            if stream.setpoint is None or stream.sent_ns is None:
                return
            stamp_ns, measured = stream.sent_ns, stream.joint_monitor.position
            sent = np.stack([stream.setpoint, *stream.setpoint_rates])
        for controller, publisher in configured.state_publishers:
            columns = stream.columns[controller.name]
            msg = message_conversion.setpoint_to_msg(
                Setpoint(controller.name, stamp_ns, *sent[:, columns]), controller
            )
            msg.feedback.positions = measured[columns].tolist()
            msg.error.positions = (sent[0] - measured)[columns].tolist()
            publisher.publish(msg)

    def _diagnose(self, out: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        configured = self._require_configured()
        with self._lock:
            fault, reason = self._describe_fault(configured), configured.stream.reason
            following, rejected = configured.stream.is_following, configured.stream.rejected
        loop = configured.control_loop
        level, timing = motion_state.diagnose_loop(loop.jitter_p99_ms, loop.late_ticks)
        warning = configured.holder.warning
        if configured.driver_status.describe():
            level = max(level, DiagnosticLevel.WARN)
        out.summary(
            bytes([DiagnosticLevel.ERROR if fault or warning else level]),
            warning or fault or reason,
        )
        for key, value in (
            ('sending', self._sending and self._params.enable_motion),
            ('held', configured.holder.describe()),
            ('following', following),
            ('rejected', rejected),
            ('loop', timing),
            *configured.driver_status.describe().items(),
        ):
            out.add(key, str(value))
        return out


def main(args: list[str] | None = None) -> None:
    set_realtime_priority()
    may_exit, take_over = StreamNode.may_exit, StreamNode.take_over
    run_node(StreamNode, 'stream', args, may_exit=may_exit, take_over=take_over)


if __name__ == '__main__':
    main()

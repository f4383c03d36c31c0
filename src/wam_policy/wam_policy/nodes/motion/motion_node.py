"""motion_node: chunks in, trajectories out that keep every limit and end at rest.

Notable:
- what moves is decided in core.motion, under one lock; callbacks only file what arrives;
- a loop of its own watches at rate_hz, another thread plans and publishes (planner);
- the loop publishes nothing that keeps the robot safe: what was sent before ends at rest.
"""

import threading
from dataclasses import replace
from functools import partial

from control_msgs.msg import JointTrajectoryControllerState
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, String
from std_srvs.srv import SetBool, Trigger

from wam_msgs.msg import ActionChunk, DriverStatus, MotionStatus, PolicyStatus
from wam_policy.core.motion.motion_control import MotionControl, MotionSnapshot
from wam_policy.core.motion.motion_state import MotionState
from wam_policy.core.observation.joint_state_merger import JointStateMerger
from wam_policy.core.robot.embodiment import Controller, Embodiment
from wam_policy.core.robot.safety_checks import SafetyChecks
from wam_policy.nodes import message_conversion, parameters, qos, robot_parameters
from wam_policy.nodes.callback_guard import CallbackGuard, NotConfiguredError
from wam_policy.nodes.motion import collision_model, motion_status
from wam_policy.nodes.motion.control_loop import ControlLoop, set_realtime_priority
from wam_policy.nodes.motion.controller_monitor import ControllerMonitor
from wam_policy.nodes.motion.joystick_input import JoystickInput
from wam_policy.nodes.motion.motion_diagnostics import MotionDiagnostics
from wam_policy.nodes.motion.motion_records import ActiveMotion, ConfiguredMotion
from wam_policy.nodes.motion.planner_thread import PlannerThread
from wam_policy.nodes.motion.silent_policy import SilentPolicy
from wam_policy.nodes.motion.trajectory_publisher import TrajectoryPublisher
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.parameters import MotionParams
from wam_policy.nodes.run_node import freeze_gc, run_node

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
# policy states in which no chunk comes for now: rest at once instead of at the chunk's end
POLICY_PAUSED_STATES = (
    PolicyStatus.UNCONFIGURED,
    PolicyStatus.STARTING,
    PolicyStatus.IDLE,
    PolicyStatus.HOLDING,
    PolicyStatus.ERROR,
)
CHECKS_PER_STATUS = 5  # how often a change is looked for between two regular statuses


class MotionNode(LifecycleNode):
    """Execute chunks on the robot's trajectory controllers."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('motion', context=context)
        self._now_ns = NodeClock(self.get_clock())
        self._configured: ConfiguredMotion | None = None
        self._active: ActiveMotion | None = None
        self._lock = threading.Lock()
        self._auto_enable = False  # enable as soon as the robot's state allows it
        self._policy_paused = False  # the policy's last word
        self._silent_policy = SilentPolicy()
        self._change_log = motion_status.StatusChangeLog(self)
        self._checks_since_status = 0
        self._params = parameters.read(self, MotionParams)  # early: visible before configuration
        parameters.add_on_change_callback(
            self, MotionParams, lambda: self._configured is not None, self._on_params
        )
        self._status_publisher = self.create_publisher(MotionStatus, 'motion_status', qos.LATCHED)
        self._estop_publisher = self.create_publisher(Bool, 'estop', qos.LATCHED)
        self._diagnostics = MotionDiagnostics(
            self, self._take_snapshot, lambda: self._active and self._active.control_loop
        )
        self.guard = CallbackGuard(self, self._diagnostics.updater, self._on_fault, self._release)

    @property
    def _robot(self) -> Embodiment:
        return self._require_configured().robot

    @property
    def _motion(self) -> MotionControl:
        return self._require_configured().motion

    @property
    def _joystick(self) -> JoystickInput:
        return self._require_configured().joystick

    @property
    def _controller_monitor(self) -> ControllerMonitor:
        return self._require_configured().controller_monitor

    @property
    def _planner_thread(self) -> PlannerThread:
        if self._active is None:
            raise NotConfiguredError(
                'motion_node: not active, so there is no planner; activate it'
            )
        return self._active.planner_thread

    def _require_configured(self) -> ConfiguredMotion:
        if self._configured is None:
            raise NotConfiguredError('motion_node: not configured; configure it first')
        return self._configured

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, MotionParams)
            robot = robot_parameters.load_robot(self, given)
            surroundings = collision_model.make_collision_checker(robot, given)
            joystick = JoystickInput(self, given, robot.safety.deadman_lease_s, self._estop)
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        motion = MotionControl(
            robot,
            dry_run=not given.enable_motion,
            speed_scale=given.speed_scale,
            use_deadman=given.use_deadman,
            collision_checker=surroundings,
            safety_checks=SafetyChecks(given.accept_missing),
        )
        trajectory_publisher = TrajectoryPublisher(self, robot, motion.dry_run)
        self._configured = configured = ConfiguredMotion(
            robot,
            motion,
            joystick,
            trajectory_publisher,
            ControllerMonitor(
                self,
                trajectory_publisher.controller_outputs,
                given.min_speed_scaling,
                given.robot_namespace,
            ),
        )
        configured.services.extend(
            (
                self.guard.create_service(SetBool, 'enable', self._on_enable),
                self.guard.create_service(Trigger, 'estop', self._on_estop),
                self.guard.create_service(Trigger, 'reset', self._on_reset),
            )
        )
        # from configuration on, like the service: an e-stop counts before the node is active
        configured.estop_subscriptions.extend(
            self.create_subscription(Empty, 'estop_signal', self._on_estop_signal, profile)
            for profile in qos.ESTOP_SIGNAL
        )
        configured.timers.append(
            self.create_timer(
                1.0 / (CHECKS_PER_STATUS * given.status_rate_hz),
                self._on_status_timer,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )
        )
        joystick.open()
        self._diagnostics.add_tasks(robot)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._motion.restart()
        # a button that is held while the node starts enables nothing
        self._auto_enable = not self._joystick.deadman.needs_holding
        self._policy_paused = False
        self._active = active = ActiveMotion(
            PlannerThread(
                self._motion,
                self._lock,
                self._now_ns,
                self._require_configured().trajectory_publisher.make_publish_fn,
                self.guard.record,
            ),
            ControlLoop(self.guard.wrap(self._tick), 1.0 / self._params.rate_hz),
        )
        active.inputs.extend(self._create_inputs())
        freeze_gc()
        active.planner_thread.start()
        active.control_loop.start()
        return super().on_activate(state)

    def _create_inputs(self) -> list[Subscription]:
        new, robot = self.create_subscription, self._robot
        merger = JointStateMerger(
            robot.commanded,
            robot.observed[len(robot.commanded) :],
            max_age_s=robot.safety.observation.joints_max_age_s,
        )
        on_joint_state = partial(self._on_joint_state, merger)
        inputs = [
            new(ActionChunk, 'action_chunk', self._on_chunk, qos.CHUNK),
            new(
                JointState,
                robot_parameters.find_joint_states_topic(self._params),
                on_joint_state,
                qos.JOINTS,
            ),
            new(PolicyStatus, 'status', self._on_policy_status, qos.LATCHED),
            new(String, 'robot_fault', self._on_robot_fault, qos.LATCHED),
            new(DriverStatus, 'driver_status', self._on_driver_status, qos.LATCHED),
        ]
        inputs += [
            new(
                JointTrajectoryControllerState,
                controller.state_topic,
                partial(self._on_controller_state, controller),
                qos.JOINTS,
                raw=True,
            )
            for _, controller in self._require_configured().trajectory_publisher.controller_outputs
        ]
        if self._params.use_deadman:
            inputs.append(new(Bool, 'deadman', self._on_deadman, qos.JOINTS))
        return inputs

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_activity('deactivated')
        return super().on_deactivate(state)

    def close(self) -> None:
        """Ramp to rest and end the threads; the node is of no use afterwards."""
        self._release()

    def _end_activity(self, reason: str) -> None:
        """Send the robot to rest, then stop watching: the trajectory sent does the rest."""
        active = self._active
        if active is None:
            return
        for subscription in active.inputs:
            self.destroy_subscription(subscription)
        self._auto_enable = False
        active.control_loop.close()
        with self._lock:
            self._motion.disable(self._now_ns(), reason)
        active.planner_thread.close()
        self._active = None
        self._publish_status()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        configured = self._configured
        if configured is None:
            return
        self._end_activity('shut down')
        self._diagnostics.remove_tasks()
        configured.controller_monitor.close()
        configured.joystick.close()
        for timer in configured.timers:
            self.destroy_timer(timer)
        for service in configured.services:
            self.destroy_service(service)
        for subscription in configured.estop_subscriptions:
            self.destroy_subscription(subscription)
        configured.trajectory_publisher.close()
        with self._lock:
            self._configured = None
        self._change_log.reset()

    # inputs

    def _on_chunk(self, msg: ActionChunk) -> None:
        try:
            chunk = message_conversion.chunk_from_msg(msg)
        except ValueError as error:
            with self._lock:
                self._motion.reject_chunk(str(error))
            return
        refusal = self._silent_policy.check(chunk.session)
        with self._lock:
            if refusal:
                self._motion.reject_chunk(refusal)
            else:
                self._motion.on_chunk(chunk, self._now_ns())
        self._planner_thread.wake()

    def _on_joint_state(self, merger: JointStateMerger, msg: JointState) -> None:
        """Take a posture, or a part; one that is refused is as good as none: its age stops."""
        try:
            part = message_conversion.joint_state_part_from_msg(msg, self._robot.observed)
            joints = merger.add(part)
        except ValueError as error:
            flaw = str(error)
            with self._lock:
                self._motion.joint_monitor.note_refusal(flaw, self._now_ns())
        else:
            if joints is None:  # the other parts of it are still to come
                return
            with self._lock:
                flaw = self._motion.on_joints(joints, self._now_ns())
        if flaw:
            self.get_logger().warning(flaw, throttle_duration_sec=5.0)

    def _on_controller_state(self, controller: Controller, raw: bytes) -> None:
        now_ns = self._now_ns()
        motion = self._motion
        needs_report = not motion.trajectory_clock.is_on_time or (
            motion.command_tracker.needs_report(controller.name, now_ns)
        )
        if not needs_report and not self._controller_monitor.needs_state(controller.name):
            return  # some report a thousand times a second
        try:
            msg = deserialize_message(raw, JointTrajectoryControllerState)
            report = message_conversion.setpoint_from_msg(msg, controller)
            factor = self._controller_monitor.on_state(controller.name, msg)
            self._stop_on_controller_fault(now_ns)
            with self._lock:
                if factor is not None:
                    motion.trajectory_clock.set_factor(controller.name, factor, now_ns)
                if not needs_report:
                    return
                flaw = motion.on_setpoint(report, now_ns)
        except (ValueError, RuntimeError) as error:  # as good as none
            flaw = str(error)
        if flaw:
            self.get_logger().warning(flaw, throttle_duration_sec=5.0)
        self._planner_thread.wake()  # something may have waited for this

    def _on_policy_status(self, msg: PolicyStatus) -> None:
        self._silent_policy.on_status(msg)
        paused = msg.state in POLICY_PAUSED_STATES
        if paused and not self._policy_paused:
            with self._lock:
                self._motion.on_policy_pause(msg.reason or msg.state_name, self._now_ns())
            self._planner_thread.wake()
        self._policy_paused = paused

    def _on_robot_fault(self, msg: String) -> None:
        with self._lock:
            self._motion.on_robot_fault(msg.data, self._now_ns())
        self._planner_thread.wake()

    def _on_driver_status(self, msg: DriverStatus) -> None:
        inactive = dict(zip(msg.inactive_checks, msg.inactive_reasons, strict=False))
        with self._lock:
            self._motion.safety_checks.on_driver_status(inactive, msg.simulated, self._now_ns())

    def _on_deadman(self, msg: Bool) -> None:
        with self._lock:
            self._motion.on_deadman(msg.data, self._now_ns())

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._auto_enable = False
        with self._lock:
            if request.data:
                response.success, response.message = self._enable()
            else:
                self._motion.disable(self._now_ns())
                response.success, response.message = True, 'coming to rest'
        if self._active is not None:
            self._planner_thread.wake()
        return response

    def _on_estop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._estop('e-stop on request')
        response.success, response.message = True, 'e-stop latched; coming to rest'
        return response

    def _on_estop_signal(self, msg: Empty) -> None:
        self._estop('e-stop signal on the topic estop_signal')

    def _estop(self, reason: str) -> None:
        """Latch the e-stop, whether the node is active or not."""
        self._auto_enable = False
        with self._lock:
            self._motion.estop(self._now_ns(), reason)
        if self._active is not None:
            self._planner_thread.wake()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            pressed = self._joystick.deadman.is_estop_pressed
            reason = (
                'not reset: the e-stop button of the joystick is still pressed'
                if pressed
                else self._motion.reset(self._now_ns())
            )
        self._publish_status()  # before the answer: nobody drops the instruction that follows it
        response.success = reason is None
        response.message = reason or 'reset; enable and give an instruction to move'
        return response

    def _on_params(self, changed: MotionParams) -> None:
        self._params = changed

    def _on_fault(self, reason: str) -> None:
        """Stop the robot and latch: after a fault of its own the node may not know what is so."""
        self._auto_enable = False
        with self._lock:
            if self._configured is not None:
                self._motion.on_node_fault(reason, self._now_ns())
        if self._active is not None:
            self._planner_thread.wake()

    # outputs

    def _enable(self) -> tuple[bool, str]:
        """Take the robot over, with the lock held; return success and what to say."""
        if self._active is None:
            return False, 'the node is not active; activate it first'
        why_not = self._joystick.check() or self._controller_monitor.check_enable()
        if why_not:
            return False, f'not enabled: {why_not}'
        hold, why_not = self._motion.enable(self._now_ns())
        if hold is None:
            return False, why_not
        self._planner_thread.enqueue(hold)
        return True, 'enabled (dry run: nothing moves)' if self._motion.dry_run else 'enabled'

    def _try_auto_enable(self) -> None:
        """Enable once everything allows it; show what does not, with the lock held."""
        enabled, answer = self._enable()
        self._auto_enable = not enabled
        if not enabled and self._motion.state is MotionState.DISABLED:
            self._motion.reason = answer

    def _stop_on_controller_fault(self, now_ns: int) -> None:
        """Stop before anything else is sent to a controller that is not what was planned for."""
        if not self._controller_monitor.faults:
            return
        fault = self._controller_monitor.faults[0]
        with self._lock:
            self._motion.on_controller_fault(fault.text, now_ns, fault.timing_unknown)

    def _tick(self) -> None:
        now_ns = self._now_ns()
        self._stop_on_controller_fault(now_ns)
        self._motion.safety_checks.on_controllers(self._controller_monitor.inactive_checks)
        with self._lock:
            if self._auto_enable:
                self._try_auto_enable()
            if self._motion.enabled and (released := self._joystick.check()):
                self._motion.disable(now_ns, released)
            urgent = self._motion.tick(now_ns)
            if urgent is not None:
                self._planner_thread.enqueue(urgent)
            if self._motion.stop_requested:
                self._planner_thread.wake()

    def _take_snapshot(self) -> MotionSnapshot:
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> MotionSnapshot:
        """Return what there is to tell now, with the lock held."""
        snapshot = self._motion.snapshot(self._now_ns())
        return replace(snapshot, deadman_ok=snapshot.deadman_ok and not self._joystick.check())

    def _on_status_timer(self) -> None:
        """Publish what changed at once, and a regular status."""
        with self._lock:  # a last tick may come while the node is cleaned up
            if self._configured is None:
                return
            snapshot = self._snapshot()
        self._checks_since_status += 1
        if self._change_log.update(snapshot) or self._checks_since_status >= CHECKS_PER_STATUS:
            self._checks_since_status = 0
            self._publish_status(snapshot)

    def _publish_status(self, snapshot: MotionSnapshot | None = None) -> None:
        snapshot = snapshot or self._take_snapshot()
        self._status_publisher.publish(
            motion_status.make_status_msg(
                snapshot, self._robot, self._active and self._active.control_loop, self._now_ns()
            )
        )
        self._estop_publisher.publish(Bool(data=snapshot.estop))


def main(args: list[str] | None = None) -> None:
    set_realtime_priority()
    run_node(MotionNode, 'motion', args)


if __name__ == '__main__':
    main()

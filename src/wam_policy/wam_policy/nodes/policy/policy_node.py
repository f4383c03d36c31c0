"""policy_node: cameras, joint states and an instruction in, chunks of motion out.

Notable:
- callbacks only file what arrives; one other thread asks the workers (requester);
- what is requested, kept and dropped is decided in core.policy, under one lock;
- activation does not wait for the workers: the status says STARTING until they are ready.
"""

import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.lifecycle import (
    LifecycleNode,
    LifecyclePublisher,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.qos import QoSProfile
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from wam_msgs.msg import ActionChunk, MotionStatus, PolicyStatus
from wam_msgs.srv import Reload
from wam_policy.core.observation.joint_state_merger import JointStateMerger
from wam_policy.core.robot import checkpoints
from wam_policy.core.robot.embodiment import Camera, Embodiment
from wam_policy.core.session.policy_session import (
    PolicySession,
    SessionSettings,
    WorkerAvailability,
)
from wam_policy.core.types import Chunk
from wam_policy.nodes import message_conversion, parameters, qos, robot_parameters
from wam_policy.nodes.callback_guard import CallbackGuard, NotConfiguredError
from wam_policy.nodes.images import bridge_selection, image_conversion, image_transport
from wam_policy.nodes.node_clock import NodeClock
from wam_policy.nodes.parameters import PolicyParams
from wam_policy.nodes.policy import worker_backend
from wam_policy.nodes.policy.inference_loop import InferenceLoop, LockedPolicy
from wam_policy.nodes.policy.policy_diagnostics import PolicyDiagnostics
from wam_policy.nodes.policy.policy_status import UNTRAINED, make_status_msg
from wam_policy.nodes.policy.run_instruction_action import RunInstructionAction
from wam_policy.nodes.policy.worker_backend import BackendStatus, WorkerBackend
from wam_policy.nodes.run_node import run_node
from wam_policy.nodes.stop_detector import StopDetector

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STATUS_PERIOD_S = 0.1  # at most this often, at least every HEARTBEAT_TICKS
HEARTBEAT_TICKS = 10
FAULT_HOLD_NS = 2_000_000_000  # ERROR is seen in every status of two heartbeats
LOG_PERIOD_S = 1.0  # a state that flickers is in the status, not in the log


@dataclass(frozen=True, slots=True)
class _ConfiguredPolicy:
    """Hold what exists from configuration to cleanup."""

    robot: Embodiment
    locked_policy: LockedPolicy
    inference_loop: InferenceLoop
    chunk_publisher: LifecyclePublisher
    video_publisher: LifecyclePublisher
    # filled last: what calls back finds the rest
    services: list[Service] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)


class PolicyNode(LifecycleNode):
    """Turn observations into chunks through a pair of workers."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('policy', context=context)
        self._now_ns = NodeClock(self.get_clock())
        self._configured: _ConfiguredPolicy | None = None
        self._backend_status = BackendStatus(WorkerAvailability.STARTING, 'workers are starting')
        self._inputs: list[Subscription] = []
        self._last_published: tuple = ()  # what the last status reported that counts as a change
        self._logged_state, self._logged_s = '', 0.0  # state that was logged last, and when
        self._ticks_since_status = 0
        self._stop_detector = StopDetector()
        self._params = parameters.read(self, PolicyParams)  # early: visible before configuration
        parameters.add_on_change_callback(
            self, PolicyParams, lambda: bool(self._inputs), self._on_params
        )
        self._status_publisher = self.create_publisher(PolicyStatus, 'status', qos.LATCHED)
        self._diagnostics = PolicyDiagnostics(
            self,
            self._make_status,
            self._target_query_rate_hz,
            self._compute_age_limit_s,
            lambda: self._params.image_transport,
        )
        self.guard = CallbackGuard(self, self._diagnostics.updater, self._on_fault, self._release)
        self._run_action = RunInstructionAction(
            self, lambda: bool(self._inputs), self._make_status
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_time_jump,
        )

    @property
    def _robot(self) -> Embodiment:
        return self._require_configured().robot

    @property
    def _locked_policy(self) -> LockedPolicy:
        return self._require_configured().locked_policy

    @property
    def _inference_loop(self) -> InferenceLoop:
        return self._require_configured().inference_loop

    def _require_configured(self) -> _ConfiguredPolicy:
        if self._configured is None:
            raise NotConfiguredError('policy_node: not configured; configure it first')
        return self._configured

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, PolicyParams)
            robot = robot_parameters.load_robot(self, given)
            plan = worker_backend.build_worker_spec(given, given.checkpoint, given.base)
            for camera in robot.cameras:
                image_transport.resolve_camera_topic(camera.topic, given.image_transport)
            taken = worker_backend.select_checkpoint(given.checkpoint, robot.name)
            if taken != given.checkpoint and given.backend != 'remote':
                self.get_logger().warning(
                    f'the shipped model {given.checkpoint} does not know {robot.name}: '
                    + (
                        'random weights'
                        if taken == checkpoints.FALLBACK_CHECKPOINT
                        else f'{taken} instead'
                    )
                )
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        self.get_logger().info(f'cv_bridge: {bridge_selection.select_bridge().description}')
        policy = PolicySession(
            robot,
            SessionSettings(
                query_period_ns=_rate_to_period_ns(given.max_query_rate_hz),
                max_frame_gap_ns=round(given.max_frame_gap_s * 1e9),
                max_instruction_length=given.max_instruction_length,
                query_per_commit=given.memory_update == 'released',
                latest_joint_state=given.query_images == 'none',
                detect_frozen_images=given.detect_frozen_images,
                execution=given.execution,
            ),
            session_prefix=secrets.token_hex(4),
        )
        policy.on_instruction(given.instruction)
        locked_policy = LockedPolicy(policy)
        self._configured = configured = _ConfiguredPolicy(
            robot,
            locked_policy,
            InferenceLoop(
                locked_policy,
                self._now_ns,
                self._publish_chunk,
                self._publish_video,
                self._is_video_requested,
                self.guard.record,
            ),
            chunk_publisher=self._create_output(ActionChunk, 'action_chunk', qos.CHUNK),
            video_publisher=self._create_output(Image, 'predicted_video', qos.IMAGE),
        )
        configured.services.append(self.guard.create_service(Reload, 'reload', self._on_reload))
        self._run_action.attach(locked_policy, given.robot_namespace)
        configured.inference_loop.start(self._make_backend(plan))
        self._diagnostics.add_tasks(robot)
        configured.timers.append(self.create_timer(STATUS_PERIOD_S, self._on_status_timer))
        return super().on_configure(state)

    def _create_output(
        self, message_type: type, topic: str, profile: QoSProfile
    ) -> LifecyclePublisher:
        # without an annotation in rclpy, its type is inferred as that of create_publisher
        return cast(
            LifecyclePublisher, self.create_lifecycle_publisher(message_type, topic, profile)
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        merger = JointStateMerger(
            self._robot.observed, max_age_s=self._robot.safety.observation.joints_max_age_s
        )
        self._inputs = [
            self.create_subscription(String, 'instruction', self._on_instruction, qos.REQUEST),
            self.create_subscription(
                MotionStatus, 'motion_status', self._on_motion_status, qos.LATCHED
            ),
            self.create_subscription(
                JointState,
                robot_parameters.find_joint_states_topic(self._params),
                partial(self._on_joint_state, merger),
                qos.JOINTS,
            ),
        ]
        for camera in self._robot.cameras:
            topic, kind = image_transport.resolve_camera_topic(
                camera.topic, self._params.image_transport
            )
            self._inputs.append(
                self.create_subscription(
                    kind, topic, partial(self._on_image, camera.key), qos.IMAGE
                )
            )
        self._inference_loop.set_active(True)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._inference_loop.set_active(False)
        self._close_inputs()
        with self._locked_policy as policy:
            policy.on_instruction('')
        self._publish_status()
        return super().on_deactivate(state)

    def close(self) -> None:
        """End the workers; the node is of no use afterwards."""
        self._release()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        self._close_inputs()
        configured = self._configured
        if configured is None:
            return
        configured.inference_loop.close()
        self._diagnostics.remove_tasks()
        self._run_action.detach()
        for timer in configured.timers:
            self.destroy_timer(timer)
        for service in configured.services:
            self.destroy_service(service)
        for publisher in (configured.chunk_publisher, configured.video_publisher):
            self.destroy_lifecycle_publisher(publisher)
        self._configured = None
        self._backend_status, self._last_published = (
            BackendStatus(WorkerAvailability.STARTING, 'workers are starting'),
            (),
        )

    def _close_inputs(self) -> None:
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self.destroy_subscription(subscription)

    # inputs

    def _on_image(self, camera: str, msg: Image | CompressedImage) -> None:
        now_ns, allow_mono = self._now_ns(), self._params.allow_mono_images
        try:
            frame = (
                image_conversion.frame_from_msg(msg, camera, allow_mono)
                if isinstance(msg, Image)
                else image_conversion.frame_from_compressed_msg(msg, camera, allow_mono)
            )
        except ValueError as error:
            with self._locked_policy as policy:
                policy.on_invalid_message(camera, str(error))
            return
        with self._locked_policy as policy:
            policy.on_frame(frame, now_ns)

    def _on_joint_state(self, merger: JointStateMerger, msg: JointState) -> None:
        now_ns = self._now_ns()
        try:
            part = message_conversion.joint_state_part_from_msg(msg, self._robot.observed)
            joints = merger.add(part)
        except ValueError as error:
            with self._locked_policy as policy:
                policy.on_invalid_message('joint states', str(error))
            return
        if joints is None:  # the other parts of it are still to come
            return
        with self._locked_policy as policy:
            policy.on_joints(joints, now_ns)

    def _on_instruction(self, msg: String) -> None:
        with self._locked_policy as policy:
            policy.on_instruction(msg.data)
        self._inference_loop.wake()

    def _on_motion_status(self, msg: MotionStatus) -> None:
        """Drop the instruction with every stop, also one whose own status was missed."""
        reason = self._stop_detector.update(msg)
        if reason:
            with self._locked_policy as policy:
                policy.on_motion_stop(
                    f'{reason}; the instruction is gone, give a new one when motion is enabled'
                )

    def _on_time_jump(self, jump: TimeJump) -> None:
        changed = jump.clock_change not in (
            ClockChange.ROS_TIME_NO_CHANGE,
            ClockChange.SYSTEM_TIME_NO_CHANGE,
        )
        reason = (
            'the clock changed its source'
            if changed
            else f'time went back by {-jump.delta.nanoseconds / 1e9:.3f} s'
        )
        self.get_logger().warning(f'{reason}: observations are dropped')
        if self._configured is not None:
            with self._locked_policy as policy:
                policy.on_time_jump(reason)

    def _on_params(self, changed: PolicyParams) -> None:
        self._params = changed
        if self._configured is not None:
            with self._locked_policy as policy:
                policy.set_query_period(_rate_to_period_ns(changed.max_query_rate_hz))

    def _on_fault(self, reason: str) -> None:
        """Show ERROR for a while: motion_node then brings the robot to rest."""
        if self._configured is not None:
            with self._locked_policy as policy:
                policy.on_request_failed(
                    f'fault in policy_node: {reason}', self._now_ns() + FAULT_HOLD_NS
                )

    def _on_reload(self, request: Reload.Request, response: Reload.Response) -> Reload.Response:
        checkpoint = worker_backend.select_checkpoint(
            request.checkpoint or self._params.checkpoint, self._robot.name
        )
        try:
            # a base belongs to its checkpoint: another checkpoint does not inherit it
            plan = worker_backend.build_worker_spec(
                self._params,
                checkpoint,
                request.base or ('' if request.checkpoint else self._params.base),
            )
        except ValueError as error:
            response.message = str(error)
            return response
        with self._locked_policy as policy:
            policy.on_workers_unavailable(
                WorkerAvailability.STARTING, f'loading {checkpoint} on request'
            )
        self._inference_loop.replace_backend(self._make_backend(plan))
        response.success, response.message = True, f'loading {checkpoint}; see the status'
        return response

    # workers

    def _make_backend(self, spec: worker_backend.WorkerSpec) -> WorkerBackend:
        return WorkerBackend(
            spec,
            self._params,
            self._log_worker_line,
            # not read from the node, which may be cleaned up when the workers' end is reported
            partial(self._on_backend_status, self._locked_policy),
        )

    def _log_worker_line(self, rank: int, line: str) -> None:
        self.get_logger().info(f'worker {rank}: {line}')

    def _on_backend_status(self, locked_policy: LockedPolicy, status: BackendStatus) -> None:
        self._backend_status = status
        with locked_policy as policy:
            if status.block_timing is not None:
                policy.on_workers_ready(
                    status.block_timing,
                    status.query_per_commit,
                    status.latest_joint_state,
                    status.max_committed_rows,
                )
            else:
                policy.on_workers_unavailable(status.availability, status.reason)
        if status.block_timing is not None and not status.trained:
            self.get_logger().warning(
                f'{UNTRAINED} weights ({status.model}): the motion is not meaningful'
            )

    # outputs

    def _publish_chunk(self, chunk: Chunk, inference_end_ns: int) -> None:
        self._require_configured().chunk_publisher.publish(
            message_conversion.chunk_to_msg(
                chunk, self._robot.name, inference_end_ns, self._backend_status.trained
            )
        )

    def _is_video_requested(self) -> bool:
        return (
            self._backend_status.can_decode_video
            and self._require_configured().video_publisher.get_subscription_count() > 0
        )

    def _publish_video(self, from_ns: int, frames: np.ndarray) -> None:
        """Publish predicted frames, stamped with the times they are predicted for."""
        timing, configured = self._backend_status.block_timing, self._require_configured()
        if timing is None:
            return  # the workers ended meanwhile: when the frames are due is not known
        for i, rgb in enumerate(frames):
            stamp_ns = from_ns + (i + 1) * timing.frame_period_ns
            configured.video_publisher.publish(
                image_conversion.image_to_msg(rgb, stamp_ns, configured.robot.name)
            )

    def _make_status(self) -> PolicyStatus:
        now_ns = self._now_ns()
        with self._locked_policy as policy:
            return make_status_msg(
                policy, self._backend_status, self._params.memory_update, now_ns
            )

    def _on_status_timer(self) -> None:
        """Publish what changed, and a sign of life every second."""
        if self._configured is None:  # a call that was due when the node was cleaned up
            return
        self._run_action.update()
        with self._locked_policy as policy:
            changed = (
                policy.get_state(self._now_ns())[0],
                policy.instruction,
                policy.counters,
                self._backend_status,
            )
        self._ticks_since_status += 1
        if changed != self._last_published or self._ticks_since_status >= HEARTBEAT_TICKS:
            self._last_published, self._ticks_since_status = changed, 0
            self._publish_status()

    def _publish_status(self) -> None:
        status = self._make_status()
        self._status_publisher.publish(status)
        now_s = self._now_ns() / 1e9
        if status.state_name != self._logged_state and abs(now_s - self._logged_s) >= LOG_PERIOD_S:
            self._logged_state, self._logged_s = status.state_name, now_s
            self.get_logger().info(
                f'{status.state_name}: {status.reason}' if status.reason else status.state_name
            )

    def _compute_age_limit_s(self, camera: Camera) -> float:
        with self._locked_policy as policy:
            return policy.observations.age_limit_ns(camera) / 1e9

    def _target_query_rate_hz(self) -> float:
        return self._params.max_query_rate_hz or float('inf')


def _rate_to_period_ns(rate_hz: float) -> int:
    return round(1e9 / rate_hz) if rate_hz else 0


def main(args: list[str] | None = None) -> None:
    run_node(PolicyNode, 'policy', args)


if __name__ == '__main__':
    main()

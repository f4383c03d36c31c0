"""policy_node: cameras, joint states and an instruction in, chunks of motion out.

Notable:
- callbacks only file what arrives; one other thread asks the workers (requester);
- what is asked, kept and dropped is decided in core.policy, under one lock;
- activation does not wait for the workers: the status says STARTING until they are ready.
"""

import secrets
from functools import partial

import numpy as np
from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from wam_msgs.msg import ActionChunk, PolicyStatus
from wam_msgs.srv import Reload
from wam_policy.core.robot import checkpoints, embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.policy_session import Policy, Settings, Workers
from wam_policy.core.types import Chunk
from wam_policy.nodes import message_conversion, parameters, qos
from wam_policy.nodes.node_clock import Now
from wam_policy.nodes.parameters import PolicyParams
from wam_policy.nodes.policy import policy_status, worker_backend
from wam_policy.nodes.policy.inference_loop import Requester, Shared
from wam_policy.nodes.policy.policy_diagnostics import Diagnostics
from wam_policy.nodes.policy.run_instruction_action import Runs
from wam_policy.nodes.policy.worker_backend import Engine, News
from wam_policy.nodes.run_node import spun

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STATUS_PERIOD_S = 0.1  # at most this often, at least every HEARTBEAT_TICKS
HEARTBEAT_TICKS = 10
LOG_PERIOD_S = 1.0  # a state that flickers is in the status, not in the log


class PolicyNode(LifecycleNode):
    """Turn observations into chunks through a pair of workers."""

    def __init__(self, context: Context | None = None) -> None:
        super().__init__('policy', context=context)
        self._now_ns = Now(self.get_clock())
        self._params: PolicyParams | None = None
        self._robot: Embodiment | None = None
        self._shared: Shared | None = None
        self._requester: Requester | None = None
        self._news = News(Workers.STARTING, 'workers are starting')
        self._inputs: list = []
        self._told: tuple = ()  # what the last status said that counts as a change
        self._logged, self._logged_s = '', 0.0  # state that was logged last, and when
        self._quiet_ticks = 0
        parameters.read(self, PolicyParams)  # declared early: visible before configuration
        parameters.guard(self, PolicyParams, lambda: bool(self._inputs), self._on_params)
        self._status_out = self.create_publisher(PolicyStatus, 'status', qos.LATCHED)
        self._diagnostics = Diagnostics(self, self._status, self._wanted_hz)
        self._time_jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_time_jump,
        )

    # life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._params = given = parameters.read(self, PolicyParams)
            self._robot = embodiment.load(given.embodiment)
            plan = worker_backend.plan(given, given.checkpoint)
            taken = worker_backend.stood_in(given.checkpoint, self._robot.name)
            if taken != given.checkpoint:
                self.get_logger().warning(
                    f'the shipped model {given.checkpoint} does not know {self._robot.name}: '
                    + ('random weights' if taken == checkpoints.STAND_IN else f'{taken} instead')
                )
        except ValueError as error:
            self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        policy = Policy(
            self._robot,
            Settings(
                query_period_ns=_period_ns(given.max_query_rate_hz),
                max_gap_ns=round(given.reset_gap_s * 1e9),
                max_instruction_length=given.max_instruction_length,
                query_per_commit=given.mode == 'reference',
                newest_posture=given.sight == 'memory',
            ),
            boot=secrets.token_hex(4),
        )
        policy.on_instruction(given.instruction)
        self._shared = Shared(policy)
        self._chunks = self.create_lifecycle_publisher(ActionChunk, 'action_chunk', qos.CHUNK)
        self._video = self.create_lifecycle_publisher(Image, 'predicted_video', qos.IMAGE)
        self._runs = Runs(self, self._shared, lambda: bool(self._inputs), self._status)
        self._reload = self.create_service(Reload, 'reload', self._on_reload)
        self._requester = Requester(
            self._shared,
            self._now_ns,
            self._publish_chunk,
            self._publish_video,
            self._video_wanted,
        )
        self._requester.start(self._engine(plan))
        self._diagnostics.watch(self._robot)
        self._timer = self.create_timer(STATUS_PERIOD_S, self._on_status_timer)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._inputs = [
            self.create_subscription(String, 'instruction', self._on_instruction, qos.REQUEST),
            self.create_subscription(
                JointState, self._params.joint_states_topic, self._on_joints, qos.JOINTS
            ),
        ]
        compressed = self._params.compressed_images
        for camera in self._robot.cameras:
            self._inputs.append(
                self.create_subscription(
                    CompressedImage if compressed else Image,
                    f'{camera.topic}/compressed' if compressed else camera.topic,
                    partial(self._on_image, camera.key),
                    qos.IMAGE,
                )
            )
        self._requester.activate(True)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._requester.activate(False)
        self._close_inputs()
        with self._shared as policy:
            policy.on_instruction('')
        self._publish_status()
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
        """End the workers; the node is of no use afterwards."""
        self._release()

    def _release(self) -> None:
        """Undo the configuration, as far as there is one."""
        self._close_inputs()
        if self._requester is None:
            return
        self._requester.close()
        self._requester = None
        self._diagnostics.forget()
        self._runs.close()
        self.destroy_timer(self._timer)
        self.destroy_service(self._reload)
        for publisher in (self._chunks, self._video):
            self.destroy_lifecycle_publisher(publisher)
        self._news, self._told = News(Workers.STARTING, 'workers are starting'), ()

    def _close_inputs(self) -> None:
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self.destroy_subscription(subscription)

    # inputs

    def _on_image(self, camera: str, msg: Image | CompressedImage) -> None:
        now_ns = self._now_ns()
        read = (
            message_conversion.frame
            if isinstance(msg, Image)
            else message_conversion.frame_of_compressed
        )
        try:
            frame = read(msg, camera)
        except ValueError as error:
            with self._shared as policy:
                policy.on_refused(camera, str(error))
            return
        with self._shared as policy:
            policy.on_frame(frame, now_ns)

    def _on_joints(self, msg: JointState) -> None:
        now_ns = self._now_ns()
        try:
            joints = message_conversion.joint_state(msg, self._robot.observed)
        except ValueError as error:
            with self._shared as policy:
                policy.on_refused('joint states', str(error))
            return
        with self._shared as policy:
            policy.on_joints(joints, now_ns)

    def _on_instruction(self, msg: String) -> None:
        with self._shared as policy:
            policy.on_instruction(msg.data)
        self._requester.wake()

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
        if self._shared is not None:
            with self._shared as policy:
                policy.on_time_jump(reason)

    def _on_params(self, changed: PolicyParams) -> None:
        self._params = changed
        if self._shared is not None:
            with self._shared as policy:
                policy.retune(_period_ns(changed.max_query_rate_hz))

    def _on_reload(self, request: Reload.Request, response: Reload.Response) -> Reload.Response:
        checkpoint = worker_backend.stood_in(
            request.checkpoint or self._params.checkpoint, self._robot.name
        )
        try:
            plan = worker_backend.plan(self._params, checkpoint)
        except ValueError as error:
            response.message = str(error)
            return response
        with self._shared as policy:
            policy.on_workers(Workers.STARTING, f'loading {checkpoint} on request')
        self._requester.replace(self._engine(plan))
        response.success, response.message = True, f'loading {checkpoint}; see the status'
        return response

    # workers

    def _engine(self, plan: worker_backend.Plan) -> Engine:
        return Engine(
            plan,
            self._params,
            lambda rank, line: self.get_logger().info(f'worker {rank}: {line}'),
            self._on_news,
        )

    def _on_news(self, news: News) -> None:
        self._news = news
        with self._shared as policy:
            if news.grid is not None:
                policy.on_ready(news.grid, news.query_per_commit, news.newest_posture)
            else:
                policy.on_workers(news.workers, news.reason)
        if news.grid is not None and not news.trained:
            self.get_logger().warning(
                f'{policy_status.UNTRAINED} weights ({news.model}): motion means nothing'
            )

    # outputs

    def _publish_chunk(self, chunk: Chunk, answered_ns: int) -> None:
        self._chunks.publish(
            message_conversion.chunk_message(
                chunk, self._robot.name, answered_ns, self._news.trained
            )
        )

    def _video_wanted(self) -> bool:
        return self._news.decodes and self._video.get_subscription_count() > 0

    def _publish_video(self, chunk: Chunk, frames: np.ndarray) -> None:
        """Publish predicted frames, stamped with the times they are predicted for."""
        period_ns = self._news.grid.frame_period_ns
        for i, rgb in enumerate(frames):
            self._video.publish(
                message_conversion.image(
                    rgb, chunk.stamp_ns + (i + 1) * period_ns, self._robot.name
                )
            )

    def _status(self) -> PolicyStatus:
        now_ns = self._now_ns()
        with self._shared as policy:
            return policy_status.message(policy, self._news, self._params.mode, now_ns)

    def _on_status_timer(self) -> None:
        """Publish what changed, and a sign of life every second."""
        self._runs.advance()
        with self._shared as policy:
            changed = (
                policy.condition(self._now_ns())[0],
                policy.instruction,
                policy.tally,
                self._news,
            )
        self._quiet_ticks += 1
        if changed != self._told or self._quiet_ticks >= HEARTBEAT_TICKS:
            self._told, self._quiet_ticks = changed, 0
            self._publish_status()

    def _publish_status(self) -> None:
        status = self._status()
        self._status_out.publish(status)
        now_s = self._now_ns() / 1e9
        if status.state_name != self._logged and abs(now_s - self._logged_s) >= LOG_PERIOD_S:
            self._logged, self._logged_s = status.state_name, now_s
            self.get_logger().info(
                f'{status.state_name}: {status.reason}' if status.reason else status.state_name
            )

    def _wanted_hz(self) -> float:
        return self._params.max_query_rate_hz or float('inf')


def _period_ns(rate_hz: float) -> int:
    return round(1e9 / rate_hz) if rate_hz else 0


def main(args: list[str] | None = None) -> None:
    spun(PolicyNode, args)


if __name__ == '__main__':
    main()

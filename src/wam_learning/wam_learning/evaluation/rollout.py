"""Run one trial in closed loop without ROS: the core of the nodes in simulated time.

- core.session decides about requests, commits and stamps, core.motion about motion; both are
  called as policy_node and motion_node call them, every 10 ms of simulated time;
- RolloutConfig holds the simulated latencies of a real robot: images and replies arrive late,
  and plans are accepted when a robot would accept them.
The loop does not import torch: every object with the methods of RolloutPolicy can be evaluated.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from wam_learning.evaluation.trials import Trial, TrialResult
from wam_policy.core.motion import chunk_blending
from wam_policy.core.motion.jtc_emulator import TrajectoryPoints
from wam_policy.core.motion.motion_control import LATCHED_STATES, MotionControl
from wam_policy.core.motion.plan_request import PlanResult, compute_plan
from wam_policy.core.motion.qp_planner import STEP_NS as GRID_NS
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory
from wam_policy.core.observation.frame_history import BlockTiming
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import gripper_mask, limits_with_margin
from wam_policy.core.session import delay_compensation
from wam_policy.core.session.model_requests import (
    CacheStatus,
    Commit,
    NoiseSeeds,
    Query,
    QueryResult,
    Request,
    Reset,
)
from wam_policy.core.session.policy_session import PolicySession as Decisions
from wam_policy.core.session.policy_session import SessionSettings
from wam_policy.core.types import Chunk, Observation
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.success_monitor import SuccessMonitor

STEPS_PER_TICK = 5  # physics steps between two joint states
TICK_S = 0.01
JERK_TICKS = 3  # between two positions of which differences make the measured jerk
IMAGE_WIDTH = 320
START_NS = 1_000_000_000  # a stamp of 0 would mean "now" to controllers
SETTLE_NS = 800_000_000  # until motion control is enabled and holds the robot

Views = Mapping[str, np.ndarray]  # camera key -> uint8 [T h w 3]

# How chunks are used under latency. naive: each replaces the one before at once; the others are
# those of policy_node, blended over the blend time of the robot.
EXECUTIONS = ('naive', *delay_compensation.EXECUTIONS)


class RolloutPolicy(Protocol):
    """Describe the policy under evaluation, such as model.robot_policy.Policy."""

    @property
    def geometry(self) -> Any: ...
    @property
    def memory(self) -> Any: ...
    def reset(self, instruction: str) -> Mapping[str, float]: ...
    def commit(self, views: Views) -> Mapping[str, float]: ...
    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> Any:
        """Predict; one with `max_committed_rows` above 0 also takes `committed`."""
        ...


@dataclass(frozen=True, slots=True)
class TimeBase:
    """Hold what a rollout reads of a policy's geometry, as model.robot_policy.PolicyGeometry."""

    frames_per_block: int
    frame_period_s: float
    window_blocks: int
    step_dt_s: float


@dataclass(frozen=True, slots=True)
class CommitCount:
    """Hold what a rollout reads of a policy's memory, as model.streaming_session.MemoryUsage."""

    frames: int
    window_frames: int
    commits: int
    rebuilds: int


@dataclass(frozen=True, slots=True, eq=False)
class QueryTargets:
    """Hold a query result; fields as in model.robot_policy.PolicyOutput."""

    targets: np.ndarray  # float64 [horizon commanded], absolute
    reference: np.ndarray  # float64 [commanded]
    timings_ms: Mapping[str, float]


class PolicyFailure(Exception):
    """Report that a policy could not answer; the trial has failed, others can follow."""


@dataclass(frozen=True, slots=True)
class QuerySchedule:
    """Say how a policy wants to be queried, in its attribute `query_schedule`."""

    query_per_commit: bool = False  # one query per block, as the released server
    latest_images: bool = False  # queries carry the newest images


class RolloutObserver:
    """Observe the inputs and predictions of a policy; this base class ignores them."""

    def on_commit(self, views: Views) -> None:
        """Handle real frames that were just committed."""

    def on_prediction(self) -> None:
        """Handle a new prediction of the policy."""


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """Hold the latencies and rates of the simulated robot, in s and Hz of simulated time."""

    camera_hz: float = 15.0
    camera_s: float = 0.03  # exposure to arrival
    query_hz: float = 8.0  # at most
    query_s: float = 0.1  # request to reply
    commit_s: float = 0.03
    planning_s: float = 0.02
    fast: bool = False  # no motion planning: rows become setpoints
    execution: str = 'blended'  # one of EXECUTIONS
    held_rows: int | None = None  # of trained_prefix; None: as many as the policy continues
    seed: int = 0  # of the sampling noise, with that of the scene
    new_noise: str = 'session'  # one of NEW_NOISE: when the sampler starts from other noise

    def __post_init__(self) -> None:
        for name in ('camera_hz', 'query_hz'):
            if not 0 < getattr(self, name) <= 60:
                raise ValueError(f'{name}: want (0, 60], got {getattr(self, name):g}')
        for name in ('camera_s', 'query_s', 'commit_s', 'planning_s'):
            if not 0 <= getattr(self, name) < 2:
                raise ValueError(f'{name}: want [0, 2), got {getattr(self, name):g}')
        if self.execution not in EXECUTIONS:
            raise ValueError(f'execution {self.execution!r}: want one of {", ".join(EXECUTIONS)}')
        if self.execution == 'naive' and not self.fast:
            raise ValueError('execution naive needs fast: motion planning always blends')


class DelayedCameras:
    """Deliver images at a fixed rate, each after the camera latency."""

    def __init__(self, simulation: Simulation, config: RolloutConfig) -> None:
        self._simulation = simulation
        self._period_ns = round(NS_PER_S / config.camera_hz)
        self._delay_ns = _to_ns(config.camera_s)
        self._due_ns = simulation.now_ns
        self._in_transit: deque[Observation] = deque()

    def poll(self, now_ns: int) -> list[Observation]:
        """Capture an image if one is due; return those that have arrived."""
        if now_ns >= self._due_ns:
            self._due_ns += self._period_ns
            self._in_transit.append(self._simulation.observe())
        found = []
        while self._in_transit and now_ns >= self._in_transit[0].stamp_ns + self._delay_ns:
            found.append(self._in_transit.popleft())
        return found


class PolicyRunner:
    """Send the requests of policy_node to a policy, one at a time."""

    def __init__(
        self,
        robot: Embodiment,
        policy: RolloutPolicy,
        config: RolloutConfig,
        observer: RolloutObserver,
    ) -> None:
        """Raise ValueError if the policy does not fit the execution."""
        self._policy, self._config, self._observer = policy, config, observer
        geometry = policy.geometry
        most = getattr(policy, 'max_committed_rows', 0)
        self._schedule: QuerySchedule = getattr(policy, 'query_schedule', QuerySchedule())
        self._blocks = geometry.window_blocks
        self._step_dt_s = geometry.step_dt_s
        self.session = Decisions(
            robot,
            SessionSettings(
                query_period_ns=round(NS_PER_S / config.query_hz),
                latest_joint_state=True,
                execution='blended' if config.execution == 'naive' else config.execution,
            ),
            session_prefix='trial',
        )
        self.session.on_workers_ready(
            BlockTiming(
                geometry.frames_per_block,
                round(geometry.frame_period_s * NS_PER_S),
                geometry.window_blocks,
            ),
            self._schedule.query_per_commit,
            not self._schedule.latest_images,
            most if config.held_rows is None else min(most, config.held_rows),
            _to_ns(config.query_s + TICK_S),
        )
        self._noise_seeds = NoiseSeeds(config.seed, config.new_noise)
        self._reply_due_ns = 0  # when the pending request completes
        self._pending: tuple[Request, Any] | None = None
        self.latency_ms: list[float] = []
        self.query_ms: list[float] = []  # wall time of the policy alone

    def poll_chunk(self, now_ns: int) -> Chunk | None:
        """Complete the pending request, send the next one; return a chunk that arrives now."""
        found = None
        if self._pending is not None and now_ns >= self._reply_due_ns:
            (request, reply), self._pending = self._pending, None
            found = self._on_reply(request, reply, now_ns)
        if self._pending is None:
            request = self.session.next_request(now_ns)
            if request is not None:
                self._pending = request, self._execute_request(request)
                self._reply_due_ns = now_ns + _to_ns(
                    self._config.query_s if isinstance(request, Query) else self._config.commit_s
                )
        return found

    def _execute_request(self, request: Request) -> QueryResult | CacheStatus | None:
        policy = self._policy
        if isinstance(request, Reset):
            self._noise_seeds.on_reset()
            policy.reset(request.instruction)
            return None
        if isinstance(request, Commit):
            views = request.block.stack_pixels()
            policy.commit(views)
            self._observer.on_commit(views)
            memory = policy.memory
            return CacheStatus(
                memory.commits, memory.frames / memory.window_frames, memory.rebuilds
            )
        observation, started_s = request.observation, time.perf_counter()
        newest = (
            {frame.camera: frame.rgb for frame in observation.frames}
            if self._schedule.latest_images
            else None
        )
        seed = self._noise_seeds.next_seed()
        held = {} if request.committed is None else {'committed': request.committed}
        found = policy.query(observation.joints.position, seed, newest, **held)
        self.query_ms.append(1e3 * (time.perf_counter() - started_s))
        self._observer.on_prediction()
        return QueryResult(self._step_dt_s, found.targets, found.reference, found.timings_ms)

    def _on_reply(self, request: Request, reply: Any, now_ns: int) -> Chunk | None:
        session = self.session
        if isinstance(request, Reset):
            session.on_reset_done(request)
        elif isinstance(request, Commit):
            session.on_commit_done(request, reply)
        else:
            chunk = session.on_query_result(request, reply, now_ns)
            if chunk is not None:
                session.on_published(chunk, now_ns, now_ns)
                self.latency_ms.append((now_ns - chunk.stamp_ns) / 1e6)
            return chunk
        return None


class PlannedExecutor:
    """Execute chunks as motion_node does, without the slow first move after enabling."""

    def __init__(self, robot: Embodiment, simulation: Simulation, config: RolloutConfig) -> None:
        self._robot, self._simulation = robot, simulation
        self._planning_ns = _to_ns(config.planning_s)
        self._motion = MotionControl(robot, dry_run=False)
        self._pending_plan: tuple[int, PlanResult] | None = None
        self.seam_rad: list[float] = []

    @property
    def stop_reason(self) -> str:
        """Return the reason of a protective stop; empty without one."""
        return self._motion.reason if self._motion.state in LATCHED_STATES else ''

    def try_enable(self, now_ns: int) -> None:
        """Enable motion as soon as the robot is at rest."""
        motion = self._motion
        self.update(now_ns)
        if motion.executing is None:
            self._send(motion.enable(now_ns)[0])
            motion.first_move.done_ns = now_ns - round(motion.first_move.config.ramp_s * NS_PER_S)

    def execute(self, chunk: Chunk, now_ns: int) -> None:
        self._motion.on_chunk(chunk, now_ns)

    def update(self, now_ns: int) -> None:
        """Run one control cycle: measure, monitor, plan."""
        motion = self._motion
        motion.on_joints(self._simulation.joint_state(), now_ns)
        self._send(motion.tick(now_ns))
        if self._pending_plan is not None and now_ns >= self._pending_plan[0]:
            (_, proposal), self._pending_plan = self._pending_plan, None
            self._send(motion.accept_plan(proposal, now_ns))
            if proposal.active_chunk is not None:
                self.seam_rad.append(proposal.blend_offset)
        if self._pending_plan is None:
            job = motion.next_plan_request(now_ns)
            if job is not None:
                self._pending_plan = now_ns + self._planning_ns, compute_plan(job)

    def _send(self, trajectory: Trajectory | None) -> None:
        if trajectory is None:
            return
        points = TrajectoryPoints.from_trajectory(trajectory)
        for controller in self._robot.controllers:
            self._simulation.accept(controller.name, points.reorder(controller.joints))


class DirectExecutor:
    """Send the rows of a chunk to the controllers, within velocity limits only.

    A fast replacement of PlannedExecutor without acceleration and jerk limits, for quick checks.
    """

    stop_reason = ''

    def __init__(self, robot: Embodiment, simulation: Simulation, config: RolloutConfig) -> None:
        self._robot, self._simulation = robot, simulation
        self._limits, self._gripper_mask = limits_with_margin(robot), gripper_mask(robot)
        self.seam_rad: list[float] = []
        self._blend_s = 0.0 if config.execution == 'naive' else robot.safety.chunk.fade_s

    def try_enable(self, now_ns: int) -> None:
        """Do nothing: the controllers are always enabled."""

    def update(self, now_ns: int) -> None:
        """Do nothing: the controllers continue by themselves."""

    def execute(self, chunk: Chunk, now_ns: int) -> None:
        """Follow `chunk` from the present setpoint on."""
        setpoint = self._simulation.controllers.sample(now_ns)
        here = setpoint.position
        join = chunk_blending.blend(
            chunk, chunk.stamp_ns, setpoint, now_ns, self._blend_s, self._gripper_mask
        )
        if not len(join.targets):
            return
        self.seam_rad.append(float(np.abs(join.blend_offset).max(initial=0.0)))
        rows = chunk_blending.limit_speed(join.targets, setpoint, self._limits, self._gripper_mask)
        points = TrajectoryPoints(
            now_ns,
            self._robot.commanded,
            GRID_NS * np.arange(len(rows) + 1),
            np.concatenate([here[None], rows]),
            None,
            None,
        )
        for controller in self._robot.controllers:
            self._simulation.accept(controller.name, points.reorder(controller.joints))


class MeasuredJerk:
    """Measure the jerk of the arm joints: third differences of their positions every 30 ms.

    Unlike the jerk of setpoints it is finite for every execution, also where setpoints jump.
    """

    def __init__(self, robot: Embodiment) -> None:
        arms = [
            name
            for name, is_gripper in zip(robot.commanded, gripper_mask(robot), strict=True)
            if not is_gripper
        ]
        self._columns = [robot.observed.index(name) for name in arms]
        self._limit = robot.limits(arms).jerk
        self._positions: list[np.ndarray] = []

    def record(self, position: np.ndarray) -> None:
        """Record measured positions [observed], rad, every TICK_S."""
        self._positions.append(position[self._columns])

    def compute_max_ratio(self) -> float:
        """Return the maximum over joints and time, as a fraction of the limit."""
        positions = np.array(self._positions[::JERK_TICKS]).reshape(-1, len(self._columns))
        jerk = np.diff(positions, n=3, axis=0) / (JERK_TICKS * TICK_S) ** 3
        return float((np.abs(jerk) / self._limit).max(initial=0.0))


def make_simulation(
    robot: SimRobot, trial: Trial, image_size: tuple[int, int] | None = None
) -> Simulation:
    """Return a new simulation of the scene of `trial`, ready for `run_trial`.

    Images are IMAGE_WIDTH wide, with the aspect ratio of the robot's cameras, or `image_size`.
    """
    width, height = robot.embodiment.cameras[0].size
    image_size = image_size or (IMAGE_WIDTH, round(IMAGE_WIDTH * height / width))
    return Simulation(
        robot,
        task=trial.family,
        seed=trial.seed,
        image_size=image_size,
        start_ns=START_NS,
        task_split=trial.combinations,
        defer_mark=True,
    )


def run_trial(
    trial: Trial,
    simulation: Simulation,
    policy: RolloutPolicy,
    config: RolloutConfig,
    observer: RolloutObserver | None = None,
) -> TrialResult:
    """Run one trial in a new simulation from `make_simulation`; return its result.

    It ends when the first goal is reached, or at the time limit.
    """
    robot = simulation.robot.embodiment
    executor = (DirectExecutor if config.fast else PlannedExecutor)(robot, simulation, config)
    ready_ns = simulation.now_ns + SETTLE_NS
    while simulation.now_ns < ready_ns:
        simulation.step(STEPS_PER_TICK)
        executor.try_enable(simulation.now_ns)
    start_ns = simulation.now_ns
    cameras = DelayedCameras(simulation, config)
    goals = SuccessMonitor(trial.goals, simulation.start)
    jerk = MeasuredJerk(robot)
    noise = replace(config, seed=config.seed + trial.seed)  # else all trials share one draw
    runner = PolicyRunner(robot, policy, noise, observer or RolloutObserver())
    instructed_ns = start_ns + _to_ns(trial.last_instruction_s)
    end_ns = instructed_ns + _to_ns(trial.limit_s)
    pending_instructions = deque(trial.instructions)
    while simulation.now_ns < end_ns and goals.reached_ns[0] is None:
        now_ns = simulation.now_ns
        while pending_instructions and now_ns >= start_ns + _to_ns(pending_instructions[0][0]):
            runner.session.on_instruction(pending_instructions.popleft()[1])
            simulation.start_mark_timer()
        for observation in cameras.poll(now_ns):
            _add_frames(runner.session, observation, now_ns)
        joints = simulation.joint_state()
        jerk.record(joints.position)
        runner.session.on_joints(joints, now_ns)
        chunk = runner.poll_chunk(now_ns)
        if chunk is not None:
            executor.execute(chunk, now_ns)
        executor.update(now_ns)
        simulation.step(STEPS_PER_TICK)
        if simulation.now_ns > instructed_ns:
            goals.update(simulation.state(), simulation.now_ns)
    return TrialResult(
        trial,
        tuple(None if at is None else (at - instructed_ns) / NS_PER_S for at in goals.reached_ns),
        (simulation.now_ns - start_ns) / NS_PER_S,
        runner.session.counters.chunks,
        float(simulation.executed_motion.limit_ratios()['jerk'].max()),
        executor.stop_reason,
        tuple(runner.latency_ms),
        (),
        (),
        query_ms=tuple(runner.query_ms),
        seam_rad=tuple(executor.seam_rad),
        measured_jerk_ratio=jerk.compute_max_ratio(),
    )


def _add_frames(session: Decisions, observation: Observation, now_ns: int) -> None:
    for frame in observation.frames:
        session.on_frame(frame, now_ns)


def _to_ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)

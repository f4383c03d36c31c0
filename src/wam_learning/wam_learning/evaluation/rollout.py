"""One trial in closed loop without ROS: the core that the nodes run, on simulated time.

Notable:
- requests, commits, sessions and stamps are decided by core.policy, motion by core.motion, both
  asked as policy_node and motion_node ask them, every 10 ms of simulated time;
- what takes time on a robot takes simulated time here (Pace); the computer may be faster;
- pictures reach the policy late, answers too, plans are accepted when they would be.
The loop knows neither torch nor what a policy is: anything with its four verbs may be tried.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
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
from wam_policy.core.session.model_requests import (
    CacheStatus,
    Commit,
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

STEPS_PER_TICK = 5  # physics steps between two joint states: 10 ms
START_NS = 1_000_000_000  # a stamp of 0 would mean "now" to controllers
SETTLE_NS = 800_000_000  # until motion has taken the robot over and holds it

Views = Mapping[str, np.ndarray]  # camera key -> uint8 [T h w 3]


class RolloutPolicy(Protocol):
    """What is tried; model.policy.Policy is one."""

    @property
    def geometry(self) -> Any: ...
    @property
    def memory(self) -> Any: ...
    def reset(self, instruction: str) -> Mapping[str, float]: ...
    def commit(self, views: Views) -> Mapping[str, float]: ...
    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> Any: ...


class RolloutObserver:
    """Watch what a policy sees and answers; this one does not care."""

    def on_commit(self, views: Views) -> None:
        """See real frames that were just committed."""

    def on_prediction(self) -> None:
        """Hear that the policy has just predicted."""


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """State how long things take on the robot that is imitated; s and Hz of simulated time."""

    camera_hz: float = 15.0
    camera_s: float = 0.03  # exposure to arrival
    query_hz: float = 8.0  # at most
    query_s: float = 0.1  # question to answer
    commit_s: float = 0.03
    planning_s: float = 0.02
    fast: bool = False  # no motion planning: rows become set-points, paced
    seed: int = 0  # of the sampling noise, the same for every query

    def __post_init__(self) -> None:
        for name in ('camera_hz', 'query_hz'):
            if not 0 < getattr(self, name) <= 60:
                raise ValueError(f'{name}: want (0, 60], got {getattr(self, name):g}')
        for name in ('camera_s', 'query_s', 'commit_s', 'planning_s'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name}: want [0, 1), got {getattr(self, name):g}')


class DelayedCameras:
    """Give pictures at a fixed rate, each some time after it was taken."""

    def __init__(self, simulation: Simulation, config: RolloutConfig) -> None:
        self._simulation = simulation
        self._period_ns, self._delay_ns = (
            round(NS_PER_S / config.camera_hz),
            _to_ns(config.camera_s),
        )
        self._due_ns = simulation.now_ns
        self._in_transit: deque[Observation] = deque()

    def poll(self, now_ns: int) -> list[Observation]:
        """Take a picture if one is due; return those that have come."""
        if now_ns >= self._due_ns:
            self._due_ns += self._period_ns
            self._in_transit.append(self._simulation.observe())
        found = []
        while self._in_transit and now_ns >= self._in_transit[0].stamp_ns + self._delay_ns:
            found.append(self._in_transit.popleft())
        return found


class PolicyRunner:
    """Ask a policy what policy_node would ask its workers, one request at a time."""

    def __init__(
        self,
        robot: Embodiment,
        policy: RolloutPolicy,
        config: RolloutConfig,
        observer: RolloutObserver,
    ) -> None:
        self._policy, self._config, self._observer = policy, config, observer
        geometry = policy.geometry
        self._blocks = geometry.window_blocks
        self._frames_per_block = geometry.frames_per_block
        self._step_dt_s = geometry.step_dt_s
        self.session = Decisions(
            robot,
            SessionSettings(
                query_period_ns=round(NS_PER_S / config.query_hz), latest_joint_state=True
            ),
            session_prefix='trial',
        )
        self.session.on_workers_ready(
            BlockTiming(
                geometry.frames_per_block,
                round(geometry.frame_period_s * NS_PER_S),
                geometry.window_blocks,
            )
        )
        self._reply_due_ns = 0  # when the request under way is answered
        self._pending: tuple[Request, Any] | None = None
        self.latency_ms: list[float] = []

    def poll_chunk(self, now_ns: int) -> Chunk | None:
        """Finish what is answered, ask what is due; return the chunk that comes now."""
        found = None
        if self._pending is not None and now_ns >= self._reply_due_ns:
            (request, said), self._pending = self._pending, None
            found = self._on_reply(request, said, now_ns)
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
        found = policy.query(request.observation.joints.position, self._config.seed)
        self._observer.on_prediction()
        return QueryResult(self._step_dt_s, found.targets, found.reference, found.timings_ms)

    def _on_reply(self, request: Request, reply: Any, now_ns: int) -> Chunk | None:
        decisions = self.session
        if isinstance(request, Reset):
            decisions.on_reset_done(request)
        elif isinstance(request, Commit):
            decisions.on_commit_done(request, reply)
        else:
            chunk = decisions.on_query_result(request, reply, now_ns)
            if chunk is not None:
                decisions.on_published(chunk, now_ns, now_ns)
                self.latency_ms.append((now_ns - chunk.stamp_ns) / 1e6)
            return chunk
        return None


class PlannedExecutor:
    """Move as motion_node does; it has driven before, so that its slow first move is over."""

    def __init__(self, robot: Embodiment, simulation: Simulation, config: RolloutConfig) -> None:
        self._robot, self._simulation = robot, simulation
        self._planning_ns = _to_ns(config.planning_s)
        self._motion = MotionControl(robot, dry_run=False)
        self._pending_plan: tuple[int, PlanResult] | None = None

    @property
    def stop_reason(self) -> str:
        """Say why it stopped by itself; empty: it did not."""
        return self._motion.reason if self._motion.state in LATCHED_STATES else ''

    def try_enable(self, now_ns: int) -> None:
        """Take the robot over as soon as it is known to rest."""
        motion = self._motion
        self.update(now_ns)
        if motion.executing is None:
            self._send(motion.enable(now_ns)[0])
            motion.first_move.done_ns = now_ns - round(motion.first_move.config.ramp_s * NS_PER_S)

    def execute(self, chunk: Chunk, now_ns: int) -> None:
        self._motion.on_chunk(chunk, now_ns)

    def update(self, now_ns: int) -> None:
        """Live through one instant: measure, watch, plan."""
        motion = self._motion
        motion.on_joints(self._simulation.joint_state(), now_ns)
        self._send(motion.tick(now_ns))
        if self._pending_plan is not None and now_ns >= self._pending_plan[0]:
            (_, proposal), self._pending_plan = self._pending_plan, None
            self._send(motion.accept_plan(proposal, now_ns))
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
    """Hand a chunk's rows to the controllers as they are, no faster than joints may move.

    A quick stand-in for Planned without acceleration and jerk limits: for checks in training.
    """

    stop_reason = ''

    def __init__(self, robot: Embodiment, simulation: Simulation, config: RolloutConfig) -> None:
        self._robot, self._simulation = robot, simulation
        self._limits, self._gripper_mask = limits_with_margin(robot), gripper_mask(robot)
        self._blend_s = robot.safety.chunk.fade_s

    def try_enable(self, now_ns: int) -> None:
        """Do nothing: controllers hold the robot from the start."""

    def update(self, now_ns: int) -> None:
        """Do nothing: controllers go on by themselves."""

    def execute(self, chunk: Chunk, now_ns: int) -> None:
        """Follow `chunk` from the present set-point on."""
        setpoint = self._simulation.controllers.sample(now_ns)
        here = setpoint.position
        join = chunk_blending.blend(
            chunk, chunk.stamp_ns, setpoint, now_ns, self._blend_s, self._gripper_mask
        )
        if not len(join.targets):
            return
        rows = chunk_blending.limit_speed(
            join.targets, setpoint, self._limits, self._gripper_mask
        )
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


def make_simulation(
    robot: SimRobot, trial: Trial, image_size: tuple[int, int] = (320, 240)
) -> Simulation:
    """Return a simulation that shows the scene of `trial`, as `lived` wants it."""
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
    """Live one trial in a simulation fresh from `staged`.

    It ends when the first goal holds, or when time is over.
    """
    robot = simulation.robot.embodiment
    body = (DirectExecutor if config.fast else PlannedExecutor)(robot, simulation, config)
    ready_ns = simulation.now_ns + SETTLE_NS
    while simulation.now_ns < ready_ns:
        simulation.step(STEPS_PER_TICK)
        body.try_enable(simulation.now_ns)
    begun_ns = simulation.now_ns
    cameras, goals = (
        DelayedCameras(simulation, config),
        SuccessMonitor(trial.goals, simulation.start),
    )
    mind = PolicyRunner(robot, policy, config, observer or RolloutObserver())
    asked_ns = begun_ns + _to_ns(trial.last_instruction_s)
    end_ns = asked_ns + _to_ns(trial.limit_s)
    to_say = deque(trial.said)
    while simulation.now_ns < end_ns and goals.reached_ns[0] is None:
        now_ns = simulation.now_ns
        while to_say and now_ns >= begun_ns + _to_ns(to_say[0][0]):
            mind.session.on_instruction(to_say.popleft()[1])
            simulation.start_mark_timer()
        for observation in cameras.poll(now_ns):
            _add_frames(mind.session, observation, now_ns)
        mind.session.on_joints(simulation.joint_state(), now_ns)
        chunk = mind.poll_chunk(now_ns)
        if chunk is not None:
            body.execute(chunk, now_ns)
        body.update(now_ns)
        simulation.step(STEPS_PER_TICK)
        if simulation.now_ns > asked_ns:
            goals.update(simulation.state(), simulation.now_ns)
    return TrialResult(
        trial,
        tuple(None if at is None else (at - asked_ns) / NS_PER_S for at in goals.reached_ns),
        (simulation.now_ns - begun_ns) / NS_PER_S,
        mind.session.counters.chunks,
        float(simulation.executed_motion.limit_ratios()['jerk'].max()),
        body.stop_reason,
        tuple(mind.latency_ms),
        (),
        (),
    )


def _add_frames(session: Decisions, observation: Observation, now_ns: int) -> None:
    for frame in observation.frames:
        session.on_frame(frame, now_ns)


def _to_ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)

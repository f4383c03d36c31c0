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

from wam_learning.evaluation.trials import Result, Trial
from wam_policy.core.motion import chunk_validator
from wam_policy.core.motion.jtc_emulator import Points
from wam_policy.core.motion.motion_control import LATCHED, MotionControl
from wam_policy.core.motion.plan_request import Proposal, proposed
from wam_policy.core.motion.qp_planner import STEP_NS as GRID_NS
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory
from wam_policy.core.observation.frame_history import Grid
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import gripping, margined
from wam_policy.core.session.model_requests import Answer, Cache, Commit, Query, Request, Reset
from wam_policy.core.session.policy_session import Policy as Decisions
from wam_policy.core.session.policy_session import Settings
from wam_policy.core.types import Chunk, Observation
from wam_sim.physics.sim_robot import Robot
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.success_monitor import Goals

BATCH = 5  # physics steps between two joint states: 10 ms
START_NS = 1_000_000_000  # a stamp of 0 would mean "now" to controllers
SETTLE_NS = 800_000_000  # until motion has taken the robot over and holds it

Views = Mapping[str, np.ndarray]  # camera key -> uint8 [T h w 3]


class Policy(Protocol):
    """What is tried; model.policy.Policy is one."""

    @property
    def geometry(self) -> Any: ...
    @property
    def memory(self) -> Any: ...
    def reset(self, instruction: str) -> Mapping[str, float]: ...
    def commit(self, views: Views) -> Mapping[str, float]: ...
    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> Any: ...


class Audience:
    """Watch what a policy sees and answers; this one does not care."""

    def on_commit(self, views: Views) -> None:
        """See real frames that were just committed."""

    def on_answer(self) -> None:
        """Hear that the policy has just predicted."""


@dataclass(frozen=True, slots=True)
class Pace:
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


class Cameras:
    """Give pictures at a fixed rate, each some time after it was taken."""

    def __init__(self, simulation: Simulation, pace: Pace) -> None:
        self._simulation = simulation
        self._period_ns, self._delay_ns = round(NS_PER_S / pace.camera_hz), _ns(pace.camera_s)
        self._due_ns = simulation.now_ns
        self._underway: deque[Observation] = deque()

    def arrived(self, now_ns: int) -> list[Observation]:
        """Take a picture if one is due; return those that have come."""
        if now_ns >= self._due_ns:
            self._due_ns += self._period_ns
            self._underway.append(self._simulation.observe())
        found = []
        while self._underway and now_ns >= self._underway[0].stamp_ns + self._delay_ns:
            found.append(self._underway.popleft())
        return found


class Mind:
    """Ask a policy what policy_node would ask its workers, one request at a time."""

    def __init__(self, robot: Embodiment, policy: Policy, pace: Pace, audience: Audience) -> None:
        self._policy, self._pace, self._audience = policy, pace, audience
        geometry = policy.geometry
        self._blocks = geometry.window_blocks
        self._frames_per_block = geometry.frames_per_block
        self._step_dt_s = geometry.step_dt_s
        self.decisions = Decisions(
            robot,
            Settings(query_period_ns=round(NS_PER_S / pace.query_hz), newest_posture=True),
            boot='trial',
        )
        self.decisions.on_ready(
            Grid(
                geometry.frames_per_block,
                round(geometry.frame_period_s * NS_PER_S),
                geometry.window_blocks,
            )
        )
        self._free_ns = 0  # when the request under way is answered
        self._underway: tuple[Request, Any] | None = None
        self.latency_ms: list[float] = []

    def chunk(self, now_ns: int) -> Chunk | None:
        """Finish what is answered, ask what is due; return the chunk that comes now."""
        found = None
        if self._underway is not None and now_ns >= self._free_ns:
            (request, said), self._underway = self._underway, None
            found = self._heard(request, said, now_ns)
        if self._underway is None:
            request = self.decisions.next(now_ns)
            if request is not None:
                self._underway = request, self._asked(request)
                self._free_ns = now_ns + _ns(
                    self._pace.query_s if isinstance(request, Query) else self._pace.commit_s
                )
        return found

    def _asked(self, request: Request) -> Answer | Cache | None:
        policy = self._policy
        if isinstance(request, Reset):
            policy.reset(request.instruction)
            return None
        if isinstance(request, Commit):
            views = request.block.pixels()
            policy.commit(views)
            self._audience.on_commit(views)
            memory = policy.memory
            return Cache(memory.commits, memory.frames / memory.window_frames, memory.rebuilds)
        found = policy.query(request.observation.joints.position, self._pace.seed)
        self._audience.on_answer()
        return Answer(self._step_dt_s, found.targets, found.reference, found.timings_ms)

    def _heard(self, request: Request, said: Any, now_ns: int) -> Chunk | None:
        decisions = self.decisions
        if isinstance(request, Reset):
            decisions.on_reset(request)
        elif isinstance(request, Commit):
            decisions.on_committed(request, said)
        else:
            chunk = decisions.on_answer(request, said, now_ns)
            if chunk is not None:
                decisions.on_published(chunk, now_ns, now_ns)
                self.latency_ms.append((now_ns - chunk.stamp_ns) / 1e6)
            return chunk
        return None


class Planned:
    """Move as motion_node does; it has driven before, so that its slow first move is over."""

    def __init__(self, robot: Embodiment, simulation: Simulation, pace: Pace) -> None:
        self._robot, self._simulation = robot, simulation
        self._planning_ns = _ns(pace.planning_s)
        self._motion = MotionControl(robot, dry_run=False)
        self._proposal: tuple[int, Proposal] | None = None

    @property
    def trouble(self) -> str:
        """Say why it stopped by itself; empty: it did not."""
        return self._motion.reason if self._motion.state in LATCHED else ''

    def settle(self, now_ns: int) -> None:
        """Take the robot over as soon as it is known to rest."""
        motion = self._motion
        self.advance(now_ns)
        if motion.executing is None:
            self._send(motion.enable(now_ns)[0])
            motion.approach.done_ns = now_ns - round(motion.approach.rule.ramp_s * NS_PER_S)

    def take(self, chunk: Chunk, now_ns: int) -> None:
        self._motion.on_chunk(chunk, now_ns)

    def advance(self, now_ns: int) -> None:
        """Live through one instant: measure, watch, plan."""
        motion = self._motion
        motion.on_joints(self._simulation.joints(), now_ns)
        self._send(motion.tick(now_ns))
        if self._proposal is not None and now_ns >= self._proposal[0]:
            (_, proposal), self._proposal = self._proposal, None
            self._send(motion.accepted(proposal, now_ns))
        if self._proposal is None:
            job = motion.job(now_ns)
            if job is not None:
                self._proposal = now_ns + self._planning_ns, proposed(job)

    def _send(self, trajectory: Trajectory | None) -> None:
        if trajectory is None:
            return
        points = Points.of(trajectory)
        for controller in self._robot.controllers:
            self._simulation.accept(controller.name, points.sorted_for(controller.joints))


class Paced:
    """Hand a chunk's rows to the controllers as they are, no faster than joints may move.

    A quick stand-in for Planned without acceleration and jerk limits: for checks in training.
    """

    trouble = ''

    def __init__(self, robot: Embodiment, simulation: Simulation, pace: Pace) -> None:
        self._robot, self._simulation = robot, simulation
        self._limits, self._grips = margined(robot), gripping(robot)
        self._fade_s = robot.safety.chunk.fade_s

    def settle(self, now_ns: int) -> None:
        """Do nothing: controllers hold the robot from the start."""

    def advance(self, now_ns: int) -> None:
        """Do nothing: controllers go on by themselves."""

    def take(self, chunk: Chunk, now_ns: int) -> None:
        """Follow `chunk` from the present set-point on."""
        setpoint = self._simulation.controllers.sample(now_ns)
        here = setpoint.position
        join = chunk_validator.joined(
            chunk, chunk.stamp_ns, setpoint, now_ns, self._fade_s, self._grips
        )
        if not len(join.wanted):
            return
        rows = chunk_validator.paced(join.wanted, setpoint, self._limits, self._grips)
        points = Points(
            now_ns,
            self._robot.commanded,
            GRID_NS * np.arange(len(rows) + 1),
            np.concatenate([here[None], rows]),
            None,
            None,
        )
        for controller in self._robot.controllers:
            self._simulation.accept(controller.name, points.sorted_for(controller.joints))


def staged(robot: Robot, trial: Trial, image_size: tuple[int, int] = (320, 240)) -> Simulation:
    """Return a simulation that shows the scene of `trial`, as `lived` wants it."""
    return Simulation(
        robot,
        task=trial.family,
        seed=trial.seed,
        image_size=image_size,
        start_ns=START_NS,
        combinations=trial.combinations,
        mark_waits=True,
    )


def lived(
    trial: Trial,
    simulation: Simulation,
    policy: Policy,
    pace: Pace,
    audience: Audience | None = None,
) -> Result:
    """Live one trial in a simulation fresh from `staged`.

    It ends when the first goal holds, or when time is over.
    """
    robot = simulation.robot.embodiment
    body = (Paced if pace.fast else Planned)(robot, simulation, pace)
    ready_ns = simulation.now_ns + SETTLE_NS
    while simulation.now_ns < ready_ns:
        simulation.step(BATCH)
        body.settle(simulation.now_ns)
    begun_ns = simulation.now_ns
    cameras, goals = Cameras(simulation, pace), Goals(trial.goals, simulation.start)
    mind = Mind(robot, policy, pace, audience or Audience())
    asked_ns = begun_ns + _ns(trial.asked_s)
    end_ns = asked_ns + _ns(trial.limit_s)
    to_say = deque(trial.said)
    while simulation.now_ns < end_ns and goals.reached_ns[0] is None:
        now_ns = simulation.now_ns
        while to_say and now_ns >= begun_ns + _ns(to_say[0][0]):
            mind.decisions.on_instruction(to_say.popleft()[1])
            simulation.begin()
        for observation in cameras.arrived(now_ns):
            _seen(mind.decisions, observation, now_ns)
        mind.decisions.on_joints(simulation.joints(), now_ns)
        chunk = mind.chunk(now_ns)
        if chunk is not None:
            body.take(chunk, now_ns)
        body.advance(now_ns)
        simulation.step(BATCH)
        if simulation.now_ns > asked_ns:
            goals.look(simulation.state(), simulation.now_ns)
    return Result(
        trial,
        tuple(None if at is None else (at - asked_ns) / NS_PER_S for at in goals.reached_ns),
        (simulation.now_ns - begun_ns) / NS_PER_S,
        mind.decisions.tally.chunks,
        float(simulation.executed.ratios()['jerk'].max()),
        body.trouble,
        tuple(mind.latency_ms),
        (),
        (),
    )


def _seen(decisions: Decisions, observation: Observation, now_ns: int) -> None:
    for frame in observation.frames:
        decisions.on_frame(frame, now_ns)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)

"""Metrics of a run from its topics: counts, rates, latencies and use of the joint limits.

Metrics start with the first chunk; the time before is start-up, told phase by phase. Wall times
are s of the monotonic clock, stamps are ns of the stack's clock.
"""

import time
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import partial

import numpy as np
import psutil

from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import compute_limit_usage
from wam_policy.core.statistics import RunningMean
from wam_policy.core.types import Chunk, JointState

LIMIT_QUANTITIES = ('position', 'velocity', 'acceleration', 'jerk')
RECENT_CHUNKS = 20  # for the present rate and latency
MAX_LATENCIES = 50_000  # per stage, two hours at 7 Hz
START_PHASES = (
    'imported',  # this program runs
    'domain_checked',  # no other stack was discovered; the launch begins
    'first_status',  # policy_node is configured and its workers load
    'workers_ready',  # the model is loaded and warm
    'instructed',  # policy_node has an instruction
    'first_chunk',
)


class RunMetrics:
    """Collect messages of a run; the metrics are available at any time."""

    def __init__(self, robot: Embodiment) -> None:
        self._robot = robot
        self._limits = {
            controller.name: robot.limits(controller.joints) for controller in robot.controllers
        }
        self._last_trajectories: dict[str, Trajectory] = {}
        self._latencies_ms: dict[str, deque[float]] = defaultdict(
            partial(deque, maxlen=MAX_LATENCIES)
        )
        self._rates_hz: dict[str, RunningMean] = defaultdict(RunningMean)
        self._real_time_factors = RunningMean()
        self.chunk_count = 0
        self.first_chunk_s: float | None = None  # time of the first chunk
        self._recent_s: deque[float] = deque(maxlen=RECENT_CHUNKS)
        self._paused_s = 0.0  # total time without an instruction, before the present pause
        self._pause_start_s: float | None = None  # start of the present pause
        self._start_joints: JointState | None = None
        self.commanded_ratios = dict.fromkeys(LIMIT_QUANTITIES, 0.0)
        self.max_blend_offset = 0.0  # largest position jump from one trajectory to the next
        self.trajectory_count = 0
        self.moved_rad = 0.0  # largest distance of a joint from its first position

    def on_chunk(self, chunk: Chunk, ready_ns: int, now_ns: int, now_s: float) -> None:
        """Record a chunk on arrival; the first one includes the warm-up and is not timed."""
        self.chunk_count += 1
        self._recent_s.append(now_s)
        if self.first_chunk_s is None:
            self.first_chunk_s = now_s
            return
        stages = {
            **chunk.timings_ms,
            'publish': (now_ns - ready_ns) / 1e6,
            'total': (now_ns - chunk.stamp_ns) / 1e6,
        }
        for stage, value_ms in stages.items():
            self._latencies_ms[stage].append(value_ms)

    def on_camera_rates(self, rates_hz: Mapping[str, float]) -> None:
        """Record the image rates of the policy, measured over the last seconds."""
        if self.first_chunk_s is not None:
            for camera, rate_hz in rates_hz.items():
                self._rates_hz[camera].add(rate_hz)

    def on_joints(self, joints: JointState) -> None:
        self._start_joints = self._start_joints or joints
        self.moved_rad = max(
            self.moved_rad, float(np.abs(joints.position - self._start_joints.position).max())
        )

    def on_trajectory(self, controller: str, trajectory: Trajectory) -> None:
        """Record a command: extrema also between points, and the jump from the previous one."""
        self.trajectory_count += 1
        found = compute_limit_usage(trajectory, self._limits[controller])
        for name in LIMIT_QUANTITIES:
            self.commanded_ratios[name] = max(
                self.commanded_ratios[name], float(getattr(found, name).max())
            )
        before = self._last_trajectories.get(controller)
        if before is not None:
            gap = np.abs(before.at(trajectory.start_ns).position - trajectory.position[0])
            self.max_blend_offset = max(self.max_blend_offset, float(gap.max()))
        self._last_trajectories[controller] = trajectory

    def on_real_time_factor(self, real_time_factor: float) -> None:
        if self.first_chunk_s is not None:
            self._real_time_factors.add(real_time_factor)

    def rate_hz(self, now_s: float) -> float:
        """Return chunks per second of wall time since the first chunk, without pauses."""
        if self.first_chunk_s is None:
            return 0.0
        until_s = now_s if self._pause_start_s is None else self._pause_start_s
        busy_s = until_s - self.first_chunk_s - self._paused_s
        return (self.chunk_count - 1) / busy_s if busy_s > 0.0 else 0.0

    def pause(self, now_s: float) -> None:
        """Start a pause: the policy has no instruction."""
        if self.first_chunk_s is not None and self._pause_start_s is None:
            self._pause_start_s = now_s

    def resume(self, now_s: float) -> None:
        """End the pause: the policy has an instruction."""
        if self._pause_start_s is not None:
            self._paused_s += now_s - self._pause_start_s
            self._pause_start_s = None

    def recent_hz(self, now_s: float) -> float:
        """Return chunks per second over the last RECENT_CHUNKS, up to `now_s`."""
        recent = self._recent_s
        return (len(recent) - 1) / max(now_s - recent[0], 1e-9) if len(recent) > 1 else 0.0

    def recent_latency_ms(self) -> float | None:
        """Return the median of the last RECENT_CHUNKS total latencies, ms."""
        totals = self._latencies_ms.get('total')
        return float(np.median(list(totals)[-RECENT_CHUNKS:])) if totals else None

    def camera_hz(self) -> dict[str, float]:
        """Return the mean image rate per camera at the policy, Hz."""
        return {camera.key: self._rates_hz[camera.key].value for camera in self._robot.cameras}

    def real_time_factor(self) -> float:
        return self._real_time_factors.value

    def latency_ms(self) -> Mapping[str, float]:
        """Return p50 and p99 of the total and the median of every stage, ms."""
        totals = self._latencies_ms.get('total')
        if not totals:
            return {}
        return {
            'p50': float(np.percentile(totals, 50)),
            'p99': float(np.percentile(totals, 99)),
            **{
                stage: float(np.median(values))
                for stage, values in self._latencies_ms.items()
                if stage != 'total'
            },
        }


class StartUpPhases:
    """Hold when each phase of a start was first seen, s of the monotonic clock."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._reached_s: dict[str, float] = {}

    @classmethod
    def from_process_start(cls) -> 'StartUpPhases':
        """Count from the start of this process; `./wam` replaces itself by it, and counts."""
        return cls(time.monotonic() - (time.time() - psutil.Process().create_time()))

    def mark(self, name: str, now_s: float) -> None:
        """Note that a phase is reached, unless it was before."""
        if name not in START_PHASES:
            raise ValueError(f'phase {name!r} is unknown; known: {", ".join(START_PHASES)}')
        self._reached_s.setdefault(name, now_s)

    def mark_policy(self, state_name: str, instruction: str, now_s: float) -> None:
        """Note what a status of policy_node tells; empty texts tell nothing."""
        if state_name:
            self.mark('first_status', now_s)
        if state_name not in ('', 'STARTING'):
            self.mark('workers_ready', now_s)
        if instruction:
            self.mark('instructed', now_s)

    def describe(self) -> dict[str, float]:
        """Return s from the start of the command to each phase that was reached."""
        return {
            name: round(self._reached_s[name] - self._began_s, 3)
            for name in START_PHASES
            if name in self._reached_s
        }

    def __str__(self) -> str:
        return ', '.join(
            f'{name.replace("_", " ")} {seconds:.1f} s'
            for name, seconds in self.describe().items()
        )

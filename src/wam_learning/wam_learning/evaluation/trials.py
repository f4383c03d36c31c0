"""Define trials of an evaluation and their results, which are exchanged as JSON lines.

A trial has the seed of its scene, instructions with their times, and the goals to monitor: first
the goal of the last instruction, then goals that must not be reached. The runner, with ROS or
without, returns a TrialResult.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from wam_sim.tasks.task_families import Task

FAMILY_LIMIT_S = {'recall': 9.0}  # s of robot time; the mark is shown in the first seconds
DEFAULT_LIMIT_S = 8.0


def family_time_limit_s(family: str) -> float:
    """Return how long a trial of `family` may take, s from the (last) instruction."""
    return FAMILY_LIMIT_S.get(family, DEFAULT_LIMIT_S)


@dataclass(frozen=True, slots=True)
class Trial:
    """Hold one task in one scene."""

    series: str  # name of the condition
    seed: int  # of scene and task
    family: str
    combinations: str  # split of word combinations, as in wam_sim.tasks.task_families
    instructions: tuple[tuple[float, str], ...]  # s after the start, instruction
    goals: tuple[Task, ...]  # of the last instruction; then goals that must not be reached
    limit_s: float  # after the last instruction

    @property
    def last_instruction_s(self) -> float:
        """Return the time of the last instruction, s after the start."""
        return self.instructions[-1][0]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a line of `to_json`; raise KeyError or TypeError for anything else."""
        values = json.loads(text)
        return cls(
            **{
                **values,
                'instructions': tuple((at, text) for at, text in values['instructions']),
                'goals': tuple(Task(**goal) for goal in values['goals']),
            }
        )


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Hold the result of a trial; times are s after its last instruction."""

    trial: Trial
    reached_s: tuple[float | None, ...]  # per goal, when it was first reached; None: never
    duration_s: float  # of robot time
    chunks: int  # number of published chunks
    jerk_ratio: float  # maximum executed jerk, as a fraction of the limit
    stop_reason: str  # of a protective stop; empty without one
    latency_ms: tuple[float, ...]  # observation to chunk, each
    psnr_db: tuple[float, ...]  # of predicted images, per frame ahead
    ssim: tuple[float, ...]
    video_sums: Mapping[str, float] = field(default_factory=dict)  # of sum_squared_errors
    query_ms: tuple[float, ...] = ()  # wall time of the policy's queries, without ROS
    # per chunk without ROS: largest difference of an arm joint to the setpoint where it begins
    seam_rad: tuple[float, ...] = ()
    # without ROS: maximum jerk of the measured arm joints, as a fraction of the limit
    measured_jerk_ratio: float = 0.0

    @property
    def success(self) -> bool:
        return self.reached_s[0] is not None

    def to_json(self) -> str:
        return json.dumps({**asdict(self), 'trial': json.loads(self.trial.to_json())})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a line of `to_json`; raise KeyError or TypeError for anything else."""
        values: Mapping[str, Any] = json.loads(text)
        lists = ('reached_s', 'latency_ms', 'psnr_db', 'ssim', 'query_ms', 'seam_rad')
        return cls(
            **{
                **values,
                'trial': Trial.from_json(json.dumps(values['trial'])),
                **{name: tuple(values[name]) for name in lists if name in values},
            }
        )

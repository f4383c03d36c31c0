"""What is tried in an evaluation, and what came of it: records that travel as JSON lines.

A trial names a scene by its seed, says what is said when, and which goals are watched: the first
is the one that was asked for last, others are those that must not come true. Whoever runs it, with
ROS or without, fills in a Result; nothing here knows how.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from wam_sim.tasks.task_families import Task

FAMILY_LIMIT_S = {'recall': 9.0}  # of robot time; a mark costs the first second or two
DEFAULT_LIMIT_S = 8.0


def family_time_limit_s(family: str) -> float:
    """Return how long a trial of `family` may take, s from the (last) instruction."""
    return FAMILY_LIMIT_S.get(family, DEFAULT_LIMIT_S)


@dataclass(frozen=True, slots=True)
class Trial:
    """Ask for one thing in one scene."""

    series: str  # of which question it is part
    seed: int  # of scene and task
    family: str
    combinations: str  # of words, as in wam_sim.tasks.task_families
    said: tuple[tuple[float, str], ...]  # s after the start, instruction
    goals: tuple[Task, ...]  # asked for last; then what must not come true
    limit_s: float  # after the last instruction

    @property
    def last_instruction_s(self) -> float:
        """Return when the last instruction is given."""
        return self.said[-1][0]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a line of `to_json`; KeyError or TypeError for anything else."""
        values = json.loads(text)
        return cls(
            **{
                **values,
                'said': tuple((at, words) for at, words in values['said']),
                'goals': tuple(Task(**goal) for goal in values['goals']),
            }
        )


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Hold what came of a trial; times are s after its last instruction."""

    trial: Trial
    reached_s: tuple[float | None, ...]  # per goal, when it first held; None: never
    lived_s: float  # robot time from the start to the end
    chunks: int  # published, of that time
    jerk_ratio: float  # worst joint's executed jerk against its limit
    trouble: str  # why motion stopped by itself; empty: it did not
    latency_ms: tuple[float, ...]  # observation to chunk, each
    psnr_db: tuple[float, ...]  # predicted against real picture, per frame ahead
    ssim: tuple[float, ...]

    @property
    def success(self) -> bool:
        return self.reached_s[0] is not None

    def to_json(self) -> str:
        return json.dumps({**asdict(self), 'trial': json.loads(self.trial.to_json())})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a line of `to_json`; KeyError or TypeError for anything else."""
        values: Mapping[str, Any] = json.loads(text)
        lists = ('reached_s', 'latency_ms', 'psnr_db', 'ssim')
        return cls(
            **{
                **values,
                'trial': Trial.from_json(json.dumps(values['trial'])),
                **{name: tuple(values[name]) for name in lists},
            }
        )

"""The engine behind the desk: the same workers that a robot's own node starts, asked as it asks.

They are programs on their devices, so this process has no torch and outlives them: they are
started again, every memory is then empty, and `generation` tells.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.workers.supervisor import Pair, Plan, State, Status

Views = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Model:
    """Say what the workers run, once they are ready."""

    name: str
    trained: bool
    first_frames: int
    frames_per_block: int
    frame_period_s: float
    window_blocks: int
    horizon: int
    step_dt_s: float


class Engine:
    """Keep the workers of a plan and speak to them in sessions."""

    def __init__(self, plan: Plan, timeout_s: float, say: Callable[[str], None]) -> None:
        """Take how long an answer may last and where lines for people go."""
        self._timeout_s, self._say = timeout_s, say
        self._on_over: Callable[[], object] = lambda: None
        self._first: Status | None = None  # what the first start led to
        self._begun = threading.Event()
        self._pair = Pair(plan, lambda rank, line: say(line), self._on_status)

    def start(self) -> Status:
        """Start the workers and wait until they are ready or have failed once; give the status."""
        self._pair.start()
        self._begun.wait()
        assert self._first is not None
        return self._first

    def close(self) -> None:
        self._pair.close()

    @property
    def generation(self) -> int:
        """Count the workers' lives: in another one, sessions are unknown."""
        return self._pair.status.generation

    @property
    def restarts(self) -> int:
        return self._pair.status.restarts

    @property
    def fault(self) -> str:
        """Say why nothing can be asked now; empty while it can."""
        status = self._pair.status
        ready = status.state is State.READY
        return '' if ready else f'workers are {status.state}: {status.reason}'

    @property
    def over(self) -> bool:
        """Tell whether the workers have failed and will not be started again."""
        return _over(self._pair.status)

    def when_over(self, call: Callable[[], object]) -> None:
        """Have this called, by another thread, when the workers will not come back."""
        self._on_over = call
        if self.over:
            call()

    @property
    def model(self) -> Model:
        """Describe what answers, once `start` has said READY."""
        assert self._first is not None
        facts = self._first.facts
        named = {
            key: facts['geometry'][key]
            for key in (
                'first_frames',
                'frames_per_block',
                'frame_period_s',
                'window_blocks',
                'horizon',
                'step_dt_s',
            )
        }
        return Model(
            name=facts['model'].removeprefix('UNTRAINED '), trained=facts['trained'], **named
        )

    def reset(self, session: str, instruction: str, mode: str) -> None:
        """Begin a session, anew if it lives, in a rhythm: clocked | reference.

        This and the others raise what Pair.request raises.
        """
        self._ask('reset', {'session': session, 'instruction': instruction, 'mode': mode})

    def commit(self, session: str, block: int, views: Views) -> Mapping[str, Any]:
        """Take frames uint8 [T h w 3] of each camera into memory; give what it holds then."""
        return self._ask(
            'commit',
            {'session': session, 'block': block, 'stamps_ns': []},
            {f'frames/{key}': view for key, view in views.items()},
        ).fields

    def query(
        self,
        session: str,
        sequence: int,
        joints: np.ndarray,
        seed: int,
        newest: Views | None = None,
    ) -> np.ndarray:
        """Predict absolute targets [horizon commanded] from a posture [observed]."""
        shown = {f'newest/{key}': view for key, view in (newest or {}).items()}
        return self._ask(
            'query',
            {'session': session, 'sequence': sequence, 'stamp_ns': 0, 'seed': seed},
            {'joints': joints, **shown},
        ).arrays['targets']

    def _ask(self, kind: str, fields: Mapping[str, Any], arrays: Views | None = None) -> Any:
        return self._pair.request(kind, fields, arrays, timeout_s=self._timeout_s)

    def _on_status(self, status: Status) -> None:
        if self._first is None and status.state in (State.READY, State.FAILED, State.STOPPED):
            self._first = status
            self._begun.set()
        if status.state is State.FAILED:
            self._say(f'workers failed: {status.reason}')
        if _over(status):
            self._on_over()


def _over(status: Status) -> bool:
    return status.state is State.FAILED and status.retry_s is None


def plan(
    devices: tuple[str, ...], arguments: tuple[str, ...], guided: bool, start_timeout_s: float
) -> Plan:
    """Give what to run; ValueError for devices that cannot be."""
    return Plan(
        devices,
        arguments,
        guided,
        start_timeout_s=start_timeout_s,
        program=(sys.executable, '-m', 'wam_policy.workers.run_worker'),
    )

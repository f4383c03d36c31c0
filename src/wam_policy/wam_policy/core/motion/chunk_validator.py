"""Decide on arrival whether a chunk may be executed at all."""

from collections import deque

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import Chunk

MAX_FUTURE_STAMP_S = 0.05  # a stamp this far in the future is a wrong clock, not jitter
# A chunk may be this old when the arm has rested since its observation: nothing moved meanwhile,
# but people and objects may have. Slower policies than this are not driven.
MAX_AGE_AT_REST_S = 10.0
MAX_RETIRED_SESSIONS = 64
COMPETING_PUBLISHERS_WINDOW_NS = 1_000_000_000  # two policies that spoke within this time are two


class ChunkValidator:
    """Judge chunks in the order they arrive; remember the sessions and the newest sequence."""

    def __init__(self, robot: Embodiment) -> None:
        self.robot = robot
        self.session: str | None = None
        self.sequence = -1
        self.retired: deque[str] = deque(maxlen=MAX_RETIRED_SESSIONS)
        self.stopped_session: str | None = None  # the one that a stop ended
        self.session_start_ns = 0  # first observation of the present session
        self.last_chunk_ns: dict[str, int] = {}  # rivals: session -> when it last spoke
        self.reject_until_ns: int | None = None

    def validate(self, chunk: Chunk, now_ns: int) -> str | None:
        """Return why `chunk` may not be executed at all, whatever the arm does now.

        A chunk that passes is the newest from here on: its session retires the one before, older
        sequences of its own are refused.
        """
        reason = (
            self._check_content(chunk)
            or self._check_competing_publishers(chunk, now_ns)
            or self._check_order(chunk)
            or self._check_age(chunk, now_ns)
        )
        if reason is None:
            if self.session != chunk.session:
                if self.session is not None:
                    self.retired.append(self.session)
                self.session_start_ns = chunk.stamp_ns
            self.session, self.sequence = chunk.session, chunk.sequence
        return reason

    def end_session(self) -> None:
        """Refuse the present session from now on: its instruction is gone."""
        self.stopped_session = self.session

    def reject_until(self, stamp_ns: int | None) -> None:
        """Refuse what was observed up to `stamp_ns`; None refuses nothing for its stamp."""
        self.reject_until_ns = stamp_ns

    def _check_content(self, chunk: Chunk) -> str | None:
        robot = self.robot
        if not (np.isfinite(chunk.targets).all() and np.isfinite(chunk.reference).all()):
            finite = np.isfinite(chunk.targets).all(axis=0) & np.isfinite(chunk.reference)
            joints = [name for name, good in zip(chunk.names, finite, strict=True) if not good]
            return f'chunk is not finite: {", ".join(joints)}'
        if chunk.names != robot.commanded:
            wrong = sorted(set(chunk.names) ^ set(robot.commanded)) or ['order']
            return f'chunk has other joints than {robot.name}: {", ".join(wrong[:4])}'
        limits = robot.limits()
        beyond = limits.upper - limits.lower
        absurd = (
            (chunk.targets < limits.lower - beyond) | (chunk.targets > limits.upper + beyond)
        ).any(axis=0)
        if absurd.any():
            joint = int(np.argmax(absurd))
            return (
                f'chunk asks {chunk.names[joint]} for '
                f'{chunk.targets[:, joint].min():.3g} .. {chunk.targets[:, joint].max():.3g}, '
                'a whole range beyond its limits: wrong unit?'
            )
        if not np.isclose(chunk.step_dt_s, robot.step_dt_s, rtol=1e-3):
            return f'chunk rows are {chunk.step_dt_s:g} s apart, want {robot.step_dt_s:g} s'
        if chunk.embodiment_hash != robot.config_hash:
            return 'chunk was made for another description of the robot (contract differs)'
        return None

    def _check_competing_publishers(self, chunk: Chunk, now_ns: int) -> str | None:
        """Refuse everybody while two policies speak; afterwards follow the one that is left.

        A session that is over and yet tells of what it saw after the next one began was not
        followed by it: somebody else publishes chunks.
        """
        retired = chunk.session in self.retired and chunk.stamp_ns > self.session_start_ns
        if retired and self.session is not None:
            self.last_chunk_ns.setdefault(self.session, now_ns)
        elif not self.last_chunk_ns:
            return None
        self.last_chunk_ns[chunk.session] = now_ns
        recent = {
            session: received_ns
            for session, received_ns in self.last_chunk_ns.items()
            if 0 <= now_ns - received_ns < COMPETING_PUBLISHERS_WINDOW_NS
        }
        if len(recent) > 1:
            return f'two policies publish chunks, only one may: {" and ".join(sorted(recent))}'
        self.last_chunk_ns.clear()
        if chunk.session != self.session:
            self.retired = deque(
                (session for session in self.retired if session != chunk.session),
                MAX_RETIRED_SESSIONS,
            )
        return None

    def _check_order(self, chunk: Chunk) -> str | None:
        if chunk.session in self.retired:
            return f'chunk of an old session ({chunk.session})'
        if chunk.session == self.stopped_session:
            return 'chunk of the instruction before the stop: give a new instruction'
        if self.reject_until_ns is not None and chunk.stamp_ns <= self.reject_until_ns:
            return 'chunk was observed before the policy paused'
        if chunk.session == self.session and chunk.sequence <= self.sequence:
            return f'chunk {chunk.sequence} came after {self.sequence}'
        return None

    def _check_age(self, chunk: Chunk, now_ns: int) -> str | None:
        age_s = (now_ns - chunk.stamp_ns) / NS_PER_S
        if age_s < -MAX_FUTURE_STAMP_S:
            return f'chunk is stamped {-age_s:.2f} s in the future'
        if age_s > MAX_AGE_AT_REST_S:
            return f'late chunk: its observation is {age_s:.1f} s old'
        return None

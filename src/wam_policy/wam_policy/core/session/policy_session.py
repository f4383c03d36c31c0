"""What policy_node does next, and why: sessions, commits, queries and replays.

A session is one instruction over one unbroken past in one life of the workers. Anything that ends
one of these opens the next session, and an answer that belongs to an older one is dropped. The
workers are slow and may die; this module only says what to ask them and judges what they answer.
"""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from wam_policy.core.observation.clocks import QueryClock
from wam_policy.core.observation.frame_history import Grid, Memory
from wam_policy.core.observation.observation_buffer import Refusal, Ring, Views
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.camera_usage import Usage
from wam_policy.core.session.instruction import cleaned
from wam_policy.core.session.latency_stages import asked_ms, published_ms
from wam_policy.core.session.model_requests import Answer, Cache, Commit, Query, Request, Reset
from wam_policy.core.statistics import Latencies, Rate
from wam_policy.core.types import Chunk, Frame, JointState, Observation

LATENCIES_KEPT = 200  # chunks; half a minute at 7 Hz
RATE_WINDOW_NS = 3_000_000_000
JOINTS = 'joint states'


class State(Enum):
    """Name the states; names and numbers are those of PolicyStatus."""

    UNCONFIGURED = 0
    STARTING = 1
    IDLE = 2
    WAITING_OBSERVATION = 3
    STALE_OBSERVATION = 4
    RUNNING = 5
    HOLDING = 6
    ERROR = 7


class Workers(Enum):
    """Name what the workers are to the policy."""

    STARTING = State.STARTING  # for the first time, or because someone asked for it
    READY = State.RUNNING
    DOWN = State.HOLDING  # they died and come back by themselves
    FAILED = State.ERROR  # they stay down until someone helps


@dataclass(frozen=True, slots=True)
class Tally:
    """Count what happened since activation."""

    chunks: int = 0
    commits: int = 0
    rebuilds: int = 0
    dropped_chunks: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold what a user may choose."""

    query_period_ns: int = 100_000_000  # shortest time between two queries
    max_gap_ns: int = 2_000_000_000  # a camera that shows nothing for longer ends a session
    max_instruction_length: int = 400  # characters
    query_per_commit: bool = False  # as the released server: one query per block
    newest_posture: bool = False  # queries that read no picture need not wait for one


class Policy:
    """Decide, one request at a time, what the workers are asked; share it under a lock only."""

    def __init__(self, robot: Embodiment, settings: Settings, boot: str) -> None:
        """Take a text that no other life of the node has, to name sessions by."""
        self.robot = robot
        self.settings = settings
        self.views = Views(robot)
        self.instruction = ''
        self.orders = 0  # instructions accepted since the start
        self.sequence = 0  # of the newest query; never goes back
        self.tally = Tally()
        self.cache = Cache()
        self.usage = Usage()
        self.latencies = Latencies(LATENCIES_KEPT)
        self.rate = Rate(RATE_WINDOW_NS)
        self._boot = boot
        self._clock = QueryClock(settings.query_period_ns)
        self._warm = False  # a pair's first answer says nothing about the others
        self._arrived_ns: dict[str, int] = {}  # newest sample per source
        self._complaints: dict[str, str] = {}  # source -> why its last message was refused
        self._workers, self._workers_reason = Workers.STARTING, 'workers are starting'
        self._memory: Memory | None = None
        self._retry_ns = 0  # the workers refused: nothing is asked before
        self._epoch = 0
        self._forget('no instruction yet', rebuild=False)

    @property
    def session(self) -> str:
        return f'{self._boot}-{self._epoch}'

    # what arrives

    def on_frame(self, frame: Frame, now_ns: int) -> None:
        self._take(self.views.rings[frame.camera], frame, frame.camera)
        self._arrived_ns[frame.camera] = now_ns

    def on_joints(self, joints: JointState, now_ns: int) -> None:
        self._take(self.views.joints, joints, JOINTS)
        self._arrived_ns[JOINTS] = now_ns

    def on_refused(self, source: str, reason: str) -> None:
        """Show that a message was not taken until a better one of that source comes."""
        self._complaints[source] = reason

    def on_instruction(self, text: str) -> None:
        """Follow `text` from now on; the same words again change nothing, too many are refused."""
        try:
            plain = cleaned(text, self.settings.max_instruction_length)
        except ValueError as error:
            self.on_refused('instruction', f'{error}; the last one stays')
            return
        self._complaints.pop('instruction', None)
        if plain != self.instruction:
            self._follow(plain)

    def start(self, text: str) -> int:
        """Follow `text` from now on in a session of its own, and return its order number.

        Raises ValueError for a text that is empty or too long.
        """
        plain = cleaned(text, self.settings.max_instruction_length)
        if not plain:
            raise ValueError('the instruction is empty; say what to do')
        self._follow(plain)
        return self.orders

    def _follow(self, text: str) -> None:
        self.instruction = text
        self.orders += 1
        self._forget('a new instruction came', rebuild=False)

    def on_time_jump(self, reason: str) -> None:
        """Drop whatever carries stamps of a clock that is no longer true."""
        self.views.clear()
        self._retry_ns = 0
        self._forget(reason, rebuild=bool(self.instruction))

    def retune(self, query_period_ns: int) -> None:
        """Change how often the workers may be asked."""
        self.settings = replace(self.settings, query_period_ns=query_period_ns)
        self._clock = replace(self._clock, period_ns=query_period_ns)

    def on_ready(
        self, grid: Grid, query_per_commit: bool | None = None, newest_posture: bool | None = None
    ) -> None:
        """Use the workers from now on; the recorded past is replayed to them.

        Those that can only be asked in a rhythm of their own say so: it wins over the settings.
        """
        told = {'query_per_commit': query_per_commit, 'newest_posture': newest_posture}
        self.settings = replace(
            self.settings, **{name: value for name, value in told.items() if value is not None}
        )
        if self._memory is None or self._memory.grid != grid:
            self._memory = Memory(grid, self.settings.max_gap_ns)
        self._workers, self._workers_reason, self._warm = Workers.READY, '', False
        self._open('workers are ready', rebuild=not self._memory.empty)

    def on_workers(self, workers: Workers, reason: str) -> None:
        """Take note that the workers are not to be asked, and why."""
        if self._workers is Workers.READY:
            self._clock = self._clock.answered()
            self._open(reason, rebuild=False)
        self._workers, self._workers_reason = workers, reason

    # what the workers are asked

    def next(self, now_ns: int) -> Request | None:
        """Return what to ask the workers now; the caller asks it before it calls again.

        Where a commit and a query wait for each other they take turns, so neither is delayed by
        more than one of the other. A replay comes before every query.
        """
        ready = self._workers is Workers.READY and self.instruction and now_ns >= self._retry_ns
        if ready and not self._opened:
            return Reset(self.session, self.instruction)
        self._remember(now_ns)
        if not ready or not self._opened or self._memory.empty:
            return None
        block = (
            self._memory.opening() if self._cached is None else self._memory.after(self._cached)
        )
        query = self._query(now_ns)
        if block and (query is None or not self._committed_last):
            self._committed_last = True
            self.usage.add(frame for frames in block.views.values() for frame in frames)
            if self._cached is None:
                self._first = block.index
            return Commit(self.session, block.index - self._first, block)
        if query:
            self._committed_last, self.sequence = False, query.sequence
            self._clock = self._clock.asked(now_ns, query.observation.stamp_ns)
            self.usage.add(query.observation.frames)
        return query

    def on_reset(self, reset: Reset) -> None:
        self._opened = reset.session == self.session

    def on_committed(self, commit: Commit, cache: Cache) -> None:
        """Take note of what the cache holds after `commit`."""
        if commit.session != self.session:
            return
        rebuilt = max(0, cache.rebuilds - self.cache.rebuilds)
        self.cache, self._cached = cache, commit.block.index
        new = self._cached > self._newest
        self._newest = max(self._newest, self._cached)
        if self._replaying and self._cached >= self._replay_to:
            self._replaying, rebuilt = False, rebuilt + 1
        self.tally = replace(
            self.tally, commits=self.tally.commits + new, rebuilds=self.tally.rebuilds + rebuilt
        )

    def on_answer(self, query: Query, answer: Answer, now_ns: int) -> Chunk | None:
        """Return the chunk to publish, or None for an answer that must not move anything."""
        self._clock = self._clock.answered()
        fault = '' if query.session == self.session else 'an older session'
        fault = fault or self._fault(query, answer, now_ns)
        if fault:
            self.tally = replace(self.tally, dropped_chunks=self.tally.dropped_chunks + 1)
            self._note = f'dropped chunk {query.sequence}: {fault}'
            return None
        self._answered, self._note = True, ''
        observed_ns = query.observation.stamp_ns
        return Chunk(
            observed_ns,
            query.session,
            query.sequence,
            answer.step_dt_s,
            self.robot.commanded,
            answer.targets,
            answer.reference,
            self.robot.contract,
            asked_ms(observed_ns, query.arrived_ns, query.asked_ns, now_ns, answer.timings_ms),
        )

    def on_published(self, chunk: Chunk, answered_ns: int, now_ns: int) -> None:
        self.tally = replace(self.tally, chunks=self.tally.chunks + 1)
        self.rate.tick(now_ns)
        if self._warm:
            self.latencies.add(
                {**chunk.timings_ms, **published_ms(chunk.stamp_ns, answered_ns, now_ns)}
            )
        self._warm = True

    def on_failure(self, reason: str, retry_ns: int) -> None:
        """Give up the session because a request failed; ask nothing before `retry_ns`."""
        self._clock = self._clock.answered()
        self._retry_ns = retry_ns
        self._open(reason, rebuild=self._cached is not None)

    # what the status says

    def condition(self, now_ns: int) -> tuple[State, str]:
        """Return the state and why it is that; empty: nothing to say."""
        state, reason = self._condition(now_ns)
        return state, '; '.join(filter(None, (reason, *self._complaints.values())))

    def _condition(self, now_ns: int) -> tuple[State, str]:
        if self._workers is not Workers.READY:
            return self._workers.value, self._workers_reason
        if not self.instruction:
            return (
                (State.HOLDING, 'the instruction is empty')
                if self.orders
                else (State.IDLE, 'no instruction yet')
            )
        if now_ns < self._retry_ns:
            return State.ERROR, self._note
        seen = self.views.observation(now_ns)
        if isinstance(seen, Refusal):
            return (
                State.WAITING_OBSERVATION if seen.missing else State.STALE_OBSERVATION,
                seen.reason,
            )
        if not self._answered:  # not HOLDING: new words need not stop the motion of the old
            return State.WAITING_OBSERVATION, f'no chunk of this session yet: {self._note}'
        return State.RUNNING, self._note

    @property
    def dropped_frames(self) -> int:
        """Return how many frames came and were never looked at."""
        return sum(ring.received for ring in self.views.rings.values()) - self.usage.used

    # sessions

    def _open(self, reason: str, *, rebuild: bool) -> None:
        """Begin a session; `rebuild`: its cache replaces one that was lost."""
        self._epoch += 1
        self._note = reason
        self._opened = False
        self._answered = False
        self._committed_last = False
        self._replaying = rebuild
        # what is recorded meanwhile waits its turn: slow workers must come to an end of the past
        self._replay_to = 0 if self._memory is None else self._memory.newest
        self._cached: int | None = None  # newest block that the workers hold
        self._first = 0  # block with which their cache began
        self.cache = Cache(rebuilds=self.cache.rebuilds)
        self._clock = self._clock.restarted()

    def _forget(self, reason: str, *, rebuild: bool) -> None:
        self._newest = -1  # newest block of this record that was ever committed
        if self._memory is not None:
            self._memory.forget()
        self._open(reason, rebuild=rebuild)

    def _take[T: (Frame, JointState)](self, ring: Ring[T], sample: T, source: str) -> None:
        self._complaints.pop(source, None)
        jumps = ring.jumps
        ring.put(sample)
        if ring.jumps != jumps:
            self.on_time_jump(f'the stamps of {source} went back')
            ring.put(sample)

    def _remember(self, now_ns: int) -> None:
        """Bring the record up to date; it goes on while the workers are down."""
        if self._memory is None or not self.instruction:
            return
        if self._memory.empty:
            seen = self.views.observation(now_ns)
            if isinstance(seen, Observation):
                self._memory.begin(seen)
            return
        broken = self._memory.advance(self.views.rings)
        if broken:
            self._forget(broken, rebuild=True)
        elif self._cached is not None and self._memory.lost(self._cached):
            self._forget(
                'the workers fell behind the cameras; the memory begins anew', rebuild=True
            )

    def _query(self, now_ns: int) -> Query | None:
        """Return the query that is due, if one is."""
        waits = self._cached is None or self._replaying
        if waits or (self.settings.query_per_commit and not self._committed_last):
            return None
        seen = self.views.observation(now_ns)
        if isinstance(seen, Refusal):
            return None
        posture = self.views.joints.newest
        if self.settings.newest_posture and posture.stamp_ns > seen.stamp_ns:
            seen = replace(seen, stamp_ns=posture.stamp_ns, joints=posture)
            arrived_ns = self._arrived_ns[JOINTS]
        else:  # its stamp is that of some camera's newest frame: with that it was complete
            arrived_ns = max(
                self._arrived_ns[frame.camera]
                for frame in seen.frames
                if frame.stamp_ns == seen.stamp_ns
            )
        if not self._clock.due(now_ns, seen.stamp_ns):
            return None
        return Query(self.session, self.sequence + 1, seen, arrived_ns, now_ns)

    def _fault(self, query: Query, answer: Answer, now_ns: int) -> str:
        """Return what is wrong with an answer; empty: nothing."""
        joints = len(self.robot.commanded)
        if (
            answer.targets.ndim != 2
            or answer.targets.shape[1] != joints
            or not len(answer.targets)
            or answer.reference.shape != (joints,)
        ):
            return (
                f'targets {list(answer.targets.shape)} and reference '
                f'{list(answer.reference.shape)} do not fit {joints} joints'
            )
        if not (np.isfinite(answer.targets).all() and np.isfinite(answer.reference).all()):
            return 'it is not finite'
        last_row_ns = (len(answer.targets) - 1) * answer.step_dt_s * 1e9
        if now_ns - query.observation.stamp_ns > last_row_ns:
            return 'its last row was due before it came'
        return ''

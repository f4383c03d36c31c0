"""State of the policy: which request to send next (reset, commit, query), and result checks.

A session is one instruction with a continuous frame history and one start of the workers. When one
of these ends, a new session starts, and results of older sessions are dropped. Workers may be slow
or exit; this module only selects requests and checks results.
"""

from dataclasses import dataclass, replace
from enum import Enum

from wam_policy.core.motion.chunk_validator import MAX_AGE_AT_REST_S
from wam_policy.core.observation.clocks import QueryClock
from wam_policy.core.observation.frame_history import BlockTiming, FrameHistory
from wam_policy.core.observation.observation_buffer import (
    FrameUsage,
    ObservationBuffer,
    ObservationRejection,
    StampedBuffer,
)
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.delay_compensation import DelayCompensation
from wam_policy.core.session.instruction import clean_instruction
from wam_policy.core.session.model_requests import (
    CacheStatus,
    Commit,
    Query,
    QueryResult,
    Request,
    Reset,
)
from wam_policy.core.statistics import (
    EventRate,
    InitialRange,
    LatencyStatistics,
    compute_publish_stages_ms,
    compute_query_stages_ms,
)
from wam_policy.core.types import Chunk, Frame, JointState, Observation

MAX_LATENCIES = 200  # chunks; 30 s at 7 Hz
RATE_WINDOW_NS = 3_000_000_000
# blocks that make the usual range of the imagination error: the first 10 to 150, 2 min of wam-mini
IMAGINATION_BLOCKS = 10, 150
JOINTS_SOURCE = 'joint states'


class PolicyState(Enum):
    """States, with the names and numbers of PolicyStatus."""

    UNCONFIGURED = 0
    STARTING = 1
    IDLE = 2
    WAITING_OBSERVATION = 3
    STALE_OBSERVATION = 4
    RUNNING = 5
    HOLDING = 6
    ERROR = 7


class WorkerAvailability(Enum):
    """Availability of the workers, and the resulting state of the policy."""

    STARTING = PolicyState.STARTING  # first start, or restart on request
    READY = PolicyState.RUNNING
    DOWN = PolicyState.HOLDING  # they exited and are restarted
    FAILED = PolicyState.ERROR  # they are not restarted


@dataclass(frozen=True, slots=True)
class SessionCounters:
    """Counters since activation."""

    chunks: int = 0
    commits: int = 0
    rebuilds: int = 0
    dropped_chunks: int = 0


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Settings of the user."""

    query_period_ns: int = 100_000_000  # shortest time between two queries
    max_frame_gap_ns: int = 2_000_000_000  # a longer gap of a camera ends the session
    max_instruction_length: int = 400  # characters
    query_per_commit: bool = False  # as the released server: one query per block
    detect_frozen_images: bool = False  # treat repeated equal images as stale
    latest_joint_state: bool = False  # for queries without images: newest joint state
    execution: str = 'blended'  # one of delay_compensation.EXECUTIONS


class PolicySession:
    """Select the requests to the workers, one at a time; not thread-safe, needs a lock."""

    def __init__(self, robot: Embodiment, settings: SessionSettings, session_prefix: str) -> None:
        """Create; `session_prefix` must be unique per start of the node."""
        self.robot = robot
        self.settings = settings
        self.observations = ObservationBuffer(
            robot, detect_frozen_images=settings.detect_frozen_images
        )
        self.instruction = ''
        self.instruction_count = 0  # instructions accepted since the start
        self.stop_reason = ''  # of the stop that took the last instruction away; empty: none did
        self.sequence = 0  # of the newest query; never goes back
        self.counters = SessionCounters()
        self.cache_status = CacheStatus()
        self.frame_usage = FrameUsage()
        self.latencies = LatencyStatistics(MAX_LATENCIES)
        self.chunk_rate = EventRate(RATE_WINDOW_NS)
        self.imagination_range = InitialRange(*IMAGINATION_BLOCKS)
        self._session_prefix = session_prefix
        self._query_clock = QueryClock(settings.query_period_ns)
        self._compensation = DelayCompensation(robot, 'blended', 0)  # until workers are ready
        self._has_answered = False  # the first query after a start is slow
        self._warmed_up = False  # the first result after a start is not timed
        self._arrived_ns: dict[str, int] = {}  # newest sample per source
        self._input_errors: dict[str, str] = {}  # source -> why its last message was rejected
        self._worker_availability, self._unavailable_reason = (
            WorkerAvailability.STARTING,
            'workers are starting',
        )
        self._frame_history: FrameHistory | None = None
        self._answered_observation_ns = 0  # stamp of the last answered query's observation
        self._retry_ns = 0  # no request before this time, after a failed one
        self._session_number = 0
        self._discard_history('no instruction yet', rebuild=False)

    @property
    def session(self) -> str:
        return f'{self._session_prefix}-{self._session_number}'

    # inputs

    def on_frame(self, frame: Frame, now_ns: int) -> None:
        self.observations.monitor_frame(frame, now_ns)
        self._store_sample(self.observations.camera_buffers[frame.camera], frame, frame.camera)
        self._arrived_ns[frame.camera] = now_ns

    def on_joints(self, joints: JointState, now_ns: int) -> None:
        flaw = self.observations.check_joint_state(joints, now_ns)
        if flaw:
            self.on_invalid_message(JOINTS_SOURCE, flaw)
            return
        self._store_sample(self.observations.joint_buffer, joints, JOINTS_SOURCE)
        self._arrived_ns[JOINTS_SOURCE] = now_ns

    def on_invalid_message(self, source: str, reason: str) -> None:
        """Report a rejected message in the status until a valid one of the source arrives."""
        self._input_errors[source] = reason

    def on_instruction(self, text: str) -> None:
        """Set the instruction; an equal text has no effect, one that is too long is rejected."""
        try:
            plain = clean_instruction(text, self.settings.max_instruction_length)
        except ValueError as error:
            self.on_invalid_message('instruction', f'{error}; the previous one is kept')
            return
        self._input_errors.pop('instruction', None)
        if plain != self.instruction:
            self._set_instruction(plain)

    def start_instruction(self, text: str) -> int:
        """Set the instruction in a new session, and return its number.

        Raises ValueError for a text that is empty or too long.
        """
        plain = clean_instruction(text, self.settings.max_instruction_length)
        if not plain:
            raise ValueError('the instruction is empty; give a text')
        self._set_instruction(plain)
        return self.instruction_count

    def on_motion_stop(self, reason: str) -> None:
        """Drop the instruction: after a stop the task resumes only with a new instruction."""
        if self.instruction:
            self.instruction, self.stop_reason = '', reason
            self._compensation.set_chunk(None)
            self._discard_history(reason, rebuild=False)

    def _set_instruction(self, text: str) -> None:
        self.instruction, self.stop_reason = text, ''
        self.instruction_count += 1
        self._discard_history('a new instruction was received', rebuild=False)

    def on_time_jump(self, reason: str) -> None:
        """Drop all samples stamped before a jump of the clock."""
        self.observations.clear()
        self._retry_ns = 0
        self._compensation.set_chunk(None)
        self._discard_history(reason, rebuild=bool(self.instruction))

    def set_query_period(self, query_period_ns: int) -> None:
        """Set the shortest time between two queries."""
        self.settings = replace(self.settings, query_period_ns=query_period_ns)
        self._query_clock = replace(self._query_clock, period_ns=query_period_ns)

    def on_workers_ready(
        self,
        timing: BlockTiming,
        query_per_commit: bool | None = None,
        latest_joint_state: bool | None = None,
        max_committed_rows: int = 0,
        expected_delay_ns: int = 0,
    ) -> None:
        """Use the workers; the recorded frames are replayed to them.

        The next two arguments override the settings. `max_committed_rows`: how many the model
        continues, ValueError if the execution needs them; `expected_delay_ns` 0: unknown.
        """
        self._compensation = DelayCompensation(
            self.robot, self.settings.execution, max_committed_rows
        )
        self._compensation.add_delay(expected_delay_ns)
        self._has_answered = False
        changes = {'query_per_commit': query_per_commit, 'latest_joint_state': latest_joint_state}
        self.settings = replace(
            self.settings, **{name: value for name, value in changes.items() if value is not None}
        )
        history = self._frame_history
        # a chunk that was executed cannot be answered again by other workers
        if history is None or history.timing != timing or timing.follows_chunks:
            history = self._frame_history = FrameHistory(timing, self.settings.max_frame_gap_ns)
        self._worker_availability, self._unavailable_reason, self._warmed_up = (
            WorkerAvailability.READY,
            '',
            False,
        )
        self.imagination_range = InitialRange(*IMAGINATION_BLOCKS)
        self._start_session('workers are ready', rebuild=not history.is_empty)

    def on_workers_unavailable(self, availability: WorkerAvailability, reason: str) -> None:
        """Record that no requests are possible, and why."""
        if self._worker_availability is WorkerAvailability.READY:
            self._query_clock = self._query_clock.with_query_done()
            self._start_session(reason, rebuild=False)
        self._worker_availability, self._unavailable_reason = availability, reason

    # requests to the workers

    def next_request(self, now_ns: int) -> Request | None:
        """Return the next request, or None; the caller sends it before the next call.

        If a commit and a query are both due, they alternate, so that each is delayed by at most
        one of the other. A replay comes before every query.
        """
        ready = (
            self._worker_availability is WorkerAvailability.READY
            and self.instruction
            and now_ns >= self._retry_ns
        )
        if ready and not self._reset_done:
            return Reset(self.session, self.instruction)
        self._update_history(now_ns)
        history = self._frame_history
        if not ready or not self._reset_done or history is None or history.is_empty:
            return None
        block = (
            history.first_block()
            if self._cached_index is None
            else history.block_after(self._cached_index)
        )
        query = self._make_query(now_ns)
        if block and (query is None or not self._committed_last):
            self._committed_last = True
            self.frame_usage.add(frame for frames in block.views.values() for frame in frames)
            if self._cached_index is None:
                self._first_index = block.index
            return Commit(self.session, block.index - self._first_index, block)
        if query:
            self._committed_last, self.sequence = False, query.sequence
            self._query_clock = self._query_clock.with_query_sent(
                now_ns, query.observation.stamp_ns
            )
            self.frame_usage.add(query.observation.frames)
        return query

    def on_reset_done(self, reset: Reset) -> None:
        self._reset_done = reset.session == self.session

    def on_commit_done(self, commit: Commit, status: CacheStatus) -> None:
        """Record the state of the cache after `commit`."""
        if commit.session != self.session:
            return
        rebuilt = max(0, status.rebuilds - self.cache_status.rebuilds)
        self.cache_status, self._cached_index = status, commit.block.index
        self._cached_stamp_ns = commit.block.stamps_ns[-1]
        if status.imagination_error is not None:
            self.imagination_range.add(status.imagination_error)
        new = self._cached_index > self._newest_committed
        self._newest_committed = max(self._newest_committed, self._cached_index)
        if self._replaying and self._cached_index >= self._replay_until:
            self._replaying, rebuilt = False, rebuilt + 1
        self.counters = replace(
            self.counters,
            commits=self.counters.commits + new,
            rebuilds=self.counters.rebuilds + rebuilt,
        )

    def on_query_result(self, query: Query, result: QueryResult, now_ns: int) -> Chunk | None:
        """Return the chunk to publish, or None if the result must not be used."""
        self._query_clock = self._query_clock.with_query_done()
        if self._has_answered:
            self._compensation.add_delay(now_ns - query.observation.stamp_ns)
        self._has_answered = True
        fault = '' if query.session == self.session else 'an older session'
        fault = fault or self._check_result(query, result, now_ns)
        if fault:
            self.counters = replace(self.counters, dropped_chunks=self.counters.dropped_chunks + 1)
            self._last_reason = f'dropped chunk {query.sequence}: {fault}'
            if self._follows_chunks and query.session == self.session:
                self._start_session(self._last_reason, rebuild=False)  # it is never executed
            return None
        self._has_result, self._last_reason = True, ''
        observed_ns = self._answered_observation_ns = query.observation.stamp_ns
        return Chunk(
            # all rows have to be executed: the robot rested since the observation
            now_ns if self._follows_chunks else observed_ns,
            query.session,
            query.sequence,
            result.step_dt_s,
            self.robot.commanded,
            query.precede(result.targets),
            result.reference,
            self.robot.config_hash,
            compute_query_stages_ms(
                observed_ns, query.arrived_ns, query.sent_ns, now_ns, result.timings_ms
            ),
        )

    def predicted_from_ns(self, query: Query) -> int:
        """Return the stamp of the frame after which the video of this query's result begins."""
        reads_cache_only = self.settings.latest_joint_state and self._cached_stamp_ns
        return self._cached_stamp_ns if reads_cache_only else query.observation.stamp_ns

    def on_published(self, chunk: Chunk, answered_ns: int, now_ns: int) -> None:
        self._compensation.set_chunk(chunk)
        self.counters = replace(self.counters, chunks=self.counters.chunks + 1)
        self.chunk_rate.tick(now_ns)
        if self._follows_chunks and self._frame_history is not None:
            self._frame_history.start_chunk(chunk.stamp_ns, chunk.horizon, chunk.step_dt_s)
        if self._warmed_up:
            self.latencies.add(
                {
                    **chunk.timings_ms,
                    **compute_publish_stages_ms(
                        self._answered_observation_ns, answered_ns, now_ns
                    ),
                }
            )
        self._warmed_up = True

    def on_request_failed(self, reason: str, retry_ns: int) -> None:
        """Start a new session after a failed request; no request before `retry_ns`."""
        self._query_clock = self._query_clock.with_query_done()
        self._retry_ns = retry_ns
        self._start_session(reason, rebuild=self._cached_index is not None)

    # status

    @property
    def permanent_failure(self) -> str:
        """Return why no chunk will come without help; empty while it can heal by itself."""
        failed = self._worker_availability is WorkerAvailability.FAILED
        return self._unavailable_reason if failed else ''

    def get_state(self, now_ns: int) -> tuple[PolicyState, str]:
        """Return the state and its reason, which may be empty."""
        state, reason = self._get_state(now_ns)
        clocks = '' if 'its stamps' in reason else self.observations.describe_clocks()
        return state, '; '.join(filter(None, (reason, *self._input_errors.values(), clocks)))

    def _get_state(self, now_ns: int) -> tuple[PolicyState, str]:
        if self._worker_availability is not WorkerAvailability.READY:
            return self._worker_availability.value, self._unavailable_reason
        if not self.instruction:
            return (
                (PolicyState.HOLDING, self.stop_reason or 'the instruction is empty')
                if self.instruction_count
                else (PolicyState.IDLE, 'no instruction yet')
            )
        if now_ns < self._retry_ns:
            return PolicyState.ERROR, self._last_reason
        seen = self.observations.latest_observation(now_ns)
        if isinstance(seen, ObservationRejection):
            return (
                PolicyState.WAITING_OBSERVATION if seen.missing else PolicyState.STALE_OBSERVATION,
                seen.reason,
            )
        if not self._has_result:  # not HOLDING, so that the motion of the old one can continue
            return (
                PolicyState.WAITING_OBSERVATION,
                f'no chunk of this session yet: {self._last_reason}',
            )
        return PolicyState.RUNNING, self._last_reason

    @property
    def dropped_frames(self) -> int:
        """Return the number of received frames that were not used."""
        return (
            sum(ring.received for ring in self.observations.camera_buffers.values())
            - self.frame_usage.used
        )

    # sessions

    @property
    def _follows_chunks(self) -> bool:
        """Return whether the workers want the frames of what was executed."""
        return self._frame_history is not None and self._frame_history.timing.follows_chunks

    def _start_session(self, reason: str, *, rebuild: bool) -> None:
        """Start a session; `rebuild`: its cache replaces a lost one."""
        self._session_number += 1
        self._last_reason = reason
        if self._follows_chunks and self._frame_history is not None:
            self._frame_history.clear()
            rebuild = False
        self._reset_done = False
        self._has_result = False
        self._committed_last = False
        self._replaying = rebuild
        # frames recorded during the replay are committed later, so that slow workers can finish it
        self._replay_until = 0 if self._frame_history is None else self._frame_history.newest_index
        self._cached_index: int | None = None  # newest block in the workers' cache
        self._cached_stamp_ns = 0  # of its last frame
        self._first_index = 0  # first block of their cache
        self.cache_status = CacheStatus(rebuilds=self.cache_status.rebuilds)
        self._query_clock = self._query_clock.without_history()

    def _discard_history(self, reason: str, *, rebuild: bool) -> None:
        self._newest_committed = -1  # newest block of this history that was committed
        if self._frame_history is not None:
            self._frame_history.clear()
        self._start_session(reason, rebuild=rebuild)

    def _store_sample[T: (Frame, JointState)](
        self, buffer: StampedBuffer[T], sample: T, source: str
    ) -> None:
        self._input_errors.pop(source, None)
        jumps = buffer.jumps
        buffer.put(sample)
        if buffer.jumps != jumps:
            self.on_time_jump(f'the stamps of {source} went back')
            buffer.put(sample)

    def _update_history(self, now_ns: int) -> None:
        """Update the frame history; it continues while the workers are down."""
        if self._frame_history is None or not self.instruction:
            return
        if self._frame_history.is_empty:
            seen = self.observations.latest_observation(now_ns)
            if isinstance(seen, Observation):
                self._frame_history.start(seen)
            return
        broken = self._frame_history.advance(
            self.observations.camera_buffers, self.observations.joint_buffer
        )
        if broken:
            self._discard_history(broken, rebuild=True)
        elif self._cached_index is not None and self._frame_history.is_evicted(self._cached_index):
            self._discard_history(
                'the workers fell behind the cameras; the memory restarts', rebuild=True
            )

    def _make_query(self, now_ns: int) -> Query | None:
        """Return the query if one is due."""
        waits = self._cached_index is None or self._replaying
        if waits or (self.settings.query_per_commit and not self._committed_last):
            return None
        seen = self.observations.latest_observation(now_ns)
        if isinstance(seen, ObservationRejection):
            return None
        newest = (
            self.observations.joint_buffer.newest if self.settings.latest_joint_state else None
        )
        if newest is not None and newest.stamp_ns > seen.stamp_ns:
            seen = replace(seen, stamp_ns=newest.stamp_ns, joints=newest)
            arrived_ns = self._arrived_ns[JOINTS_SOURCE]
        else:  # its stamp is that of the camera frame that completed it
            arrived_ns = max(
                self._arrived_ns[frame.camera]
                for frame in seen.frames
                if frame.stamp_ns == seen.stamp_ns
            )
        if not self._query_clock.is_due(now_ns, seen.stamp_ns):
            return None
        query = Query(self.session, self.sequence + 1, seen, arrived_ns, now_ns)
        return query if self._follows_chunks else self._compensation.compensate(query)

    def _check_result(self, query: Query, result: QueryResult, now_ns: int) -> str:
        """Return an error of a result, or an empty string."""
        if fault := result.find_fault(len(self.robot.commanded)):
            return fault
        last_row_ns = (query.lead_count + len(result.targets) - 1) * result.step_dt_s * 1e9
        age_ns = now_ns - query.observation.stamp_ns
        if self._follows_chunks:
            late = age_ns > MAX_AGE_AT_REST_S * 1e9
            return f'its observation is {age_ns / 1e9:.1f} s old' if late else ''
        return 'its last row was due before it arrived' if age_ns > last_row_ns else ''

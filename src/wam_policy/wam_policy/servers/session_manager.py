"""Sessions of several clients on one set of workers: execute decoded requests, return answers.

Notable:
- each session has its own memory in the workers; if all `capacity` memories are in use, a new
  session ends the least recently used one;
- a session belongs to one connection, and ends with it or when the workers restart;
- `reset` selects the memory update: released (each `infer` carries images and updates the memory)
  or streaming (`commit` updates it, `infer` reads it).
One thread calls; `active_sessions` returns a snapshot for other threads.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.model_requests import describe_committed_rows
from wam_policy.servers import handshake, value_mapping
from wam_policy.servers.handshake import COMMITTED_KEY, DELAY_KEY
from wam_policy.servers.server_profile import ServerProfile

RELEASED, STREAMING = 'released', 'streaming'  # values of memory_update of our workers
RELEASED_SEED = 1140  # noise seed if a request has none; that of the released server
MAX_SEED = 2**63 - 1
MAX_SESSION_NAME = 128  # characters
MAX_LATENCIES = 1000  # per session, for its summary
RESET_REPLY = 'reset successful'

ConnectionId = int
Views = Mapping[str, np.ndarray]


class InvalidClientRequest(ValueError):
    """Report a client request that is invalid; nothing was done."""


@dataclass(frozen=True, slots=True, eq=False)
class ClientRequest:
    """A decoded request."""

    connection_id: ConnectionId
    profile: ServerProfile
    message: Mapping[str, Any]
    endpoint: str | None = None  # None: the message has it, where the profile has a key for it


@dataclass(frozen=True, slots=True, eq=False)
class BackendQuery:
    """A query of one session to the workers."""

    session: str  # its name in the workers
    sequence: int
    joints: np.ndarray  # [observed]
    seed: int
    newest: Views | None = None  # images for this query only
    delay: int = 0  # rows that are over when the answer is used
    committed: np.ndarray | None = None  # [n commanded], rows that are executed until then


class SessionBackend(Protocol):
    """What SessionManager calls; ServerBackend implements it."""

    @property
    def generation(self) -> int: ...
    def reset(self, session: str, instruction: str, mode: str) -> None: ...
    def commit(self, session: str, block: int, views: Views) -> Mapping[str, Any]: ...
    def query_batch(self, queries: Sequence[BackendQuery]) -> list[np.ndarray | Exception]: ...


class BlockSizes(Protocol):
    """Numbers of frames per commit; ServedModel implements it."""

    @property
    def first_frames(self) -> int: ...
    @property
    def frames_per_block(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def max_committed_rows(self) -> int: ...


@dataclass(slots=True)
class ClientSession:
    """State of one client session."""

    name: str
    backend_session: str  # its name in the workers
    streaming: bool
    prompt: str
    committed_blocks: int = 0  # since reset
    # uint8 [T h w 3]; released only
    recent_views: dict[str, np.ndarray] = field(default_factory=dict)
    infer_count: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LATENCIES))

    def summary(self) -> str:
        """Return one line with the number of answers and their latency."""
        if not self.latencies_ms:
            return f'session {self.name}: no queries'
        taken = sorted(self.latencies_ms)
        p99 = taken[min(len(taken) - 1, math.ceil(0.99 * len(taken)) - 1)]
        return (
            f'session {self.name}: {self.infer_count} answers, median '
            f'{taken[len(taken) // 2]:.1f} ms, p99 {p99:.1f} ms'
        )


@dataclass(frozen=True, slots=True, eq=False)
class PendingAnswer:
    """A query that is ready to be sent to the workers."""

    key: tuple[ConnectionId, str]
    session: ClientSession
    profile: ServerProfile
    query: BackendQuery
    started_s: float
    reports_first_row: bool  # the client sent a delay


class SessionManager:
    """Answer requests of several clients; their queries run together."""

    def __init__(
        self,
        robot: Embodiment,
        backend: SessionBackend,
        block_sizes: BlockSizes,
        capacity: int,
        log: Callable[[str], None],
    ) -> None:
        """Use `capacity` sessions of the workers; `log` receives lines for the operator."""
        self._robot, self._log = robot, log
        self._backend, self._block_sizes = backend, block_sizes
        self._generation = backend.generation
        self._sessions: OrderedDict[tuple[ConnectionId, str], ClientSession] = OrderedDict()
        self._free_backend_sessions = [f'memory {number}' for number in reversed(range(capacity))]
        self.eviction_count = 0

    @property
    def active_sessions(self) -> tuple[ClientSession, ...]:
        return tuple(self._sessions.values())

    def get_endpoint(self, request: ClientRequest) -> object:
        """Return the endpoint of a request; without one it is 'infer'."""
        if request.endpoint is not None:
            return request.endpoint
        key = request.profile.endpoint_key
        return 'infer' if key is None else request.message.get(key, 'infer')

    def handle_requests(self, requests: Sequence[ClientRequest]) -> list[Any]:
        """Execute requests; return the answer to each, or the exception that it raised.

        Queries are collected and sent to the workers together. InvalidClientRequest and
        ProfileMismatch are errors of the client, which changed nothing.
        """
        answers: list[Any] = [None] * len(requests)
        pending: dict[int, PendingAnswer] = {}
        for i, request in enumerate(requests):
            try:
                if pending and not self._continues_session(request, pending.values()):
                    self._finish_queries(pending, answers)  # its session may have to end first
                answers[i] = self._execute(request)
            except Exception as error:  # noqa: BLE001  it is the answer to this request
                answers[i] = error
            if isinstance(answers[i], PendingAnswer):
                pending[i] = answers[i]
        self._finish_queries(pending, answers)
        return answers

    def disconnect(self, connection_id: ConnectionId) -> None:
        """End every session of a connection."""
        for key in [key for key in self._sessions if key[0] == connection_id]:
            self._end_session(key, 'ended')

    def _continues_session(self, request: ClientRequest, pending: Iterable[PendingAnswer]) -> bool:
        """Return whether a request is a query of an open session without a query under way."""
        key = (request.connection_id, self._read_session_name(request))
        return (
            self.get_endpoint(request) == 'infer'
            and key in self._sessions
            and all(key != other.key for other in pending)
            and self._generation == self._backend.generation
        )

    def _execute(self, request: ClientRequest) -> Any:
        """Execute a request, return its answer or a PendingAnswer."""
        kinds = {'infer': self._on_infer, 'reset': self._on_reset, 'commit': self._on_commit}
        endpoint = self.get_endpoint(request)
        if not isinstance(endpoint, str) or endpoint not in kinds:
            raise InvalidClientRequest(
                f'endpoint {endpoint!r:.80}: want one of {", ".join(kinds)}'
            )
        if self._generation != self._backend.generation:
            self._generation = self._backend.generation
            for lost in list(self._sessions):
                self._end_session(lost, 'was lost when the workers restarted')
        return kinds[endpoint]((request.connection_id, self._read_session_name(request)), request)

    def _finish_queries(self, pending: dict[int, PendingAnswer], answers: list[Any]) -> None:
        """Send collected queries to the workers and put their answers into `answers`."""
        if not pending:
            return
        try:
            found = self._backend.query_batch([waiting.query for waiting in pending.values()])
        except Exception as error:  # noqa: BLE001  it is the answer to each of them
            found = [error] * len(pending)
        for (i, waiting), targets in zip(pending.items(), found, strict=True):
            answers[i] = (
                targets if isinstance(targets, Exception) else self._make_answer(waiting, targets)
            )
        pending.clear()

    def _make_answer(self, waiting: PendingAnswer, targets: np.ndarray) -> Any:
        session, profile = waiting.session, waiting.profile
        answer = value_mapping.encode_actions(
            profile, self._robot, targets[: profile.horizon], waiting.query.joints
        )
        taken_ms = 1e3 * (time.perf_counter() - waiting.started_s)
        session.infer_count += 1
        session.latencies_ms.append(taken_ms)
        if isinstance(answer, dict) and profile.actions_key is not None:
            answer['server_timing'] = {'infer_ms': taken_ms}
            if waiting.reports_first_row:
                rtc = describe_committed_rows(self._block_sizes.max_committed_rows)
                answer['rtc'] = {**rtc, 'first_row': waiting.query.delay}
                del answer['rtc']['delay']
        return answer

    def _read_session_name(self, request: ClientRequest) -> str:
        key = request.profile.session_key
        name = '' if key is None else request.message.get(str(key[0]), '')
        if not isinstance(name, str) or len(name) > MAX_SESSION_NAME:
            raise InvalidClientRequest(
                f'session {name!r:.80}: want a string of at most {MAX_SESSION_NAME} characters'
            )
        return name

    def _on_reset(self, key: tuple[ConnectionId, str], request: ClientRequest) -> str:
        memory = request.message.get('memory')
        if memory not in (None, handshake.STREAMING_MEMORY):
            raise InvalidClientRequest(
                f'memory {memory!r:.80}: want {handshake.STREAMING_MEMORY}, or no such key'
            )
        if memory is None:
            if key in self._sessions:  # the next infer request opens it, with its prompt
                self._end_session(key, 'was reset')
            return RESET_REPLY
        prompt_key = str((request.profile.prompt_key or ('prompt',))[0])
        prompt = request.message.get(prompt_key)
        if not isinstance(prompt, str):
            raise InvalidClientRequest(f'{prompt_key}: want a string, got {prompt!r:.80}')
        self._start_session(key, True, prompt)
        return RESET_REPLY

    def _on_commit(self, key: tuple[ConnectionId, str], request: ClientRequest) -> dict[str, Any]:
        session, block = self._get_streaming_session(key), request.message.get('block')
        if block != session.committed_blocks or isinstance(block, bool):
            raise InvalidClientRequest(
                f'commit of block {block!r:.40}, next is '
                f'{session.committed_blocks}: commit each once and in order, or reset'
            )
        wanted = (
            self._block_sizes.frames_per_block
            if session.committed_blocks
            else self._block_sizes.first_frames
        )
        views = value_mapping.decode_images(request.profile, request.message)
        _check_frame_count(views, wanted, wanted)
        committed = self._backend.commit(
            session.backend_session, session.committed_blocks, self._add_unseen(views)
        )
        session.committed_blocks += 1
        return {
            'block': session.committed_blocks - 1,
            **{
                key: committed[key]
                for key in ('cached_blocks', 'window_fill', 'rebuilds', 'timings_ms')
            },
        }

    def _on_infer(self, key: tuple[ConnectionId, str], request: ClientRequest) -> PendingAnswer:
        started_s = time.perf_counter()
        profile, message, session = request.profile, request.message, self._sessions.get(key)
        streaming = session is not None and session.streaming
        decoded = value_mapping.decode_request(
            profile, self._robot, message, images_optional=streaming
        )
        # head and waist, which some servers' clients do not send; check_profile says so
        joint_positions = np.where(
            np.isfinite(decoded.joint_positions),
            decoded.joint_positions,
            self._robot.home_positions(self._robot.observed),
        )
        seed = message.get('seed', RELEASED_SEED)
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise InvalidClientRequest(f'seed {seed!r:.40}: want an integer from 0 to {MAX_SEED}')
        delay, committed = self._read_committed_rows(message)
        if session is None:
            session = self._start_session(key, False, decoded.prompt)
        self._sessions.move_to_end(key)
        newest = self._prepare_query_images(session, profile, decoded)
        query = BackendQuery(
            session.backend_session,
            session.infer_count,
            joint_positions,
            seed,
            newest,
            delay,
            committed,
        )
        return PendingAnswer(key, session, profile, query, started_s, DELAY_KEY in message)

    def _read_committed_rows(self, message: Mapping[str, Any]) -> tuple[int, np.ndarray | None]:
        """Return delay and committed rows [n commanded] of a request; 0 and None: it has none."""
        delay, rows = message.get(DELAY_KEY, 0), message.get(COMMITTED_KEY)
        joints: np.ndarray | None = None
        if type(delay) is not int or not 0 <= delay < self._block_sizes.horizon:
            raise InvalidClientRequest(
                f'{DELAY_KEY} {delay!r:.40}: want rows from 0 to {self._block_sizes.horizon - 1}'
            )
        if rows is not None:
            joints = rows if isinstance(rows, np.ndarray) else np.zeros(0)
            wanted = len(self._robot.commanded)
            if (
                joints.dtype.kind != 'f'
                or joints.ndim != 2
                or not 1 <= len(joints) <= self._block_sizes.horizon
                or joints.shape[1] != wanted
                or not np.isfinite(joints).all()
            ):
                raise InvalidClientRequest(
                    f'{COMMITTED_KEY}: want 1 to {self._block_sizes.horizon} rows of {wanted} '
                    'finite numbers, the joints in the order of the robot, rad and openings 0..1'
                )
            joints = joints.astype(np.float64)
        return delay, joints

    def _add_unseen(self, views: Views) -> Views:
        """Return views with black images for cameras that the profile does not have."""
        some = next(iter(views.values()))
        unseen = [camera.key for camera in self._robot.cameras if camera.key not in views]
        return {**views, **{key: np.zeros_like(some) for key in unseen}}

    def _prepare_query_images(
        self,
        session: ClientSession,
        profile: ServerProfile,
        request: value_mapping.DecodedRequest,
    ) -> Views | None:
        """Update a released session's memory; return the images that only this query uses."""
        if not session.streaming:
            self._commit_released(session, profile, request)
            return None
        if not session.committed_blocks:
            raise InvalidClientRequest('no commit since the reset: commit the first image')
        if request.prompt != session.prompt:
            raise InvalidClientRequest('the prompt changed: reset the session')
        if not request.views:
            return None
        _check_frame_count(request.views, 1, self._block_sizes.frames_per_block)
        return self._add_unseen(request.views)

    def _commit_released(
        self,
        session: ClientSession,
        profile: ServerProfile,
        request: value_mapping.DecodedRequest,
    ) -> None:
        """Commit as the released server does: one image first, then the newest `window`."""
        if request.prompt != session.prompt:
            # a new prompt needs an empty memory
            self._backend.reset(session.backend_session, request.prompt, RELEASED)
            session.prompt, session.committed_blocks = request.prompt, 0
        window, joined = profile.frames.window, {}
        for camera, frames in request.views.items():
            past = session.recent_views.get(camera, frames[:0])
            if past.shape[1:] != frames.shape[1:]:
                raise InvalidClientRequest(
                    f'{camera}: images changed their size: reset the session'
                )
            joined[camera] = np.concatenate([past, frames])[-window:]
        first, session.recent_views = not session.recent_views, joined
        views = {
            camera: frames[-1:] if first else _pad_front(frames, window)
            for camera, frames in joined.items()
        }
        self._backend.commit(
            session.backend_session, session.committed_blocks, self._add_unseen(views)
        )
        session.committed_blocks += 1

    def _get_streaming_session(self, key: tuple[ConnectionId, str]) -> ClientSession:
        session = self._sessions.get(key)
        if session is None or not session.streaming:
            raise InvalidClientRequest(
                f'no streaming session {key[1]!r}: reset it with memory '
                f'{handshake.STREAMING_MEMORY!r} (the least recently used session is ended first)'
            )
        self._sessions.move_to_end(key)
        return session

    def _start_session(
        self, key: tuple[ConnectionId, str], streaming: bool, prompt: str
    ) -> ClientSession:
        before = self._sessions.pop(key, None)
        if before is not None:
            memory = before.backend_session
        else:
            if not self._free_backend_sessions:
                self.eviction_count += 1
                self._end_session(next(iter(self._sessions)), 'ended: all memories were in use')
            memory = self._free_backend_sessions.pop()
        session = ClientSession(key[1] or f'of connection {key[0]}', memory, streaming, prompt)
        self._sessions[key] = session
        self._backend.reset(memory, prompt, STREAMING if streaming else RELEASED)
        return session

    def _end_session(self, key: tuple[ConnectionId, str], reason: str) -> None:
        session = self._sessions.pop(key)
        self._free_backend_sessions.append(session.backend_session)
        self._log(f'{session.summary()}; it {reason}')


def _check_frame_count(views: Views, low: int, high: int) -> None:
    count = len(next(iter(views.values())))
    if not low <= count <= high:
        wanted = f'{low}' if low == high else f'{low} to {high}'
        raise InvalidClientRequest(f'{count} images of each camera, want {wanted}')


def _pad_front(frames: np.ndarray, count: int) -> np.ndarray:
    """Repeat the first frame in front until there are `count`; [T h w 3]."""
    missing = count - len(frames)
    return frames if missing <= 0 else np.concatenate([frames[:1].repeat(missing, 0), frames])

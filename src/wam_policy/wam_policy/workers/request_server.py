"""Request loop of a worker: answer requests on the socket with one model.

A failed request is answered with an `error` message. Every worker of a pair receives every request
in the same order; rank 0 answers with data, the other acknowledges. Sessions and sizes are checked
here, so that both workers reject a request before either waits for the other.
"""

import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from wam_policy.core.session.model_requests import describe_committed_rows
from wam_policy.model import robot_policy
from wam_policy.model.encoders.text_encoder import PromptTooLong
from wam_policy.model.network.cfg import CfgRole
from wam_policy.model.robot_policy import (
    MEMORY_UPDATE_MODES,
    PendingQuery,
    Policy,
    PolicyOutput,
)
from wam_policy.workers import protocol
from wam_policy.workers.protocol import PeerLost, WorkerMessage
from wam_policy.workers.session_store import SessionPool, WorkerSession

NEWEST_PREFIX, FRAMES_PREFIX = 'newest/', 'frames/'
COLLECT_GARBAGE_AFTER = ('reset', 'commit')  # no query is due directly after these
MAX_SEED = 2**63 - 1  # limit of a torch generator


class InvalidWorkerRequest(Exception):
    """A request is invalid; no state was changed."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


@dataclass(frozen=True, slots=True, eq=False)
class _ReadQuery:
    """Hold a valid query."""

    session: WorkerSession
    joints: np.ndarray  # [observed]
    seed: int
    newest: Mapping[str, np.ndarray] | None
    committed: np.ndarray | None  # [n commanded], first targets that are held


class WorkerServer:
    """Serve one model on one socket until asked to stop."""

    def __init__(
        self,
        sock: socket.socket,
        policies: Sequence[Policy],
        info: Mapping[str, Any],
        log: Callable[[str], None],
        collect_garbage: Callable[[], object] = lambda: None,
    ) -> None:
        """Take one policy per session.

        `info` answers `hello`, `log` writes a log line, `collect_garbage` runs between requests.
        """
        self._sock, self._info = sock, dict(info)
        self._log, self._collect_garbage = log, collect_garbage
        self._robot, self._role = policies[0].robot, policies[0].role
        self._geometry = policies[0].geometry
        self._sessions = SessionPool(policies)
        self._last_queried_session: WorkerSession | None = None  # its prediction can be decoded

    def serve(self) -> None:
        """Answer until `stop` or until the other end closes.

        Raises PeerLost when the other worker exited, ProtocolError when the stream is invalid.
        """
        kinds = {
            'hello': self._on_hello,
            'reset': self._on_reset,
            'commit': self._on_commit,
            'query': self._on_query,
            'queries': self._on_queries,
            'video': self._on_video,
        }
        while True:
            try:
                request = protocol.receive(self._sock)
            except protocol.PeerClosed:
                return
            if request.kind == 'stop':
                return
            answer = self._handle_request(kinds.get(request.kind), request)
            try:
                protocol.send(self._sock, answer.with_id_of(request))
            except protocol.PeerClosed:
                return
            if request.kind in COLLECT_GARBAGE_AFTER:
                self._collect_garbage()

    def _handle_request(
        self, handler: Callable[[WorkerMessage], WorkerMessage] | None, request: WorkerMessage
    ) -> WorkerMessage:
        try:
            if handler is None:
                raise InvalidWorkerRequest(
                    f'unknown request {request.kind!r}',
                    'use hello, reset, commit, query, queries, video or stop',
                )
            return handler(request)
        except PeerLost:
            raise
        except Exception as error:  # noqa: BLE001  a failed request must not end the worker
            return self._make_error(request, error)

    def _make_error(self, request: WorkerMessage, error: Exception) -> WorkerMessage:
        """Return the answer to a request that failed; its session ends unless it was invalid."""
        if isinstance(error, InvalidWorkerRequest):
            return WorkerMessage('error', {'what': str(error), 'fix': error.fix})
        self._end_session(request)  # partly done: the KV cache may be inconsistent
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return WorkerMessage(
                'error',
                {
                    'what': f'out of memory on {request.kind}: {str(error).splitlines()[0]}',
                    'fix': 'free the device, use a second one or a smaller model; then reset',
                },
            )
        for line in ''.join(traceback.format_exception(error)).splitlines():
            self._log(line)
        return WorkerMessage(
            'error',
            {
                'what': f'{request.kind} failed: {type(error).__name__}: {error}',
                'fix': "reset the session; the worker's log has the trace",
            },
        )

    def _on_hello(self, request: WorkerMessage) -> WorkerMessage:
        return WorkerMessage('ready', self._info)

    def _on_reset(self, request: WorkerMessage) -> WorkerMessage:
        name, instruction = _read_text(request, 'session'), _read_text(request, 'instruction')
        mode = request.fields.get('memory_update')
        if mode is not None and mode not in MEMORY_UPDATE_MODES:
            raise InvalidWorkerRequest(
                f'reset: memory_update is {mode!r:.80}',
                f'send one of {", ".join(MEMORY_UPDATE_MODES)}, or none',
            )
        session = self._sessions.start(name)
        try:
            timings_ms = session.policy.reset(instruction, mode)
        except PromptTooLong as error:
            self._end_session(request)
            raise InvalidWorkerRequest(f'reset: {error}', 'shorten the instruction') from error
        return WorkerMessage('ok', {'session': name, 'timings_ms': dict(timings_ms)})

    def _on_commit(self, request: WorkerMessage) -> WorkerMessage:
        session = self._get_session(request)
        block = _read_int(request, 'block')
        if block != session.committed_blocks:
            raise InvalidWorkerRequest(
                f'commit of block {block}, next is {session.committed_blocks}',
                'commit every block once and in order, or reset',
            )
        views = self._read_views(request, FRAMES_PREFIX)
        wanted = self._geometry.frames_per_block if block else self._geometry.first_frames
        for name, frames in views.items():
            # in the released mode a block may be incomplete, and the model fills it
            if len(frames) != wanted and session.policy.streaming:
                raise InvalidWorkerRequest(
                    f'block {block} has {len(frames)} frames of {name}', f'send {wanted}'
                )
        timings_ms = session.policy.commit(views)
        session.committed_blocks += 1
        memory = session.policy.memory
        blocks = max(0, memory.frames - 1) // session.policy.model.dit.config.frames_per_block
        return WorkerMessage(
            'committed',
            {
                'session': session.name,
                'block': block,
                'cached_blocks': blocks,
                'cached_frames': memory.frames,
                'window_fill': memory.frames / memory.window_frames,
                'commits': memory.commits,
                'rebuilds': memory.rebuilds,
                'imagination_error': session.policy.imagination_error,
                'timings_ms': dict(timings_ms),
            },
        )

    def _on_query(self, request: WorkerMessage) -> WorkerMessage:
        query = self._read_query(request)
        found = query.session.policy.query(query.joints, query.seed, query.newest, query.committed)
        return self._make_chunk(request, query.session, found)

    def _on_queries(self, request: WorkerMessage) -> WorkerMessage:
        """Answer queries of different sessions in one batch; each has an answer of its own.

        Of `queries`, query i has its arrays under `i/`; so have its answer's in `answers`.
        """
        answers: dict[int, WorkerMessage] = {}
        started: dict[int, tuple[WorkerMessage, WorkerSession, PendingQuery, int]] = {}
        for i, query in enumerate(_split_queries(request)):
            try:
                read = self._read_query(query)
                session = read.session
                if any(session is other for _, other, _, _ in started.values()):
                    raise InvalidWorkerRequest(
                        f'two queries of session {session.name!r} at once', 'send one at a time'
                    )
                pending = session.policy.begin_query(read.joints, read.newest, read.committed)
                started[i] = query, session, pending, read.seed
            except Exception as error:  # noqa: BLE001  the other queries are answered
                answers[i] = self._make_error(query, error)
        if started:
            answers |= self._finish_queries(started)
        return _join_answers([answers[i] for i in range(len(answers))])

    def _finish_queries(
        self, started: Mapping[int, tuple[WorkerMessage, WorkerSession, PendingQuery, int]]
    ) -> dict[int, WorkerMessage]:
        policies = [session.policy for _, session, _, _ in started.values()]
        pendings = [pending for _, _, pending, _ in started.values()]
        try:
            samples = robot_policy.predict_batch(
                policies, pendings, [seed for *_, seed in started.values()]
            )
        except PeerLost:
            raise
        except Exception as error:  # noqa: BLE001  none of them has an answer
            return {i: self._make_error(query, error) for i, (query, *_) in started.items()}
        return {
            i: self._make_chunk(query, session, session.policy.finish_query(pending, sample))
            for (i, (query, session, pending, _)), sample in zip(
                started.items(), samples, strict=True
            )
        }

    def _read_query(self, request: WorkerMessage) -> _ReadQuery:
        """Return a query; raise InvalidWorkerRequest if it is not valid."""
        session = self._get_session(request)
        sequence, seed = _read_int(request, 'sequence'), _read_int(request, 'seed')
        _read_int(request, 'stamp_ns')
        joints = request.arrays.get('joints')
        wanted = len(self._robot.observed)
        if joints is None or joints.shape != (wanted,) or not np.isfinite(joints).all():
            raise InvalidWorkerRequest(
                f'query {sequence} has no joint positions: want {wanted} finite numbers',
                "send joints in the order of the robot's observed joints",
            )
        if sequence <= session.last_sequence:
            raise InvalidWorkerRequest(
                f'query {sequence} after {session.last_sequence}', 'count upwards'
            )
        if not 0 <= seed <= MAX_SEED:
            raise InvalidWorkerRequest(f'seed {seed}', f'use 0 to {MAX_SEED}')
        if not session.committed_blocks:
            raise InvalidWorkerRequest('query before any commit', 'commit a first frame')
        committed = self._read_committed_rows(request, session.policy.max_committed_rows)
        if session.policy.needs_commit:
            raise InvalidWorkerRequest(
                'no frames since the last query: the released mode allows one query per block',
                'commit first, or reset with memory_update streaming',
            )
        latest = (
            self._read_views(request, NEWEST_PREFIX)
            if any(name.startswith(NEWEST_PREFIX) for name in request.arrays)
            else None
        )
        session.last_sequence = sequence
        return _ReadQuery(session, joints, seed, latest, committed)

    def _read_committed_rows(self, request: WorkerMessage, most: int) -> np.ndarray | None:
        """Return the rows to hold, which are executed while the query is computed.

        Of `committed` [n commanded] these are the first `delay`, without a delay all. None for a
        model that was not trained to continue rows: it ignores them.
        """
        horizon, joints = self._geometry.horizon, len(self._robot.commanded)
        delay, rows = request.fields.get('delay', 0), request.arrays.get('committed')
        if type(delay) is not int or not 0 <= delay < horizon:
            raise InvalidWorkerRequest(
                f'query: delay is {delay!r:.40}', f'send rows from 0 to {horizon - 1}'
            )
        if rows is not None and (
            rows.ndim != 2
            or not 1 <= len(rows) <= horizon
            or rows.shape[1] != joints
            or not np.isfinite(rows).all()
        ):
            raise InvalidWorkerRequest(
                f'query: committed is {rows.dtype} {list(rows.shape)}',
                f'send 1 to {horizon} rows of {joints} finite numbers',
            )
        if rows is None or not most:
            return None
        rows = rows[: delay or len(rows)].astype(np.float64)
        if len(rows) > most:
            raise InvalidWorkerRequest(
                f'query: {len(rows)} committed rows, the model was trained to continue {most}',
                'send fewer, or query from joint positions later on the way',
            )
        return rows

    def _make_chunk(
        self, request: WorkerMessage, session: WorkerSession, found: PolicyOutput
    ) -> WorkerMessage:
        self._last_queried_session = session
        fields = {
            'session': session.name,
            'sequence': request.fields['sequence'],
            'stamp_ns': request.fields['stamp_ns'],
            'horizon': self._geometry.horizon,
            'first_row': request.fields.get('delay', 0),  # the rows before are over by then
            'step_dt_s': self._geometry.step_dt_s,
            'timings_ms': dict(found.timings_ms),
        }
        if found.targets is None:
            return WorkerMessage('ok', fields)
        return WorkerMessage(
            'chunk', fields, {'targets': found.targets, 'reference': found.reference}
        )

    def _on_video(self, request: WorkerMessage) -> WorkerMessage:
        if self._role is CfgRole.UNCOND:
            return WorkerMessage('ok')
        session = self._last_queried_session
        if session is None or self._sessions.get(session.name) is not session:
            raise InvalidWorkerRequest('no prediction to decode', 'query first')
        return WorkerMessage(
            'video',
            {'session': session.name, 'sequence': session.last_sequence},
            {'frames': session.policy.decode_prediction()},
        )

    def _get_session(self, request: WorkerMessage) -> WorkerSession:
        """Return the session that a request belongs to; raise InvalidWorkerRequest if none."""
        name, known = _read_text(request, 'session'), self._sessions.names
        if not known:
            raise InvalidWorkerRequest(f'{request.kind} without a session', 'send reset first')
        session = self._sessions.get(name)
        if session is None:
            raise InvalidWorkerRequest(
                f'{request.kind} of session {name!r} while {", ".join(map(repr, known))} is on',
                'send reset first',
            )
        return session

    def _end_session(self, request: WorkerMessage) -> None:
        """End the session of a request that failed."""
        name = request.fields.get('session')
        if isinstance(name, str):
            self._sessions.close(name)

    def _read_views(self, request: WorkerMessage, prefix: str) -> dict[str, np.ndarray]:
        """Return the frames of every camera, uint8 [T h w 3]; one image may be sent as [h w 3]."""
        found, wanted = {}, ', '.join(prefix + name for name in self._geometry.cameras)
        for camera in self._geometry.cameras:
            frames = request.arrays.get(prefix + camera)
            if frames is None:
                raise InvalidWorkerRequest(
                    f'{request.kind} has no {prefix}{camera}', f'send {wanted}'
                )
            frames = frames[None] if frames.ndim == 3 else frames
            if (
                frames.dtype != np.uint8
                or frames.ndim != 4
                or frames.shape[-1] != 3
                or not frames.size
            ):
                raise InvalidWorkerRequest(
                    f'{prefix}{camera} is {frames.dtype} {list(frames.shape)}',
                    'send uint8 [frames height width 3]',
                )
            found[camera] = frames
        counts = {name: len(frames) for name, frames in found.items()}
        if len(set(counts.values())) != 1:
            raise InvalidWorkerRequest(
                f'cameras differ in their number of frames: {counts}',
                'send the same number for each camera',
            )
        return found


def build_worker_info(policy: Policy, device: str) -> dict[str, Any]:
    """Return the fields of the `ready` message for a policy."""
    loaded = policy.model
    tag = policy.robot.model_tag
    name = loaded.spec.name if loaded.is_trained else f'UNTRAINED {loaded.spec.name}'
    return {
        'model': name,
        'trained': loaded.is_trained,
        'parameters': loaded.parameter_count,
        'device': device,
        'dtype': str(loaded.dit.dtype).removeprefix('torch.'),
        'memory_update': policy.options.mode,
        'sampler': policy.options.recipe,
        'embodiment': policy.robot.name,
        'embodiment_hash': policy.robot.config_hash,
        'statistics': {'tag': tag, 'synthetic': loaded.embodiments[tag].synthetic},
        'geometry': asdict(policy.geometry),
        'view_layout': policy.view_layout_name,
        'rtc': describe_committed_rows(policy.max_committed_rows),
        'reason': f'{name} on {device}',
    }


def _split_queries(request: WorkerMessage) -> list[WorkerMessage]:
    """Return the queries of a batch as messages of their own."""
    given = request.fields.get('queries')
    if not isinstance(given, list) or not given or not all(isinstance(q, dict) for q in given):
        raise InvalidWorkerRequest(
            f'queries: {given!r:.80}', 'send a list of the fields of each query'
        )
    arrays: list[dict[str, np.ndarray]] = [{} for _ in given]
    for name, array in request.arrays.items():
        number, _, key = name.partition('/')
        if not number.isdecimal() or int(number) >= len(given):
            raise InvalidWorkerRequest(
                f'queries: array {name!r:.80}', f'name it 0/... to {len(given) - 1}/...'
            )
        arrays[int(number)][key] = array
    return [WorkerMessage('query', fields, own) for fields, own in zip(given, arrays, strict=True)]


def _join_answers(answers: Sequence[WorkerMessage]) -> WorkerMessage:
    return WorkerMessage(
        'chunks',
        {'answers': [{**answer.fields, 'kind': answer.kind} for answer in answers]},
        {
            f'{i}/{name}': array
            for i, answer in enumerate(answers)
            for name, array in answer.arrays.items()
        },
    )


def _read_text(request: WorkerMessage, key: str) -> str:
    value = request.fields.get(key)
    if not isinstance(value, str):
        raise InvalidWorkerRequest(f'{request.kind}: {key} is {value!r:.80}', 'send text')
    return value


def _read_int(request: WorkerMessage, key: str) -> int:
    value = request.fields.get(key)
    if type(value) is not int:
        raise InvalidWorkerRequest(
            f'{request.kind}: {key} is {value!r:.80}', 'send a whole number'
        )
    return value

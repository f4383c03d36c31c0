"""Answer the policy node's requests through a remote server, as workers.request_server does here.

The node sends resets, commits and queries; `client.server_memory` says what a server gets of
them, the profile in which form, the transport how.

A failed request is answered with `error` and closes the connection; the next reset opens a new
one. If the server is unreachable, the process exits and the supervisor restarts it after a delay.
"""

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.model_requests import describe_committed_rows
from wam_policy.servers import handshake, value_mapping
from wam_policy.servers.client import answer_check, server_memory
from wam_policy.servers.client.committed_rows import CommittedRows
from wam_policy.servers.client.executed_rows import ExecutedRows, resample_rows
from wam_policy.servers.client.policy_client import (
    LOGGED_TRACEBACK_LINES,
    PolicyClient,
    RemoteServerError,
)
from wam_policy.servers.client.server_memory import (
    ExecutedBlock,
    InvalidNodeRequest,
    QueryInput,
    Views,
)
from wam_policy.servers.codecs.wire_arrays import MalformedMessage
from wam_policy.servers.handshake import ServerInfo
from wam_policy.servers.mapping import message_template
from wam_policy.servers.mapping.pose_mapping import PoseMapper
from wam_policy.servers.profile_fields import ServerProfile
from wam_policy.servers.transports.policy_transport import (
    ConnectionRejected,
    ServerUnreachable,
    TransportError,
)
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

NEWEST_PREFIX, FRAMES_PREFIX = 'newest/', 'frames/'
ConnectFn = Callable[[], PolicyClient]


class RemoteWorker:
    """Serve one policy node on one socket until it sends `stop`."""

    def __init__(
        self,
        sock: socket.socket,
        profile: ServerProfile,
        robot: Embodiment,
        connect: ConnectFn,
        timeout_s: float,
        reset_timeout_s: float,
        log: Callable[[str], None],
    ) -> None:
        """Connect; raises ServerUnreachable, ConnectionRejected, IncompatibleServer."""
        self._sock, self._profile, self._robot = sock, profile, robot
        self._connect, self._log = connect, log
        limits = profile.transport.timeouts
        answer_s = max(timeout_s, limits.answer_s or 0.0)
        self._reset_timeout_s = max(reset_timeout_s, limits.reset_s or 0.0)
        self._answer_timeout_s = answer_s
        self._first_timeout_s = max(answer_s, limits.first_s or 0.0)
        self._poses = PoseMapper(profile, robot) if profile.tools else None
        self._client = connect()
        self._has_answered = False  # on this connection: the model of the server is compiled
        self.server_info: ServerInfo = handshake.parse_server_info(
            profile, robot, self._client.server_metadata
        )
        self._memory = server_memory.make_memory(
            profile, self.server_info, self._send, self._make_observation
        )
        self._sent_s = 0.0  # when the last request was sent
        self._session: str | None = None
        self._instruction = ''
        self._committed_blocks = 0
        self._committed_rows = CommittedRows(1.0 / profile.step_hz)
        self._executed_rows = ExecutedRows(profile, robot, self._poses)
        # [observed] at the first query of the session; None: there was none
        self._episode_positions: np.ndarray | None = None

    def build_worker_info(self) -> dict[str, Any]:
        """Return the fields of `ready`, the same as those of a local worker."""
        info, robot = self.server_info, self._robot
        name = info.model if info.trained else f'UNTRAINED {info.model}'
        return {
            'model': name,
            'trained': info.trained,
            'device': self._client.address,
            'memory_update': info.memory_update,
            'query_images': info.query_images,
            'embodiment': robot.name,
            'embodiment_hash': robot.config_hash,
            'video': False,
            'reason': f'{name} at {self._client.address}',
            'rtc': describe_committed_rows(info.max_committed_rows),
            # how long this worker may take, for the node that waits for it
            'timeouts_s': {
                'reset': self._reset_timeout_s + self._profile.transport.timeouts.connect_s,
                'commit': self._answer_timeout_s,
                'first_query': self._first_timeout_s,
                'query': self._answer_timeout_s,
            },
            'geometry': {
                'cameras': list(self._profile.cameras),
                'first_frames': 1,
                'frames_per_block': info.frames_per_block,
                'frame_period_s': info.frame_period_s,
                'window_blocks': info.window_blocks,
                'follows_chunks': info.follows_chunks,
                'horizon': self._profile.horizon,
                'step_dt_s': robot.step_dt_s,
            },
        }

    def serve(self) -> None:
        """Answer requests until `stop` or until the node closes the socket.

        Raises ServerUnreachable, ConnectionRejected or IncompatibleServer if a reset fails.
        """
        protocol.send(self._sock, WorkerMessage('ready', {**self.build_worker_info(), 'id': 0}))
        while True:
            try:
                request = protocol.receive(self._sock)
                if request.kind == 'stop':
                    return
                if request.kind == 'hello':
                    continue  # answered by `ready`
                protocol.send(self._sock, self._handle_request(request).with_id_of(request))
            except protocol.PeerClosed:
                return

    def close(self) -> None:
        self._client.close()

    def _handle_request(self, request: WorkerMessage) -> WorkerMessage:
        kinds = {'reset': self._on_reset, 'commit': self._on_commit, 'query': self._on_query}
        try:
            if request.kind not in kinds:
                raise InvalidNodeRequest(
                    f'a remote server has no request {request.kind!r}; want {", ".join(kinds)}'
                )
            return kinds[request.kind](request)
        except (InvalidNodeRequest, MalformedMessage) as error:
            return WorkerMessage('error', {'what': str(error), 'fix': ''})
        except value_mapping.ProfileMismatch as error:
            self._client.close()  # the reply does not match the profile: end the session
            return self._fail_session(str(error), 'the server and its server profile do not fit')
        except (ServerUnreachable, ConnectionRejected) as error:
            if request.kind == 'reset':
                raise  # the process exits with this reason
            return self._fail_session(str(error), 'the session restarts')
        except RemoteServerError as error:
            for line in error.trace.splitlines()[-LOGGED_TRACEBACK_LINES:]:
                self._log(line)
            return self._fail_session(
                str(error), "the lines before this one in the log are the server's"
            )
        except TransportError as error:
            return self._fail_session(str(error), 'the session restarts')

    def _fail_session(self, what: str, fix: str) -> WorkerMessage:
        self._session = None
        self._log(what)
        return WorkerMessage('error', {'what': what, 'fix': fix})

    def _on_reset(self, request: WorkerMessage) -> WorkerMessage:
        session, instruction = (str(request.fields[key]) for key in ('session', 'instruction'))
        started_s = time.perf_counter()
        self._session = None
        self._reconnect()
        self._memory.reset(session, instruction)
        self._session, self._instruction = session, instruction
        self._committed_blocks, self._episode_positions = 0, None
        self._committed_rows.reset()
        return WorkerMessage(
            'ok', {'session': session, 'timings_ms': _make_timing('reset', started_s)}
        )

    def _reconnect(self) -> None:
        """Open a new connection if there is none, or if the server closed an idle one."""
        if self._client.is_open:
            return
        self._client.close()
        self._client, self._has_answered = self._connect(), False
        info = handshake.parse_server_info(
            self._profile, self._robot, self._client.server_metadata
        )
        if info != self.server_info:
            raise handshake.IncompatibleServer(
                f'the server at {self._client.address} has changed its model or memory; '
                'restart the policy node to use it'
            )

    def _on_commit(self, request: WorkerMessage) -> WorkerMessage:
        self._check_session(request)
        block, frames = self._committed_blocks, self._read_views(request, FRAMES_PREFIX)
        if request.fields.get('block') != block:
            raise InvalidNodeRequest(
                f'commit of block {request.fields.get("block")!r}, next is {block}'
            )
        started_s, window = time.perf_counter(), self.server_info.window_blocks
        fields: dict[str, Any] = {
            'cached_blocks': min(block, window),
            'rebuilds': 0,
            'window_fill': min(1.0, block / window),
        }
        executed: ExecutedBlock | None = None
        if self.server_info.follows_chunks:
            frames, executed = self._read_executed(request, frames, is_first=block == 0)
        fields |= self._memory.commit(request.fields['session'], block, frames, executed)
        self._committed_blocks += 1
        return WorkerMessage(
            'committed',
            {
                'session': self._session,
                'block': block,
                **fields,
                'timings_ms': _make_timing('commit', started_s),
            },
        )

    def _read_executed(
        self, request: WorkerMessage, frames: Views, *, is_first: bool
    ) -> tuple[Views, ExecutedBlock]:
        """Return images and executed rows at the rate of the server.

        The node has an image and a joint state after each row that the robot got.
        """
        count, observed = len(next(iter(frames.values()))), len(self._robot.observed)
        measured = request.arrays.get('joints')
        if measured is None or measured.shape != (count, observed):
            raise InvalidNodeRequest(
                f'commit: want joints [{count} {observed}], the positions at the images'
            )
        if is_first:
            return frames, ExecutedBlock(measured, None)
        every = round(1.0 / self._profile.step_hz / self._robot.step_dt_s)
        measured = measured[every - 1 :: every]
        frames = {camera: pixels[every - 1 :: every] for camera, pixels in frames.items()}
        return frames, ExecutedBlock(measured, self._executed_rows.make_message(measured))

    def _on_query(self, request: WorkerMessage) -> WorkerMessage:
        self._check_session(request)
        joint_positions = request.arrays.get('joints')
        if (
            joint_positions is None
            or joint_positions.shape != (len(self._robot.observed),)
            or not np.isfinite(joint_positions).all()
        ):
            raise InvalidNodeRequest(f'a query needs {len(self._robot.observed)} finite joints')
        if not self._committed_blocks:
            raise InvalidNodeRequest('query before any commit')
        newest: Views = {}
        if any(name.startswith(NEWEST_PREFIX) for name in request.arrays):
            newest = self._read_views(request, NEWEST_PREFIX)
        started_s = time.perf_counter()
        if self._profile.memory == 'none' and not self.server_info.streaming:
            self._reconnect()  # nothing is lost: this server has no memory
        answer = self._memory.query(
            QueryInput(
                request.fields['session'],
                self._instruction,
                request.fields['seed'],
                joint_positions,
                newest,
                self._make_row_variables(request, joint_positions),
            )
        )
        answered_s = time.perf_counter()
        targets = self._decode_answer(answer, joint_positions)
        self._committed_rows.add_chunk(targets, request.fields['stamp_ns'], answered_s - started_s)
        targets = resample_rows(targets, 1.0 / self._profile.step_hz, self._robot.step_dt_s)
        reference = joint_positions[
            [self._robot.observed.index(name) for name in self._robot.commanded]
        ]
        timings_ms = {
            'preprocess': 1e3 * (self._sent_s - started_s),
            'server': 1e3 * (answered_s - self._sent_s),
            'postprocess': 1e3 * (time.perf_counter() - answered_s),
        }
        return WorkerMessage(
            'chunk',
            {
                'session': self._session,
                'sequence': request.fields['sequence'],
                'stamp_ns': request.fields['stamp_ns'],
                'horizon': len(targets),
                'step_dt_s': self._robot.step_dt_s,
                'timings_ms': timings_ms,
            },
            {'targets': targets, 'reference': reference},
        )

    def _make_row_variables(
        self, request: WorkerMessage, joint_positions: np.ndarray
    ) -> dict[str, Any]:
        """Return the rows that are executed until the answer comes, for a server that has them.

        For ours the node chooses them, as for its own workers (`execution`).
        """
        if self.server_info.streaming:
            given = request.arrays.get('committed')
            if given is None:
                return {}
            return {'committed': given.astype(np.float32), 'delay': len(given)}
        operation = self._profile.operations['infer']
        rows = self._committed_rows.select(request.fields['stamp_ns'])
        if rows is None:
            return {}
        if not message_template.has_variable(operation.message, 'committed'):
            return {}
        encoded = value_mapping.encode_rows(
            self._profile,
            self._robot,
            rows,
            joint_positions,
            self._episode_positions,
            self._poses,
        )
        return {'committed': encoded.astype(np.float32), 'delay': len(rows)}

    def _decode_answer(self, answer: Any, joint_positions: np.ndarray) -> np.ndarray:
        """Return the targets [rows commanded]; the first of a session are checked."""
        is_first = self._episode_positions is None
        episode = joint_positions if self._episode_positions is None else self._episode_positions
        skipped = self._profile.rows_per_frame if self._profile.skips_first_frame else 0
        targets = value_mapping.decode_actions(
            self._profile,
            self._robot,
            answer,
            joint_positions,
            episode,
            self._poses,
            skipped if is_first else 0,
        )
        if self.server_info.follows_chunks:
            self._executed_rows.add_answer(answer, targets, joint_positions, episode)
        if is_first and not self.server_info.streaming:  # ours: the handshake compared robots
            for warning in answer_check.check_first_answer(
                self._robot, targets, joint_positions, 1.0 / self._profile.step_hz
            ):
                self._log(warning)
        if is_first:
            self._episode_positions = joint_positions.copy()
        return targets

    def _send(
        self, name: str, variables: Mapping[str, Any], more: Mapping[str, Any] | None = None
    ) -> Any:
        """Send an operation within its time limit."""
        self._sent_s = time.perf_counter()
        timeout_s = self._answer_timeout_s
        if name in ('start', 'reset'):
            timeout_s = self._reset_timeout_s
        elif name == 'infer' and not self._has_answered:
            timeout_s = self._first_timeout_s
        answer = self._client.request(name, variables, timeout_s, more)
        self._has_answered |= name == 'infer'
        return answer

    def _make_observation(self, views: Views, query: QueryInput) -> dict[str, Any]:
        return value_mapping.encode_request(
            self._profile,
            self._robot,
            views,
            query.joint_positions,
            query.prompt,
            self._poses,
            query.history,
        )

    def _check_session(self, request: WorkerMessage) -> None:
        session = request.fields.get('session')
        if self._session is None or session != self._session:
            raise InvalidNodeRequest(
                f'{request.kind} of session {session!r}, but the open session is '
                f'{self._session!r}: reset first'
            )

    def _read_views(self, request: WorkerMessage, prefix: str) -> dict[str, np.ndarray]:
        """Return the images of every camera in the profile, uint8 [T h w 3]."""
        found = {}
        for camera in self._profile.cameras:
            frames = request.arrays.get(prefix + camera)
            if frames is None or frames.dtype != np.uint8 or frames.ndim not in (3, 4):
                raise InvalidNodeRequest(
                    f'{request.kind}: want {prefix}{camera} as images uint8 [T h w 3]'
                )
            found[camera] = frames[None] if frames.ndim == 3 else frames
        return found


def _make_timing(stage: str, started_s: float) -> dict[str, float]:
    return {stage: 1e3 * (time.perf_counter() - started_s)}

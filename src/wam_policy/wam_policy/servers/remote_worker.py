"""Answer the policy node's requests through a remote server, as workers.request_server does here.

The node sends resets, commits and queries; servers differ in their memory. Our server receives the
commits unchanged. A released server receives the images of a block with the query that follows. A
server without memory receives only the newest images.

A failed request is answered with `error` and closes the connection; the next reset opens a new
one. If the server is unreachable, the process exits and the supervisor restarts it after a delay.
"""

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import handshake, value_mapping
from wam_policy.servers.codecs import msgpack_codec
from wam_policy.servers.handshake import ServerInfo
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.transports import websocket_client
from wam_policy.servers.transports.websocket_client import (
    RemoteServerError,
    WebSocketClient,
    WebSocketClientError,
)
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

NEWEST_PREFIX, FRAMES_PREFIX = 'newest/', 'frames/'
ConnectFn = Callable[[], WebSocketClient]


class InvalidNodeRequest(Exception):
    """Report a node request that is invalid; nothing was done."""


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
        self._timeout_s, self._reset_timeout_s = timeout_s, reset_timeout_s
        self._client = connect()
        self.server_info: ServerInfo = handshake.parse_server_info(
            profile, robot, self._client.server_metadata
        )
        self._session: str | None = None
        self._instruction = ''
        self._committed_blocks = 0
        self._pending_views: Mapping[str, np.ndarray] | None = (
            None  # images of a block, not yet sent
        )

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
            'geometry': {
                'cameras': list(self._profile.cameras),
                'first_frames': 1,
                'frames_per_block': info.frames_per_block,
                'frame_period_s': info.frame_period_s,
                'window_blocks': info.window_blocks,
                'horizon': self._profile.horizon,
                'step_dt_s': 1.0 / self._profile.step_hz,
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
                answer = self._handle_request(request)
                protocol.send(
                    self._sock,
                    WorkerMessage(
                        answer.kind,
                        {**answer.fields, 'id': request.fields.get('id')},
                        answer.arrays,
                    ),
                )
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
        except (InvalidNodeRequest, msgpack_codec.MalformedMessage) as error:
            return WorkerMessage('error', {'what': str(error), 'fix': ''})
        except value_mapping.ProfileMismatch as error:
            self._client.close()  # the reply does not match the profile: end the session
            return self._fail_session(str(error), 'the server and its server profile do not fit')
        except (websocket_client.ServerUnreachable, websocket_client.ConnectionRejected):
            raise  # from `reset`: the process exits with this reason
        except RemoteServerError as error:
            for line in error.trace.splitlines()[-websocket_client.LOGGED_TRACEBACK_LINES :]:
                self._log(line)
            return self._fail_session(
                str(error), "the lines before this one in the log are the server's"
            )
        except WebSocketClientError as error:
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
        if self._profile.endpoint_key is not None:
            self._reset_server(session, instruction)
        self._session, self._instruction = session, instruction
        self._committed_blocks, self._pending_views = 0, None
        return WorkerMessage(
            'ok', {'session': session, 'timings_ms': _make_timing('reset', started_s)}
        )

    def _reconnect(self) -> None:
        """Open a new connection if there is none, or if the server closed an idle one."""
        if not self._client.is_open:
            self._client.close()
            self._client = self._connect()
            info = handshake.parse_server_info(
                self._profile, self._robot, self._client.server_metadata
            )
            if info != self.server_info:
                raise handshake.IncompatibleServer(
                    f'the server at {self._client.address} has changed its model or memory; '
                    'restart the policy node to use it'
                )

    def _reset_server(self, session: str, instruction: str) -> None:
        """Reset the server's session; its reply is a string or a binary status."""
        message = self._make_message('reset', session)
        if self.server_info.streaming:
            message |= {
                'memory': handshake.STREAMING_MEMORY,
                self._profile.prompt_key[0]: instruction,
            }
        reply = self._client.request(message, self._reset_timeout_s)
        if isinstance(reply, str) and 'Traceback' in reply:
            raise websocket_client.close_and_make_error(self._client, reply)

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
        if self.server_info.streaming:
            message = {
                **self._make_message('commit', request.fields['session']),
                'block': block,
                **value_mapping.encode_images(self._profile, frames),
            }
            fields |= self._parse_commit_answer(self._request(message))
        elif self.server_info.memory_update == 'released':
            # the first request of a session carries one image, later ones those of `offsets`
            self._pending_views = (
                frames
                if block == 0
                else {
                    camera: pixels[[offset - 1 for offset in self._profile.frames.offsets]]
                    for camera, pixels in frames.items()
                }
            )
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
        frames = self._select_query_images(request)
        started_s = time.perf_counter()
        message = value_mapping.encode_request(
            self._profile, self._robot, frames, joint_positions, self._instruction
        )
        message |= self._make_message('infer', request.fields['session'])
        if self.server_info.streaming:
            message['seed'] = request.fields['seed']
        packed_s = time.perf_counter()
        if self._profile.frames.block_steps is None and not self.server_info.streaming:
            self._reconnect()  # nothing is lost: this server has no memory
        self._pending_views = None
        reply = self._request(message)
        targets = value_mapping.decode_actions(self._profile, self._robot, reply, joint_positions)
        reference = joint_positions[
            [self._robot.observed.index(name) for name in self._robot.commanded]
        ]
        timings_ms = {
            'preprocess': 1e3 * (packed_s - started_s),
            'server': 1e3 * (time.perf_counter() - packed_s),
        }
        return WorkerMessage(
            'chunk',
            {
                'session': self._session,
                'sequence': request.fields['sequence'],
                'stamp_ns': request.fields['stamp_ns'],
                'horizon': self._profile.horizon,
                'step_dt_s': 1.0 / self._profile.step_hz,
                'timings_ms': timings_ms,
            },
            {'targets': targets, 'reference': reference},
        )

    def _select_query_images(self, request: WorkerMessage) -> Mapping[str, np.ndarray]:
        """Return the images [T h w 3] for a query; a streaming server needs none."""
        if self.server_info.memory_update == 'released':
            if self._pending_views is None:
                raise InvalidNodeRequest(
                    'no frames since the last query: this server takes one query per block'
                )
            return self._pending_views
        newest = any(name.startswith(NEWEST_PREFIX) for name in request.arrays)
        return (
            self._read_views(request, NEWEST_PREFIX)
            if newest or not self.server_info.streaming
            else {}
        )

    def _request(self, message: dict[str, Any]) -> Any:
        """Send a request and return the answer; a string as answer is an error of the server."""
        reply = self._client.request(message, self._timeout_s)
        if isinstance(reply, str):
            raise websocket_client.close_and_make_error(self._client, reply)
        return reply

    def _parse_commit_answer(self, answer: object) -> dict[str, Any]:
        good = (
            isinstance(answer, dict)
            and all(type(answer.get(key)) is int for key in ('cached_blocks', 'rebuilds'))
            and isinstance(answer.get('window_fill'), float)
        )
        if not good:
            raise value_mapping.ProfileMismatch(
                f'the server answered a commit with {answer!r:.80}'
            )
        assert isinstance(answer, dict)
        return {key: answer[key] for key in ('cached_blocks', 'rebuilds', 'window_fill')}

    def _make_message(self, endpoint: str, session: str) -> dict[str, Any]:
        message: dict[str, Any] = {}
        if self._profile.endpoint_key is not None:
            message[self._profile.endpoint_key] = endpoint
        if self._profile.session_key is not None:
            message[self._profile.session_key[0]] = session
        return message

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

"""Answer the node's requests by asking a far server: the remote twin of worker.server.

The node speaks of sessions, commits and queries; servers differ in what they remember. Ours takes
commits as they are. A released one gets each block's pictures with the query that follows it. One
without memory gets the newest pictures and nothing else.

A failed request is an answer (`error`) and closes the connection; the session that the node then
opens begins with a new one. A server that is not there ends this program: whoever started it waits
and starts it again.
"""

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import handshake, value_mapping
from wam_policy.servers.codecs import msgpack_codec
from wam_policy.servers.handshake import Terms
from wam_policy.servers.server_profile import Flavour
from wam_policy.servers.transports import websocket_client
from wam_policy.servers.transports.websocket_client import Link, LinkError, ServerFailed
from wam_policy.workers import protocol
from wam_policy.workers.protocol import Message

NEWEST, FRAMES = 'newest/', 'frames/'
Connect = Callable[[], Link]


class Declined(Exception):
    """A request does not fit; nothing was done."""


class Relay:
    """Serve one node on one socket until told to stop."""

    def __init__(
        self,
        end: socket.socket,
        flavour: Flavour,
        robot: Embodiment,
        connect: Connect,
        timeout_s: float,
        say: Callable[[str], None],
    ) -> None:
        """Connect; raises Unreachable, Refused or Disagreement if that leads to nothing."""
        self._end, self._flavour, self._robot = end, flavour, robot
        self._connect, self._timeout_s, self._say = connect, timeout_s, say
        self._link = connect()
        self.terms: Terms = handshake.agreed(flavour, robot, self._link.configuration)
        self._session: str | None = None
        self._instruction = ''
        self._blocks = 0
        self._pending: Mapping[str, np.ndarray] | None = None  # pictures of a block, not yet sent

    def facts(self) -> dict[str, Any]:
        """Describe the server in the words in which a local worker describes itself."""
        terms, robot = self.terms, self._robot
        name = terms.model if terms.trained else f'UNTRAINED {terms.model}'
        return {
            'model': name,
            'trained': terms.trained,
            'device': self._link.address,
            'mode': terms.rhythm,
            'sight': terms.sight,
            'embodiment': robot.name,
            'contract': robot.contract,
            'video': False,
            'reason': f'{name} at {self._link.address}',
            'geometry': {
                'cameras': list(self._flavour.cameras),
                'first_frames': 1,
                'frames_per_block': terms.frames_per_block,
                'frame_period_s': terms.frame_period_s,
                'window_blocks': terms.window_blocks,
                'horizon': self._flavour.horizon,
                'step_dt_s': 1.0 / self._flavour.step_hz,
            },
        }

    def serve(self) -> None:
        """Answer until `stop` or until the other end closes.

        Raises Unreachable, Refused or Disagreement when the server cannot be had any more.
        """
        protocol.send(self._end, Message('ready', {**self.facts(), 'id': 0}))
        while True:
            try:
                request = protocol.receive(self._end)
                if request.kind == 'stop':
                    return
                if request.kind == 'hello':
                    continue  # answered by `ready`
                answer = self._answered(request)
                protocol.send(
                    self._end,
                    Message(
                        answer.kind,
                        {**answer.fields, 'id': request.fields.get('id')},
                        answer.arrays,
                    ),
                )
            except protocol.PeerClosed:
                return

    def close(self) -> None:
        self._link.close()

    def _answered(self, request: Message) -> Message:
        kinds = {'reset': self._reset, 'commit': self._commit, 'query': self._query}
        try:
            if request.kind not in kinds:
                raise Declined(f'a far server knows no {request.kind!r}')
            return kinds[request.kind](request)
        except (Declined, msgpack_codec.Malformed) as error:
            return Message('error', {'what': str(error), 'fix': ''})
        except value_mapping.Mismatch as error:
            self._link.close()  # server and flavour disagree: the session is worth nothing
            return self._gave_up(str(error), 'the server and its flavour do not fit')
        except (websocket_client.Unreachable, websocket_client.Refused):
            raise  # from `reset`: this program ends with the reason
        except ServerFailed as error:
            for line in error.trace.splitlines()[-websocket_client.LAST_LINES :]:
                self._say(line)
            return self._gave_up(
                str(error), "the lines before this one in the log are the server's"
            )
        except LinkError as error:
            return self._gave_up(str(error), 'the session begins anew')

    def _gave_up(self, what: str, fix: str) -> Message:
        self._session = None
        self._say(what)
        return Message('error', {'what': what, 'fix': fix})

    def _reset(self, request: Message) -> Message:
        session, instruction = (str(request.fields[key]) for key in ('session', 'instruction'))
        started_s = time.perf_counter()
        self._session = None
        if not self._link.is_open:
            self._link = self._connect()
            terms = handshake.agreed(self._flavour, self._robot, self._link.configuration)
            if terms != self.terms:
                raise handshake.Disagreement(
                    'another server than before answers there; start anew to use it'
                )
        if self._flavour.endpoint_key is not None:
            self._begin(session, instruction)
        self._session, self._instruction = session, instruction
        self._blocks, self._pending = 0, None
        return Message('ok', {'session': session, 'timings_ms': _timing('reset', started_s)})

    def _begin(self, session: str, instruction: str) -> None:
        """Let the server forget; it says yes with a text, or with a status in binary."""
        message = self._addressed('reset', session)
        if self.terms.clocked:
            message |= {'memory': handshake.CLOCKED, self._flavour.prompt_key[0]: instruction}
        said = self._link.ask(message, self._timeout_s)
        if isinstance(said, str) and 'Traceback' in said:
            raise websocket_client.failed(self._link, said)

    def _commit(self, request: Message) -> Message:
        self._check(request)
        block, frames = self._blocks, self._views(request, FRAMES)
        if request.fields.get('block') != block:
            raise Declined(f'commit of block {request.fields.get("block")!r}, next is {block}')
        started_s, window = time.perf_counter(), self.terms.window_blocks
        fields: dict[str, Any] = {
            'cached_blocks': min(block, window),
            'rebuilds': 0,
            'window_fill': min(1.0, block / window),
        }
        if self.terms.clocked:
            message = {
                **self._addressed('commit', request.fields['session']),
                'block': block,
                **value_mapping.shown(self._flavour, frames),
            }
            fields |= self._committed(self._asked(message))
        elif self.terms.rhythm == 'reference':
            # the first request of a session shows one picture, the others those of the offsets
            self._pending = (
                frames
                if block == 0
                else {
                    camera: pixels[[offset - 1 for offset in self._flavour.frames.offsets]]
                    for camera, pixels in frames.items()
                }
            )
        self._blocks += 1
        return Message(
            'committed',
            {
                'session': self._session,
                'block': block,
                **fields,
                'timings_ms': _timing('commit', started_s),
            },
        )

    def _query(self, request: Message) -> Message:
        self._check(request)
        posture = request.arrays.get('joints')
        if (
            posture is None
            or posture.shape != (len(self._robot.observed),)
            or not np.isfinite(posture).all()
        ):
            raise Declined(f'a query needs {len(self._robot.observed)} finite joints')
        if not self._blocks:
            raise Declined('query before any commit')
        frames = self._looked(request)
        started_s = time.perf_counter()
        message = value_mapping.request(
            self._flavour, self._robot, frames, posture, self._instruction
        )
        message |= self._addressed('infer', request.fields['session'])
        if self.terms.clocked:
            message['seed'] = request.fields['seed']
        packed_s = time.perf_counter()
        self._pending = None
        said = self._asked(message)
        targets = value_mapping.targets(self._flavour, self._robot, said, posture)
        reference = posture[[self._robot.observed.index(name) for name in self._robot.commanded]]
        timings_ms = {
            'preprocess': 1e3 * (packed_s - started_s),
            'server': 1e3 * (time.perf_counter() - packed_s),
        }
        return Message(
            'chunk',
            {
                'session': self._session,
                'sequence': request.fields['sequence'],
                'stamp_ns': request.fields['stamp_ns'],
                'horizon': self._flavour.horizon,
                'step_dt_s': 1.0 / self._flavour.step_hz,
                'timings_ms': timings_ms,
            },
            {'targets': targets, 'reference': reference},
        )

    def _looked(self, request: Message) -> Mapping[str, np.ndarray]:
        """Give the pictures that go with a query; a server that takes commits needs none."""
        if self.terms.rhythm == 'reference':
            if self._pending is None:
                raise Declined('no frames since the last query: this server is asked once a block')
            return self._pending
        newest = any(name.startswith(NEWEST) for name in request.arrays)
        return self._views(request, NEWEST) if newest or not self.terms.clocked else {}

    def _asked(self, message: dict[str, Any]) -> Any:
        """Ask; a text is an error, whatever it says."""
        said = self._link.ask(message, self._timeout_s)
        if isinstance(said, str):
            raise websocket_client.failed(self._link, said)
        return said

    def _committed(self, said: object) -> dict[str, Any]:
        good = (
            isinstance(said, dict)
            and all(type(said.get(key)) is int for key in ('cached_blocks', 'rebuilds'))
            and isinstance(said.get('window_fill'), float)
        )
        if not good:
            raise value_mapping.Mismatch(f'the server answered a commit with {said!r:.80}')
        assert isinstance(said, dict)
        return {key: said[key] for key in ('cached_blocks', 'rebuilds', 'window_fill')}

    def _addressed(self, endpoint: str, session: str) -> dict[str, Any]:
        message: dict[str, Any] = {}
        if self._flavour.endpoint_key is not None:
            message[self._flavour.endpoint_key] = endpoint
        if self._flavour.session_key is not None:
            message[self._flavour.session_key[0]] = session
        return message

    def _check(self, request: Message) -> None:
        session = request.fields.get('session')
        if self._session is None or session != self._session:
            raise Declined(f'{request.kind} of session {session!r} while {self._session!r} is on')

    def _views(self, request: Message, prefix: str) -> dict[str, np.ndarray]:
        """Take the pictures of every camera the server sees, uint8 [T h w 3]."""
        found = {}
        for camera in self._flavour.cameras:
            frames = request.arrays.get(prefix + camera)
            if frames is None or frames.dtype != np.uint8 or frames.ndim not in (3, 4):
                raise Declined(f'{request.kind} has no {prefix}{camera}')
            found[camera] = frames[None] if frames.ndim == 3 else frames
        return found


def _timing(stage: str, started_s: float) -> dict[str, float]:
    return {stage: 1e3 * (time.perf_counter() - started_s)}

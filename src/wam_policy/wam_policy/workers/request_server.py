"""Answer requests from the socket with one model; a request that fails is an answer too.

Every worker of a pair gets every request in the same order. Rank 0 answers with data, the other
acknowledges. Checks that belong to the conversation (sessions, sizes) are here, so that both
workers refuse alike before either waits for the other.
"""

import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from wam_policy.model.network.cfg import Role
from wam_policy.model.robot_policy import MODES, Policy
from wam_policy.workers import protocol
from wam_policy.workers.exit_codes import PeerLost
from wam_policy.workers.protocol import Message
from wam_policy.workers.session_store import Session, Sessions

NEWEST, FRAMES = 'newest/', 'frames/'
BEFORE_A_PAUSE = ('reset', 'commit')  # after whose answer no query is late yet
MAX_SEED = 2**63 - 1  # what a torch generator takes


class Refused(Exception):
    """A request does not fit; nothing was done."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class Server:
    """Serve one model on one socket until told to stop."""

    def __init__(
        self,
        end: socket.socket,
        policies: Sequence[Policy],
        facts: Mapping[str, Any],
        say: Callable[[str], None],
        tidy: Callable[[], object] = lambda: None,
    ) -> None:
        """Take a policy per session, what `hello` is answered with, where a line for people goes
        and what clears up between two requests.
        """
        self._end, self._facts, self._say, self._tidy = end, dict(facts), say, tidy
        self._robot, self._role = policies[0].robot, policies[0].role
        self._geometry = policies[0].geometry
        self._sessions = Sessions(policies)
        self._predicted: Session | None = None  # the last to be asked: its video can be had

    def serve(self) -> None:
        """Answer until `stop` or until the other end closes.

        Raises PeerLost when the other worker is gone, WireError when the stream is broken.
        """
        kinds = {
            'hello': self._hello,
            'reset': self._reset,
            'commit': self._commit,
            'query': self._query,
            'video': self._video,
        }
        while True:
            try:
                request = protocol.receive(self._end)
            except protocol.PeerClosed:
                return
            if request.kind == 'stop':
                return
            answer = self._answered(kinds.get(request.kind), request)
            answer = Message(
                answer.kind, {**answer.fields, 'id': request.fields.get('id')}, answer.arrays
            )
            try:
                protocol.send(self._end, answer)
            except protocol.PeerClosed:
                return
            if request.kind in BEFORE_A_PAUSE:
                self._tidy()

    def _answered(self, answer: Callable[[Message], Message] | None, request: Message) -> Message:
        try:
            if answer is None:
                raise Refused(
                    f'unknown request {request.kind!r}',
                    'use hello, reset, commit, query, video or stop',
                )
            return answer(request)
        except Refused as refused:
            return Message('error', {'what': str(refused), 'fix': refused.fix})
        except PeerLost:
            raise
        except torch.OutOfMemoryError as error:
            self._forget(request)
            torch.cuda.empty_cache()
            return Message(
                'error',
                {
                    'what': f'out of memory on {request.kind}: {str(error).splitlines()[0]}',
                    'fix': 'free the device, use a second one or a smaller model; then reset',
                },
            )
        except Exception as error:  # noqa: BLE001  a failed request must not end the worker
            self._forget(request)  # half done: the memory may be anything
            for line in traceback.format_exc().splitlines():
                self._say(line)
            return Message(
                'error',
                {
                    'what': f'{request.kind} failed: {type(error).__name__}: {error}',
                    'fix': "reset the session; the worker's log has the trace",
                },
            )

    def _hello(self, request: Message) -> Message:
        return Message('ready', self._facts)

    def _reset(self, request: Message) -> Message:
        name, instruction = _text(request, 'session'), _text(request, 'instruction')
        mode = request.fields.get('mode')
        if mode is not None and mode not in MODES:
            raise Refused(
                f'reset: mode is {mode!r:.80}', f'send one of {", ".join(MODES)}, or none'
            )
        session = self._sessions.opened(name)
        timings_ms = session.policy.reset(instruction, mode)
        return Message('ok', {'session': name, 'timings_ms': dict(timings_ms)})

    def _commit(self, request: Message) -> Message:
        session = self._session(request)
        block = _whole(request, 'block')
        if block != session.blocks:
            raise Refused(
                f'commit of block {block}, next is {session.blocks}',
                'commit every block once and in order, or reset',
            )
        views = self._views(request, FRAMES)
        wanted = self._geometry.frames_per_block if block else self._geometry.first_frames
        for name, frames in views.items():
            # the released rhythm brings as many as it has, and the model fills the block
            if len(frames) != wanted and session.policy.clocked:
                raise Refused(
                    f'block {block} has {len(frames)} frames of {name}', f'send {wanted}'
                )
        timings_ms = session.policy.commit(views)
        session.blocks += 1
        memory = session.policy.memory
        blocks = max(0, memory.frames - 1) // session.policy.loaded.dit.config.frames_per_block
        return Message(
            'committed',
            {
                'session': session.name,
                'block': block,
                'cached_blocks': blocks,
                'cached_frames': memory.frames,
                'window_fill': memory.frames / memory.window_frames,
                'commits': memory.commits,
                'rebuilds': memory.rebuilds,
                'timings_ms': dict(timings_ms),
            },
        )

    def _query(self, request: Message) -> Message:
        session = self._session(request)
        sequence, seed = _whole(request, 'sequence'), _whole(request, 'seed')
        stamp_ns = _whole(request, 'stamp_ns')
        joints = request.arrays.get('joints')
        wanted = len(self._robot.observed)
        if joints is None or joints.shape != (wanted,) or not np.isfinite(joints).all():
            raise Refused(
                f'query {sequence} has no posture of {wanted} finite numbers',
                "send joints in the order of the robot's observed joints",
            )
        if sequence <= session.sequence:
            raise Refused(f'query {sequence} after {session.sequence}', 'count upwards')
        if not 0 <= seed <= MAX_SEED:
            raise Refused(f'seed {seed}', f'use 0 to {MAX_SEED}')
        if not session.blocks:
            raise Refused('query before any commit', 'commit a first frame')
        if session.policy.waits_for_frames:
            raise Refused(
                'no frames since the last query: the released rhythm asks once a block',
                'commit first, or reset with mode clocked',
            )
        newest = (
            self._views(request, NEWEST)
            if any(name.startswith(NEWEST) for name in request.arrays)
            else None
        )
        session.sequence = sequence
        found = session.policy.query(joints, seed, newest)
        self._predicted = session
        fields = {
            'session': session.name,
            'sequence': sequence,
            'stamp_ns': stamp_ns,
            'horizon': self._geometry.horizon,
            'step_dt_s': self._geometry.step_dt_s,
            'timings_ms': dict(found.timings_ms),
        }
        if found.targets is None:
            return Message('ok', fields)
        return Message('chunk', fields, {'targets': found.targets, 'reference': found.reference})

    def _video(self, request: Message) -> Message:
        if self._role is Role.UNCOND:
            return Message('ok')
        session = self._predicted
        if session is None or self._sessions.used(session.name) is not session:
            raise Refused('no prediction to decode', 'query first')
        return Message(
            'video',
            {'session': session.name, 'sequence': session.sequence},
            {'frames': session.policy.video()},
        )

    def _session(self, request: Message) -> Session:
        """Find the session that a request belongs to."""
        name, known = _text(request, 'session'), self._sessions.names
        if not known:
            raise Refused(f'{request.kind} without a session', 'send reset first')
        session = self._sessions.used(name)
        if session is None:
            raise Refused(
                f'{request.kind} of session {name!r} while {", ".join(map(repr, known))} is on',
                'send reset first',
            )
        return session

    def _forget(self, request: Message) -> None:
        """End the session of a request that failed."""
        name = request.fields.get('session')
        if isinstance(name, str):
            self._sessions.forget(name)

    def _views(self, request: Message, prefix: str) -> dict[str, np.ndarray]:
        """Take the frames of every camera, uint8 [T h w 3]; one image may come as [h w 3]."""
        found, wanted = {}, ', '.join(prefix + name for name in self._geometry.cameras)
        for camera in self._geometry.cameras:
            frames = request.arrays.get(prefix + camera)
            if frames is None:
                raise Refused(f'{request.kind} has no {prefix}{camera}', f'send {wanted}')
            frames = frames[None] if frames.ndim == 3 else frames
            if (
                frames.dtype != np.uint8
                or frames.ndim != 4
                or frames.shape[-1] != 3
                or not frames.size
            ):
                raise Refused(
                    f'{prefix}{camera} is {frames.dtype} {list(frames.shape)}',
                    'send uint8 [frames height width 3]',
                )
            found[camera] = frames
        counts = {name: len(frames) for name, frames in found.items()}
        if len(set(counts.values())) != 1:
            raise Refused(
                f'cameras differ in their number of frames: {counts}',
                'send the same instants of each',
            )
        return found


def facts(policy: Policy, device: str) -> dict[str, Any]:
    """Describe a policy that is ready to be asked."""
    loaded = policy.loaded
    tag = policy.robot.model_tag
    name = loaded.design.name if loaded.trained else f'UNTRAINED {loaded.design.name}'
    return {
        'model': name,
        'trained': loaded.trained,
        'parameters': loaded.parameters,
        'device': device,
        'dtype': str(loaded.dit.dtype).removeprefix('torch.'),
        'mode': policy.choice.mode,
        'recipe': policy.choice.recipe,
        'embodiment': policy.robot.name,
        'contract': policy.robot.contract,
        'statistics': {'tag': tag, 'synthetic': loaded.tags[tag].synthetic},
        'geometry': asdict(policy.geometry),
        'reason': f'{name} on {device}',
    }


def _text(request: Message, key: str) -> str:
    value = request.fields.get(key)
    if not isinstance(value, str):
        raise Refused(f'{request.kind}: {key} is {value!r:.80}', 'send text')
    return value


def _whole(request: Message, key: str) -> int:
    value = request.fields.get(key)
    if type(value) is not int:
        raise Refused(f'{request.kind}: {key} is {value!r:.80}', 'send a whole number')
    return value

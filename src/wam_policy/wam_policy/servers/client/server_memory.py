"""When to send what to a server: one class per kind of memory, nothing else knows their order.

The node resets a session, commits blocks of recorded frames and queries. A server without memory
gets only queries with the newest images; one with a block memory gets the images of a block with
the query that follows; our own gets the commits; a stepwise one gets the image of every control
step; one that learns after the execution gets what was executed of its answer. `ServerInfo`
states how the node has to commit and query.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from wam_policy.servers import handshake
from wam_policy.servers.handshake import STREAMING_MEMORY, ServerInfo
from wam_policy.servers.mapping import image_encoding, nested_keys
from wam_policy.servers.mapping.nested_keys import ProfileMismatch
from wam_policy.servers.profile_fields import ServerProfile

Views = Mapping[str, np.ndarray]  # camera -> uint8 [T h w 3]
MAX_STEPS_PER_MESSAGE = 4  # images of one camera in an `observe`


class InvalidNodeRequest(Exception):
    """Report a node request that is invalid; nothing was done."""


class SendOperation(Protocol):
    """Send an operation with its variables; `more` is added to the message."""

    def __call__(
        self, name: str, variables: Mapping[str, Any], more: Mapping[str, Any] | None = None
    ) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class ExecutedBlock:
    """What the robot did while the images of a block were taken."""

    joint_positions: np.ndarray  # [T observed], at the images
    rows: Any  # in the layout of an answer; None: in the first block, before any answer


@dataclass(frozen=True, slots=True, eq=False)
class QueryInput:
    """What the node sends with a query."""

    session: str
    prompt: str
    seed: int
    joint_positions: np.ndarray  # [observed]
    newest: Views  # empty: the node sent no images
    variables: Mapping[str, Any]  # of the request, for the profile's templates
    # [T observed], at the images of the request; None: only `joint_positions` are known
    history: np.ndarray | None = None


# observation of a query: images, state and prompt, for views that may be empty
MakeObservation = Callable[[Views, QueryInput], dict[str, Any]]


class NoMemory:
    """Query with the newest images; commits are not sent."""

    def __init__(
        self, profile: ServerProfile, send: SendOperation, make_observation: MakeObservation
    ) -> None:
        self.profile, self.send, self._make_observation = profile, send, make_observation

    def reset(self, session: str, prompt: str) -> None:
        """Start a session, if the server has any."""
        for name in ('start', 'reset'):
            if name in self.profile.operations:
                self.send(name, {'session': session, 'prompt': prompt})

    def commit(
        self, session: str, block: int, frames: Views, executed: ExecutedBlock | None = None
    ) -> dict[str, Any]:
        """Take a block; return the fields of the answer to the node that the server states.

        `executed` is what the robot did in the block, for a server that learns it.
        """
        return {}

    def query(self, query: QueryInput) -> Any:
        """Return the server's answer to a query."""
        if not query.newest:
            raise InvalidNodeRequest('a query needs the newest images of every camera')
        return self.infer(query.newest, query, {})

    def infer(
        self,
        views: Views,
        query: QueryInput,
        variables: Mapping[str, Any],
        more: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send the operation `infer` with an observation."""
        images = image_encoding.encode_images(self.profile, views)
        return self.send(
            'infer',
            {
                'session': query.session,
                'prompt': query.prompt,
                'seed': query.seed,
                'observation': self._make_observation(views, query),
                'images': images,
                **query.variables,
                **variables,
            },
            more,
        )


class BlockMemory(NoMemory):
    """Send the images of a block with the query that follows it."""

    _pending: Views | None = None  # not yet sent

    def reset(self, session: str, prompt: str) -> None:
        self._pending = None
        super().reset(session, prompt)

    def commit(
        self, session: str, block: int, frames: Views, executed: ExecutedBlock | None = None
    ) -> dict[str, Any]:
        # the first request of a session carries one image, later ones those of `offsets`
        schedule = self.profile.frames
        indices = [offset - 1 for offset in schedule.offsets]
        if block == 0:
            indices = [0] * len(indices) if schedule.repeats_first else [0]
        self._pending = {camera: pixels[indices] for camera, pixels in frames.items()}
        return {}

    def query(self, query: QueryInput) -> Any:
        if self._pending is None:
            raise InvalidNodeRequest(
                'no frames since the last query: this server takes one query per block'
            )
        frames, self._pending = self._pending, None
        return self.infer(frames, query, {})


class ClockedMemory(NoMemory):
    """Send commits and queries as the node does: our own server."""

    def reset(self, session: str, prompt: str) -> None:
        more: dict[str, Any] = {'memory': STREAMING_MEMORY}
        if self.profile.prompt_key is not None:
            nested_keys.set_nested(more, self.profile.prompt_key, prompt)
        self.send('reset', {'session': session}, more)

    def commit(
        self, session: str, block: int, frames: Views, executed: ExecutedBlock | None = None
    ) -> dict[str, Any]:
        images = image_encoding.encode_images(self.profile, frames)
        answer = self.send('commit', {'session': session, 'block': block, 'images': images})
        good = (
            isinstance(answer, dict)
            and all(type(answer.get(key)) is int for key in ('cached_blocks', 'rebuilds'))
            and isinstance(answer.get('window_fill'), float)
        )
        if not good:
            raise ProfileMismatch(f'the server answered a commit with {answer!r:.80}')
        return {key: answer[key] for key in ('cached_blocks', 'rebuilds', 'window_fill')}

    def query(self, query: QueryInput) -> Any:
        more: dict[str, Any] = {'seed': query.seed}
        if 'committed' in query.variables:
            more[handshake.COMMITTED_KEY] = query.variables['committed']
            more[handshake.DELAY_KEY] = query.variables['delay']
        return self.infer(query.newest, query, {}, more)


class StepwiseMemory(NoMemory):
    """Send the images of every control step once, in order; the newest goes with the query."""

    _step = -1  # newest step that the server has seen
    _unsent: Views = {}  # the step after it, which goes with the next query

    def reset(self, session: str, prompt: str) -> None:
        self._step, self._unsent = -1, {}
        super().reset(session, prompt)

    def commit(
        self, session: str, block: int, frames: Views, executed: ExecutedBlock | None = None
    ) -> dict[str, Any]:
        if self._unsent:  # no query came in between
            frames = {
                camera: np.concatenate([self._unsent[camera], pixels])
                for camera, pixels in frames.items()
            }
        count = len(next(iter(frames.values()))) - 1
        for first in range(0, count, MAX_STEPS_PER_MESSAGE):
            last = min(first + MAX_STEPS_PER_MESSAGE, count)
            part = {camera: pixels[first:last] for camera, pixels in frames.items()}
            images = image_encoding.encode_images(self.profile, part)
            step = self._step + last - first
            self.send('observe', {'session': session, 'step': step, 'images': images})
            self._step = step
        self._unsent = {camera: pixels[-1:] for camera, pixels in frames.items()}
        return {}

    def query(self, query: QueryInput) -> Any:
        if not self._unsent:
            raise InvalidNodeRequest(
                'no step since the last query: this server takes one query per block'
            )
        frames, self._unsent = self._unsent, {}
        self._step += 1
        return self.infer(frames, query, {'step': self._step})


class AfterExecutionMemory(NoMemory):
    """Query, let the robot execute all rows, send their images and rows, query again.

    A server without an operation `commit` gets them with the next query.
    """

    _newest: Views = {}  # last image of each camera; empty: no query is possible
    _newest_joints = np.empty((0, 0))  # [1 observed], at that image
    _pending: Views = {}  # of the next query
    _pending_joints = np.empty((0, 0))  # [T observed], at those images
    _answered = False  # rows are being executed

    def reset(self, session: str, prompt: str) -> None:
        self._newest, self._pending, self._answered = {}, {}, False
        super().reset(session, prompt)

    def commit(
        self, session: str, block: int, frames: Views, executed: ExecutedBlock | None = None
    ) -> dict[str, Any]:
        if block and not self._answered:
            raise InvalidNodeRequest('a block without rows that were executed: query first')
        count = len(next(iter(frames.values())))
        if executed is None or len(executed.joint_positions) != count:
            raise InvalidNodeRequest(f'a block of {count} images needs as many joint positions')
        before, joints_before = self._newest, self._newest_joints
        self._newest = {camera: pixels[-1:] for camera, pixels in frames.items()}
        self._newest_joints = executed.joint_positions[-1:]
        self._answered = False
        self._pending, self._pending_joints = self._newest, self._newest_joints
        if not block:
            return {}
        indices = self._select_indices(count)
        shown = {
            camera: np.concatenate([before[camera], pixels])[indices]
            for camera, pixels in frames.items()
        }
        if 'commit' not in self.profile.operations:
            self._pending = shown
            self._pending_joints = np.concatenate([joints_before, executed.joint_positions])[
                indices
            ]
            return {}
        self.send(
            'commit',
            {
                'session': session,
                'block': block,
                'images': image_encoding.encode_images(self.profile, shown),
                'frames': image_encoding.encode_frames(self.profile, shown),
                'executed': executed.rows,
            },
        )
        return {}

    def query(self, query: QueryInput) -> Any:
        if not self._pending:
            raise InvalidNodeRequest(
                'no rows were executed since the last query: this server takes one query per chunk'
            )
        frames, self._pending = self._pending, {}
        answer = self.infer(frames, replace(query, history=self._pending_joints), {})
        self._answered = True
        return answer

    def _select_indices(self, count: int) -> list[int]:
        """Return which of the image before a block and its `count` images the profile wants."""
        offsets = self.profile.frames.offsets
        first = -count if -offsets[0] == self.profile.frames.block_steps else 1 - count
        return [offset - 1 for offset in offsets if offset >= first]


MEMORIES: Mapping[str, type[NoMemory]] = {
    'none': NoMemory,
    'block': BlockMemory,
    'stepwise': StepwiseMemory,
    'after_execution': AfterExecutionMemory,
}


def make_memory(
    profile: ServerProfile,
    info: ServerInfo,
    send: SendOperation,
    make_observation: MakeObservation,
) -> NoMemory:
    """Return the memory of a server: that of the profile, or of what the server states."""
    kind = ClockedMemory if info.streaming else MEMORIES[profile.memory]
    return kind(profile, send, make_observation)

"""When to send what to a server: one class per kind of memory, nothing else knows their order.

The node resets a session, commits blocks of recorded frames and queries. A server without memory
gets only queries with the newest images; one with a block memory gets the images of a block with
the query that follows; our own gets the commits; a stepwise one gets the image of every control
step. `ServerInfo` states how the node has to commit and query.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
class QueryInput:
    """What the node sends with a query."""

    session: str
    prompt: str
    seed: int
    joint_positions: np.ndarray  # [observed]
    newest: Views  # empty: the node sent no images
    variables: Mapping[str, Any]  # of the request, for the profile's templates


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

    def commit(self, session: str, block: int, frames: Views) -> dict[str, Any]:
        """Take a block; return the fields of the answer to the node that the server states."""
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

    def commit(self, session: str, block: int, frames: Views) -> dict[str, Any]:
        # the first request of a session carries one image, later ones those of `offsets`
        offsets = [offset - 1 for offset in self.profile.frames.offsets]
        self._pending = (
            frames
            if block == 0
            else {camera: pixels[offsets] for camera, pixels in frames.items()}
        )
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

    def commit(self, session: str, block: int, frames: Views) -> dict[str, Any]:
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
        return self.infer(query.newest, query, {}, {'seed': query.seed})


class StepwiseMemory(NoMemory):
    """Send the images of every control step once, in order; the newest goes with the query."""

    _step = -1  # newest step that the server has seen
    _unsent: Views = {}  # the step after it, which goes with the next query

    def reset(self, session: str, prompt: str) -> None:
        self._step, self._unsent = -1, {}
        super().reset(session, prompt)

    def commit(self, session: str, block: int, frames: Views) -> dict[str, Any]:
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


MEMORIES: Mapping[str, type[NoMemory]] = {
    'none': NoMemory,
    'block': BlockMemory,
    'stepwise': StepwiseMemory,
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

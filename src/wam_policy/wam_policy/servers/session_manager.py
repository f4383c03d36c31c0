"""Sessions of many clients on one engine: what a decoded request does, and what is answered.

Notable:
- a session has a memory of its own; as many as the engine has memories are kept, and the one
  unused for longest makes room for a new one;
- a session belongs to the connection that opened it and ends with it, and with the workers that
  held its memory;
- two rhythms: the released one (each `infer` brings pictures and moves the memory) and ours
  (`commit` moves it, `infer` reads it), chosen with `reset`.
One thread calls; what the outside reads (`live`) is a snapshot.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import handshake, value_mapping
from wam_policy.servers.server_profile import Flavour

RELEASED = 'reference'  # what workers call the rhythm of the released loop
RELEASED_SEED = 1140  # of the noise where a request names none: the released loop's
MAX_SEED = 2**63 - 1
MAX_NAME = 128  # characters of a session's id
KEPT = 1000  # latencies of a session, for its summary
RESET_DONE = 'reset successful'

Owner = int
Views = Mapping[str, np.ndarray]


class Declined(ValueError):
    """A request does not fit; nothing was done."""


class Engine(Protocol):
    """What a desk asks of its engine; serve.engine.Engine is one."""

    @property
    def generation(self) -> int: ...
    def reset(self, session: str, instruction: str, mode: str) -> None: ...
    def commit(self, session: str, block: int, views: Views) -> Mapping[str, Any]: ...
    def query(
        self,
        session: str,
        sequence: int,
        joints: np.ndarray,
        seed: int,
        newest: Views | None = None,
    ) -> np.ndarray: ...


class Blocks(Protocol):
    """How frames are committed; serve.engine.Model says it."""

    @property
    def first_frames(self) -> int: ...
    @property
    def frames_per_block(self) -> int: ...


@dataclass(slots=True)
class Session:
    """Hold one client's conversation."""

    name: str
    memory: str  # what the engine knows it by
    clocked: bool
    prompt: str
    blocks: int = 0  # taken into memory since reset
    window: dict[str, np.ndarray] = field(default_factory=dict)  # newest pictures, released
    infers: int = 0
    taken_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def summary(self) -> str:
        """Say in a line what there was to do and how long it took."""
        if not self.taken_ms:
            return f'session {self.name}: no actions asked for'
        taken = sorted(self.taken_ms)
        p99 = taken[min(len(taken) - 1, math.ceil(0.99 * len(taken)) - 1)]
        return (
            f'session {self.name}: {self.infers} answers, median '
            f'{taken[len(taken) // 2]:.1f} ms, p99 {p99:.1f} ms'
        )


class Desk:
    """Answer requests of several clients, one at a time."""

    def __init__(
        self,
        flavour: Flavour,
        robot: Embodiment,
        engine: Engine,
        model: Blocks,
        capacity: int,
        say: Callable[[str], None],
    ) -> None:
        """Take an engine with room for `capacity` sessions.

        Raises ValueError if the flavour does not tell the engine all it needs.
        """
        posture = np.isin(robot.observed, [name for span in flavour.state for name in span.joints])
        if not posture.all():
            lost = [name for name, there in zip(robot.observed, posture, strict=True) if not there]
            raise ValueError(
                f'flavour {flavour.name} does not carry {", ".join(lost)}, which the policy needs'
            )
        unseen = {camera.key for camera in robot.cameras} - set(flavour.cameras)
        if unseen:
            raise ValueError(
                f'flavour {flavour.name} does not carry {", ".join(sorted(unseen))}, '
                'which the policy needs'
            )
        self._flavour, self._robot, self._say = flavour, robot, say
        self._engine, self._model, self._generation = engine, model, engine.generation
        self._sessions: OrderedDict[tuple[Owner, str], Session] = OrderedDict()
        self._free = [f'memory {number}' for number in reversed(range(capacity))]
        self.evictions = 0

    @property
    def live(self) -> tuple[Session, ...]:
        return tuple(self._sessions.values())

    def endpoint(self, message: Mapping[str, Any]) -> object:
        """Name what a message asks for; without a word it is actions."""
        key = self._flavour.endpoint_key
        return 'infer' if key is None else message.get(key, 'infer')

    def answer(self, owner: Owner, message: Mapping[str, Any]) -> Any:
        """Do what a message asks; Declined or Mismatch if it cannot be."""
        kinds = {'infer': self._infer, 'reset': self._reset, 'commit': self._commit}
        endpoint = self.endpoint(message)
        if not isinstance(endpoint, str) or endpoint not in kinds:
            raise Declined(f'endpoint {endpoint!r:.80}: want one of {", ".join(kinds)}')
        if self._generation != self._engine.generation:
            self._generation = self._engine.generation
            for lost in list(self._sessions):
                self._end(lost, 'was lost with the workers')
        key = (owner, self._name(message))
        return kinds[endpoint](key, message)

    def leave(self, owner: Owner) -> None:
        """End every session of a connection."""
        for key in [key for key in self._sessions if key[0] == owner]:
            self._end(key, 'ended')

    def _name(self, message: Mapping[str, Any]) -> str:
        key = self._flavour.session_key
        name = '' if key is None else message.get(key[0], '')
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise Declined(f'session {name!r:.80}: want a text of at most {MAX_NAME} characters')
        return name

    def _reset(self, key: tuple[Owner, str], message: Mapping[str, Any]) -> str:
        memory = message.get('memory')
        if memory not in (None, handshake.CLOCKED):
            raise Declined(f'memory {memory!r:.80}: want {handshake.CLOCKED}, or leave it out')
        if memory is None:
            if key in self._sessions:  # the next request opens it again, with its prompt
                self._end(key, 'was reset')
            return RESET_DONE
        prompt = message.get(self._flavour.prompt_key[0])
        if not isinstance(prompt, str):
            raise Declined(f'{self._flavour.prompt_key[0]}: want a text')
        self._open(key, True, prompt)
        return RESET_DONE

    def _commit(self, key: tuple[Owner, str], message: Mapping[str, Any]) -> dict[str, Any]:
        session = self._clocked(key)
        if message.get('block') != session.blocks or isinstance(message['block'], bool):
            raise Declined(
                f'commit of block {message.get("block")!r:.40}, next is '
                f'{session.blocks}: commit each once and in order, or reset'
            )
        wanted = self._model.frames_per_block if session.blocks else self._model.first_frames
        views = value_mapping.views(self._flavour, message)
        _counted(views, wanted, wanted)
        said = self._engine.commit(session.memory, session.blocks, views)
        session.blocks += 1
        return {
            'block': session.blocks - 1,
            **{
                key: said[key]
                for key in ('cached_blocks', 'window_fill', 'rebuilds', 'timings_ms')
            },
        }

    def _infer(self, key: tuple[Owner, str], message: Mapping[str, Any]) -> Any:
        started_s = time.perf_counter()
        session = self._sessions.get(key)
        clocked = session is not None and session.clocked
        seen = value_mapping.seen(self._flavour, self._robot, message, blind=clocked)
        seed = message.get('seed', RELEASED_SEED)
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise Declined(f'seed {seed!r:.40}: want a whole number of at least 0')
        if session is None:
            session = self._open(key, False, seen.prompt)
        self._sessions.move_to_end(key)
        newest = self._looked(session, seen)
        targets = self._engine.query(session.memory, session.infers, seen.posture, seed, newest)
        answer = value_mapping.answer(self._flavour, self._robot, targets, seen.posture)
        taken_ms = 1e3 * (time.perf_counter() - started_s)
        session.infers += 1
        session.taken_ms.append(taken_ms)
        if isinstance(answer, dict):
            answer['server_timing'] = {'infer_ms': taken_ms}
        return answer

    def _looked(self, session: Session, seen: value_mapping.Seen) -> Views | None:
        """Bring a session's memory up to a query; give the pictures for that query alone."""
        if not session.clocked:
            self._remember(session, seen)
            return None
        if not session.blocks:
            raise Declined('nothing was committed since the reset: commit a first picture')
        if seen.prompt != session.prompt:
            raise Declined('the prompt changed: reset the session')
        if not seen.views:
            return None
        _counted(seen.views, 1, self._model.frames_per_block)
        return seen.views

    def _remember(self, session: Session, seen: value_mapping.Seen) -> None:
        """Follow the released loop: one picture at first, then the newest `window` of them."""
        if seen.prompt != session.prompt:
            self._engine.reset(session.memory, seen.prompt, RELEASED)  # new words, new memory
            session.prompt, session.blocks = seen.prompt, 0
        window, joined = self._flavour.frames.window, {}
        for camera, frames in seen.views.items():
            past = session.window.get(camera, frames[:0])
            if past.shape[1:] != frames.shape[1:]:
                raise Declined(f'{camera} changed its size: reset the session')
            joined[camera] = np.concatenate([past, frames])[-window:]
        first, session.window = not session.window, joined
        shown = {
            camera: frames[-1:] if first else _padded(frames, window)
            for camera, frames in joined.items()
        }
        self._engine.commit(session.memory, session.blocks, shown)
        session.blocks += 1

    def _clocked(self, key: tuple[Owner, str]) -> Session:
        session = self._sessions.get(key)
        if session is None or not session.clocked:
            raise Declined(
                f'no session {key[1]!r} that takes commits: reset it with memory '
                f'{handshake.CLOCKED!r} (a session unused for long makes room)'
            )
        self._sessions.move_to_end(key)
        return session

    def _open(self, key: tuple[Owner, str], clocked: bool, prompt: str) -> Session:
        before = self._sessions.pop(key, None)
        if before is not None:
            memory = before.memory
        else:
            if not self._free:
                self.evictions += 1
                self._end(next(iter(self._sessions)), 'made room for another')
            memory = self._free.pop()
        session = Session(key[1] or f'of connection {key[0]}', memory, clocked, prompt)
        self._sessions[key] = session
        self._engine.reset(memory, prompt, handshake.CLOCKED if clocked else RELEASED)
        return session

    def _end(self, key: tuple[Owner, str], why: str) -> None:
        session = self._sessions.pop(key)
        self._free.append(session.memory)
        self._say(f'{session.summary()}; it {why}')


def _counted(views: Views, low: int, high: int) -> None:
    count = len(next(iter(views.values())))
    if not low <= count <= high:
        wanted = f'{low}' if low == high else f'{low} to {high}'
        raise Declined(f'{count} pictures of each camera, want {wanted}')


def _padded(frames: np.ndarray, count: int) -> np.ndarray:
    """Repeat the oldest in front until there are `count`."""
    missing = count - len(frames)
    return frames if missing <= 0 else np.concatenate([frames[:1].repeat(missing, 0), frames])

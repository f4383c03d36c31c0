"""Handshake: check that the metadata a server sends on connect matches this robot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.model_requests import read_max_committed_rows
from wam_policy.servers.codecs.groot_codec import ModalityConfig
from wam_policy.servers.profile_fields import ServerProfile

STREAMING_MEMORY = 'clocked'  # wire value: the server takes commits of frames, as ours does
# of a request to our server: rows that are executed while it is computed, and their number
COMMITTED_KEY, DELAY_KEY = 'rtc_committed', 'rtc_delay'


class IncompatibleServer(ValueError):
    """Report a server that does not match this robot; a retry does not help."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Properties of the connected server."""

    model: str
    trained: bool
    streaming: bool  # commits update the memory, queries only read it
    frames_per_block: int  # images in a commit after the first
    frame_period_s: float
    window_blocks: int
    memory_update: str  # streaming: query at any time; released: once per block
    follows_chunks: bool = False  # a block is what was executed of a chunk
    max_committed_rows: int = 0  # of a query, which the model continues

    @property
    def query_images(self) -> str:
        """Return 'latest' if a query carries the newest images, else 'none'."""
        return 'latest' if self.memory_update == 'streaming' and not self.streaming else 'none'


def make_server_metadata(
    profile: ServerProfile, robot: Embodiment, model: Mapping[str, Any], memory: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata that our server sends to a client that asks for all of it."""
    return {
        **_to_plain(profile.configuration),
        'embodiment': robot.name,
        'contract': robot.config_hash,
        'action_horizon': profile.horizon,
        'action_dim': profile.action_dim,
        'step_hz': profile.step_hz,
        **model,
        'memory': dict(memory),
    }


def make_greeting(profile: ServerProfile) -> dict[str, Any]:
    """Return what our server sends on connect: exactly the fields of the profile's own servers.

    The released DreamZero client makes a record of them, and fails on any other field.
    """
    return _to_plain(profile.configuration)


def parse_server_info(profile: ServerProfile, robot: Embodiment, metadata: object) -> ServerInfo:
    """Check the metadata of a server; raises IncompatibleServer with every field that differs.

    A field that the server does not send is not checked; an unknown field is ignored.
    """
    if not isinstance(metadata, dict):
        raise IncompatibleServer(
            f'the server sent {metadata!r:.80} on connect, want a map of metadata; is '
            'this an OpenPI server?'
        )
    size = profile.configuration.get('image_resolution')
    wanted = {
        **_to_plain(profile.configuration),
        'embodiment': robot.name,
        'contract': robot.config_hash,
        'action_horizon': profile.horizon,
        'action_dim': profile.action_dim,
        'step_hz': profile.step_hz,
    }
    if size is None and profile.image_size is not None:
        wanted['image_resolution'] = [profile.image_size[1], profile.image_size[0]]
    if 'protocol' in metadata and 'protocol' not in wanted:
        raise IncompatibleServer(
            f'the server speaks {metadata["protocol"]!r:.80}, {profile.name} does not: start it '
            'in its synchronous mode'
        )
    faults = [
        f'{key}: the server has {_to_plain(metadata[key])!r:.80}, {profile.name} on {robot.name} '
        f'needs {value!r:.80}'
        for key, value in wanted.items()
        if key in metadata
        and not _is_equal(metadata[key], value)
        and not _may_exceed(profile, key, metadata[key], value)
    ]
    if faults:
        raise IncompatibleServer('; '.join(faults))
    model = metadata.get('model')
    return _make_server_info(
        profile,
        robot,
        model if isinstance(model, str) else profile.title,
        metadata.get('trained') is not False,
        metadata.get('memory'),
        metadata.get('rtc'),
    )


def _make_server_info(
    profile: ServerProfile,
    robot: Embodiment,
    model: str,
    trained: bool,
    memory: object,
    rtc: object,
) -> ServerInfo:
    if isinstance(memory, dict) and memory.get('kind') == STREAMING_MEMORY:
        block, period_s, window = (
            memory.get(key) for key in ('frames_per_block', 'frame_period_s', 'window_blocks')
        )
        if (
            type(block) is not int
            or type(window) is not int
            or min(block, window) < 1
            or not isinstance(period_s, float)
            or not 0.0 < period_s < 60.0
        ):
            raise IncompatibleServer(
                f'memory: the server has {memory!r:.160}, want positive integers '
                'frames_per_block and window_blocks and a frame_period_s in (0, 60)'
            )
        rows = read_max_committed_rows(rtc)
        return ServerInfo(
            model, trained, True, block, period_s, window, 'streaming', max_committed_rows=rows
        )
    steps, step_s = profile.frames.block_steps, 1.0 / profile.step_hz
    if steps is None:  # no memory: one block per second, which is not used
        return ServerInfo(model, trained, False, 1, 1.0, 1, 'streaming')
    if profile.memory == 'stepwise':  # it can be fed again, as far back as it looks
        window = -(-profile.frames.window // steps)
        return ServerInfo(model, trained, False, steps, step_s, window, 'released')
    if profile.memory == 'after_execution':
        step_s = robot.step_dt_s  # the blocks are those of the chunks that the robot gets
        count = round(steps / profile.step_hz / step_s)
        return ServerInfo(model, trained, False, count, step_s, 1, 'released', follows_chunks=True)
    # one frame per step, so that every offset has an image of its own time; the memory of the
    # server cannot be rebuilt from here, so the window is one block
    return ServerInfo(model, trained, False, steps, step_s, 1, 'released')


def _may_exceed(profile: ServerProfile, key: str, actual: object, expected: object) -> bool:
    """Return whether a server may state a larger size, of which the rest is dropped."""
    drops = {
        'action_horizon': profile.drops_extra_rows,
        'action_dim': profile.drops_extra_columns
        or any(group.ignored for group in profile.action_columns),
    }
    return (
        drops.get(key, False)
        and isinstance(actual, int)
        and isinstance(expected, int)
        and actual >= expected
    )


def _is_equal(actual: object, expected: object) -> bool:
    """Return whether a server states what is expected; of a map, only the expected keys count.

    The order of names in a list does not count: they are keys.
    """
    actual = _to_plain(actual)
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(
            key in actual and _is_equal(actual[key], value) for key, value in expected.items()
        )
    if isinstance(expected, float):
        return isinstance(actual, int | float) and abs(actual - expected) < 1e-6
    if isinstance(expected, list) and isinstance(actual, list) and _are_names(expected + actual):
        return sorted(actual) == sorted(expected)
    return actual == expected and isinstance(actual, bool) == isinstance(expected, bool)


def _are_names(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _to_plain(value: Any) -> Any:
    """Convert tuples to lists and frozen maps to dicts, as msgpack decodes them."""
    if isinstance(value, ModalityConfig):
        value = value.fields
    if isinstance(value, Mapping):
        return {key: _to_plain(inner) for key, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value

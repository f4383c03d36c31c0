"""Whether a server and this robot fit together, judged from what the server says on connect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers.server_profile import Flavour

CLOCKED = 'clocked'  # a server that takes real frames on their own clock, as ours does


class Disagreement(ValueError):
    """The server is another one than this robot needs; it will not get better by itself."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Hold what was agreed on connect."""

    model: str
    trained: bool
    clocked: bool  # the memory is fed by commits, queries leave it alone
    frames_per_block: int  # pictures in a commit after the first
    frame_period_s: float
    window_blocks: int
    rhythm: str  # clocked: ask at any time; reference: once per block

    @property
    def sight(self) -> str:
        """Name what a query has to bring: newest pictures where there is no memory to read."""
        return 'newest' if self.rhythm == 'clocked' and not self.clocked else 'memory'


def offered(
    flavour: Flavour, robot: Embodiment, model: Mapping[str, Any], memory: Mapping[str, Any]
) -> dict[str, Any]:
    """Give what our own server says on connect: the released fields, and ours beside them."""
    return {
        **_plain(flavour.configuration),
        'embodiment': robot.name,
        'contract': robot.contract,
        'action_horizon': flavour.horizon,
        'action_dim': flavour.width,
        'step_hz': flavour.step_hz,
        **model,
        'memory': dict(memory),
    }


def agreed(flavour: Flavour, robot: Embodiment, said: object) -> Terms:
    """Check a server's configuration; Disagreement names every field that does not fit.

    Fields that it does not send cannot be checked, and fields that we do not know do not matter.
    """
    if not isinstance(said, dict):
        raise Disagreement(
            f'the server sent {said!r:.80} on connect, want its configuration; is '
            'this an OpenPI server?'
        )
    size = flavour.configuration.get('image_resolution')
    wanted = {
        **_plain(flavour.configuration),
        'embodiment': robot.name,
        'contract': robot.contract,
        'action_horizon': flavour.horizon,
        'action_dim': flavour.width,
        'step_hz': flavour.step_hz,
    }
    if size is None and flavour.size is not None:
        wanted['image_resolution'] = [flavour.size[1], flavour.size[0]]
    faults = [
        f'{key}: the server says {_plain(said[key])!r:.80}, {flavour.name} on {robot.name} '
        f'needs {value!r:.80}'
        for key, value in wanted.items()
        if key in said and not _same(said[key], value)
    ]
    if faults:
        raise Disagreement('; '.join(faults))
    model = said.get('model')
    return _terms(
        flavour,
        robot,
        model if isinstance(model, str) else flavour.title,
        said.get('trained') is not False,
        said.get('memory'),
    )


def _terms(
    flavour: Flavour, robot: Embodiment, model: str, trained: bool, memory: object
) -> Terms:
    if isinstance(memory, dict) and memory.get('kind') == CLOCKED:
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
            raise Disagreement(
                f'memory: the server says {memory!r:.160}, want whole numbers of '
                'frames_per_block and window_blocks and a frame_period_s'
            )
        return Terms(model, trained, True, block, period_s, window, 'clocked')
    steps, step_s = flavour.frames.block_steps, 1.0 / flavour.step_hz
    if steps is None:  # nothing is remembered: one block a second, which nobody reads
        return Terms(model, trained, False, 1, 1.0, 1, 'clocked')
    # every step is recorded, so that the pictures of any offsets are really those of that time;
    # a memory that only its server holds cannot be rebuilt: one block is all there is to replay
    return Terms(model, trained, False, steps, step_s, 1, 'reference')


def _same(said: object, wanted: object) -> bool:
    if isinstance(wanted, float):
        return isinstance(said, int | float) and abs(said - wanted) < 1e-6
    return _plain(said) == wanted and isinstance(said, bool) == isinstance(wanted, bool)


def _plain(value: Any) -> Any:
    """Give lists for tuples and maps for frozen maps: what travels and what is compared."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value

"""What a browser may ask for; everything else is refused when it is parsed."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

MAX_MESSAGE_BYTES = 4096
MAX_TEXT = 400  # characters of an instruction or note


def _require_confirmation(confirmed: bool) -> bool:
    if not confirmed:
        raise ValueError('this needs a confirmation')
    return confirmed


Confirmed = Annotated[bool, AfterValidator(_require_confirmation)]  # Literal[True] takes a 1, too


class _Message(BaseModel):
    model_config = ConfigDict(extra='forbid', strict=True, frozen=True)

    id: int = Field(ge=0, le=2**53)  # repeated in the answer


class Instruct(_Message):
    """Send an instruction."""

    name: Literal['instruct']
    text: str = Field(min_length=1, max_length=MAX_TEXT)


class Hold(_Message):
    """Send the empty instruction: stop and hold."""

    name: Literal['hold']


class Enable(_Message):
    """Let the robot move."""

    name: Literal['enable']
    confirmed: Confirmed


class Disable(_Message):
    """Ramp down and stop commanding."""

    name: Literal['disable']


class Estop(_Message):
    """Latch the fastest stop; any tab may, whoever is in control."""

    name: Literal['estop']


class ResetStop(_Message):
    """Release a latched stop."""

    name: Literal['reset']
    confirmed: Confirmed


class Reload(_Message):
    """Restart the workers, optionally with other weights."""

    name: Literal['reload']
    checkpoint: str = Field(default='', max_length=MAX_TEXT)


class StartEpisode(_Message):
    """Start to record."""

    name: Literal['start_episode']


class StopEpisode(_Message):
    """Stop to record, with the operator's judgment."""

    name: Literal['stop_episode']
    keep: bool
    success: bool
    note: str = Field(default='', max_length=MAX_TEXT)


class NextScene(_Message):
    """Show the next scene of the simulator."""

    name: Literal['next_scene']


class TakeControl(_Message):
    """Become the one tab that may command; `force` takes it from another."""

    name: Literal['take_control']
    force: bool = False


class ReleaseControl(_Message):
    """Become view-only."""

    name: Literal['release_control']


class ShowPredictions(_Message):
    """Say whether the panel with predicted video is open; commands nothing."""

    name: Literal['show_predictions']
    shown: bool


RobotCommand = (
    Instruct
    | Hold
    | Enable
    | Disable
    | Estop
    | ResetStop
    | Reload
    | StartEpisode
    | StopEpisode
    | NextScene
)
Request = RobotCommand | TakeControl | ReleaseControl | ShowPredictions
_ADAPTER: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator='name')])


def parse_request(text: str | bytes) -> Request:
    """Return the request in a message of a browser; ValueError if it is none."""
    if len(text) > MAX_MESSAGE_BYTES:
        raise ValueError(f'a message has {len(text)} bytes, at most {MAX_MESSAGE_BYTES} are read')
    return _ADAPTER.validate_json(text)

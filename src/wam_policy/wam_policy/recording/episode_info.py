"""What an episode is called and what is known about it, as text that a bag can carry."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType

MAX_NAME_WORDS = 6  # of the instruction in a folder's name
MAX_NAME_LENGTH = 40  # characters of them
LABEL_KEY_PATTERN = re.compile(r'[a-z][a-z0-9_]{0,39}')
MAX_LABEL_LENGTH = 1000  # characters of a value
LABEL_PREFIX = 'label.'


class TaskSuccess(Enum):
    """Name what is known about the outcome; nobody's silence counts as a success."""

    YES = 'yes'
    NO = 'no'
    UNKNOWN = 'unknown'


@dataclass(frozen=True, slots=True)
class EpisodeMetadata:
    """Hold what is known when an episode starts."""

    name: str  # its folder
    robot: str
    embodiment_hash: str  # of the embodiment that was recorded
    instruction: str  # at the start; a topic tells of later ones
    start_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'labels', MappingProxyType(dict(self.labels)))

    def to_dict(self) -> dict[str, str]:
        """Return it as the text pairs that stand at the beginning of its bag."""
        return {
            'episode': self.name,
            'robot': self.robot,
            'contract': self.embodiment_hash,
            'instruction': self.instruction,
            'start_ns': str(self.start_ns),
            **{LABEL_PREFIX + key: value for key, value in self.labels.items()},
        }


@dataclass(frozen=True, slots=True)
class EpisodeEnd:
    """Hold how an episode ended and what the operator says about it."""

    reason: str
    success: TaskSuccess = TaskSuccess.UNKNOWN
    note: str = ''
    dropped: Mapping[str, int] = field(default_factory=dict)  # topic -> lost messages

    def to_dict(self) -> dict[str, str]:
        """Return it as the text pairs that stand at the end of the bag."""
        return {
            'ended': self.reason,
            'success': self.success.value,
            'note': self.note,
            'dropped': str(sum(self.dropped.values())),
            **{f'dropped.{topic}': str(count) for topic, count in self.dropped.items() if count},
        }


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Read "key=value" texts; ValueError names the one that is none."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition('=')
        key = key.strip()
        if not equals or not LABEL_KEY_PATTERN.fullmatch(key):
            raise ValueError(
                f'label {pair!r}: want key=value with a key of small letters, '
                'digits and underscores'
            )
        if key in found:
            raise ValueError(f'label {key!r} is given twice')
        if len(value) > MAX_LABEL_LENGTH:
            raise ValueError(
                f'label {key!r} has {len(value)} characters, at most {MAX_LABEL_LENGTH} are taken'
            )
        found[key] = value.strip()
    return found


def make_folder_name(start_ns: int, instruction: str, existing_names: Iterable[str]) -> str:
    """Name an episode by its start (UTC) and its first words; never a name of `taken`.

    Letters, digits, `_` and `-` only: nothing in an instruction leads out of the folder.
    """
    second = datetime.fromtimestamp(start_ns // 1_000_000_000, UTC)
    words = re.findall(r'[a-z0-9]+', instruction.lower())[:MAX_NAME_WORDS]
    said = '_'.join(words)[:MAX_NAME_LENGTH].strip('_')
    name = second.strftime('%Y%m%d_%H%M%S') + (f'_{said}' if said else '')
    used, number, free = set(existing_names), 1, name
    while free in used:
        number += 1
        free = f'{name}-{number}'
    return free

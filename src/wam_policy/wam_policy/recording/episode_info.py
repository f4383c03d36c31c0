"""Folder names and metadata of episodes, as the string pairs of MCAP metadata records."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType

MAX_NAME_WORDS = 6  # words of the instruction in a folder's name
MAX_NAME_LENGTH = 40  # characters of these words
LABEL_KEY_PATTERN = re.compile(r'[a-z][a-z0-9_]{0,39}')
MAX_LABEL_LENGTH = 1000  # characters of a value
LABEL_PREFIX, NAMESPACE_KEY = 'label.', 'robot_namespace'


class TaskSuccess(Enum):
    """Outcome of an episode; UNKNOWN unless the operator has given it."""

    YES = 'yes'
    NO = 'no'
    UNKNOWN = 'unknown'


@dataclass(frozen=True, slots=True)
class EpisodeMetadata:
    """Metadata known at the start of an episode."""

    name: str  # of its folder
    robot: str
    embodiment_hash: str  # of the embodiment that was recorded
    instruction: str  # at the start; later ones are on a recorded topic
    start_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)
    robot_namespace: str = ''  # of the names of the robot's topics

    def __post_init__(self) -> None:
        object.__setattr__(self, 'labels', MappingProxyType(dict(self.labels)))

    def to_dict(self) -> dict[str, str]:
        """Return the string pairs of the metadata record at the start of the bag."""
        return {
            'episode': self.name,
            'robot': self.robot,
            'contract': self.embodiment_hash,
            'instruction': self.instruction,
            'start_ns': str(self.start_ns),
            **({NAMESPACE_KEY: self.robot_namespace} if self.robot_namespace else {}),
            **{LABEL_PREFIX + key: value for key, value in self.labels.items()},
        }


@dataclass(frozen=True, slots=True)
class EpisodeEnd:
    """Reason of the end, and the outcome that the operator gave."""

    reason: str
    success: TaskSuccess = TaskSuccess.UNKNOWN
    note: str = ''
    dropped: Mapping[str, int] = field(default_factory=dict)  # topic -> lost messages

    def to_dict(self) -> dict[str, str]:
        """Return the string pairs of the metadata record at the end of the bag."""
        return {
            'ended': self.reason,
            'success': self.success.value,
            'note': self.note,
            'dropped': str(sum(self.dropped.values())),
            **{f'dropped.{topic}': str(count) for topic, count in self.dropped.items() if count},
        }


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Parse "key=value" strings; raises ValueError with the invalid one."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition('=')
        key = key.strip()
        if not equals or not LABEL_KEY_PATTERN.fullmatch(key):
            raise ValueError(
                f'label {pair!r}: want key=value with a key of lowercase letters, '
                'digits and underscores'
            )
        if key in found:
            raise ValueError(f'label {key!r} is given twice')
        if len(value) > MAX_LABEL_LENGTH:
            raise ValueError(
                f'label {key!r} has {len(value)} characters; want at most {MAX_LABEL_LENGTH}'
            )
        found[key] = value.strip()
    return found


def make_folder_name(start_ns: int, instruction: str, existing_names: Iterable[str]) -> str:
    """Return a folder name from the start (UTC) and the instruction, not in `existing_names`.

    It has only letters, digits, `_` and `-`, so an instruction cannot change the folder's path.
    """
    second = datetime.fromtimestamp(start_ns // 1_000_000_000, UTC)
    words = re.findall(r'[a-z0-9]+', instruction.lower())[:MAX_NAME_WORDS]
    text = '_'.join(words)[:MAX_NAME_LENGTH].strip('_')
    name = second.strftime('%Y%m%d_%H%M%S') + (f'_{text}' if text else '')
    used, number, free = set(existing_names), 1, name
    while free in used:
        number += 1
        free = f'{name}-{number}'
    return free

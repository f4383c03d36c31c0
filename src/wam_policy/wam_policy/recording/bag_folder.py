"""The folder that rosbag2 calls a bag: one MCAP file and a metadata.yaml that describes it.

The description is always read off the finished file, so writing and repairing cannot differ.
A folder with an MCAP file and no metadata.yaml is an episode that was interrupted.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError
from typing import Any

import yaml
from mcap.exceptions import McapError
from mcap.reader import make_reader

METADATA = 'metadata.yaml'
PART = '.part'  # what is not complete yet
VERSION = 9  # of metadata.yaml, as Jazzy's rosbag2 writes it
BEGIN, END = 'wam_episode', 'wam_outcome'  # MCAP metadata records of ours
QOS_KEY, HASH_KEY = 'offered_qos_profiles', 'topic_type_hash'
DISTRO_KEY = 'ros_distro'


@dataclass(frozen=True, slots=True)
class Channel:
    """Describe one topic of a finished bag."""

    topic: str
    type: str
    messages: int
    qos: str  # YAML list of profiles, as the channel carries it
    type_hash: str


@dataclass(frozen=True, slots=True)
class Contents:
    """Describe a finished bag."""

    file: Path
    channels: tuple[Channel, ...]
    messages: int
    start_ns: int
    end_ns: int
    about: Mapping[str, str]  # what our metadata records say, the later one wins

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def file_of(folder: Path) -> Path:
    """Return the MCAP file of a bag; FileNotFoundError if there is not exactly one."""
    files = sorted(folder.glob('*.mcap'))
    if len(files) != 1:
        raise FileNotFoundError(f'{folder}: {len(files)} .mcap files, a bag of ours has one')
    return files[0]


def interrupted(root: Path) -> list[Path]:
    """Return the episodes under `root` that nobody finished, oldest name first."""
    return sorted(
        file.parent
        for file in root.glob('*/*.mcap')
        if not (file.parent / METADATA).exists() and not _linked(file)
    )


def stay(file: Path) -> None:
    """Raise ValueError where writing to a bag's file would write somewhere else."""
    if _linked(file):
        raise ValueError(f'{file}: it or its folder is a link: name the place itself')


def _linked(file: Path) -> bool:
    return file.is_symlink() or file.parent.is_symlink()


def contents(file: Path) -> Contents:
    """Read the summary of a finished MCAP file; ValueError if it has none."""
    try:
        with file.open('rb') as stream:
            reader = make_reader(stream)
            summary = reader.get_summary()
            about: dict[str, str] = {}
            for record in reader.iter_metadata():
                if record.name in (BEGIN, END):
                    about |= record.metadata
    except (McapError, StructError, OSError, ValueError) as error:
        raise ValueError(f'{file}: not a finished MCAP file: {error}') from error
    if summary is None or summary.statistics is None:
        raise ValueError(f'{file}: has no index: ./wam bag repair {file.parent}')
    counts = summary.statistics.channel_message_counts
    channels = tuple(
        Channel(
            channel.topic,
            summary.schemas[channel.schema_id].name,
            counts.get(key, 0),
            channel.metadata.get(QOS_KEY, ''),
            channel.metadata.get(HASH_KEY, ''),
        )
        for key, channel in sorted(summary.channels.items())
    )
    return Contents(
        file,
        channels,
        summary.statistics.message_count,
        summary.statistics.message_start_time,
        summary.statistics.message_end_time,
        about,
    )


def describe(folder: Path) -> Contents:
    """Write metadata.yaml for a finished file; from then on the episode counts as saved."""
    found = contents(file_of(folder))
    text = yaml.safe_dump(
        {'rosbag2_bagfile_information': _information(found)}, sort_keys=False, allow_unicode=True
    )
    part = folder / (METADATA + PART)
    with part.open('w', encoding='utf-8') as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / METADATA)
    settle(folder)
    return found


def settle(folder: Path) -> None:
    """Make renames in a folder outlive a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _information(found: Contents) -> dict[str, Any]:
    span = {
        'starting_time': {'nanoseconds_since_epoch': found.start_ns},
        'duration': {'nanoseconds': found.end_ns - found.start_ns},
        'message_count': found.messages,
    }
    topics = [
        {
            'topic_metadata': {
                'name': channel.topic,
                'type': channel.type,
                'serialization_format': 'cdr',
                'offered_qos_profiles': yaml.safe_load(channel.qos or '[]'),
                'type_description_hash': channel.type_hash,
            },
            'message_count': channel.messages,
        }
        for channel in found.channels
    ]
    return {
        'version': VERSION,
        'storage_identifier': 'mcap',
        **span,
        'topics_with_message_count': topics,
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [found.file.name],
        'files': [{'path': found.file.name, **span}],
        'custom_data': {key: value for key, value in found.about.items() if key != DISTRO_KEY},
        'ros_distro': found.about.get(DISTRO_KEY, ''),
    }

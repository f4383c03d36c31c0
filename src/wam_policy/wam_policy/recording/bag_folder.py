"""A rosbag2 bag: a folder with MCAP files and the metadata.yaml that describes them.

metadata.yaml is always made from the finished files, so recorder and repair write the same. Our
recorder writes one file, others may split a bag. A folder with an MCAP file and no metadata.yaml
is an interrupted episode.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from struct import error as StructError
from typing import Any

import yaml
from mcap.exceptions import McapError
from mcap.reader import make_reader

METADATA_FILE = 'metadata.yaml'
PARTIAL_SUFFIX = '.part'  # of files not yet complete
METADATA_VERSION = 9  # of metadata.yaml in Jazzy's rosbag2
BEGIN_RECORD, END_RECORD = 'wam_episode', 'wam_outcome'  # our MCAP metadata records
QOS_KEY, HASH_KEY = 'offered_qos_profiles', 'topic_type_hash'
DISTRO_KEY = 'ros_distro'
COMPRESSION_KEYS = ('compression_format', 'compression_mode')


@dataclass(frozen=True, slots=True)
class BagChannel:
    """One topic of a finished bag."""

    topic: str
    type: str
    message_count: int
    qos: str  # YAML list of QoS profiles, from the channel's metadata
    type_hash: str


@dataclass(frozen=True, slots=True)
class BagContents:
    """Contents of a finished bag."""

    file: Path
    channels: tuple[BagChannel, ...]
    message_count: int
    start_ns: int
    end_ns: int
    metadata: Mapping[str, str]  # of our metadata records; the later value of a key counts

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def find_mcap_file(folder: Path) -> Path:
    """Return the MCAP file of a bag; FileNotFoundError if there is not exactly one."""
    files = sorted(folder.glob('*.mcap'))
    if len(files) != 1:
        raise FileNotFoundError(f'{folder}: {len(files)} .mcap files, want exactly one')
    return files[0]


def find_mcap_files(folder: Path) -> list[Path]:
    """Return the MCAP files of a bag in order; FileNotFoundError if there is none."""
    files = sorted(folder.glob('*.mcap'), key=natural_order)
    if not files:
        raise FileNotFoundError(f'{folder}: no .mcap file')
    return files


def natural_order(file: Path) -> list[str | int]:
    """Return a key that sorts numbers in names by value: bag_10 after bag_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', file.name)]


def read_information(folder: Path) -> Mapping[str, Any]:
    """Return what metadata.yaml says of a bag; empty without the file.

    Raise ValueError if it is damaged.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding='utf-8'))['rosbag2_bagfile_information']
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        found = error
    if not isinstance(found, dict):
        raise ValueError(
            f'{path}: is not the metadata of a bag ({type(found).__name__}); '
            f'./wam bag repair {folder} writes it anew'
        )
    return found


def find_interrupted(root: Path) -> list[Path]:
    """Return the interrupted episodes under `root`, sorted by name, which starts with the date."""
    return sorted(
        file.parent
        for file in root.glob('*/*.mcap')
        if not (file.parent / METADATA_FILE).exists() and not _is_symlinked(file)
    )


def reject_symlink(file: Path) -> None:
    """Raise ValueError if a bag's file or folder is a symbolic link."""
    if _is_symlinked(file):
        raise ValueError(f'{file}: the file or its folder is a symbolic link: give the real path')


def _is_symlinked(file: Path) -> bool:
    return file.is_symlink() or file.parent.is_symlink()


def read_contents(file: Path) -> BagContents:
    """Read the summary of a finished MCAP file; raises ValueError if it has none."""
    try:
        with file.open('rb') as stream:
            reader = make_reader(stream)
            summary = reader.get_summary()
            about: dict[str, str] = {}
            for record in reader.iter_metadata():
                if record.name in (BEGIN_RECORD, END_RECORD):
                    about |= record.metadata
    except (McapError, StructError, OSError, ValueError, EOFError, MemoryError) as error:
        raise ValueError(f'{file}: not a finished MCAP file: {error}') from error
    if summary is None or summary.statistics is None:
        raise ValueError(f'{file}: no index: run ./wam bag repair {file.parent}')
    counts = summary.statistics.channel_message_counts
    channels = tuple(
        BagChannel(
            channel.topic,
            summary.schemas[channel.schema_id].name if channel.schema_id else '',
            counts.get(key, 0),
            channel.metadata.get(QOS_KEY, ''),
            channel.metadata.get(HASH_KEY, ''),
        )
        for key, channel in sorted(summary.channels.items())
    )
    return BagContents(
        file,
        channels,
        summary.statistics.message_count,
        summary.statistics.message_start_time,
        summary.statistics.message_end_time,
        about,
    )


def write_metadata(folder: Path) -> BagContents:
    """Write metadata.yaml for finished files; after this the episode is finished.

    Return the contents of all files together.
    """
    parts = [read_contents(file) for file in find_mcap_files(folder)]
    found = merge_contents(parts)
    information = _make_bag_information(found, parts)
    try:
        before = read_information(folder)
    except ValueError:
        before = {}
    information |= {key: before[key] for key in COMPRESSION_KEYS if key in before}
    text = yaml.safe_dump(
        {'rosbag2_bagfile_information': information}, sort_keys=False, allow_unicode=True
    )
    part = folder / (METADATA_FILE + PARTIAL_SUFFIX)
    with part.open('w', encoding='utf-8') as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / METADATA_FILE)
    fsync_folder(folder)
    return found


def fsync_folder(folder: Path) -> None:
    """Flush a folder's directory entries, so that renames persist after a power failure."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def merge_contents(parts: Sequence[BagContents]) -> BagContents:
    """Return the contents of several files as one bag."""
    channels: dict[tuple[str, str], BagChannel] = {}
    for part in parts:
        for channel in part.channels:
            key = channel.topic, channel.type
            before = channels[key].message_count if key in channels else 0
            channels[key] = replace(channel, message_count=before + channel.message_count)
    filled = [part for part in parts if part.message_count] or parts[:1]
    return BagContents(
        parts[0].file,
        tuple(channels.values()),
        sum(part.message_count for part in parts),
        min(part.start_ns for part in filled),
        max(part.end_ns for part in filled),
        {key: value for part in parts for key, value in part.metadata.items()},
    )


def _make_bag_information(contents: BagContents, parts: Sequence[BagContents]) -> dict[str, Any]:
    span = _make_span(contents)
    topics = [
        {
            'topic_metadata': {
                'name': channel.topic,
                'type': channel.type,
                'serialization_format': 'cdr',
                'offered_qos_profiles': yaml.safe_load(channel.qos or '[]'),
                'type_description_hash': channel.type_hash,
            },
            'message_count': channel.message_count,
        }
        for channel in contents.channels
    ]
    return {
        'version': METADATA_VERSION,
        'storage_identifier': 'mcap',
        **span,
        'topics_with_message_count': topics,
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [part.file.name for part in parts],
        'files': [{'path': part.file.name, **_make_span(part)} for part in parts],
        'custom_data': {
            key: value for key, value in contents.metadata.items() if key != DISTRO_KEY
        },
        'ros_distro': contents.metadata.get(DISTRO_KEY, ''),
    }


def _make_span(contents: BagContents) -> dict[str, Any]:
    return {
        'starting_time': {'nanoseconds_since_epoch': contents.start_ns},
        'duration': {'nanoseconds': contents.end_ns - contents.start_ns},
        'message_count': contents.message_count,
    }

"""A rosbag2 bag: a folder with one MCAP file and the metadata.yaml that describes it.

metadata.yaml is always made from the finished file, so recorder and repair write the same.
A folder with an MCAP file and no metadata.yaml is an interrupted episode.
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

METADATA_FILE = 'metadata.yaml'
PARTIAL_SUFFIX = '.part'  # of files not yet complete
METADATA_VERSION = 9  # of metadata.yaml in Jazzy's rosbag2
BEGIN_RECORD, END_RECORD = 'wam_episode', 'wam_outcome'  # our MCAP metadata records
QOS_KEY, HASH_KEY = 'offered_qos_profiles', 'topic_type_hash'
DISTRO_KEY = 'ros_distro'


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
    except (McapError, StructError, OSError, ValueError) as error:
        raise ValueError(f'{file}: not a finished MCAP file: {error}') from error
    if summary is None or summary.statistics is None:
        raise ValueError(f'{file}: no index: run ./wam bag repair {file.parent}')
    counts = summary.statistics.channel_message_counts
    channels = tuple(
        BagChannel(
            channel.topic,
            summary.schemas[channel.schema_id].name,
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
    """Write metadata.yaml for a finished file; after this the episode is finished."""
    found = read_contents(find_mcap_file(folder))
    text = yaml.safe_dump(
        {'rosbag2_bagfile_information': _make_bag_information(found)},
        sort_keys=False,
        allow_unicode=True,
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


def _make_bag_information(contents: BagContents) -> dict[str, Any]:
    span = {
        'starting_time': {'nanoseconds_since_epoch': contents.start_ns},
        'duration': {'nanoseconds': contents.end_ns - contents.start_ns},
        'message_count': contents.message_count,
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
        'relative_file_paths': [contents.file.name],
        'files': [{'path': contents.file.name, **span}],
        'custom_data': {
            key: value for key, value in contents.metadata.items() if key != DISTRO_KEY
        },
        'ros_distro': contents.metadata.get(DISTRO_KEY, ''),
    }

"""Repair episodes that were interrupted by a kill, a power failure or a full disk.

Complete messages are copied into a new file in the same folder. It replaces the old file only
after it is complete and flushed; until then the old file is not changed.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError
from typing import BinaryIO

from mcap.exceptions import McapError
from mcap.records import Channel, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

from wam_policy.recording import bag_folder
from wam_policy.recording.bag_folder import END_RECORD, PARTIAL_SUFFIX, BagContents
from wam_policy.recording.bag_writer import CHUNK_BYTES, LIBRARY
from wam_policy.recording.episode_info import EpisodeEnd


class BagInUse(Exception):
    """Report that a running recorder has the episode open."""


@dataclass(frozen=True, slots=True)
class RepairResult:
    """Result of one repair."""

    contents: BagContents
    rebuilt: bool  # False: the MCAP file was complete
    lost_bytes: int  # after the last complete message


def repair(folder: Path) -> RepairResult:
    """Repair an interrupted episode; a finished one is not changed.

    Raises BagInUse while it is recorded, ValueError if it has no complete message.
    """
    file = bag_folder.find_mcap_file(folder)
    bag_folder.reject_symlink(file)
    with file.open('rb') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BagInUse(f'{folder.name} is being recorded; stop its recorder first') from error
        try:
            bag_folder.read_contents(file)
            lost_bytes, rebuilt = 0, False
        except ValueError:
            lost_bytes, rebuilt = _rebuild(file), True
        if not rebuilt and (folder / bag_folder.METADATA_FILE).exists():
            return RepairResult(bag_folder.read_contents(file), False, 0)
        return RepairResult(bag_folder.write_metadata(folder), rebuilt, lost_bytes)


def _rebuild(file: Path) -> int:
    """Replace `file` by a complete copy; return the number of bytes dropped at the end."""
    part = file.with_name(file.name + PARTIAL_SUFFIX)
    try:
        with file.open('rb') as old, part.open('wb') as new:
            writer = Writer(new, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
            writer.start(profile='ros2', library=LIBRARY)
            used = _copy(old, writer)
            if not used:
                raise ValueError(f'{file}: no complete message; nothing to repair')
            writer.finish()
            new.flush()
            os.fsync(new.fileno())
        lost = file.stat().st_size - used
        part.replace(file)
    except (OSError, ValueError):
        part.unlink(missing_ok=True)
        raise
    bag_folder.fsync_folder(file.parent)
    return lost


def _copy(old: BinaryIO, writer: Writer) -> int:
    """Copy complete records; return the offset after the last message in the old file."""
    schemas: dict[int, int] = {}
    channels: dict[int, int] = {}
    used, ended = 0, False
    for record in _read_whole_records(old):
        if isinstance(record, Schema) and record.id not in schemas:
            schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
        elif isinstance(record, Channel) and record.id not in channels:
            channels[record.id] = writer.register_channel(
                record.topic, record.message_encoding, schemas[record.schema_id], record.metadata
            )
        elif isinstance(record, Message):
            writer.add_message(
                channels[record.channel_id],
                record.log_time,
                record.data,
                record.publish_time,
                record.sequence,
            )
            used = old.tell()
        elif isinstance(record, Metadata):
            writer.add_metadata(record.name, record.metadata)
            ended |= record.name == END_RECORD
    if not ended:
        writer.add_metadata(END_RECORD, EpisodeEnd('interrupted').to_dict())
    return used


def _read_whole_records(old: BinaryIO) -> Iterator[McapRecord]:
    """Yield records up to the first incomplete or damaged one."""
    records = iter(StreamReader(old, validate_crcs=True).records)
    while True:
        try:
            yield next(records)
        except (StopIteration, McapError, StructError, EOFError, ValueError, MemoryError):
            return

"""Repair bags that were interrupted by a kill, a power failure or a full disk, or are damaged.

Complete messages are copied into a new file in the same folder. It replaces the old file only
after it is complete and flushed; until then the old file is not changed. A file with damage before
its end is kept as `NAME.mcap.damaged`.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mcap.reader import make_reader
from mcap.records import (
    Attachment,
    Channel,
    Chunk,
    Footer,
    Header,
    McapRecord,
    Message,
    Metadata,
    Schema,
)
from mcap.stream_reader import StreamReader, breakup_chunk, get_chunk_data_stream
from mcap.summary import Summary
from mcap.writer import CompressionType, Writer

from wam_policy.recording import bag_folder
from wam_policy.recording.bag_folder import END_RECORD, PARTIAL_SUFFIX, BagContents
from wam_policy.recording.bag_writer import CHUNK_BYTES, LIBRARY
from wam_policy.recording.episode_info import EpisodeEnd

DAMAGED_SUFFIX = '.damaged'


class BagInUse(Exception):
    """Report that a running recorder has the episode open."""


@dataclass(frozen=True, slots=True)
class RepairResult:
    """Result of one repair."""

    contents: BagContents
    rebuilt: bool  # False: the MCAP files were complete
    lost_bytes: int  # after the last complete message, and in damaged chunks


@dataclass(slots=True)
class _CopyResult:
    """Count what a copy has read."""

    used_bytes: int = 0  # up to the end of the last complete message
    damaged_bytes: int = 0  # of chunks before that
    is_finished: bool = False  # the old file has its footer


def repair(path: Path) -> RepairResult:
    """Repair an interrupted bag, a folder or one file of it; a finished one is not changed.

    A file that is named instead of its folder gets no metadata.yaml where there is none.
    Raises BagInUse while it is recorded, ValueError if it has no complete message.
    """
    folder = path.parent if path.is_file() else path
    every = bag_folder.find_mcap_files(folder)
    files = [path] if path.is_file() else every
    with ExitStack() as stack:
        for file in files:
            bag_folder.reject_symlink(file)
            stream = stack.enter_context(file.open('rb'))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BagInUse(
                    f'{folder.name} is being recorded; stop its recorder first'
                ) from error
        damaged = [file for file in files if not _is_intact(file)]
        lost_bytes = sum(_rebuild(file) for file in damaged)
        is_bag = path.is_dir() or (files == every and _has_metadata(folder))
        if is_bag and (damaged or not _has_metadata(folder)):
            return RepairResult(bag_folder.write_metadata(folder), bool(damaged), lost_bytes)
        return RepairResult(_read_all(files), bool(damaged), lost_bytes)


def _read_all(files: Sequence[Path]) -> BagContents:
    return bag_folder.merge_contents([bag_folder.read_contents(file) for file in files])


def _has_metadata(folder: Path) -> bool:
    try:
        return bool(bag_folder.read_information(folder))
    except ValueError:
        return False


def _is_intact(file: Path) -> bool:
    """Return whether a file is finished and all of its chunks are as they were written."""
    try:
        bag_folder.read_contents(file)
        with file.open('rb') as stream:
            for record in StreamReader(stream, emit_chunks=True).records:
                if isinstance(record, Chunk):
                    get_chunk_data_stream(record, validate_crc=True)
    except Exception:  # noqa: BLE001 — a damaged file fails in any way
        return False
    return True


def _rebuild(file: Path) -> int:
    """Replace `file` by a complete copy; return the number of bytes dropped."""
    part = file.with_name(file.name + PARTIAL_SUFFIX)
    try:
        with file.open('rb') as old, part.open('wb') as new:
            writer = Writer(new, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
            copied = _copy(old, writer)
            if not copied.used_bytes:
                raise ValueError(f'{file}: no complete message; nothing to repair')
            writer.finish()
            new.flush()
            os.fsync(new.fileno())
        lost = copied.damaged_bytes
        if not copied.is_finished:
            lost += file.stat().st_size - copied.used_bytes
        if copied.damaged_bytes:
            file.rename(file.with_name(file.name + DAMAGED_SUFFIX))
        part.replace(file)
    except (OSError, ValueError):
        part.unlink(missing_ok=True)
        raise
    bag_folder.fsync_folder(file.parent)
    return lost


def _copy(old: BinaryIO, writer: Writer) -> _CopyResult:
    """Copy complete records."""
    result, ended = _CopyResult(), False
    channels = _ChannelCopies(writer, _read_summary(old))
    for record in _read_whole_records(old, result):
        if isinstance(record, Header):
            writer.start(profile=record.profile, library=LIBRARY)
        elif isinstance(record, Schema | Channel):
            channels.add(record)
        elif isinstance(record, Message):
            channel = channels.find(record.channel_id)
            if channel is None:  # it was described in a chunk that is damaged
                result.damaged_bytes += len(record.data)
                continue
            writer.add_message(
                channel, record.log_time, record.data, record.publish_time, record.sequence
            )
            result.used_bytes = old.tell()
        elif isinstance(record, Metadata):
            writer.add_metadata(record.name, record.metadata)
            ended |= record.name == END_RECORD
        elif isinstance(record, Attachment):
            writer.add_attachment(
                record.create_time, record.log_time, record.name, record.media_type, record.data
            )
        result.is_finished |= isinstance(record, Footer)
    if result.used_bytes and not ended:
        writer.add_metadata(END_RECORD, EpisodeEnd('interrupted').to_dict())
    return result


class _ChannelCopies:
    """Register channels with a writer at their first message; unknown ones by the summary."""

    def __init__(self, writer: Writer, summary: Summary | None) -> None:
        self._writer = writer
        self._schemas: dict[int, Schema] = dict(summary.schemas) if summary else {}
        self._channels: dict[int, Channel] = dict(summary.channels) if summary else {}
        self._registered: dict[int, int] = {}

    def add(self, record: Schema | Channel) -> None:
        """Note a description."""
        if isinstance(record, Schema):
            self._schemas.setdefault(record.id, record)
        else:
            self._channels.setdefault(record.id, record)

    def find(self, number: int) -> int | None:
        """Return the number of a channel in the copy; None if nothing describes it."""
        if number not in self._registered:
            channel = self._channels.get(number)
            schema = self._schemas.get(channel.schema_id) if channel else None
            if channel is None or (channel.schema_id and schema is None):
                return None
            kind = (
                self._writer.register_schema(schema.name, schema.encoding, schema.data)
                if schema
                else 0
            )
            self._registered[number] = self._writer.register_channel(
                channel.topic, channel.message_encoding, kind, channel.metadata
            )
        return self._registered[number]


def _read_summary(old: BinaryIO) -> Summary | None:
    """Return the summary at the end of a finished file, and go back to its start."""
    try:
        return make_reader(old).get_summary()
    except Exception:  # noqa: BLE001 — a damaged file fails in any way
        return None
    finally:
        old.seek(0)


def _read_whole_records(old: BinaryIO, result: _CopyResult) -> Iterator[McapRecord]:
    """Yield records up to the first incomplete one; count damaged chunks and leave them out."""
    records = iter(StreamReader(old, emit_chunks=True).records)
    while True:
        try:
            record = next(records)
        except Exception:  # noqa: BLE001 — the end, or damage of any kind
            return
        if not isinstance(record, Chunk):
            yield record
            continue
        try:
            inside = breakup_chunk(record, validate_crc=True)
        except Exception:  # noqa: BLE001 — each compression has errors of its own
            result.damaged_bytes += len(record.data)
            continue
        yield from inside

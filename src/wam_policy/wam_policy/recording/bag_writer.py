"""Write one episode so that a kill loses at most the messages since the last `sync`.

The file is locked while it is written, so `bag_repair` rejects an episode being recorded.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcap.writer import CompressionType, Writer

from wam_policy.recording import bag_folder
from wam_policy.recording.bag_folder import (
    BEGIN_RECORD,
    END_RECORD,
    HASH_KEY,
    QOS_KEY,
    BagContents,
)

CHUNK_BYTES = 4 * 2**20  # a chunk is written at this size or at the next sync
LIBRARY = 'wam_policy'


@dataclass(frozen=True, slots=True)
class BagTopic:
    """One topic to write."""

    name: str
    type: str  # package/msg/Name
    definition: str  # .msg text with the definitions of nested types
    type_hash: str = ''
    qos: str = '[]'  # YAML list of the QoS profiles for replay


class BagWriter:
    """Write one MCAP file in a new folder; use it from one thread at a time."""

    def __init__(
        self, folder: Path, topics: Sequence[BagTopic], metadata: Mapping[str, str]
    ) -> None:
        """Create the folder and file; raises FileExistsError if the folder exists."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.size_bytes = 0  # on disk after the last sync
        self._file = (folder / f'{folder.name}_0.mcap').open('xb')
        fcntl.flock(self._file, fcntl.LOCK_EX)
        uncompressed = CompressionType.NONE  # JPEG does not shrink
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=uncompressed)
        self._writer.start(profile='ros2', library=LIBRARY)
        self._writer.add_metadata(BEGIN_RECORD, dict(metadata))
        schemas: dict[str, int] = {}
        self._channels = []
        for topic in topics:
            if topic.type not in schemas:
                schemas[topic.type] = self._writer.register_schema(
                    topic.type, 'ros2msg', topic.definition.encode()
                )
            self._channels.append(
                self._writer.register_channel(
                    topic.name,
                    'cdr',
                    schemas[topic.type],
                    {QOS_KEY: topic.qos, HASH_KEY: topic.type_hash},
                )
            )
        self.sync()
        bag_folder.fsync_folder(folder.parent)

    def write(self, topic_index: int, log_ns: int, data: bytes) -> None:
        """Add a serialized message of topic `topic_index`, received at `log_ns`.

        `log_ns` is also the publish time: rclpy's EventsExecutor does not provide that.
        """
        self._writer.add_message(self._channels[topic_index], log_ns, data, log_ns)

    def sync(self) -> None:
        """Flush all messages written so far to the disk."""
        self._writer.flush()
        os.fdatasync(self._file.fileno())
        self.size_bytes = self._file.tell()

    def close(self, metadata: Mapping[str, str]) -> BagContents:
        """Write the index and metadata.yaml; return the contents of the finished episode."""
        self._writer.add_metadata(END_RECORD, dict(metadata))
        self._writer.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        found = bag_folder.write_metadata(self.folder)
        self.size_bytes = found.file.stat().st_size
        return found

    def abandon(self) -> None:
        """Close the file without an index after a write error; `bag_repair` can finish it."""
        try:
            self._file.close()
        except OSError:
            # the buffered data could not be written; the descriptor is closed nevertheless
            return

"""Write one episode so that a kill costs at most what came since the last `sync`.

The file is locked while it is written: nobody repairs an episode that is still recorded.
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

CHUNK_BYTES = 4 * 2**20  # a chunk is written when it is this large, or at the next sync
LIBRARY = 'wam_policy'


@dataclass(frozen=True, slots=True)
class BagTopic:
    """Describe what is written on one topic."""

    name: str
    type: str  # package/msg/Name
    definition: str  # message text with everything it refers to
    type_hash: str = ''
    qos: str = '[]'  # YAML list of the profiles that replay should offer


class BagWriter:
    """Own one new folder and the MCAP file in it; use it from one thread at a time."""

    def __init__(
        self, folder: Path, topics: Sequence[BagTopic], metadata: Mapping[str, str]
    ) -> None:
        """Begin the episode; FileExistsError where the folder is there already."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.size_bytes = 0  # on disk after the last sync
        self._file = (folder / f'{folder.name}_0.mcap').open('xb')
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._writer = Writer(
            self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE
        )  # JPEG does not shrink
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
        """Add one serialized message of the `topic`-th topic, by when it was received.

        It stands for the time of publication too: rclpy's EventsExecutor does not hand that over.
        """
        self._writer.add_message(self._channels[topic_index], log_ns, data, log_ns)

    def sync(self) -> None:
        """Put everything written so far on the disk."""
        self._writer.flush()
        os.fdatasync(self._file.fileno())
        self.size_bytes = self._file.tell()

    def close(self, metadata: Mapping[str, str]) -> BagContents:
        """Finish the file with its index and describe it: the episode is saved."""
        self._writer.add_metadata(END_RECORD, dict(metadata))
        self._writer.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        found = bag_folder.write_metadata(self.folder)
        self.size_bytes = found.file.stat().st_size
        return found

    def abandon(self) -> None:
        """Let go of the file as it is, for a repair: what the disk took stays."""
        try:
            self._file.close()
        except OSError:
            # the buffer still holds what the disk refused; the descriptor is closed all the same
            return

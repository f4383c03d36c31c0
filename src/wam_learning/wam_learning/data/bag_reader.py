"""Read the messages of an episode with the definitions stored in its bag, without ROS."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError

from wam_policy.recording import bag_folder


@dataclass(frozen=True, slots=True)
class BagMessage:
    """Hold one message with the fields of its type, with the same attributes as in rclpy."""

    topic: str
    type: str
    log_ns: int  # time of reception
    content: Any


def read_metadata(folder: Path) -> Mapping[str, str]:
    """Return the metadata of the recorder; empty for bags of other recorders."""
    return bag_folder.read_contents(bag_folder.find_mcap_file(folder)).metadata


def read_topics(folder: Path) -> dict[str, str]:
    """Return topic -> type; raise ValueError if the folder is not a complete bag."""
    with _open_reader(folder) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections}


def read_messages(folder: Path, topics: set[str]) -> Iterator[BagMessage]:
    """Yield the messages of some topics in the order they were received."""
    with _open_reader(folder) as reader:
        chosen = [c for c in reader.connections if c.topic in topics]
        # with an empty list the reader would return everything
        for connection, log_ns, raw in reader.messages(chosen) if chosen else ():
            yield BagMessage(
                connection.topic,
                connection.msgtype,
                log_ns,
                reader.deserialize(raw, connection.msgtype),
            )


def _open_reader(folder: Path) -> AnyReader:
    if not (folder / bag_folder.METADATA_FILE).exists():
        fix = ': ./wam bag repair' if list(folder.glob('*.mcap')) else ''
        raise ValueError(f'{folder} is not a complete bag{fix}')
    try:
        return AnyReader([folder])
    except AnyReaderError as error:
        raise ValueError(f'{folder}: {error}') from error

"""Read the messages of an episode with the definitions stored in its bag, without ROS."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wam_policy.recording.bag_access import describe_fix, open_reader


@dataclass(frozen=True, slots=True)
class BagMessage:
    """Hold one message with the fields of its type, with the same attributes as in rclpy."""

    topic: str
    type: str
    log_ns: int  # time of reception
    content: Any


@dataclass(frozen=True, slots=True)
class DamagedMessage:
    """Name a message that could not be decoded."""

    topic: str
    error: str


def read_topics(path: Path) -> dict[str, str]:
    """Return topic -> type; raise ValueError if it is not a complete bag."""
    with open_reader(path) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections}


def read_messages(path: Path, topics: set[str]) -> Iterator[BagMessage | DamagedMessage]:
    """Yield the messages of some topics in the order they were received.

    A message that cannot be decoded is yielded as damaged. Raise ValueError where the bag cannot
    be read further.
    """
    with open_reader(path) as reader:
        chosen = [c for c in reader.connections if c.topic in topics]
        # with an empty list the reader would return everything
        messages = reader.messages(chosen) if chosen else iter(())
        last_ns = 0
        while True:
            try:
                connection, log_ns, raw = next(messages)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 — a damaged file fails in any way
                raise ValueError(
                    f'{path}: damaged after {last_ns / 1e9:.3f} s: {error}; {describe_fix(path)}'
                ) from error
            try:
                last_ns = log_ns
                content = reader.deserialize(raw, connection.msgtype)
            except Exception as error:  # noqa: BLE001 — generated decoders raise any error
                yield DamagedMessage(connection.topic, f'{type(error).__name__}: {error}')
                continue
            yield BagMessage(connection.topic, connection.msgtype, log_ns, content)

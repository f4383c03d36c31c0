"""Read the messages of an episode with the definitions stored in its bag, without ROS."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from wam_policy.recording import bag_folder

BAG_SUFFIXES = ('.mcap', '.db3')


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


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of the recorder; empty for bags of other recorders.

    Raise ValueError if the file is not finished.
    """
    files = [path] if path.is_file() else sorted(path.glob('*.mcap'))
    if len(files) != 1 or files[0].suffix != '.mcap':
        return {}
    try:
        return bag_folder.read_contents(files[0]).metadata
    except ValueError as error:
        fix = '' if 'bag repair' in str(error) else f': try ./wam bag repair {files[0].parent}'
        raise ValueError(f'{error}{fix}') from error


def find_bags(path: Path) -> list[Path]:
    """Return the bag itself, a folder or a file of one, or the bags in a folder.

    Interrupted bags are included: reading one raises an error with the fix. Raise ValueError if
    there is none.
    """
    if path.is_file() and path.suffix in BAG_SUFFIXES:
        return [path]
    if _is_bag_folder(path):
        return [path]
    found = sorted(each for each in path.glob('*') if each.is_dir() and _is_bag_folder(each))
    if not found:
        raise ValueError(
            f'{path}: no bag; want a folder with metadata.yaml, a folder of such folders, or a '
            f'file that ends in {", ".join(BAG_SUFFIXES)}'
        )
    return found


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
                    f'{path}: damaged after {last_ns / 1e9:.3f} s: {error}'
                ) from error
            try:
                last_ns = log_ns
                content = reader.deserialize(raw, connection.msgtype)
            except Exception as error:  # noqa: BLE001 — generated decoders raise any error
                yield DamagedMessage(connection.topic, f'{type(error).__name__}: {error}')
                continue
            yield BagMessage(connection.topic, connection.msgtype, log_ns, content)


@contextmanager
def open_reader(path: Path) -> Iterator[AnyReader]:
    """Open a bag: a folder with metadata.yaml or one file; raise ValueError with the reason.

    Bags without message definitions (Humble's sqlite3) are read with Jazzy's standard types.
    """
    if path.is_dir() and not (path / bag_folder.METADATA_FILE).exists():
        fix = f': ./wam bag repair {path}' if list(path.glob('*.mcap')) else ''
        raise ValueError(f'{path} is not a complete bag{fix}')
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # noqa: BLE001 — a damaged file fails in any way
        fix = (
            '; try ./wam bag repair' if path.suffix == '.mcap' or any(path.glob('*.mcap')) else ''
        )
        raise ValueError(f'{path}: cannot be read as a bag: {error}{fix}') from error
    try:
        yield reader
    finally:
        reader.close()


def _is_bag_folder(path: Path) -> bool:
    return (path / bag_folder.METADATA_FILE).exists() or any(
        any(path.glob(f'*{suffix}')) for suffix in BAG_SUFFIXES
    )

"""Find and open bags of our recorder and of others: MCAP and sqlite3, folders and files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from wam_policy.recording import bag_folder

BAG_SUFFIXES = ('.mcap', '.db3')


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
        is_mcap = path.suffix == '.mcap' or any(path.glob('*.mcap'))
        fix = '; try ./wam bag repair' if is_mcap else ''
        raise ValueError(f'{path}: cannot be read as a bag: {error}{fix}') from error
    try:
        yield reader
    finally:
        reader.close()


def _is_bag_folder(path: Path) -> bool:
    return (path / bag_folder.METADATA_FILE).exists() or any(
        any(path.glob(f'*{suffix}')) for suffix in BAG_SUFFIXES
    )

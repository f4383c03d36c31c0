"""Find and open bags of our recorder and of others.

MCAP and sqlite3, folders and files, split into several files, compressed as files
(`ros2 bag record --compression-mode file`, or zstd by hand), with and without message definitions.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backports import zstd
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from wam_policy.recording import bag_folder

ZSTD_SUFFIXES = ('.zst', '.zstd')  # of the zstd program, of rosbag2
STORAGE_SUFFIXES = ('.mcap', '.db3')
BAG_SUFFIXES = (*STORAGE_SUFFIXES, *(s + z for s in STORAGE_SUFFIXES for z in ZSTD_SUFFIXES))
FILE_NUMBER = re.compile(r'(_\d+)?(\.mcap|\.db3)(\.zstd?)?$')
ROS1_MAGIC = b'#ROSBAG V'
NOT_ROS2 = ('Profile is not ros2', 'Serialization format')  # of rosbags: MCAP of other systems


def find_bags(path: Path) -> list[Path]:
    """Return the bag itself, a folder or a file of one, or the bags below a folder.

    Interrupted bags are included: reading one raises an error with the fix. Raise ValueError if
    there is none.
    """
    if path.is_file() and path.name.endswith(BAG_SUFFIXES):
        return [path]
    _reject_ros1(path)
    if _is_bag_folder(path):
        return [path]
    found = []
    for folder in (path, *sorted(each for each in path.rglob('*') if each.is_dir())):
        found += [folder] if _is_bag_folder(folder) else list_bag_files(folder)
    if not found:
        what = 'no bag' if path.exists() else 'no bag: it does not exist'
        raise ValueError(
            f'{path}: {what}; want a folder with metadata.yaml, a folder of such folders, or a '
            f'file that ends in {", ".join(BAG_SUFFIXES)}'
        )
    return found


def list_bag_files(folder: Path) -> list[Path]:
    """Return the files of bags in a folder, the tenth file of a split bag after the ninth."""
    files = [file for file in folder.glob('*') if file.name.endswith(BAG_SUFFIXES)]
    return sorted((file for file in files if file.is_file()), key=bag_folder.natural_order)


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of the recorder; empty for bags of other recorders.

    Raise ValueError if the file is not finished.
    """
    files = [path] if path.is_file() else sorted(path.glob('*.mcap'))
    if len(files) != 1 or files[0].suffix != '.mcap':
        folder = path.parent if path.is_file() else path
        custom = bag_folder.read_information(folder).get('custom_data') or {}
        return {str(key): str(value) for key, value in custom.items()}
    try:
        return bag_folder.read_contents(files[0]).metadata
    except ValueError as error:
        fix = '' if 'bag repair' in str(error) else f'; {describe_fix(path)}'
        raise ValueError(f'{error}{fix}') from error


@contextmanager
def open_reader(path: Path) -> Iterator[AnyReader]:
    """Open a bag: a folder or one file; raise ValueError with the reason and the fix.

    Types without a definition in the bag (Humble's sqlite3) are read with Jazzy's standard types.
    """
    standard = get_typestore(Stores.ROS2_JAZZY)
    with ExitStack() as stack:
        try:
            reader = AnyReader(_choose_paths(path, stack), default_typestore=standard)
            stack.enter_context(reader)
        except BagRefused:
            raise
        except Exception as error:  # noqa: BLE001 — a damaged file fails in any way
            text = str(error) or type(error).__name__
            is_foreign = any(word in text for word in NOT_ROS2)
            fix = 'it was not recorded by ROS 2' if is_foreign else describe_fix(path)
            raise ValueError(f'{path}: cannot be read as a bag: {text}; {fix}') from error
        _add_standard_types(reader, standard)
        yield reader


class BagRefused(ValueError):
    """Report a bag that cannot be opened as it is; the text has the fix."""


def describe_fix(path: Path) -> str:
    """Return what to try on a damaged bag."""
    files = [path] if path.is_file() else list_bag_files(path)
    suffixes = {file.suffix for file in files}
    if '.mcap' in suffixes:
        return f'try ./wam bag repair {path}'
    if '.db3' in suffixes:
        return f'save what is readable with: sqlite3 {files[0]} .recover'
    if suffixes & set(ZSTD_SUFFIXES):
        return f'check {files[0].name} with: zstd --test'
    return 'copy its files again'


def _add_standard_types(reader: AnyReader, standard: Typestore) -> None:
    """Define the types that the bag names without a definition, or with an empty one."""
    undefined = {c.msgtype for c in reader.connections if not c.msgdef.data.strip()}
    defined = {n: d for n, d in reader.typestore.fielddefs.items() if n not in undefined}
    if undefined & set(standard.fielddefs):
        reader.typestore = get_typestore(Stores.EMPTY)
        reader.typestore.register({**standard.fielddefs, **defined})


def _choose_paths(path: Path, stack: ExitStack) -> list[Path]:
    """Return what AnyReader shall open: a folder with metadata.yaml, or files."""
    if path.is_file():
        _reject_ros1(path)
        about = _read_information(path.parent)
        listed = _list_names(about)
        if about.get('compression_mode', '').lower() == 'message' and path.name in listed:
            if len(listed) == 1:
                return [path.parent]
            raise BagRefused(
                f'{path}: one of {len(listed)} files whose messages are compressed: name the '
                f'folder {path.parent}'
            )
        return _decompress([path], stack)
    about = _read_information(path)
    if not about:
        if list(path.glob('*.mcap')):
            raise BagRefused(f'{path} is not a complete bag: ./wam bag repair {path}')
        files = list_bag_files(path)
        if not files:
            raise BagRefused(f'{path}: no bag; it has neither metadata.yaml nor a bag file')
        return _decompress(files, stack)
    names = _list_names(about)
    files = [_find_twin(path, name) for name in names]
    if [file.name for file in files] == names:
        _check_files(files)
        return [path]
    return _decompress(files, stack)


def _find_twin(folder: Path, name: str) -> Path:
    """Return a file that metadata.yaml lists, or its form that zstd has made of it since."""
    plain = name.removesuffix('.zst').removesuffix('.zstd')
    twins = (name, *(plain + suffix for suffix in ('', *ZSTD_SUFFIXES)))
    found = next((folder / twin for twin in twins if (folder / twin).is_file()), None)
    if found is None:
        raise BagRefused(
            f'{folder}: {name} is missing, metadata.yaml lists it; copy it back, or name the '
            'files that are there'
        )
    return found


def _decompress(files: list[Path], stack: ExitStack) -> list[Path]:
    """Return the files, compressed ones as copies that are removed with `stack`."""
    _check_files(files)
    found = []
    for file in files:
        if file.suffix in ZSTD_SUFFIXES:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix='wam_bag_')))
            with zstd.open(file, 'rb') as plain, (folder / file.stem).open('wb') as copy:
                shutil.copyfileobj(plain, copy)
            found.append(folder / file.stem)
        else:
            found.append(file)
    return found


def _check_files(files: list[Path]) -> None:
    """Raise BagRefused for an empty file, or a database with messages outside of it."""
    for file in files:
        if not file.stat().st_size:
            raise BagRefused(f'{file}: is empty; copy it again')
        log = file.with_name(file.name + '-wal')
        if log.is_file() and log.stat().st_size:
            raise BagRefused(
                f'{file}: a killed recorder left messages in {log.name}; take them in: '
                f"sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'"
            )


def _read_information(folder: Path) -> Mapping[str, Any]:
    try:
        return bag_folder.read_information(folder)
    except ValueError as error:
        raise BagRefused(str(error)) from error


def _list_names(information: Mapping[str, Any]) -> list[str]:
    return [Path(str(name)).name for name in information.get('relative_file_paths') or ()]


def _reject_ros1(path: Path) -> None:
    if path.is_file() and path.suffix == '.bag':
        with path.open('rb') as stream:
            is_ros1 = stream.read(len(ROS1_MAGIC)) == ROS1_MAGIC
        if is_ros1:
            raise BagRefused(
                f'{path}: is a ROS 1 bag; convert it: .venv/bin/rosbags-convert --src {path} '
                f'--dst {path.with_suffix("")}'
            )


def _is_bag_folder(path: Path) -> bool:
    """Return whether a folder is one bag; several files without metadata.yaml may be several."""
    if (path / bag_folder.METADATA_FILE).exists():
        return True
    files = list_bag_files(path) if path.is_dir() else []
    stems = {FILE_NUMBER.sub('', file.name) for file in files}
    return len(files) == 1 or (len(files) > 1 and stems == {path.name})

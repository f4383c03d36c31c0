"""Repair interrupted episodes and list the contents of finished ones.

Exit status: 0 success, 1 an episode could not be repaired or read, 2 invalid arguments.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from wam_policy.recording import bag_access, bag_folder
from wam_policy.recording.bag_repair import BagInUse, repair
from wam_policy.recording.bag_timing import describe_camera_skew, read_timings

# what is not MCAP: how to go on
REPAIR_ELSEWHERE = {
    '.db3': 'is sqlite3: save what is readable with sqlite3 FILE .recover',
    '.zst': 'is compressed: decompress it with zstd -d first',
    '.zstd': 'is compressed: decompress it with zstd -d first',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command for every bag and return the exit status."""
    parser = argparse.ArgumentParser(
        prog='./wam bag', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (
        ('repair', 'finish interrupted episodes; finished ones are not changed'),
        ('info', 'list duration, topics, rates, gaps, delays and metadata of finished bags'),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            'folders', nargs='+', type=Path, metavar='FOLDER', help='a bag, or a folder of bags'
        )
    options = parser.parse_args(arguments)
    act = {'repair': _repair_bag, 'info': _describe_bag}[options.command]
    return act_on_bags(options.folders, lambda bag: '\n'.join(act(bag)))


def act_on_bags(folders: Iterable[Path], act: Callable[[Path], str]) -> int:
    """Print what `act` returns for each bag in `folders`; return the exit status.

    A bag that does not fit is named on stderr and makes the status 1; the others go on.
    """
    status = 0
    for given in folders:
        try:
            bags = bag_access.find_bags(given)
        except ValueError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        for bag in bags:
            try:
                print(act(bag))
            except (BagInUse, ValueError, OSError) as error:
                text = str(error)
                print(text if str(bag) in text else f'{bag}: {text}', file=sys.stderr)
                status = 1
    return status


def _repair_bag(path: Path) -> Iterator[str]:
    folder = path.parent if path.is_file() else path
    files = [path] if path.is_file() else bag_access.list_bag_files(path)
    for suffix, fix in REPAIR_ELSEWHERE.items():
        wrong = next((file for file in files if file.suffix == suffix), None)
        if wrong is not None:
            raise ValueError(f'only MCAP can be repaired, {wrong.name} {fix}')
    had_metadata = (folder / bag_folder.METADATA_FILE).exists()
    found = repair(path)
    if not found.rebuilt:
        alone = path.is_file() or had_metadata
        yield f'{path.name}: {"finished" if alone else "complete, wrote missing metadata.yaml"}'
        return
    yield (
        f'{path.name}: repaired, {found.contents.message_count} messages over '
        f'{found.contents.duration_s:.1f} s; dropped {found.lost_bytes} unreadable bytes'
    )


def _describe_bag(path: Path) -> Iterator[str]:
    metadata = bag_access.read_metadata(path)
    timings = read_timings(path)
    received_ns = [time_ns for timing in timings for time_ns in timing.received_ns]
    duration_s = (max(received_ns) - min(received_ns)) / 1e9 if received_ns else 0.0
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    size_mb = sum(file.stat().st_size for file in files) / 1e6
    yield f'{path.name}: {duration_s:.1f} s, {len(received_ns)} messages, {size_mb:.1f} MB'
    for key, value in metadata.items():
        yield f'  {key}: {value}'
    for timing in timings:
        yield f'  {timing.describe()}'
    yield from describe_camera_skew(timings)


if __name__ == '__main__':
    sys.exit(main())

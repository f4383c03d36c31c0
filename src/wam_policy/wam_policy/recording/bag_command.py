"""Repair interrupted episodes and list the contents of finished ones.

Exit status: 0 success, 1 an episode could not be repaired or read, 2 invalid arguments.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import BagInUse, repair


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command for every bag and return the exit status."""
    parser = argparse.ArgumentParser(
        prog='./wam bag', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (
        ('repair', 'finish interrupted episodes; finished ones are not changed'),
        ('info', 'list duration, topics and metadata of finished episodes'),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            'folders', nargs='+', type=Path, metavar='FOLDER', help='a bag, or a folder of bags'
        )
    options = parser.parse_args(arguments)
    act = {'repair': _repair_bag, 'info': _describe_bag}[options.command]
    status = 0
    for folder in [bag for given in options.folders for bag in _find_bags(given)]:
        try:
            print('\n'.join(act(folder)))
        except (BagInUse, ValueError, OSError) as error:
            print(f'{folder}: {error}', file=sys.stderr)
            status = 1
    return status


def _find_bags(given: Path) -> list[Path]:
    """Return the bag `given`, or the bags in the folder `given`."""
    return (
        [given]
        if list(given.glob('*.mcap')) or not given.is_dir()
        else sorted({file.parent for file in given.glob('*/*.mcap')})
    )


def _repair_bag(folder: Path) -> Iterator[str]:
    before = (folder / bag_folder.METADATA_FILE).exists()
    found = repair(folder)
    if not found.rebuilt:
        yield f'{folder.name}: {"finished" if before else "complete, wrote missing metadata.yaml"}'
        return
    yield (
        f'{folder.name}: repaired, {found.contents.message_count} messages over '
        f'{found.contents.duration_s:.1f} s; dropped {found.lost_bytes} unreadable bytes at the '
        'end'
    )


def _describe_bag(folder: Path) -> Iterator[str]:
    found = bag_folder.read_contents(bag_folder.find_mcap_file(folder))
    size_mb = found.file.stat().st_size / 1e6
    yield (
        f'{folder.name}: {found.duration_s:.1f} s, {found.message_count} '
        f'messages, {size_mb:.1f} MB'
    )
    for key, value in found.metadata.items():
        yield f'  {key}: {value}'
    for channel in found.channels:
        yield f'  {channel.message_count:>8}  {channel.topic}  {channel.type}'


if __name__ == '__main__':
    sys.exit(main())

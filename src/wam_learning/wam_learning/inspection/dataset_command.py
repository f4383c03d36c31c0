"""`./wam dataset`: check a data set before training on it, or write a page with its pictures.

Reads LeRobot v2.0, v2.1 and v3.0. Exit status: 0 it can be trained on (check), the page is written
(view), 1 something prevents training or the set cannot be read, 2 invalid arguments.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from wam_learning.data.episode_arrays import find_shards
from wam_learning.inspection.dataset_check import check_dataset
from wam_learning.inspection.dataset_page import write_page
from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value

DEFAULT_VIDEOS, DEFAULT_EPISODES = 10, 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = CommandParser('./wam dataset', __doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    check = commands.add_parser(
        'check', help='say what it is, what can train on it, and its flaws'
    )
    check.add_argument('--json', action='store_true', help='print the report as JSON')
    view = commands.add_parser('view', help='write a page with pictures, plots and findings')
    view.add_argument(
        '--out', type=Path, metavar='FILE', help='(default: NAME.html next to the data set)'
    )
    add_value(view, '--episodes', DEFAULT_EPISODES, 'episodes on the page, evenly spread', 'N')
    for command in (check, view):
        command.add_argument('folder', type=Path, metavar='DIR', help='the data set')
        command.add_argument(
            '--robot', choices=robot_folders.list_robots(), help='check for this robot alone'
        )
        add_value(
            command,
            '--videos',
            DEFAULT_VIDEOS,
            'episodes whose videos are decoded, evenly spread',
            'N',
        )
    options = parser.parse_args(arguments)
    if options.command == 'check':
        return _check(options)
    return _view(options)


def _check(options: argparse.Namespace) -> int:
    reports = [
        check_dataset(folder, max(0, options.videos), options.robot)
        for folder in find_shards(options.folder)
    ]
    if options.json:
        found = [report.to_dict() for report in reports]
        print(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        print('\n'.join(line for report in reports for line in report.format_lines()))
    return int(not all(report.can_train for report in reports))


def _view(options: argparse.Namespace) -> int:
    report = check_dataset(options.folder, max(0, options.videos), options.robot)
    if report.metadata is None:
        print('\n'.join(map(str, report.findings)), file=sys.stderr)
        return 1
    folder = options.folder.resolve()
    out = options.out or folder.with_name(f'{folder.name}.html')
    try:
        shown = write_page(report, out, max(1, options.episodes))
    except (OSError, ValueError) as error:
        print(f'dataset view: {error}', file=sys.stderr)
        return 1
    print(f'{out}: {shown} of {len(report.metadata.episodes)} episodes')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""`ros2 launch`: run a launch file of a package, or one named by its path."""

import argparse
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_context import LaunchContext
from launch.launch_description_sources import AnyLaunchDescriptionSource
from ros2cli.command import CommandExtension

LAUNCH_SUFFIXES = ('launch.py', 'launch.xml', 'launch.yaml', 'launch.yml')


class LaunchCommand(CommandExtension):
    """Run a launch file."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        """Declare the command line of upstream's command that scripts and people use."""
        parser.add_argument(
            '-s',
            '--show-args',
            '--show-arguments',
            action='store_true',
            help='show the arguments of the launch file and leave',
        )
        parser.add_argument(
            '-n', '--noninteractive', action='store_true', help='run without a terminal'
        )
        parser.add_argument('-d', '--debug', action='store_true', help='log what launch does')
        parser.add_argument('package', help='a package, or the path of a launch file')
        parser.add_argument(
            'words',
            nargs=argparse.REMAINDER,
            metavar='file name:=value',
            help='the launch file in the package, then its arguments',
        )

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int | str:
        """Find the file, check the arguments, run it until it ends."""
        try:
            path, words = find_launch_file(args.package, args.words)
            # upstream takes -s after the file name too
            show = args.show_args or bool({'-s', '--show-args', '--show-arguments'} & set(words))
            pairs = parse_launch_arguments(word for word in words if not word.startswith('-'))
        except (ValueError, PackageNotFoundError) as e:
            return str(e)
        if show:
            return print_launch_arguments(path)
        service = LaunchService(
            argv=[f'{name}:={value}' for name, value in pairs],
            noninteractive=args.noninteractive or not sys.stdin.isatty(),
            debug=args.debug,
        )
        service.include_launch_description(
            LaunchDescription(
                [
                    OpaqueFunction(function=ignore_sigint),
                    IncludeLaunchDescription(
                        AnyLaunchDescriptionSource(str(path)), launch_arguments=pairs
                    ),
                ]
            )
        )
        return service.run()


def ignore_sigint(context: LaunchContext) -> None:
    """Take Ctrl-C only from the descriptor that launch reads, once launch reads it.

    Python's handler raises KeyboardInterrupt as well, in the middle of whatever the event loop
    does; where that was about to wake a task, launch waited for ever.
    """
    signal.signal(signal.SIGINT, lambda *_: None)


def find_launch_file(package: str, argv: list[str]) -> tuple[Path, list[str]]:
    """Find the launch file and split its arguments off; raises ValueError naming what is there."""
    if Path(package).is_file():
        return Path(package).resolve(), argv
    share = Path(get_package_share_directory(package))
    files = {
        path.name: path for path in sorted(share.rglob('*')) if path.name.endswith(LAUNCH_SUFFIXES)
    }
    known = f'package {package} has: {", ".join(files) or "no launch files"}'
    if not argv or argv[0].startswith('-') or ':=' in argv[0]:
        raise ValueError(f'name a launch file; {known}')
    if argv[0] not in files:
        raise ValueError(f'no launch file {argv[0]!r}; {known}')
    return files[argv[0]], argv[1:]


def parse_launch_arguments(argv: Iterable[str]) -> list[tuple[str, str]]:
    """Split `name:=value` words; raises ValueError for anything else."""
    pairs = []
    for word in argv:
        name, sign, value = word.partition(':=')
        if not sign or not name:
            raise ValueError(f'malformed launch argument {word!r}: expected name:=value')
        pairs.append((name, value))
    return pairs


def print_launch_arguments(path: Path) -> int:
    """Print every argument of a launch file: meaning, choices, default."""
    context = LaunchContext()
    description = AnyLaunchDescriptionSource(str(path)).get_launch_description(context)
    print("Arguments (pass arguments as '<name>:=<value>'):")
    for action in description.get_launch_arguments(conditional_inclusion=False):
        print(f"\n    '{action.name}':\n        {action.description}")
        if action.choices:
            print(f'        One of: {", ".join(repr(choice) for choice in action.choices)}')
        if action.default_value is not None:
            shown = ''.join(part.describe() for part in action.default_value)
            print(f'        (default: {shown})')
    return 0

"""What the command lines of this project share: parser, old names for one release, checks."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """Print descriptions of several lines as they are, and accept options under old names.

    Errors are one line and exit status 2, as those of argparse.
    """

    def __init__(
        self,
        prog: str | None = None,
        description: str | None = None,
        renamed: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Take old option -> new option as `renamed`, further options as ArgumentParser does."""
        if '\n' in (description or ''):
            options.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, description=description, **options)
        self._renamed = renamed or {}

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse `arguments`, by default those of the process."""
        given = sys.argv[1:] if arguments is None else arguments
        return self.parse_args(replace_deprecated(given, self._renamed))

    def require_positive(self, options: argparse.Namespace, *names: str, unit: str = '') -> None:
        """Exit with an error if one of the numbers is not above 0; one not given (None) is."""
        for name in names:
            value = getattr(options, name)
            if value is not None and not value > 0:
                self.error(f'{to_flag(name)}: want more than 0{unit}, got {value:g}')

    def require_folders(self, options: argparse.Namespace, *names: str) -> None:
        """Exit with an error if the folder of a file to write does not exist."""
        for name in names:
            path = getattr(options, name)
            if path is not None and not path.absolute().parent.is_dir():
                self.error(f'{to_flag(name)}: no folder {path.absolute().parent}')


def add_value(
    parser: argparse._ActionsContainer,
    flag: str,
    default: float | str,
    text: str,
    metavar: str | None = None,
    **options: Any,
) -> None:
    """Add an option with a value of the type of its default, which the help states."""
    options |= {'type': type(default), 'default': default, 'metavar': metavar}
    parser.add_argument(flag, help=f'{text} (default: %(default)s)', **options)


def to_flag(name: str) -> str:
    """Return the option that sets the attribute `name`."""
    return f'--{name.replace("_", "-")}'


def to_options(values: Mapping[str, object]) -> list[str]:
    """Return the words that pass `values` on to another program, by name of the option.

    True is the option alone; None, False and '' are left out; a list follows its option.
    """
    words: list[str] = []
    for name, value in values.items():
        if value is None or value is False or value == '':  # not `in`: 0 equals False
            continue
        words.append(to_flag(name))
        if isinstance(value, list | tuple):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return words


def replace_deprecated(arguments: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Return `arguments` with old option names replaced by new ones, and warn on stderr for each.

    `renamed` maps an old option to its new name: {'--driver': '--policy'}. Both `--old value` and
    `--old=value` are found. Everything after a bare `--` is left as it is.
    """
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == '--':
            return [*result, *arguments[position:]]
        name, equals, value = argument.partition('=')
        new_name = renamed.get(name, name)
        if new_name != name:
            sys.stderr.write(
                f'warning: {name} is deprecated and will be removed in the next release: '
                f'use {new_name}\n'
            )
        result.append(f'{new_name}{equals}{value}')
    return result

"""Accept command line options under their old names for one release."""

import sys
from collections.abc import Mapping, Sequence


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

"""`./wam bench NAME`: one of the measurements in benchmarks/, in this environment."""

import difflib
import sys
from typing import NoReturn

from cli import exec_module
from cli.failure import CommandError
from cli.paths import CheckoutLayout, find_checkout


def find_benchmarks(layout: CheckoutLayout) -> list[str]:
    """List the measurements: the files of benchmarks/ that can be run."""
    return sorted(
        path.stem
        for path in (layout.root / 'benchmarks').glob('*.py')
        if "if __name__ == '__main__':" in path.read_text(encoding='utf-8')
    )


def main(arguments: list[str]) -> int | NoReturn:
    """Become the measurement; without a name, list them."""
    known = find_benchmarks(find_checkout())
    if not arguments or arguments[0] in ('-h', '--help'):
        sys.stdout.write(f'usage: ./wam bench NAME [ARGUMENTS]; NAME is {", ".join(known)}\n')
        return 0
    name, *rest = arguments
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise CommandError(
            f'no measurement {name!r}: '
            + (f'did you mean {near[0]}?' if near else f'there are {", ".join(known)}')
        )
    return exec_module.exec_file(f'benchmarks/{name}.py', rest)

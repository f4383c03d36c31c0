"""`./wam bench NAME`: run a program of benchmarks/ in the environment of the checkout."""

import difflib
import sys
from typing import NoReturn

from cli import exec_module
from cli.failure import CommandError
from cli.paths import CheckoutLayout, find_checkout


def find_benchmarks(layout: CheckoutLayout) -> dict[str, str]:
    """Return the programs in benchmarks/ and its folder stack: name to path in the checkout."""
    folder = layout.root / 'benchmarks'
    return {
        path.stem: str(path.relative_to(layout.root))
        for path in sorted(
            (*folder.glob('*.py'), *folder.glob('stack/*.py')), key=lambda path: path.stem
        )
        if "if __name__ == '__main__':" in path.read_text(encoding='utf-8')
    }


def main(arguments: list[str]) -> int | NoReturn:
    """Run a benchmark in place of this process; without a name, list them."""
    known = find_benchmarks(find_checkout())
    if not arguments or arguments[0] in ('-h', '--help'):
        sys.stdout.write(f'usage: ./wam bench NAME [ARGUMENTS]; NAME is {", ".join(known)}\n')
        return 0
    name, *rest = arguments
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise CommandError(
            f'no benchmark {name!r}: '
            + (f'did you mean {near[0]}?' if near else f'known: {", ".join(known)}')
        )
    return exec_module.exec_file(known[name], rest)

"""Make the checkout importable and hand over to the dispatcher."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # `python tools/cli` puts that folder first on the path, where `test` and `setup` shadow others
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from cli.dispatch import main

    sys.exit(main(sys.argv[1:]))

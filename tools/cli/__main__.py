"""Put `tools/` on the import path and run the dispatcher."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # `python tools/cli` puts tools/cli first, where `test` and `setup` would shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from cli.dispatch import main

    sys.exit(main(sys.argv[1:]))

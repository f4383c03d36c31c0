"""Under which circumstances a figure was measured: machine, date, commit, load."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def circumstances() -> dict[str, Any]:
    """Say where and when, from which sources, and how busy the machine was."""
    git = ['git', '-C', str(ROOT)]
    commit = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True,
                            text=True, check=False).stdout.strip()
    return {'date': datetime.now(UTC).isoformat(timespec='seconds'), 'commit': commit or None,
            'machine': processor(), 'cores': os.cpu_count(),
            'load_average': [round(x, 2) for x in os.getloadavg()],
            'python': platform.python_version()}


def processor() -> str:
    """Name the CPU."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.machine())


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures with their circumstances."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**circumstances(), **content}, indent=1) + '\n')


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Lay rows out in columns as wide as what is in them."""
    cells = [[str(row.get(name, '')) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, *cells]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
                     .rstrip() for line in lines)

"""Provenance of a measurement: machine, date, commit, load."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def collect_provenance() -> dict[str, Any]:
    """Return machine, date, commit and load."""
    git = ['git', '-C', str(Path(__file__).resolve().parent)]
    commit = subprocess.run(
        [*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
        'commit': commit or None,
        'machine': read_cpu_name(),
        'cores': os.cpu_count(),
        'load_average': [round(x, 2) for x in os.getloadavg()],
        'python': platform.python_version(),
    }


def read_cpu_name() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.machine())

"""Show what is found, what is missing, and the fix."""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cli import build, prefix, ros, setup, system, venv
from cli.environment import environment
from cli.failure import Failure
from cli.paths import Layout, checkout
from cli.ros import Origin

MEMORY_BYTES = 6 * 10**9  # the whole demo's limit
SPARE_BYTES = 10**9  # once set up: logs, bags and builds


class Verdict(Enum):
    """How a finding stands; only MISSING keeps the demo from running."""

    FINE = 'ok'
    NOTE = 'note'
    MISSING = 'MISSING'


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    subject: str
    verdict: Verdict
    text: str
    fix: str = ''


def findings(layout: Layout) -> list[Finding]:
    """Look at everything that the demo needs."""
    result = [
        Finding('Python', Verdict.FINE, f'{sys.version.split()[0]} ({sys.executable})'),
        system_packages(),
        ros2(layout),
        packages(layout),
        built(layout),
    ]
    if all(finding.verdict is Verdict.FINE for finding in result[2:4]):
        env = environment(layout)
        result += [
            asked(layout, env, 'imports', 'packages', './wam clean, then ./wam setup'),
            asked(layout, env, 'cameras', 'render', 'apt-get install libosmesa6'),
            asked(
                layout,
                env,
                'DDS',
                'dds',
                'see that the loopback device is up (ip link show lo) and that '
                'ROS_DOMAIN_ID, RMW_IMPLEMENTATION and CYCLONEDDS_URI are yours',
            ),
            graphics(layout, env),
        ]
    return [*result, disk(layout), memory()]


def system_packages() -> Finding:
    """Find the programs and libraries that come from Debian or Ubuntu."""
    missing = system.missing_packages()
    if missing:
        fix = f'./wam setup as root, or: sudo apt-get install {" ".join(missing)}'
        return Finding('system', Verdict.MISSING, ' '.join(missing), fix)
    return Finding('system', Verdict.FINE, 'compiler, cmake, make, OSMesa')


def ros2(layout: Layout) -> Finding:
    """Find the ROS 2 that would be used."""
    try:
        found = ros.located(layout, os.environ)
    except Failure as e:
        return Finding('ROS 2', Verdict.MISSING, 'not Jazzy', str(e))
    if found.origin is Origin.ASSEMBLED and not prefix.is_ready(layout):
        return Finding(
            'ROS 2', Verdict.MISSING, 'Jazzy is neither installed nor assembled', './wam setup'
        )
    return Finding('ROS 2', Verdict.FINE, f'Jazzy, {found.origin.value} ({found.prefix})')


def packages(layout: Layout) -> Finding:
    """See whether the virtual environment holds the present pins."""
    try:
        ready = venv.is_ready(layout)
    except Failure:
        ready = layout.python.exists()
    if not ready:
        return Finding(
            'packages', Verdict.MISSING, 'not installed, or older than the pins', './wam setup'
        )
    return Finding('packages', Verdict.FINE, 'as pinned in tools/requirements/requirements.txt')


def built(layout: Layout) -> Finding:
    """See whether src/ is built, and from the present sources."""
    if not (layout.install / 'local_setup.bash').is_file():
        return Finding('build', Verdict.MISSING, 'src/ is not built', './wam build')
    try:
        fresh = build.is_ready(layout)
    except Failure:
        fresh = False
    if not fresh:
        return Finding(
            'build', Verdict.NOTE, 'older than src/; demo and test build first', './wam build'
        )
    return Finding('build', Verdict.FINE, 'up to date')


def asked(layout: Layout, env: dict[str, str], subject: str, question: str, fix: str) -> Finding:
    """Put a question to the environment; see `tools/cli/probe.py`."""
    argv = [layout.python, Path(__file__).with_name('probe.py'), question]
    try:
        result = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(subject, Verdict.MISSING, 'no answer in 60 s', fix)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ['no output'])[-1][:120]
        return Finding(subject, Verdict.MISSING, reason, fix)
    return Finding(subject, Verdict.FINE, result.stdout.strip().splitlines()[-1])


def graphics(layout: Layout, env: dict[str, str]) -> Finding:
    """Find GPUs; none is worth a note, since everything also runs on the CPU."""
    finding = asked(layout, env, 'GPU', 'gpu', 'see nvidia-smi')
    if finding.verdict is Verdict.FINE and not finding.text.startswith('none'):
        return finding
    return Finding(
        'GPU',
        Verdict.NOTE,
        finding.text,
        'fine for the mini model; the released models need a CUDA GPU and its driver',
    )


def disk(layout: Layout) -> Finding:
    """Compare the free space with what is still to come."""
    free = shutil.disk_usage(layout.root).free
    needed = SPARE_BYTES if layout.venv.exists() else setup.NEEDED_BYTES
    text = f'{free / 1e9:.1f} GB free'
    if free < needed:
        return Finding('disk', Verdict.MISSING, text, f'{needed / 1e9:.0f} GB are needed')
    return Finding('disk', Verdict.FINE, text)


def memory() -> Finding:
    """Compare the machine's memory with what the demo may use."""
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    text = f'{total / 1e9:.1f} GB, {os.cpu_count()} cores'
    if total < MEMORY_BYTES:
        return Finding(
            'machine', Verdict.NOTE, text, f'the demo may use up to {MEMORY_BYTES / 1e9:.0f} GB'
        )
    return Finding('machine', Verdict.FINE, text)


def table(found: list[Finding]) -> str:
    """Lay the findings out, each fix below its finding."""
    lines = []
    for finding in found:
        lines.append(f'{finding.subject:<10}{finding.verdict.value:<9}{finding.text}')
        if finding.fix and finding.verdict is not Verdict.FINE:
            lines.append(f'{"":<19}-> {finding.fix}')
    return '\n'.join(lines) + '\n'


def main(arguments: list[str]) -> int:
    """Print the table; exit 1 if the demo cannot run."""
    parser = argparse.ArgumentParser(prog='./wam doctor', description=__doc__)
    parser.parse_args(arguments)
    found = findings(checkout())
    sys.stdout.write(table(found))
    return int(any(finding.verdict is Verdict.MISSING for finding in found))

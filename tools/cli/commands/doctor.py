"""Show what is installed and what is missing, with the fix."""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cli import prefix, ros, system, venv
from cli.commands import build, setup
from cli.environment import make_environment
from cli.failure import CommandError
from cli.paths import CheckoutLayout, find_checkout
from cli.ros import RosSource

DEMO_MEMORY_BYTES = 6 * 10**9  # limit of the whole demo
MIN_FREE_BYTES = 10**9  # after setup, for logs, bags and builds


class CheckStatus(Enum):
    """Result of a check; with MISSING the demo cannot run."""

    OK = 'ok'
    NOTE = 'note'
    MISSING = 'MISSING'


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One row of the table."""

    subject: str
    status: CheckStatus
    text: str
    fix: str = ''


def run_checks(layout: CheckoutLayout) -> list[CheckResult]:
    """Check everything that the demo needs."""
    result = [
        CheckResult('Python', CheckStatus.OK, f'{sys.version.split()[0]} ({sys.executable})'),
        check_system_packages(),
        check_ros(layout),
        check_python_packages(layout),
        check_build(layout),
    ]
    if all(finding.status is not CheckStatus.MISSING for finding in result[2:4]):
        env = make_environment(layout)
        result += [
            run_probe(layout, env, 'imports', 'packages', './wam clean, then ./wam setup'),
            check_cv_bridge(layout, env),
            run_probe(layout, env, 'cameras', 'render', 'apt-get install libosmesa6'),
            *check_rmws(layout, env),
            check_domain(layout, env),
            check_gpu(layout, env),
        ]
    return [*result, check_disk_space(layout), check_memory()]


def check_system_packages() -> CheckResult:
    """Check the programs and libraries from Debian or Ubuntu packages."""
    missing = system.find_missing_packages()
    if missing:
        fix = f'./wam setup as root, or: sudo apt-get install {" ".join(missing)}'
        return CheckResult('system', CheckStatus.MISSING, ' '.join(missing), fix)
    return CheckResult('system', CheckStatus.OK, 'compiler, cmake, make, OSMesa')


def check_ros(layout: CheckoutLayout) -> CheckResult:
    """Check the ROS 2 that the checkout uses."""
    try:
        found = ros.select_ros(layout, os.environ)
    except CommandError as e:
        return CheckResult('ROS 2', CheckStatus.MISSING, 'not Jazzy', str(e))
    if found.source is RosSource.ASSEMBLED and not prefix.is_ready(layout):
        return CheckResult(
            'ROS 2', CheckStatus.MISSING, 'Jazzy is neither installed nor assembled', './wam setup'
        )
    return CheckResult('ROS 2', CheckStatus.OK, f'Jazzy, {found.source.value} ({found.prefix})')


def check_python_packages(layout: CheckoutLayout) -> CheckResult:
    """Check that the virtual environment matches the present pins."""
    try:
        ready = venv.is_ready(layout)
    except CommandError:
        ready = layout.python.exists()
    if not ready:
        return CheckResult(
            'packages', CheckStatus.MISSING, 'not installed, or older than the pins', './wam setup'
        )
    pins = [layout.root / 'tools/requirements' / name for name in venv.PIN_FILES]
    result = _run_probe_program(layout, 'pins', *pins)
    changed = result.stdout.strip()
    if result.returncode != 0 or changed:
        what = f'not as pinned: {changed}' if changed else 'their versions cannot be read'
        return CheckResult(
            'packages',
            CheckStatus.NOTE,
            what,
            './wam clean, then ./wam setup; a driver with pins of its own belongs in another '
            'environment (launch argument stream_python)',
        )
    return CheckResult(
        'packages', CheckStatus.OK, 'as pinned in tools/requirements, the versions that are found'
    )


def check_build(layout: CheckoutLayout) -> CheckResult:
    """Check that src/ is built from the present sources."""
    if not (layout.install_dir / 'local_setup.bash').is_file():
        return CheckResult('build', CheckStatus.MISSING, 'src/ is not built', './wam build')
    try:
        fresh = build.is_ready(layout)
    except CommandError:
        fresh = False
    if not fresh:
        return CheckResult(
            'build', CheckStatus.NOTE, 'older than src/; demo and test build first', './wam build'
        )
    return CheckResult('build', CheckStatus.OK, 'up to date')


def run_probe(
    layout: CheckoutLayout, env: dict[str, str], subject: str, probe: str, fix: str
) -> CheckResult:
    """Run a probe in the environment of the checkout; see `tools/cli/commands/probe.py`."""
    try:
        result = _run_probe_program(layout, probe, env=env)
    except subprocess.TimeoutExpired:
        return CheckResult(subject, CheckStatus.MISSING, 'no answer in 60 s', fix)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ['no output'])[-1][:120]
        return CheckResult(subject, CheckStatus.MISSING, reason, fix)
    return CheckResult(subject, CheckStatus.OK, result.stdout.strip().splitlines()[-1])


def _run_probe_program(
    layout: CheckoutLayout, *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [layout.python, Path(__file__).with_name('probe.py'), *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_cv_bridge(layout: CheckoutLayout, env: dict[str, str]) -> CheckResult:
    """Tell which cv_bridge converts images; NOTE if an installed one does not run here."""
    fix = 'images are converted all the same; install one built for this NumPy to use it'
    finding = run_probe(layout, env, 'cv_bridge', 'cv_bridge', fix)
    if finding.status is CheckStatus.OK and 'does not run' not in finding.text:
        return finding
    return CheckResult('cv_bridge', CheckStatus.NOTE, finding.text, fix)


def check_rmws(layout: CheckoutLayout, env: dict[str, str]) -> list[CheckResult]:
    """Let two processes talk on the RMW in use, then on the other installed ones."""
    used = env.get('RMW_IMPLEMENTATION') or ros.JAZZY_DEFAULT_RMW
    prefixes = [Path(entry) for entry in env.get('AMENT_PREFIX_PATH', '').split(':') if entry]
    results = []
    for name in (used, *(name for name in ros.find_installed_rmws(prefixes) if name != used)):
        fix = (
            'check that the loopback device is up (ip link show lo) and that '
            'ROS_DOMAIN_ID, RMW_IMPLEMENTATION and CYCLONEDDS_URI are set as intended'
        )
        if name in ros.SUPPORTED_RMWS:
            fix += f'; with an installed ROS 2: apt-get install {ros.rmw_debian_package(name)}'
        finding = run_probe(layout, {**env, 'RMW_IMPLEMENTATION': name}, 'DDS', 'dds', fix)
        status = finding.status
        if status is CheckStatus.MISSING and name != used:
            status = CheckStatus.NOTE
        text = f'{name}{" (in use)" if name == used else ""}: {finding.text}'
        results.append(CheckResult('DDS', status, text, finding.fix))
    return results


def check_domain(layout: CheckoutLayout, env: dict[str, str]) -> CheckResult:
    """Look for nodes on another RMW in the ROS domain; none seen is no proof of none."""
    fix = 'docs/how-to/choose-a-dds.md'
    finding = run_probe(layout, env, 'domain', 'domain', fix)
    if finding.status is CheckStatus.OK and finding.text.startswith('no node with another DDS'):
        return finding
    return CheckResult('domain', CheckStatus.NOTE, finding.text, fix)


def check_gpu(layout: CheckoutLayout, env: dict[str, str]) -> CheckResult:
    """Check for GPUs; without one the result is NOTE, since everything also runs on the CPU."""
    finding = run_probe(layout, env, 'GPU', 'gpu', 'see nvidia-smi')
    if finding.status is CheckStatus.OK and not finding.text.startswith('none'):
        return finding
    return CheckResult(
        'GPU',
        CheckStatus.NOTE,
        finding.text,
        'sufficient for the mini model; the released models need a CUDA GPU and its driver',
    )


def check_disk_space(layout: CheckoutLayout) -> CheckResult:
    """Compare the free disk space with what setup or operation needs."""
    free = shutil.disk_usage(layout.root).free
    needed = MIN_FREE_BYTES if layout.venv.exists() else setup.REQUIRED_DISK_BYTES
    text = f'{free / 1e9:.1f} GB free'
    if free < needed:
        return CheckResult('disk', CheckStatus.MISSING, text, f'{needed / 1e9:.0f} GB are needed')
    return CheckResult('disk', CheckStatus.OK, text)


def check_memory() -> CheckResult:
    """Compare the memory of the machine with the limit of the demo."""
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    text = f'{total / 1e9:.1f} GB, {os.cpu_count()} cores'
    if total < DEMO_MEMORY_BYTES:
        return CheckResult(
            'machine',
            CheckStatus.NOTE,
            text,
            f'the demo may use up to {DEMO_MEMORY_BYTES / 1e9:.0f} GB',
        )
    return CheckResult('machine', CheckStatus.OK, text)


def format_table(results: list[CheckResult]) -> str:
    """Return the results as a table, with each fix below its result."""
    lines = []
    for finding in results:
        lines.append(f'{finding.subject:<10}{finding.status.value:<9}{finding.text}')
        if finding.fix and finding.status is not CheckStatus.OK:
            lines.append(f'{"":<19}-> {finding.fix}')
    return '\n'.join(lines) + '\n'


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if the demo cannot run."""
    parser = argparse.ArgumentParser(prog='./wam doctor', description=__doc__)
    parser.parse_args(arguments)
    found = run_checks(find_checkout())
    sys.stdout.write(format_table(found))
    return int(any(finding.status is CheckStatus.MISSING for finding in found))

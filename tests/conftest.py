"""Shared set-up of all tests: those marked slow run only with --all, and say so otherwise.

In CI, tests of several real processes in real time get three more tries, later and later, and the
summary counts them: a machine that stalls for seconds is no fault of what they test. A test that
fails in the last try, too, fails; its report says what the machine did not give meanwhile.
Elsewhere a test that fails once in ten runs shows.
"""

import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from cli.domain import DOMAIN_IDS, find_free_domain
from tests.machine import MachineMonitor

# torch's compiler loads an LLVM, the simulator's off-screen OpenGL another. Only tests and
# wam_learning.evaluation.eval_worker load both in one process: the compiler's must come first.
if importlib.util.find_spec('triton'):
    import triton  # noqa: F401

REAL_TIME = (
    'tests/bringup/',
    'tests/cli/',
    'tests/nodes/',
    'tests/servers/',
    'tests/sim/test_sim_node.py',
    'tests/stack/',
    'tests/tools/',
    'tests/workers/',
)
# of ROS domains: test processes that run at the same time start their search far apart
DOMAIN_SEEDS = count(
    os.getpid()
    + len(DOMAIN_IDS)
    * int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
    // int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
)
EXIT_STATUS_KEY, MONITOR_KEY = pytest.StashKey[int](), pytest.StashKey[MachineMonitor]()
START_S_KEY = pytest.StashKey[float]()
MAX_RERUNS, TIMEOUT_S = 3, 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--all', action='store_true', help='also run the tests marked slow')
    parser.addoption('--slow', action='store_true', help='deprecated: use --all')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get('CI'):
        config.stash[MONITOR_KEY] = MachineMonitor()
        for item in items:
            if item.nodeid.startswith(REAL_TIME):
                item.add_marker(
                    pytest.mark.flaky(
                        reruns=MAX_RERUNS, reruns_delay=5, reruns_delay_backoff_factor=4
                    )
                )
                own = item.get_closest_marker('timeout')  # of every try, not of all together
                item.add_marker(
                    pytest.mark.timeout(*(own.args if own else [TIMEOUT_S]), func_only=True),
                    append=False,
                )
    if config.getoption('--slow'):
        warnings.warn('--slow is deprecated: use --all', DeprecationWarning, stacklevel=1)
    if config.getoption('--slow') or config.getoption('--all'):
        return
    skipped = pytest.mark.skip(reason='takes more than ten seconds: ./wam test --all runs it')
    for item in items:
        if 'slow' in item.keywords:
            item.add_marker(skipped)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.stack_scheduler import StackScheduling

    return StackScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[START_S_KEY] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add to the report of a failed test what the machine did not give while it ran."""
    report = yield
    monitor = item.config.stash.get(MONITOR_KEY, None)
    if report.failed and monitor:
        shortage = monitor.describe_shortage(item.stash[START_S_KEY])
        report.sections.append(('machine', shortage or 'gave what this test asked for'))
    return report


@pytest.fixture(scope='module')
def ros_domain():
    """Give this module, and every process it starts, a ROS domain of its own.

    Other participants still discover a killed one for ten seconds: here none does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(find_free_domain(next(DOMAIN_SEEDS))))
        yield int(os.environ['ROS_DOMAIN_ID'])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why each try failed that another one followed: its report is printed nowhere else."""
    for report in terminalreporter.stats.get('rerun', []):
        crash = getattr(report.longrepr, 'reprcrash', None)
        terminalreporter.write_line(f'TRY FAILED {report.nodeid}: {crash or report.longreprtext}')


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS_KEY] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit with the tests' own status: two LLVMs crash a process that ends normally."""
    if MONITOR_KEY in config.stash:
        config.stash[MONITOR_KEY].close()
    status = config.stash.get(EXIT_STATUS_KEY, None)
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

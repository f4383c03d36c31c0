"""A child and all that it starts: asked to end, then ended, also when we cannot ask any more."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from wam_tools.launch_process import LaunchProcess
from wam_tools.process_tree import kill_descendants

QUIET = threading.Event()
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def no_children():
    """End what earlier tests of this process left, as compilers do: it would be counted."""
    kill_descendants()


def script(text):
    return [sys.executable, '-c', textwrap.dedent(text)]


def wait(condition, timeout_s=10.0):
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return found


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


OBEDIENT = """
    import signal, sys, time
    def leave(*_):
        print('[INFO] [policy_node-3]: process has finished cleanly [pid 7]', flush=True)
        print("[ERROR] [sim_node-1]: process has died [pid 8, exit code -9, cmd 'x'].", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGINT, leave)
    print('up', flush=True)
    time.sleep(60)
"""
STUBBORN = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],
                             start_new_session=True)
    print('child', child.pid, flush=True)
    time.sleep(60)
"""


def test_an_obedient_child_ends_by_itself_and_its_nodes_are_told(tmp_path):
    child = LaunchProcess(script(OBEDIENT), tmp_path / 'log')
    wait(lambda: 'up' in child.read_log_tail())
    assert child.measure_memory_mb() > 5.0 and child.peak_mb > 5.0
    assert child.stop(QUIET) == (0, 0)
    assert child.exit_codes() == {'policy_node': 0, 'sim_node': -9}


def test_measuring_the_tree_leaves_the_exit_status_to_be_read(tmp_path):
    child = LaunchProcess(script('raise SystemExit(3)'), tmp_path / 'log')
    wait(lambda: gone(child.pid))
    child.measure_memory_mb()
    assert child.returncode == 3


def test_a_stubborn_child_and_its_orphans_are_killed_when_there_is_no_time(tmp_path):
    child = LaunchProcess(script(STUBBORN), tmp_path / 'log')
    pid = int(wait(lambda: child.read_log_tail()).split()[1])
    hurry = threading.Event()
    hurry.set()
    status, left = child.stop(hurry)
    assert status is None and left == 3 and gone(pid)  # the leash is one of them


def test_orphans_of_a_child_that_was_killed_are_found(tmp_path):
    child = LaunchProcess(script(STUBBORN), tmp_path / 'log')
    pid = int(wait(lambda: child.read_log_tail()).split()[1])
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    wait(lambda: child.returncode is not None)
    assert child.returncode == 128 + signal.SIGKILL and not gone(pid)
    assert child.stop(QUIET) == (128 + signal.SIGKILL, 1) and gone(pid)


def test_the_child_is_asked_to_end_when_its_supervisor_is_killed(tmp_path):
    log = tmp_path / 'log'
    owner = subprocess.Popen(
        script(f"""
        import time
        from pathlib import Path
        from wam_tools.launch_process import LaunchProcess
        LaunchProcess({script(OBEDIENT)!r}, Path({str(log)!r}))
        time.sleep(60)
    """),
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    wait(lambda: log.exists() and 'up' in log.read_text())
    children = psutil.Process(owner.pid).children(recursive=True)
    assert children
    owner.kill()
    owner.wait()
    wait(lambda: all(gone(child.pid) for child in children))
    assert 'finished cleanly' in log.read_text()

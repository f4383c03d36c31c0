"""Whether the process that an earlier launch left is there: what decides on taking arms over."""

import subprocess
import sys
import time

import pytest

from wam_policy.nodes.stream.detached_process import is_running


@pytest.fixture
def process():
    started = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    yield started
    started.kill()
    started.wait()
    started.stdin.close()


def test_a_process_runs_until_it_has_ended(process):
    assert is_running(process.pid)
    process.kill()
    end_s = time.monotonic() + 10.0
    while is_running(process.pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    # nobody has waited for it: kill(pid, 0) still finds it
    assert process.returncode is None and not is_running(process.pid)
    process.wait()
    assert not is_running(process.pid)


@pytest.mark.parametrize('pid', [None, 'of unknown number', 2**22 + 1])
def test_what_is_no_process_does_not_run(pid):
    assert not is_running(pid)

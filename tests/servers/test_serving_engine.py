"""The engine behind the desk tells how its workers are, with a program that has no model."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from wam_policy.servers.serving_engine import ServerBackend
from wam_policy.workers.supervisor import WorkersNotReady, WorkerSpec, WorkerState

FAKE_WORKER = (sys.executable, str(Path(__file__).parents[1] / 'workers' / 'fake_worker.py'))


@pytest.fixture
def engine():
    made = []

    def of(act='nothing'):
        plan = WorkerSpec(('cpu',), ('--act0', act), program=FAKE_WORKER, restart_delay_s=0.1)
        lines = []
        made.append(ServerBackend(plan, 20.0, lines.append))
        return made[-1], lines

    yield of
    for each in made:
        each.close()


def wait_until(condition):
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_failed_workers_restart_with_empty_memories(engine):
    served, lines = engine()
    with pytest.raises(WorkersNotReady):
        served.reset('s', 'wave', 'streaming')
    status = served.start()
    assert (
        status.state is WorkerState.READY
        and not served.not_ready_reason
        and not served.has_failed_permanently
    )
    assert (served.generation, served.restarts) == (1, 0)
    os.kill(status.info['pid'], signal.SIGKILL)
    wait_until(lambda: served.not_ready_reason)
    wait_until(lambda: not served.not_ready_reason)
    assert (served.generation, served.restarts) == (2, 1)
    assert any('SIGKILL' in line for line in lines)


@pytest.mark.parametrize(('act', 'over'), [('loading:exit1', False), ('loading:exit2', True)])
def test_a_failed_start_is_reported(engine, act, over):
    served, lines = engine(act)
    status = served.start()
    assert status.state is WorkerState.FAILED and 'leaving on purpose' in status.reason
    assert (status.retry_s is None) == over
    told = []
    served.set_permanent_failure_callback(lambda: told.append(True))
    assert bool(told) == over == served.has_failed_permanently

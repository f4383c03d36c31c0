"""The loop ticks on time, counts what was late, and keeps what ended it."""

import subprocess
import sys
import time

import pytest

from wam_policy.nodes.motion.control_loop import ControlLoop


def test_ticks_come_at_their_rate_and_end_when_closed():
    ticks = []
    loop = ControlLoop(lambda: ticks.append(time.monotonic()), 0.005)
    loop.start()
    time.sleep(0.5)
    loop.close()
    count = len(ticks)
    assert 50 < count <= 101 and loop.error is None and loop.jitter_p99_ms >= 0.0
    time.sleep(0.05)
    assert len(ticks) == count


def test_a_late_tick_is_counted_and_not_made_up_for():
    ticks = []

    def tick():
        ticks.append(time.monotonic())
        if len(ticks) == 5:
            time.sleep(0.1)

    loop = ControlLoop(tick, 0.01)
    loop.start()
    time.sleep(0.4)
    loop.close()
    assert loop.late_ticks >= 1 and len(ticks) <= 32


def test_a_fault_ends_the_loop_and_is_kept():
    loop = ControlLoop(lambda: 1 / 0, 0.001)
    loop.start()
    time.sleep(0.1)
    loop.close()
    assert isinstance(loop.error, ZeroDivisionError)


# in a process of its own: what it asks for, the tests would keep
REALTIME_SCRIPT = """
import os, time
from wam_policy.nodes.motion.control_loop import ControlLoop, set_realtime_priority
allowed, seen = set_realtime_priority(), []
loop = ControlLoop(lambda: seen.append(os.sched_getparam(0).sched_priority), 0.01)
loop.start()
time.sleep(0.2)
loop.close()
print(allowed, os.sched_getparam(0).sched_priority, seen[-1], loop.error)
"""


def test_the_loop_comes_before_the_other_threads_of_a_favoured_process():
    done = subprocess.run(
        [sys.executable, '-c', REALTIME_SCRIPT], capture_output=True, text=True, check=True
    )
    allowed, others, own, error = done.stdout.split()
    assert error == 'None'
    if allowed != 'True':
        pytest.skip('this user may not ask for real time: no rtprio limit')
    assert int(own) > int(others) > 0

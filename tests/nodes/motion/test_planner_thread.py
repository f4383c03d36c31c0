"""The thread that plans and publishes: what it must not leave undone."""

import threading

import numpy as np

from wam_policy.core.motion.trajectory import held
from wam_policy.nodes.motion.planner_thread import Planner

HOLD = held(('a',), np.zeros(1), 0)


class Doubtful:
    """Be motion whose stop is held back for a while, as until a controller has reported."""

    def __init__(self, naps: int) -> None:
        self.naps, self.stop_due = naps, True

    def job(self, now_ns: int) -> None:
        self.naps -= 1
        self.stop_due = self.naps > 0


def test_closing_waits_for_a_stop_that_is_held_back_and_sends_what_was_decided():
    motion, sent = Doubtful(naps=3), []
    planner = Planner(motion, threading.Lock(), lambda: 0, lambda plan: lambda: sent.append(plan))
    planner.start()
    planner.send(HOLD)
    planner.close()
    assert not motion.stop_due and sent == [HOLD] and planner.error is None

"""The thread that plans and publishes: what it must not leave undone."""

import threading

import numpy as np

from wam_policy.core.motion.trajectory import make_hold
from wam_policy.nodes.motion.planner_thread import PlannerThread

HOLD = make_hold(('a',), np.zeros(1), 0)


class FakeMotionControl:
    """Be motion whose stop is held back for a while, as until a controller has reported."""

    def __init__(self, polls_until_ready: int) -> None:
        self.polls_until_ready, self.stop_requested = polls_until_ready, True

    def next_plan_request(self, now_ns: int) -> None:
        self.polls_until_ready -= 1
        self.stop_requested = self.polls_until_ready > 0


def test_closing_waits_for_a_stop_that_is_held_back_and_sends_what_was_decided():
    motion, sent, errors = FakeMotionControl(polls_until_ready=3), [], []
    planner = PlannerThread(
        motion, threading.Lock(), lambda: 0, lambda plan: lambda: sent.append(plan), errors.append
    )
    planner.start()
    planner.enqueue(HOLD)
    planner.close()
    assert not motion.stop_requested and sent == [HOLD] and not errors

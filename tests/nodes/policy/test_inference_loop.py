"""When predicted video is decoded: if somebody watches, seldom, and also by busy workers."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.core.session.model_requests import Query, QueryResult, Reset
from wam_policy.nodes.policy import inference_loop
from wam_policy.nodes.policy.inference_loop import InferenceLoop, LockedPolicy
from wam_policy.workers.supervisor import WorkersNotReady

STEP_NS = 100_000_000  # of a query
RESULT = QueryResult(1 / 30, np.zeros((2, 1)), np.zeros(1), {})


class BusyPolicy:
    """Always have a query to ask."""

    def __init__(self):
        self.request = Query('s', 1, None, 0, 0)

    def next_request(self, now_ns):
        return self.request

    def on_query_result(self, query, result, now_ns):
        return SimpleNamespace(sequence=1)

    def predicted_from_ns(self, query):
        return 7

    def on_published(self, *_): ...
    def on_reset_done(self, _): ...


class Harness:
    """One loop without its thread; every query takes STEP_NS."""

    def __init__(self):
        self.now_ns, self.videos, self.watched, self.is_ready = 10**18, [], True, True
        self.policy = BusyPolicy()
        self.loop = InferenceLoop(
            LockedPolicy(self.policy), lambda: self.now_ns, lambda *_: None,
            lambda from_ns, frames: self.videos.append(self.now_ns), lambda: self.watched,
            pytest.fail,
        )  # fmt: skip
        self.loop._active = True

    def execute(self, request):
        if not self.is_ready:
            raise WorkersNotReady(SimpleNamespace(state='starting', reason='test'))
        self.now_ns += STEP_NS
        return RESULT if isinstance(request, Query) else None

    def decode_video(self):
        return np.zeros((4, 2, 2, 3), np.uint8)

    def run(self, steps):
        for _ in range(steps):
            self.loop._execute_next(self)


def test_busy_workers_decode_now_and_then_for_a_viewer():
    harness = Harness()
    harness.run(200)  # 20 s of queries without a pause
    gaps_ns = np.diff(harness.videos)
    assert len(harness.videos) >= 4 and (gaps_ns >= inference_loop.VIDEO_OVERDUE_NS).all()
    harness.watched = False
    seen = len(harness.videos)
    harness.run(100)
    assert len(harness.videos) == seen


def test_a_prediction_of_a_session_that_is_gone_is_not_decoded():
    """The workers would refuse, and the policy would hold with an error."""
    harness = Harness()
    harness.watched = False
    harness.run(2)
    harness.watched = True
    harness.policy.request = Reset('t', 'lift')
    harness.loop._last_video_ns = harness.now_ns  # not overdue: the reset comes first
    harness.run(1)
    harness.now_ns += 10**10
    harness.policy.request = None
    harness.run(3)
    assert harness.videos == []
    harness.policy.request = Query('s', 2, None, 0, 0)
    harness.watched = False
    harness.run(1)
    harness.is_ready, harness.watched = False, True
    harness.loop._last_video_ns = harness.now_ns
    harness.run(1)  # the workers are gone
    harness.is_ready, harness.policy.request = True, None
    harness.now_ns += 10**10
    harness.run(3)
    assert harness.videos == []

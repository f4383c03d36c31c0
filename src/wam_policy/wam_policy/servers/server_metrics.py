"""What the server counts, for Prometheus: requests, latencies, sessions; bounded in series."""

import statistics
from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wam_policy.servers.session_manager import Desk

ENDPOINTS = ('infer', 'reset', 'commit')  # anything else a client names counts as `other`
BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class Engine(Protocol):
    """What is told of the engine; serve.engine.Engine is one."""

    @property
    def fault(self) -> str: ...
    @property
    def restarts(self) -> int: ...


class Metrics:
    """Count, and give it all as a page."""

    def __init__(self, desk: Desk, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._connections = Gauge('wam_connections', 'Open connections', registry=self._registry)
        self._requests = Counter(
            'wam_requests',
            'Requests, by endpoint and outcome',
            ('endpoint', 'outcome'),
            registry=self._registry,
        )
        self._seconds = Histogram(
            'wam_request_seconds',
            'From a whole request to its answer',
            ('endpoint', 'part'),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Live(desk, engine))

    def connected(self, change: int) -> None:
        self._connections.inc(change)

    def answered(self, endpoint: object, outcome: str, waited_s: float, worked_s: float) -> None:
        """Take a request: outcome ok | declined | failed, time in the queue and at work."""
        name = endpoint if endpoint in ENDPOINTS else 'other'
        self._requests.labels(name, outcome).inc()
        self._seconds.labels(name, 'queue').observe(waited_s)
        self._seconds.labels(name, 'work').observe(worked_s)

    def page(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return generate_latest(self._registry)


class _Live(Collector):
    """Describe workers and sessions as they are now: what ended leaves no series behind."""

    def __init__(self, desk: Desk, engine: Engine) -> None:
        self._desk, self._engine = desk, engine

    def collect(self) -> Iterable[Metric]:
        live = self._desk.live
        ready = GaugeMetricFamily(
            'wam_workers_ready',
            'Whether the workers can be asked',
            value=float(not self._engine.fault),
        )
        restarts = CounterMetricFamily(
            'wam_worker_restarts', 'Starts after a failure', value=self._engine.restarts
        )
        count = GaugeMetricFamily('wam_sessions', 'Sessions with a memory')
        count.add_metric([], len(live))
        evictions = CounterMetricFamily('wam_evictions', 'Sessions that made room for another')
        evictions.add_metric([], self._desk.evictions)
        answers = GaugeMetricFamily(
            'wam_session_answers', 'Answers of a live session', labels=['session']
        )
        median = GaugeMetricFamily(
            'wam_session_median_seconds', 'Median time of its answers', labels=['session']
        )
        for number, session in enumerate(live):
            label = [f'{number} {session.name}']  # clients may give two the same name
            answers.add_metric(label, session.infers)
            taken_ms = list(session.taken_ms)
            if taken_ms:
                median.add_metric(label, statistics.median(taken_ms) / 1e3)
        return [ready, restarts, count, evictions, answers, median]

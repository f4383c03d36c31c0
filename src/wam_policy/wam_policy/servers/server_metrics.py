"""Prometheus metrics of the server: requests, latencies, sessions; bounded in number of series."""

import statistics
from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wam_policy.servers.session_manager import SessionManager

ENDPOINTS = ('infer', 'reset', 'commit')  # any other endpoint counts as `other`
BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class BackendHealth(Protocol):
    """Health of the workers; ServerBackend implements it."""

    @property
    def not_ready_reason(self) -> str: ...
    @property
    def restarts(self) -> int: ...


class ServerMetrics:
    """Count requests and connections, and render the metrics page."""

    def __init__(self, session_manager: SessionManager, backend: BackendHealth) -> None:
        self._registry = CollectorRegistry()
        self._connections = Gauge('wam_connections', 'Open connections', registry=self._registry)
        self._requests = Counter(
            'wam_requests',
            'Requests, by endpoint and outcome',
            ('endpoint', 'outcome'),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            'wam_request_seconds',
            'Seconds from receiving a request to its answer, by part',
            ('endpoint', 'part'),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_SessionCollector(session_manager, backend))

    def add_connections(self, delta: int) -> None:
        self._connections.inc(delta)

    def count_request(
        self, endpoint: object, outcome: str, queued_s: float, processing_s: float
    ) -> None:
        """Count a request: outcome ok | declined | failed | gone, seconds queued and processed."""
        name = endpoint if endpoint in ENDPOINTS else 'other'
        self._requests.labels(name, outcome).inc()
        self._request_seconds.labels(name, 'queue').observe(queued_s)
        self._request_seconds.labels(name, 'work').observe(processing_s)

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _SessionCollector(Collector):
    """Collect the state of workers and sessions; a session that ended has no series."""

    def __init__(self, session_manager: SessionManager, backend: BackendHealth) -> None:
        self._session_manager, self._backend = session_manager, backend

    def collect(self) -> Iterable[Metric]:
        live = self._session_manager.active_sessions
        ready = GaugeMetricFamily(
            'wam_workers_ready',
            '1 if the workers are ready for requests',
            value=float(not self._backend.not_ready_reason),
        )
        restarts = CounterMetricFamily(
            'wam_worker_restarts', 'Starts after a failure', value=self._backend.restarts
        )
        count = GaugeMetricFamily('wam_sessions', 'Open sessions')
        count.add_metric([], len(live))
        evictions = CounterMetricFamily(
            'wam_evictions', 'Sessions ended because all memories were in use'
        )
        evictions.add_metric([], self._session_manager.eviction_count)
        answers = GaugeMetricFamily(
            'wam_session_answers', 'Answers in an open session', labels=['session']
        )
        median = GaugeMetricFamily(
            'wam_session_median_seconds',
            'Median time to answer in an open session',
            labels=['session'],
        )
        for number, session in enumerate(live):
            label = [f'{number} {session.name}']  # names of two clients can be equal
            answers.add_metric(label, session.infer_count)
            taken_ms = list(session.latencies_ms)
            if taken_ms:
                median.add_metric(label, statistics.median(taken_ms) / 1e3)
        return [ready, restarts, count, evictions, answers, median]

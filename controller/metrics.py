"""Everything Prometheus is told. docs/metrics.md is made from this file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.model import BackendName

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds: from an execution in a warm sandbox to a start that pulls its image."""

Family = CounterMetricFamily | GaugeMetricFamily
Values = Mapping[tuple[str, ...], float]
"""Value of each combination of labels."""


@dataclass(frozen=True)
class Described:
    """One metric, for the page about them."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str


class Metrics:
    """The metrics of one controller, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            self.described.append(Described(f"sandbox_{name}_total", "counter", labels, text))
            return Counter(f"sandbox_{name}", text, labels, registry=self.registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            self.described.append(Described(f"sandbox_{name}_seconds", "histogram", labels, text))
            return Histogram(f"sandbox_{name}_seconds", text, labels, registry=self.registry, buckets=BUCKETS)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            self.described.append(Described(f"sandbox_{name}", "gauge", labels, text))
            return Gauge(f"sandbox_{name}", text, labels, registry=self.registry)

        self.docker_up = gauge("docker_up", "1 while the Docker daemon answers, 0 while it does not.")
        self.docker_wanted = gauge(
            "docker_wanted", "1 if sandboxes are meant to run on Docker, whether it answers or not."
        )
        self.ping = seconds("docker_ping", "How long the Docker daemon took to answer a health question.")
        self.mock = gauge("mock_mode", "1 while new sandboxes run on mock, WITHOUT ANY ISOLATION.")
        self.backend_seconds = seconds("backend_operation", "Operations on a backend.", "backend", "operation")
        self.backend_errors = counter(
            "backend_errors", "Operations on a backend that failed, by reason.", "backend", "operation", "reason"
        )
        self.created = counter("created", "Sandboxes that were started.", "backend")
        self.deleted = counter("deleted", "Sandboxes that were removed with every trace.", "backend")
        self.orphans = counter("orphans", "Containers of ours without an object, removed by the sweep.", "backend")
        self.stage = seconds(
            "start",
            "From the first look at an object to its running sandbox, by stage: claimed, started, total (told in the status).",
            "backend",
            "stage",
        )
        self.results = counter("results", "Sandboxes that ended, by reason of their result.", "backend", "reason")
        self.start_failures = counter("start_failures", "Starts that failed, by reason.", "backend", "reason")
        self.writes = counter("api_writes", "Writes to the Kubernetes API.", "verb", "resource")
        self.last_sweep = gauge(
            "last_sweep_timestamp_seconds", "When objects and containers were last compared in full."
        )
        self.watch_lag = gauge(
            "watch_lag_seconds", "How long the watch has been behind a full list of objects; 0: it is not."
        )
        self.reconciles = counter("reconciles", "Passes over one sandbox, by outcome.", "outcome")
        self.executions = counter("executions", "Executions that ended.", "backend", "path", "outcome")
        self.execution_seconds = seconds("execution", "Executions, by stage: first_byte, total.", "backend", "stage")
        self.executing = gauge("executions_running", "Executions under way.", "backend")
        self.refused = counter("executions_refused", "Executions refused, by reason.", "reason")
        self.dropped = counter("output_dropped_bytes", "Output of executions beyond its limit.", "backend")
        for backend in (
            BackendName.DOCKER,
            BackendName.MOCK,
        ):  # a counter that begins at 1 has never increased, to Prometheus
            for each in (self.created, self.deleted, self.orphans):
                each.labels(backend)
        self.reconnects: dict[str, Callable[[], int]] = {}
        """Backend -> what reads its count."""
        self.read_at_scrape(
            "sandbox_agent_reconnects_total",
            "Links to agents in sandboxes that were lost and opened again.",
            ("backend",),
            lambda: {(backend,): read() for backend, read in self.reconnects.items()},
        )
        ProcessCollector(registry=self.registry)

    def read_at_scrape(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Values]) -> None:
        """A counter (its name ends in _total) or gauge that is read when it is asked for, so that it is never stale."""
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        self.described.append(Described(name, "counter" if family is CounterMetricFamily else "gauge", labels, text))
        self.registry.register(_AtScrape(lambda: family(name, text, labels=labels), read))


class _AtScrape(Collector):
    def __init__(self, family: Callable[[], Family], read: Callable[[], Values]) -> None:
        self._family, self._read = family, read

    def describe(self) -> Iterable[Metric]:
        yield self._family()

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for labels, value in sorted(self._read().items()):
            family.add_metric(list(labels), value)
        yield family

"""What this process counts and measures, in the words of Prometheus; the page: docs/metrics.md.

Knows nothing of where the numbers come from: it is told, or is given a reading when somebody asks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from typing_extensions import override

from control.model import STARTING_STATES, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from control.model import Sandbox

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PARTS = ("database", "routes", "scheduler")

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_ANSWER_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
_START_SECONDS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_WAIT_SECONDS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0)
_KINDS = {State.CREATING: "create", State.RESTORING: "restore"}
_OUTCOMES = {State.STARTED: "started", State.ERROR: "failed"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is true at a moment.

    Attributes:
        sandboxes: how many there are in each state; None if the database does not say.
        silent: the ``PARTS`` that did not answer when they were last asked.
        leads: whether this control is the one that reconciles.
        waiting: how many sandboxes wait for a worker of the reconcile loop, ``working`` how many
            have one.
        resync_age: seconds since everything was last compared; None if it never was.
        failures: how often a sandbox had to wait, by the name of the error.
        silences: how often a part did not answer when asked for everything.
    """

    sandboxes: Mapping[str, int] | None
    silent: Collection[str]
    leads: bool
    waiting: int
    working: int
    resync_age: float | None
    failures: Mapping[str, int]
    silences: Mapping[str, int]


class Metrics:
    """Everything that is told of one control.

    Attributes:
        waits: told how long each sandbox waited for a worker, in seconds.
    """

    def __init__(self) -> None:
        # Each has a second series with the time of its first value, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._begun: dict[str, tuple[str, float]] = {}
        Info("yurt_build", "Which version this is.", registry=registry).info(
            {"version": version("yurt-server")}
        )
        self._answers = Histogram(
            "yurt_http_request_duration_seconds",
            "From a request's head until its answer begins.",
            ("method", "route", "status"),
            buckets=_ANSWER_SECONDS,
            registry=registry,
        )
        self._starts = Histogram(
            "yurt_start_duration_seconds",
            "From the wish for a sandbox to run until it is ready, or will not be.",
            ("kind", "outcome"),
            buckets=_START_SECONDS,
            registry=registry,
        )
        self.waits = Histogram(
            "yurt_reconcile_wait_seconds",
            "How long a sandbox waited for a worker of the reconcile loop.",
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self._sandboxes = _gauge(registry, "yurt_sandboxes", "Sandboxes by state.", "state")
        self._parts = _gauge(registry, "yurt_part_up", "Whether a part answers.", "part")
        self._leads = _gauge(registry, "yurt_reconcile_leader", "Whether this one reconciles.")
        self._waiting = _gauge(registry, "yurt_reconcile_queue_length", "Sandboxes that wait.")
        self._working = _gauge(registry, "yurt_reconcile_in_progress", "Sandboxes in work.")
        self._resync_age = _gauge(
            registry, "yurt_resync_age_seconds", "Since everything was last compared."
        )
        self._counts = _Counts()
        registry.register(self._counts)
        ProcessCollector(registry=registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note an answer; ``route`` is a template, never a path, of which there is no end."""
        named = method if method in _METHODS else "OTHER"
        self._answers.labels(named, route, str(status)).observe(seconds)

    def noticed(self, sandbox: Sandbox) -> None:
        """Note what a record has become: starts begin and end by that."""
        now = time.monotonic()
        if sandbox.state in STARTING_STATES:
            kind = _KINDS.get(sandbox.state, "start")
            self._begun.setdefault(sandbox.id, (kind, now))
            return
        begun = self._begun.pop(sandbox.id, None)
        if begun is not None:
            outcome = _OUTCOMES.get(sandbox.state, "given up")
            self._starts.labels(begun[0], outcome).observe(now - begun[1])

    def text(self, reading: Reading) -> bytes:
        """Write everything as of now, for `CONTENT_TYPE`."""
        self._sandboxes.clear()
        for state, count in (reading.sandboxes or {}).items():
            self._sandboxes.labels(state).set(count)
        for part in PARTS:
            self._parts.labels(part).set(part not in reading.silent)
        self._leads.set(reading.leads)
        self._waiting.set(reading.waiting)
        self._working.set(reading.working)
        age = reading.resync_age
        self._resync_age.set(float("nan") if age is None else age)
        self._counts.failures, self._counts.silences = reading.failures, reading.silences
        return generate_latest(self._registry)


class _Counts(Collector):
    """Counts that others keep."""

    def __init__(self) -> None:
        self.failures: Mapping[str, int] = {}
        self.silences: Mapping[str, int] = {}

    @override
    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield _counter(
            "yurt_reconcile_failures", "Sandboxes that had to wait.", "error", self.failures
        )
        yield _counter("yurt_part_errors", "Times that a part failed.", "part", self.silences)


def _gauge(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=registry)


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family

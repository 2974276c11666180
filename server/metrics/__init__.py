"""Metrics: the Prometheus families of one app.

Each app has its own registry, so that tests can build several.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from server.metrics.engine import EngineCollector, MetricsSource
from server.metrics.families import Families
from server.metrics.llama_server import LlamaServerMetrics
from server.metrics.requests import (
    ABORTED,
    DecoderMetrics,
    HttpMetrics,
    PictureMetrics,
    RequestMetrics,
    StepMetrics,
)

__all__ = ["ABORTED", "Metrics", "MetricsSource"]

# A second series beside each counter and histogram, which the text format has no use for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """What the server counts.

    There is one web process, and it holds every counter. The engine's own numbers cross the pipe
    with each step and are read here; when the engine is started again they begin at 0, which
    Prometheus' rate() and increase() take for the reset that it is.
    """

    def __init__(self, source: MetricsSource, model: str = "") -> None:
        self._registry = CollectorRegistry()
        families = Families(self._registry, model)
        self.requests = RequestMetrics(families)
        self.pictures = PictureMetrics(families)
        self.decoders = DecoderMetrics(families)
        self.http = HttpMetrics(families)
        self._registry.register(EngineCollector(source, model))
        self._registry.register(LlamaServerMetrics(source, self.requests.totals))
        ProcessCollector(registry=self._registry)
        ProcessCollector("llava_engine", lambda: _pid(source), registry=self._registry)
        source.watch(StepMetrics(families, self.pictures).take)

    def failed(self, status: int, code: str | None) -> None:
        """A request was answered with an error, before or in its stream."""
        self.requests.failed(status, code)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


def _pid(source: MetricsSource) -> int:
    """The engine's process id, or one that cannot be: then there are no numbers of it."""
    return source.ready.pid if source.ready else -1

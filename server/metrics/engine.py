"""What is looked up when Prometheus asks: the engine's own numbers, so that nothing goes stale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server import __version__
from server.messages import EngineReady, SchedulerStats
from server.metrics.memory import memory

# What the engine counts itself, by the name of its field in SchedulerStats.
_TOTALS = {
    "preemptions": ("llava_num_preemptions", "Requests put back for want of cells"),
    "busy_seconds": ("llava_engine_busy_seconds", "Time in which the engine's loop did not wait"),
    "llama_seconds": ("llava_engine_llama_seconds", "The part of it in llama.cpp"),
    "prefix_queries": ("llava_prefix_cache_queries", "Prompt tokens looked up in the KV cache"),
    "prefix_hits": ("llava_prefix_cache_hits", "Prompt tokens found in the KV cache"),
    "image_cache_queries": ("llava_mm_cache_queries", "Pictures looked up before an encode"),
    "image_cache_hits": ("llava_mm_cache_hits", "Pictures whose embeddings were kept"),
}


class MetricsSource(Protocol):
    """What is looked up when Prometheus asks."""

    @property
    def ready(self) -> EngineReady | None:
        """Facts of the loaded model."""

    @property
    def stats(self) -> SchedulerStats:
        """The last step's statistics."""

    @property
    def restarts(self) -> int:
        """How often the engine was started again."""


class EngineCollector(Collector):
    """Reads the engine's state at the time of the scrape, so nothing goes stale."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """All families that are looked up, not counted."""
        stats = self._source.stats
        used = stats.kv_cells_used / stats.kv_cells_total if stats.kv_cells_total else 0.0
        yield _gauge("llava_num_requests_running", "Requests in the batch", stats.num_running)
        yield _gauge("llava_num_requests_waiting", "Requests in the queue", stats.num_waiting)
        yield _gauge("llava_kv_cache_usage_perc", "Used part of the KV cache, 0 to 1", used)
        kept = stats.image_cache_bytes
        yield _gauge("llava_mm_cache_bytes", "Bytes of picture embeddings that are kept", kept)
        for field, (name, text) in _TOTALS.items():
            yield CounterMetricFamily(name, text, getattr(stats, field))
        yield CounterMetricFamily(
            "llava_engine_restarts", "Engine processes started again", self._source.restarts
        )
        ready = self._source.ready
        yield _build(ready)
        if ready is not None:
            yield from memory(ready.memory)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value)


def _build(ready: EngineReady | None) -> Metric:
    family = GaugeMetricFamily(
        "llava_build_info",
        "Versions; always 1",
        labels=("version", "llama_cpp_python", "backends"),
    )
    build = ready.build if ready else None
    backends = ",".join(build.backends) if build else ""
    family.add_metric((__version__, build.llama_cpp_python if build else "", backends), 1)
    return family

"""What is looked up when Prometheus asks: the engine's own numbers, so that nothing goes stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server import __version__
from server.engine_state import EngineState
from server.messages import EngineReady, SchedulerStats, StepOutputs
from server.metrics.families import MODEL
from server.metrics.memory import memory

# What the engine counts itself, by the name of its field in SchedulerStats.
_TOTALS = {
    "preemptions": ("llava_num_preemptions", "Requests put back for want of cells"),
    "busy_seconds": ("llava_engine_busy_seconds", "Time in which the engine's loop did not wait"),
    "llama_seconds": ("llava_engine_llama_seconds", "The part of it in llama.cpp"),
    "encode_seconds": ("llava_engine_encode_seconds", "Time in the vision tower"),
    "decodes": ("llava_engine_decodes", "Batches of tokens computed"),
    "prefix_queries": ("llava_prefix_cache_queries", "Prompt tokens looked up in the KV cache"),
    "prefix_hits": ("llava_prefix_cache_hits", "Prompt tokens found in the KV cache"),
    "prompt_cache_hits": (
        "llava_prompt_cache_hits",
        "Those of them that came from the RAM, which they had been moved to",
    ),
    "image_cache_queries": ("llava_mm_cache_queries", "Pictures looked up before an encode"),
    "image_cache_hits": ("llava_mm_cache_hits", "Pictures whose embeddings were kept"),
    "image_cache_disk_hits": ("llava_mm_cache_disk_hits", "Pictures whose embeddings were on disk"),
}


class MetricsSource(Protocol):
    """What is looked up when Prometheus asks, and what tells of each step."""

    @property
    def state(self) -> EngineState:
        """Whether requests can come."""

    @property
    def ready(self) -> EngineReady | None:
        """Facts of the loaded model."""

    @property
    def stats(self) -> SchedulerStats:
        """The last step's statistics."""

    @property
    def restarts(self) -> int:
        """How often the engine was started again."""

    @property
    def laid_aside(self) -> int:
        """How many requests left the engine because their reader had stopped."""

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        """Call ``on_step`` with all that comes from the engine, on the event loop."""


class EngineCollector(Collector):
    """Reads the engine's state at the time of the scrape, so nothing goes stale."""

    def __init__(self, source: MetricsSource, model: str) -> None:
        self._source = source
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """All families that are looked up, not counted."""
        stats = self._source.stats
        used = stats.kv_cells_used / stats.kv_cells_total if stats.kv_cells_total else 0.0
        yield self._gauge("llava_num_requests_running", "Requests in the batch", stats.num_running)
        yield self._gauge("llava_num_requests_waiting", "Requests in the queue", stats.num_waiting)
        yield self._gauge("llava_kv_cache_usage_perc", "Used part of the KV cache, 0 to 1", used)
        kept = stats.image_cache_bytes
        yield self._gauge("llava_mm_cache_bytes", "Bytes of picture embeddings that are kept", kept)
        kept = stats.prompt_cache_bytes
        text = "Bytes of prompts in the RAM, moved there from the KV cache"
        yield self._gauge("llava_prompt_cache_bytes", text, kept)
        up = self._source.state is EngineState.READY
        yield self._gauge("llava_engine_up", "1 while the model is loaded and serves", up)
        for field, (name, text) in _TOTALS.items():
            yield self._counter(name, text, getattr(stats, field))
        yield self._counter(
            "llava_engine_restarts", "Engine processes started again", self._source.restarts
        )
        yield self._counter(
            "llava_requests_laid_aside",
            "Requests that left the engine because nobody read",
            self._source.laid_aside,
        )
        ready = self._source.ready
        yield self._build(ready)
        if ready is not None:
            yield self._encoder(ready)
            yield self._gauge(
                "llava_model_load_seconds", "How long the model took to load", ready.load_seconds
            )
            yield from memory(ready, stats, self._model)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[MODEL])
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=[MODEL])
        family.add_metric([self._model], value)
        return family

    def _build(self, ready: EngineReady | None) -> Metric:
        build = ready.build if ready else None
        labels = {
            "version": __version__,
            "llama_cpp_python": build.llama_cpp_python if build else "",
            "backends": ",".join(build.backends) if build else "",
        }
        return self._info("llava_build_info", "Versions; always 1", labels)

    def _encoder(self, ready: EngineReady) -> Metric:
        vision = ready.vision
        labels = {
            "backend": vision.backend if vision else "none",
            "projector": vision.projector if vision else "",
            "image_size": str(vision.image_size) if vision else "",
            "undone": ",".join(vision.undone) if vision else "",
        }
        text = "Where the vision tower runs, and its faults that were undone; always 1"
        return self._info("llava_image_encoder_info", text, labels)

    def _info(self, name: str, text: str, labels: dict[str, str]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[MODEL, *labels])
        family.add_metric([self._model, *labels.values()], 1)
        return family

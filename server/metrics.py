"""The Prometheus families. Each app has its own registry, so that tests can build several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server import __version__
from server.messages import EncodedImage, EngineReady, SchedulerStats

_SHORT = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)

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

ABORTED = "abort"
_REASONS = ("stop", "length", ABORTED)


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


class Metrics:
    """Counts what requests do. Cheap enough to be called for each of them, from any thread."""

    def __init__(self, source: MetricsSource) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(source))
        self._prompt_tokens = self._counter("llava_prompt_tokens", "Prompt tokens, pictures too")
        self._generation_tokens = self._counter("llava_generation_tokens", "Tokens generated")
        self._image_tokens = self._counter("llava_image_tokens", "Prompt tokens of pictures")
        self._images = self._counter("llava_images", "Pictures in prompts")
        self._success = self._counter("llava_request_success", "Ended requests", "finished_reason")
        self._failed = self._counter("llava_requests_failed", "Errors answered", "status", "code")
        self._first_token = self._histogram(
            "llava_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            _LONG,
        )
        self._latency = self._histogram(
            "llava_e2e_request_latency_seconds", "From a request's arrival to its end", _LONG
        )
        self._encode = self._histogram(
            "llava_image_encode_seconds", "Vision encoder, per picture; 0 from a cache", _SHORT
        )
        self._decode = self._histogram(
            "llava_image_decode_seconds", "Decoding and resizing a picture", _SHORT
        )
        self._by_reason = {reason: self._success.labels(reason) for reason in _REASONS}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def admitted(self, prompt_tokens: int, image_tokens: int) -> None:
        """A prompt was counted and fits."""
        self._prompt_tokens.inc(prompt_tokens)
        self._image_tokens.inc(image_tokens)

    def first_token(self, seconds: float) -> None:
        """A request's first token came."""
        self._first_token.observe(seconds)

    def decoded(self, seconds: float) -> None:
        """A picture was read, decoded and resized."""
        self._decode.observe(seconds)

    def encoded(self, image: EncodedImage) -> None:
        """A picture went through the vision tower."""
        self._images.inc()
        self._encode.observe(image.encode_seconds)

    def finished(self, reason: str, completion_tokens: int, seconds: float) -> None:
        """A request ended: ``stop``, ``length``, or ``abort`` when its client left."""
        self._by_reason[reason].inc()
        self._generation_tokens.inc(completion_tokens)
        self._latency.observe(seconds)

    def failed(self, status: int, code: str | None) -> None:
        """A request was answered with an error, before or in its stream."""
        self._failed.labels(str(status), code or "").inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
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
            yield from _memory(ready)


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


def _memory(ready: EngineReady) -> Iterator[Metric]:
    parts = GaugeMetricFamily(
        "llava_memory_bytes", "Memory that llama.cpp allocated", labels=("part", "device")
    )
    for part in ready.memory.parts:
        parts.add_metric((part.part, part.device), part.bytes)
    yield parts
    devices = GaugeMetricFamily(
        "llava_device_memory_bytes", "A device's memory after loading", labels=("device", "kind")
    )
    for device in ready.memory.devices:
        devices.add_metric((device.name, "free"), device.free)
        devices.add_metric((device.name, "total"), device.total)
    yield devices

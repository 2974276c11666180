"""What is looked up when Prometheus asks: the engine's own numbers, so that nothing goes stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server import __version__
from server.engine_client.interface import EngineState
from server.memory.measured.live import LiveDevice, LiveMemory, live_memory, nvml
from server.messages import EngineReady, SchedulerStats, StepOutputs
from server.metrics.families import MODEL

# Text and labels, beside the model's name.
_FAMILIES = {
    "llava_memory_bytes": (
        "Bytes of a part on a device, planned and as allocated",
        *("part", "device", "kind"),
    ),
    "llava_device_memory_bytes": (
        "A device's memory: total, free, and used by the engine",
        *("device", "kind"),
    ),
    "llava_device_utilization_ratio": ("How busy a GPU is, 0 to 1 (NVML)", "device"),
    "llava_device_temperature_celsius": ("A GPU's temperature (NVML)", "device"),
    "llava_ram_bytes": (
        "RAM of the server's processes: their own, mapped files, the most of both so far",
        *("process", "kind"),
    ),
    "llava_model_layers": ("Layers, the output layer counted", "kind"),
    "llava_kv_cache_cells": ("Cells of the KV cache", "kind"),
}

_Sample = tuple[tuple[str, ...], float | None]


def memory(ready: EngineReady, stats: SchedulerStats, model: str) -> Iterator[Metric]:
    """Parts, devices, processes, layers and cells of a loaded model."""
    live = live_memory(ready, stats, nvml())
    report = ready.memory
    layers = _pairs(("offloaded", report.layers_offloaded), ("total", report.layers))
    cells = _pairs(("used", live.cells_used), ("total", live.cells_total))
    samples: dict[str, Iterable[_Sample]] = {
        "llava_memory_bytes": _parts(live),
        "llava_device_memory_bytes": _devices(live),
        "llava_device_utilization_ratio": _each(live, lambda one: _ratio(one.utilization)),
        "llava_device_temperature_celsius": _each(live, lambda one: one.temperature),
        "llava_ram_bytes": _processes(live),
        "llava_model_layers": layers,
        "llava_kv_cache_cells": cells,
    }
    for name, (text, *labels) in _FAMILIES.items():
        family = GaugeMetricFamily(name, text, labels=(MODEL, *labels))
        for values, value in samples[name]:
            if value is not None:
                family.add_metric((model, *values), value)
        yield family


def _pairs(*pairs: tuple[str, int]) -> Iterator[_Sample]:
    for label, value in pairs:
        yield (label,), value


def _each(live: LiveMemory, read: Callable[[LiveDevice], float | None]) -> Iterator[_Sample]:
    for device in live.devices:
        yield (device.memory.name,), read(device)


def _parts(live: LiveMemory) -> Iterator[_Sample]:
    for part in live.parts:
        yield (part.part, part.device, "predicted"), part.predicted
        yield (part.part, part.device, "measured"), part.measured


def _devices(live: LiveMemory) -> Iterator[_Sample]:
    for device in live.devices:
        memory = device.memory
        for kind, size in (("total", memory.total), ("free", memory.free), ("used", memory.used)):
            yield (memory.name, kind), size


def _processes(live: LiveMemory) -> Iterator[_Sample]:
    for name, process in (("engine", live.engine), ("web", live.web)):
        if process is not None:
            yield (name, "anonymous"), process.anonymous
            yield (name, "mapped"), process.mapped
            yield (name, "peak"), process.peak


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


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
    def pauses(self) -> int:
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
        text = "Requests that left the engine because their client did not read"
        yield self._counter("llava_requests_paused", text, self._source.pauses)
        text = "Old name of llava_requests_paused_total, for one more version"
        yield self._counter("llava_requests_laid_aside", text, self._source.pauses)
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

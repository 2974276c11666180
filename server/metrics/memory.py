"""Where the memory went, as families."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from server.messages import MemoryReport
from server.metrics.families import MODEL


def memory(report: MemoryReport, model: str) -> Iterator[Metric]:
    """Parts and devices of a finished load."""
    parts = GaugeMetricFamily(
        "llava_memory_bytes", "Memory that llama.cpp allocated", labels=(MODEL, "part", "device")
    )
    for part in report.parts:
        parts.add_metric((model, part.part, part.device), part.bytes)
    yield parts
    devices = GaugeMetricFamily(
        "llava_device_memory_bytes",
        "A device's memory after loading",
        labels=(MODEL, "device", "kind"),
    )
    for device in report.devices:
        devices.add_metric((model, device.name, "free"), device.free)
        devices.add_metric((model, device.name, "total"), device.total)
    yield devices

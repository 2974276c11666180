"""Where the memory went, as families."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from server.messages import MemoryReport


def memory(report: MemoryReport) -> Iterator[Metric]:
    """Parts and devices of a finished load."""
    parts = GaugeMetricFamily(
        "llava_memory_bytes", "Memory that llama.cpp allocated", labels=("part", "device")
    )
    for part in report.parts:
        parts.add_metric((part.part, part.device), part.bytes)
    yield parts
    devices = GaugeMetricFamily(
        "llava_device_memory_bytes", "A device's memory after loading", labels=("device", "kind")
    )
    for device in report.devices:
        devices.add_metric((device.name, "free"), device.free)
        devices.add_metric((device.name, "total"), device.total)
    yield devices

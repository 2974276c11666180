"""Memory as of now: the RAM and the processes from the system, cards from a stand-in for NVML."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
from fakes import FakeEngine, call, engine_ready
from memory_fakes import GIB, gpu, ram
from stand_in_nvml import FakeNvml

from server.api.app import create_app
from server.api.options import ApiOptions
from server.memory.measured import live
from server.memory.measured.live import live_memory
from server.memory.measured.nvml import GpuReading, Nvml
from server.messages import EngineReady, FitDecision, MemoryPart, SchedulerStats


def with_card() -> EngineReady:
    ready = engine_ready()
    memory = replace(
        ready.memory,
        devices=(gpu(0, 5 * GIB, total=24 * GIB, used=19 * GIB), ram()),
        parts=(*ready.memory.parts, MemoryPart("image_cache", "CPU", 256, None)),
        layers_offloaded=5,
        encoder="CUDA0",
        decisions=(FitDecision("--ctx-size", "8192", "because"),),
        margins=(("CUDA0", 512), ("CPU", 256)),
    )
    return replace(ready, memory=memory, pid=os.getpid(), parallel=4)


def test_nvml_reads_a_card_by_its_address() -> None:
    nvml = Nvml(FakeNvml())
    reading = nvml.read("0000:00:00.0", {os.getpid()})
    assert reading == GpuReading(3 * GIB, 24 * GIB, 20 * GIB, 87, 61)
    assert nvml.read("0000:09:00.0", {os.getpid()}) is None
    strangers = nvml.read("0000:00:00.0", {2**22 + 1})
    assert strangers is not None
    assert strangers.used is None, "in a container the driver's numbers are not ours"


def test_what_nvml_does_not_know_is_unknown() -> None:
    nvml = Nvml(FakeNvml(used=True, utilization=True, temperature=True))
    assert nvml.read("0000:00:00.0", set()) == GpuReading(3 * GIB, 24 * GIB, None, None, None)


def test_nvml_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml.open() is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(init=True))
    assert Nvml.open() is None, "a package without a driver"
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert Nvml.open() is not None


def test_now_is_read_and_not_remembered() -> None:
    stats = SchedulerStats(kv_cells_used=10, kv_cells_total=8192, image_cache_bytes=77)
    found = live_memory(with_card(), stats, Nvml(FakeNvml()))
    card, host = found.devices
    assert (card.memory.free, card.memory.used) == (3 * GIB, 20 * GIB)
    assert (card.utilization, card.temperature) == (87, 61)
    assert host.memory.total == live.read_ram().total
    assert found.parts[-1].measured == 77
    assert found.engine is not None
    assert host.memory.used == pytest.approx(found.engine.resident, rel=0.1)


def test_without_nvml_a_card_is_as_it_was_when_the_model_was_ready() -> None:
    card, _ = live_memory(with_card(), SchedulerStats(), None).devices
    assert (card.memory.free, card.memory.used, card.temperature) == (5 * GIB, 19 * GIB, None)


def test_an_engine_that_is_gone_holds_nothing() -> None:
    found = live_memory(replace(with_card(), pid=2**22 + 1), SchedulerStats(), None)
    assert found.engine is None
    assert found.devices[1].memory.used == 0


def test_the_endpoint_tells_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    live.nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    stats = SchedulerStats(kv_cells_used=10, kv_cells_total=100)
    app = create_app(FakeEngine(ready=with_card(), stats=stats), ApiOptions())
    body = call(app, "GET", "/v1/memory").json()
    text = call(app, "GET", "/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    live.nvml.cache_clear()
    card = body["devices"][0]
    assert (card["name"], card["free"], card["used"]) == ("CUDA0", 3 * GIB, 20 * GIB)
    assert (card["utilization"], card["temperature"], card["backend"]) == (87, 61, "CUDA")
    assert body["parts"][0] == {
        "part": "weights", "device": "CPU", "predicted": 1990, "measured": 2000,
        "estimated": False,
    }  # fmt: skip
    assert body["planned"] == {"CPU": 1990 + 510 + 256}
    assert body["allocated"] == {"CPU": 2500}
    assert body["cells"] == {"total": 100, "used": 10, "free": 90}
    assert (body["layers"], body["layers_offloaded"], body["encoder"]) == (5, 5, "CUDA0")
    assert (body["parallel"], body["margins"]) == (4, {"CUDA0": 512, "CPU": 256})
    assert body["decisions"] == [{"setting": "--ctx-size", "value": "8192", "reason": "because"}]
    assert body["processes"]["engine"]["anonymous"] > 0
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    labels = {"device": "CUDA0"}
    assert value(found, "llava_device_utilization_ratio", labels) == 0.87
    assert value(found, "llava_device_temperature_celsius", labels) == 61
    assert value(found, "llava_device_memory_bytes", {**labels, "kind": "used"}) == 20 * GIB
    part = {"device": "CPU", "part": "weights"}
    assert value(found, "llava_memory_bytes", {**part, "kind": "predicted"}) == 1990
    assert value(found, "llava_memory_bytes", {**part, "kind": "measured"}) == 2000
    assert value(found, "llava_kv_cache_cells", {"kind": "used"}) == 10
    assert value(found, "llava_model_layers", {"kind": "offloaded"}) == 5
    own = {"process": "engine", "kind": "anonymous"}
    assert value(found, "llava_ram_bytes", own) > 0


def value(found: dict[str, float], name: str, labels: dict[str, str]) -> float:
    """The one sample of a family that has these labels, whatever else it has."""
    (key,) = (
        key
        for key in found
        if key.startswith(name + "{") and all(f'{k}="{v}"' in key for k, v in labels.items())
    )
    return found[key]

"""Devices and the RAM: what llama.cpp may use, and how much of it this process may have."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_fakes import GIB, MIB, gpu, ram

from server.engine.llama.ggml import build_facts, device_handle, ggml, list_devices
from server.errors import ConfigError
from server.memory.fit.fit import balanced, filled
from server.memory.fit.pools import named_devices, offload_devices, pools_of, ram_of
from server.memory.measured.live import measure_used
from server.memory.measured.system import read_process, read_ram
from server.messages import DeviceMemory

CPU = ram()


def names(devices: tuple[DeviceMemory, ...]) -> list[str]:
    return [device.name for device in devices]


def test_this_machine_has_a_processor_and_its_memory() -> None:
    devices = list_devices()
    cpu = ram_of(devices)
    assert (cpu.name, cpu.kind, cpu.backend) == ("CPU", "cpu", "CPU")
    assert 0 < cpu.free <= cpu.total <= psutil.virtual_memory().total
    assert device_handle("CPU")
    assert device_handle("CUDA7") is None
    assert build_facts(devices).backends == tuple(names(devices))


def test_the_devices_are_those_of_llama_cpp_itself() -> None:
    """A library opened by its path would be a second one, with a list of devices of its own."""
    own = ctypes.CDLL(llama_cpp.llama_cpp._lib._name, handle=llama_cpp.llama_cpp._lib._handle)
    names = ("ggml_backend_dev_count", "ggml_backend_dev_get_props", "ggml_backend_rpc_add_server")
    for name in names:
        ours, its = getattr(ggml(), name), getattr(own, name)
        assert ctypes.cast(ours, ctypes.c_void_p).value == ctypes.cast(its, ctypes.c_void_p).value


def test_which_devices_llama_cpp_offloads_to() -> None:
    blas = DeviceMemory("BLAS", "OpenBLAS", "accel", 0, 0, "BLAS")
    igpu = gpu(0, name="Vulkan0", kind="igpu", backend="Vulkan", device_id="")
    twin = gpu(0, name="Vulkan1", backend="Vulkan")
    remote = gpu(5, name="RPC0", backend="RPC", device_id="")
    assert offload_devices([CPU]) == ()
    assert offload_devices([blas, CPU]) == ()
    assert names(offload_devices([gpu(0), gpu(1), CPU])) == ["CUDA0", "CUDA1"]
    assert names(offload_devices([gpu(0), twin, CPU])) == ["CUDA0"], "the same card again"
    assert names(offload_devices([gpu(0), igpu, CPU])) == ["CUDA0"]
    assert names(offload_devices([igpu, CPU])) == ["Vulkan0"]
    assert names(offload_devices([gpu(0), igpu, remote, CPU])) == ["RPC0", "CUDA0"]
    assert names(offload_devices([igpu, remote, CPU])) == ["RPC0", "Vulkan0"]
    other = gpu(0, name="SYCL0", kind="igpu", backend="SYCL", device_id="")
    assert names(offload_devices([igpu, other, CPU])) == ["Vulkan0"], "seen by two backends"
    blank = [gpu(0, name=f"X{i}", device_id="") for i in range(2)]
    assert names(offload_devices([*blank, CPU])) == ["X0", "X1"], "no address tells nothing"


def test_gpus_are_chosen_by_name() -> None:
    igpu = gpu(3, kind="igpu", name="Vulkan0")
    here = [gpu(0), igpu, gpu(1), CPU]
    assert names(named_devices(here, ())) == ["CUDA0", "CUDA1"]
    assert names(named_devices(here, ("CUDA1", "Vulkan0"))) == ["CUDA1", "Vulkan0"]
    assert named_devices(here, ("none",)) == ()
    words = "--device CPU: no GPU has that name; there are CUDA0, Vulkan0, CUDA1"
    with pytest.raises(ConfigError, match=words):
        named_devices(here, ("CPU",))
    with pytest.raises(ConfigError, match="there is no GPU here"):
        named_devices([CPU], ("CUDA0",))


def test_pools_keep_a_margin_and_know_shared_memory() -> None:
    one, host = gpu(0, 8 * GIB), ram(16 * GIB)
    first, last = pools_of([one, host], [one], None)
    assert (first.devices, first.room) == (("CUDA0",), 8 * GIB - 512 * MIB)
    assert (last.devices, last.room) == (("CPU",), 16 * GIB - 512 * MIB)
    small = gpu(0, 2 * GIB)
    assert pools_of([small, host], [small], None)[0].margin == 256 * MIB
    assert pools_of([small, host], [small], 3 * GIB)[0].room == 0
    metal = gpu(0, 12 * GIB, name="MTL0", backend="MTL")
    assert [p.devices for p in pools_of([metal, host], [metal], 0)] == [("MTL0",), ("CPU", "MTL0")]
    blind = gpu(0, host.free, total=host.total, backend="X")  # reports no memory of its own
    assert pools_of([blind, host], [blind], 0)[-1].devices == ("CPU", "CUDA0")


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def cgroup(root: Path, line: str) -> None:
    write(root / "proc/self", cgroup=line)


def test_without_a_group_the_machine_counts(tmp_path: Path) -> None:
    found = read_ram(tmp_path)
    memory = psutil.virtual_memory()
    assert (found.total, found.limited) == (memory.total, False)
    assert abs(found.available - memory.available) < memory.total / 4


def test_a_group_of_version_2_and_those_above_it(tmp_path: Path) -> None:
    cgroup(tmp_path, "0::/a/b")
    top = tmp_path / "sys/fs/cgroup"
    write(top / "a/b", memory__max="max", memory__current=100 * MIB)
    stat = f"anon 5\ninactive_file {60 * MIB}"
    write(top / "a", memory__max=200 * MIB, memory__current=150 * MIB, memory__stat=stat)
    found = read_ram(tmp_path)
    assert (found.total, found.available, found.limited) == (200 * MIB, 110 * MIB, True)
    write(top / "a/b", memory__max=120 * MIB, memory__current=100 * MIB)
    found = read_ram(tmp_path)
    assert (found.total, found.available) == (120 * MIB, 20 * MIB)


def test_inside_a_container_the_group_is_at_the_top(tmp_path: Path) -> None:
    cgroup(tmp_path, "0::/docker/0123")
    write(tmp_path / "sys/fs/cgroup", memory__max=100 * MIB, memory__current=130 * MIB)
    found = read_ram(tmp_path)
    assert (found.total, found.available) == (100 * MIB, 0), "over the limit is not below zero"


def test_a_group_of_version_1(tmp_path: Path) -> None:
    cgroup(tmp_path, "5:devices:/x\n4:cpu,memory:/x\n0::/")
    write(
        tmp_path / "sys/fs/cgroup/memory/x",
        memory__limit_in_bytes=300 * MIB,
        memory__usage_in_bytes=250 * MIB,
        memory__stat=f"total_inactive_file {100 * MIB}",
    )
    write(tmp_path / "sys/fs/cgroup/memory", memory__limit_in_bytes=2**63 - 4096,
          memory__usage_in_bytes=0)  # fmt: skip
    found = read_ram(tmp_path)
    assert (found.total, found.available, found.limited) == (300 * MIB, 150 * MIB, True)


def test_what_a_process_holds(tmp_path: Path) -> None:
    write(tmp_path / "7", status=(
        "Name:\tx\nVmHWM:\t   900 kB\nRssAnon:\t   100 kB\nRssFile:\t   30 kB\n"
        "RssShmem:\t   3 kB\nVmSwap:\t   50 kB"
    ))  # fmt: skip
    found = read_process(7, tmp_path)
    assert found is not None
    assert (found.anonymous, found.mapped, found.peak) == (150 << 10, 33 << 10, 900 << 10)
    assert found.resident == 183 << 10
    assert read_process(2**22 + 1) is None
    mine = read_process()
    assert mine is not None
    assert mine.anonymous > MIB


def test_use_of_a_card_is_what_loading_took() -> None:
    before = (gpu(0, 10 * GIB), CPU)
    now = (gpu(0, 4 * GIB), CPU)
    card, host = measure_used(before, now)
    assert card.used == 6 * GIB
    assert host.used is not None
    assert host.used > MIB
    assert measure_used((CPU,), now)[0].used is None, "a card that was not there before"


@given(st.integers(0, 100), st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_balanced_spreads_every_layer(n_layers: int, rooms: list[int]) -> None:
    counts = balanced(n_layers, rooms)
    assert sum(counts) == n_layers
    assert len(counts) == len(rooms)
    if sum(rooms):
        exact = [n_layers * room / sum(rooms) for room in rooms]
        assert all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
)
def test_filled_finds_a_split_wherever_there_is_one(layers: list[int], rooms: list[int]) -> None:
    def taken(gpu: int, counts: tuple[int, ...]) -> int:
        start = sum(counts[:gpu])
        return sum(layers[start : start + counts[gpu]])

    def has_room(gpu: int, counts: tuple[int, ...]) -> bool:
        return taken(gpu, counts) <= rooms[gpu]

    found = filled(len(layers), len(rooms), has_room)
    exists = any(
        all(has_room(gpu, counts) for gpu in range(len(rooms)))
        for counts in _splits(len(layers), len(rooms))
    )
    assert (found is not None) == exists
    if found:
        assert all(has_room(gpu, found) for gpu in range(len(rooms)))


def _splits(total: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(total,)]
    return [(n, *rest) for n in range(total + 1) for rest in _splits(total - n, parts - 1)]

"""Devices of rpc-servers, without one: names, pools, greetings, refusals, turns."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from memory_fakes import GIB, MIB, gpu, ram

from server.cli.main import main
from server.cli.plan.machine import this_machine
from server.engine.llama.ggml import build_facts
from server.engine.llama.rpc import PROTOCOL, buffer_names, greet
from server.engine.llama.rpc_server import ReportedMemory, chosen
from server.engine.loading.loader import Exhausted, exhausted
from server.engine.vision.encoders import choose_cuts
from server.errors import ConfigError, StartupError
from server.memory.fit.pools import pools_of
from server.memory.fit.search_space import Placement
from server.memory.measured.report import measured_parts
from server.messages import DeviceMemory

HERE, THERE = "127.0.0.1:50052", "10.0.0.2:50052"


def remote(index: int, address: str = THERE, free: int = 8 * GIB, **changes: Any) -> DeviceMemory:
    fields = {"name": f"RPC{index}", "description": address, "backend": "RPC", "device_id": ""}
    return gpu(index, free, **{**fields, **changes})


def test_llama_cpp_s_names_of_buffers_become_those_of_devices() -> None:
    """It numbers buffers at each server, devices through all of them."""
    devices = [remote(0), remote(1), remote(2, HERE), gpu(0), ram()]
    names = buffer_names(devices)
    assert names == {
        f"RPC0[{THERE}]": "RPC0",
        f"RPC1[{THERE}]": "RPC1",
        f"RPC0[{HERE}]": "RPC2",
    }
    line = "load_tensors: RPC2 model buffer size =    12.50 MiB"
    assert measured_parts([line]) == {("weights", "RPC2"): round(12.5 * MIB)}
    failed = "ggml_gallocr_reserve_n_impl: failed to allocate RPC2 buffer of size 1"
    assert exhausted([failed]) is Exhausted.GPU


def test_a_build_with_rpc_alone_offloads_to_no_card() -> None:
    assert build_facts([gpu(0), ram()]).gpu_offload
    assert not build_facts([remote(0), ram()]).gpu_offload


def test_a_server_here_that_serves_all_of_the_ram_shares_it() -> None:
    host = ram(16 * GIB)
    whole = remote(0, HERE, 15 * GIB, total=host.total)
    part, elsewhere = remote(1, HERE, 2 * GIB), remote(2, THERE, total=host.total)
    pools = pools_of([whole, part, elsewhere, host], [whole, part, elsewhere], 0)
    assert [pool.devices for pool in pools] == [("RPC0",), ("RPC1",), ("RPC2",), ("CPU", "RPC0")]


def place(layers: int, *, encoder: bool, split: tuple[float, ...] = ()) -> Placement:
    return Placement(layers, 512, 1, encoder_on_gpu=encoder, tensor_split=split)


def test_tower_and_model_take_turns_at_one_server() -> None:
    """It computes one thing at a time, and llama.cpp mixes up the graphs of two threads."""
    pair = (remote(0), remote(1, HERE))
    assert choose_cuts(place(0, encoder=False), (), 0) is not None
    assert choose_cuts(place(0, encoder=False), pair, 0) is not None
    assert choose_cuts(place(9, encoder=True), pair, 0) is not None
    assert choose_cuts(place(9, encoder=True, split=(0, 1)), pair, 0) is None, "another server"
    assert choose_cuts(place(9, encoder=True, split=(1, 0)), pair, 0) is not None
    assert choose_cuts(place(9, encoder=True, split=(0, 9)), (remote(0), remote(1)), 0) is not None
    assert choose_cuts(place(0, encoder=True), pair, 0) is None, "the model is on the processor"
    assert choose_cuts(place(9, encoder=False), pair, 0) is None
    assert choose_cuts(place(9, encoder=True), (gpu(0),), 0) is None, "a card of this machine"


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A program that answers a greeting in that way; None: it never does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            line, _ = listener.accept()
            with line:
                if answer is None:
                    done.wait(5)
                    return
                assert line.recv(1 + 8 + 24) == struct.pack("<BQ", 14, 24) + bytes(24)
                line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "serves one client at a time"),
        (b"", "no rpc-server of llama.cpp"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n0123456789", "no rpc-server of llama.cpp"),
        (struct.pack("<QB", 28, PROTOCOL - 1) + bytes(27), "use the same release"),
    ],
)
def test_what_answers_is_refused_in_one_line(answer: bytes | None, words: str) -> None:
    with answering(answer) as address, pytest.raises(StartupError, match=words) as caught:
        greet(address, 0.3)
    assert caught.value.message.startswith(f"--rpc {address}: ")
    assert "\n" not in caught.value.message


def test_a_server_that_can_be_used() -> None:
    with answering(struct.pack("<QB", 28, PROTOCOL) + bytes(27)) as address:
        greet(address)


def test_an_address_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for address, words in ((f"127.0.0.1:{port}", "refused"), ("no.such.host.invalid:1", "connect")):
        with pytest.raises(StartupError, match=words) as caught:
            this_machine([address])
        assert caught.value.message.startswith(f"--rpc {address}: cannot connect (")


def test_which_devices_are_served() -> None:
    igpu = gpu(3, kind="igpu", name="Vulkan0")
    assert [d.name for d in chosen([gpu(0), igpu, ram()], ())] == ["CUDA0", "Vulkan0"]
    assert [d.name for d in chosen([ram()], ())] == ["CPU"]
    assert [d.name for d in chosen([gpu(0), gpu(1), ram()], ("CPU", "CUDA1"))] == ["CPU", "CUDA1"]
    with pytest.raises(ConfigError, match="--device CUDA9: there is none; there are CUDA0, CPU"):
        chosen([gpu(0), ram()], ("CUDA9",))


def test_what_a_card_offers_is_what_is_free_below_the_limit() -> None:
    offered = ReportedMemory.__new__(ReportedMemory)
    offered._is_cpu, offered._most = False, 4 * GIB
    assert offered.limited(24 * GIB, 24 * GIB) == (4 * GIB, 4 * GIB)
    assert offered.limited(21 * GIB, 24 * GIB) == (GIB, 4 * GIB)
    assert offered.limited(GIB, 24 * GIB) == (0, 4 * GIB)
    offered._most = None
    assert offered.limited(21 * GIB, 24 * GIB) == (21 * GIB, 24 * GIB)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "--port 70000: must be from 0 to 65535"),
        (["--host", "::1"], "takes names and IPv4 addresses"),
        (["--mem", "8"], "did you mean 8GiB?"),
        (["--devices", "CPU"], "did you mean --device?"),
    ],
)
def test_wrong_flags_of_rpc_server(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rpc-server", *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_port_in_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert main(["rpc-server", "--port", port]) == 1
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}: in use by another program" in error


def test_plan_takes_servers_or_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--rpc", "10.0.0.2:1", "--device-memory", "8GiB"]) == 2
    assert "--rpc: --device-memory and --ram describe another machine" in capsys.readouterr().err

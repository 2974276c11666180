"""A device that is not the processor: rpc-servers on loopback, which llama.cpp takes for GPUs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from asking import BLUE, RED, answer, shape
from lending import RpcServer
from live import ROOT, LiveServer

MIB = 1 << 20
FLAGS = ("--threads", "1", "--ctx-size", "2048", "--parallel", "2", "--cache-ram", "16")
COUNT: Any = {"role": "user", "content": "Count."}
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcServer]:
    with RpcServer(tmp_path_factory.mktemp("lent"), "--mem", "2GiB") as server:
        yield server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcServer]:
    with RpcServer(tmp_path_factory.mktemp("other"), "--mem", "1GiB") as server:
        yield server


def client_of(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60)


def replies(client: openai.OpenAI) -> list[str]:
    """Greedy answers about pictures and words alone."""
    pictures = (shape("circle", RED), shape("square", BLUE))
    asked = [answer(client, picture, QUESTION, max_tokens=24) for picture in pictures]
    return [*asked, answer(client, "Name a colour.", max_tokens=24)]


@pytest.fixture(scope="module")
def expected(client: openai.OpenAI) -> list[str]:
    """What the processor alone answers."""
    return replies(client)


def memory_of(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/v1/memory").json()
    return found


def check_memory(server: LiveServer) -> dict[str, dict[str, int]]:
    """Bytes measured by device and part; what was planned is near enough."""
    found: dict[str, dict[str, int]] = {}
    for part in memory_of(server)["parts"]:
        measured, predicted = part["measured"], part["predicted"]
        if part["part"] in {"image_cache", "prompt_cache"}:
            continue
        assert measured is not None, part
        assert predicted is not None, f"{part} was not planned"
        slack = 0.25 * measured + MIB // 2 if part["estimated"] else 0.01 * MIB + 0.01 * measured
        assert abs(predicted - measured) <= slack, part
        found.setdefault(part["device"], {})[part["part"]] = measured
    return found


def check(server: LiveServer, expected: list[str], tower: str, parts: set[str]) -> None:
    """Answers, and where things lie, by report and by metrics."""
    with client_of(server) as client:
        assert replies(client) == expected
    found, measured = memory_of(server), check_memory(server)
    assert parts <= measured["RPC0"].keys()
    assert ("vision_encoder" in measured["RPC0"]) == (tower == "RPC0")
    assert found["encoder"] == tower
    (device,) = (device for device in found["devices"] if device["name"] == "RPC0")
    assert device["total"] == 2 << 30
    # What the other process grew by: pages that were touched, and its own book-keeping.
    held = sum(measured["RPC0"].values())
    assert 0.5 * held < device["used"] < 1.5 * held + 16 * MIB
    assert re.search(
        r'llava_memory_bytes\{device="RPC0",kind="measured"',
        httpx.get(f"{server.url}/metrics").text,
    )


@pytest.mark.parametrize(
    ("layers", "tower", "parts"),
    [("2", "CPU", {"weights", "kv_cache", "compute"}), ("0", "RPC0", {"vision_encoder"})],
)
def test_some_of_it_on_the_device(
    tmp_path: Path, lent: RpcServer, expected: list[str], layers: str, tower: str, parts: set[str]
) -> None:
    place = "cpu" if tower == "CPU" else "gpu"
    flags = ("--rpc", lent.address, "--n-gpu-layers", layers, "--mmproj-offload", place)
    with LiveServer(tmp_path, *FLAGS, *flags) as server:
        check(server, expected, tower, parts)


def test_all_of_it_on_the_device_and_streams_beside_encodes(
    tmp_path: Path, lent: RpcServer, client: openai.OpenAI, expected: list[str]
) -> None:
    """Encode and decode share one connection, and a device that remembers one graph."""
    kinds = [("circle", RED), ("square", BLUE), ("square", RED), ("circle", BLUE)]
    pictures = [shape(*kind, (side, side)) for kind in kinds for side in (200, 260)]
    alone = [answer(client, picture, QUESTION, max_tokens=24) for picture in pictures]
    flags = ("--rpc", lent.address, "--n-gpu-layers", "all", "--mmproj-offload", "gpu")
    with LiveServer(tmp_path, *FLAGS, *flags) as server, client_of(server) as mine:
        check(server, expected, "RPC0", {"weights", "kv_cache", "compute", "vision_encoder"})
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(answer, mine, each, QUESTION, max_tokens=24) for each in pictures]
            assert [each.result() for each in asked] == alone
        done = run("plan", "--rpc", lent.address)
        assert done.returncode == 1
        assert "serves one client at a time" in done.stderr


def test_layers_are_split_over_two_servers(
    tmp_path: Path, lent: RpcServer, other: RpcServer, expected: list[str]
) -> None:
    flags = ("--rpc", f"{lent.address},{other.address}", "--tensor-split", "1,3", "--main-gpu", "1")
    with LiveServer(tmp_path, *FLAGS, *flags) as server, client_of(server) as client:
        assert replies(client) == expected
        parts = check_memory(server)
        assert parts["RPC1"]["kv_cache"] > parts["RPC0"]["kv_cache"] > 0
        assert "vision_encoder" in parts["RPC1"]
    both = ("--rpc", f"{lent.address},{other.address}")
    done = run("plan", "--json", "--device", "RPC1", *both)
    parts = {part["device"] for part in json.loads(done.stdout)["parts"]}
    assert parts == {"RPC1", "CPU"}, "the other one is left alone"


def test_the_fit_keeps_to_what_a_server_offers(tmp_path: Path, expected: list[str]) -> None:
    flags = ("--ctx-size", "4096", "--parallel", "2", "--memory-margin", "1MiB", "--threads", "1")
    with RpcServer(tmp_path / "rpc", "--mem", "64MiB") as small:
        with LiveServer(tmp_path, *flags, "--rpc", small.address) as server:
            with client_of(server) as client:
                assert replies(client) == expected
            parts = check_memory(server)
            assert sum(parts["RPC0"].values()) <= 63 * MIB
        done = run("plan", "--json", *flags[:-2], "--rpc", small.address)
        assert any(device["name"] == "RPC0" for device in json.loads(done.stdout)["devices"])


def test_a_server_that_dies_comes_back_and_then_stays_away(tmp_path: Path) -> None:
    """A stream pauses; an engine that cannot come back ends the server, as any other does."""
    with RpcServer(tmp_path / "rpc", "--mem", "1GiB") as lent:
        flags = ("--rpc", lent.address, "--n-gpu-layers", "all", "--engine-restart", "exit")
        with LiveServer(tmp_path, *FLAGS, *flags) as server, client_of(server) as client:
            options: dict[str, Any] = {"max_tokens": 1000, "extra_body": {"ignore_eos": True}}
            engine = server.engine_pid()
            with ThreadPoolExecutor(1) as pool:
                stream = client.chat.completions.create(
                    model="demo", messages=[COUNT], temperature=0, stream=True, **options
                )
                chunks = iter(stream)
                first = next(chunks)
                lent.stop(signal.SIGKILL)
                rest = pool.submit(list, chunks)
                until(server, "the engine was lost")
                lent.start()
                got = [first, *rest.result(60)]
            assert got[-1].choices[0].finish_reason == "length"
            assert server.engine_pid() != engine
            assert "1 request continues" in server.log
            whole = answer(client, "Count.", **options)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in got)[:40] == whole[:40]
            lent.stop(signal.SIGKILL)
            with pytest.raises(openai.APIError):
                answer(client, "Count.", **options)
            assert server.process.wait(60) == 1
            assert f"--rpc {lent.address}: cannot connect (Connection refused)" in server.log
            assert "Traceback" not in server.log


def until(server: LiveServer, words: str) -> None:
    deadline = time.monotonic() + 60
    while words not in server.log:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)


def run(*line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", *line]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )


def test_an_address_without_a_server_ends_the_start_in_one_line() -> None:
    done = run("serve", "--port", "0", "--rpc", "127.0.0.1:1")
    assert done.returncode == 1
    assert "--rpc 127.0.0.1:1: cannot connect (Connection refused); start" in done.stderr


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(tmp_path: Path, sig: int) -> None:
    with RpcServer(tmp_path) as lent:
        assert "no password" in lent.log
        assert lent.stop(sig) == 0
        assert "Traceback" not in lent.log

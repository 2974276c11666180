"""Start, death and end of the processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import openai
import pytest
from asking import RED, answer, shape
from gguf_files import copy_metadata, finish
from live import DEMO, ROOT, LiveServer, children, engines, gone
from stand_in_hub import serving

# In the environment of what run_serve starts: other tests run at the same time.
MARK = "STARTED_BY_TEST"
LLM, MMPROJ = DEMO / "llava-demo-q8_0.gguf", DEMO / "llava-demo-mmproj-f16.gguf"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_processes(tmp_path: Path, sig: int) -> None:
    with LiveServer(tmp_path) as server:
        engine = server.engine_pid()
        assert server.stop(sig) == 0
        assert gone(engine)
        assert "Traceback" not in server.log


def test_a_signal_while_loading_ends_both_processes(tmp_path: Path) -> None:
    server = LiveServer(tmp_path)
    deadline = time.monotonic() + 20
    while not engines(server.process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started = children(server.process.pid)
    assert server.stop() == 0
    assert all(gone(each) for each in started)
    assert "Traceback" not in server.log


def test_a_web_process_that_is_killed_takes_engine_and_decoders_with_it(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        deadline = time.monotonic() + 20
        started: list[int] = []
        # The engine, what decoders are forked from, and two of them; these may come last.
        while len(started) < 4:
            assert time.monotonic() < deadline
            started = children(server.process.pid)
            started += [below for child in started for below in children(child)]
        server.process.kill()
        assert all(gone(each) for each in started)


def run_serve(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """``llava-server serve`` that is expected to fail by itself."""
    quiet = ("--port", "0", "--log-level", "error", "--cache-dir", str(folder / "cache"))
    return subprocess.run(
        [sys.executable, "-m", "server", "serve", *quiet, *flags],
        cwd=ROOT,
        env={**os.environ, MARK: str(os.getpid())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that the operator is told."""
    assert result.returncode == code, result.stderr
    (line,) = [
        line for line in result.stderr.splitlines() if line.startswith("llava-server: error")
    ]
    assert "Traceback" not in result.stderr
    assert not orphans()
    return line


def orphans() -> list[str]:
    """Engine processes of ``run_serve`` that are still there after their web process."""
    mark = f"{MARK}={os.getpid()}".encode()
    found = []
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = stat.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = mark in (stat.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if "-m server.engine" in command and ours:
            found.append(command)
    return found


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    line = one_line(run_serve(tmp_path, "--model", str(tmp_path / "gone.gguf")), 2)
    assert "gone.gguf" in line


@pytest.mark.parametrize("content", [b"", b"just text", b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_a_file_that_is_not_gguf_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.gguf"
    file.write_bytes(content)
    assert "odd.gguf" in one_line(run_serve(tmp_path, "--model", str(file)), 1)
    flags = ("--model", str(LLM), "--mmproj", str(file))
    assert "odd.gguf" in one_line(run_serve(tmp_path, *flags), 1)


def test_a_mismatched_mmproj_is_refused_with_both_dimensions(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    copy_with_other_width(MMPROJ, other)
    line = one_line(run_serve(tmp_path, "--model", str(LLM), "--mmproj", str(other)), 1)
    assert "other.gguf" in line
    assert "192" in line
    assert "256" in line


def copy_with_other_width(source: Path, target: Path) -> None:
    """The mmproj with its projector's output padded from 192 to 256 rows."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "clip")
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name.startswith("mm.2."):
            pad = [(0, 64)] + [(0, 0)] * (data.ndim - 1)
            data = np.pad(data, pad)
        writer.add_tensor(tensor.name, data)
    finish(writer)


def test_a_port_in_use_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_line(run_serve(tmp_path, "--port", str(port)), 1)
    assert str(port) in line


def test_a_port_in_use_by_a_server_of_ours_is_named(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        line = one_line(run_serve(tmp_path, "--port", port), 1)
        assert f"llava-server (pid {server.process.pid}, model demo)" in line
        assert "--port" in line


def test_the_port_is_open_while_the_model_is_downloaded(tmp_path: Path) -> None:
    with serving() as hub:
        hub.files = {
            "us/tiny/tiny-q8_0.gguf": LLM.read_bytes(),
            "us/tiny/mmproj-f16.gguf": MMPROJ.read_bytes(),
        }
        hub.held.set()
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        server = LiveServer(tmp_path, "--model", "hf:us/tiny", env=env)
        try:
            address = until_found(server, r"listening on (\S+);")
            health = until_answered(f"http://{address}/health", "download")
            assert health["status"] == "loading"
            assert health["progress"]["total_bytes"] == LLM.stat().st_size
            assert httpx.get(f"http://{address}/v1/models").status_code == 503
            assert "downloading tiny-q8_0.gguf" in server.log
            hub.held.clear()
            server.wait_ready()
            assert httpx.get(f"{server.url}/props").json()["model_alias"] == "tiny"
            assert "downloaded tiny-q8_0.gguf" in server.log
        finally:
            hub.held.clear()
            assert server.stop() == 0


def test_ctrl_c_ends_a_download_at_once(tmp_path: Path) -> None:
    with serving() as hub:
        hub.files = {"us/tiny/tiny-q8_0.gguf": LLM.read_bytes()}
        hub.held.set()
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        server = LiveServer(tmp_path, "--model", "hf:us/tiny", env=env)
        try:
            until_found(server, r"downloading (\S+),")
            start = time.monotonic()
            assert server.stop(signal.SIGINT) == 0
            assert time.monotonic() - start < 5
            assert "Traceback" not in server.log
        finally:
            hub.held.clear()


def until_found(server: LiveServer, pattern: str) -> str:
    deadline = time.monotonic() + 30
    while not (found := re.search(pattern, server.log)):
        assert time.monotonic() < deadline, server.log
        assert server.process.poll() is None, server.log
        time.sleep(0.05)
    return found[1]


def until_answered(url: str, stage: str) -> dict[str, Any]:
    """What /health says once it has come to a stage."""
    deadline = time.monotonic() + 30
    while True:
        try:
            told: dict[str, Any] = httpx.get(url, timeout=2).json()
        except httpx.TransportError:
            told = {}
        if (told.get("progress") or {}).get("stage") == stage:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_an_engine_that_cannot_come_back_ends_the_server(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(LLM.read_bytes())
    with LiveServer(tmp_path, "--model", str(model)) as server:
        model.rename(tmp_path / "away.gguf")
        os.kill(server.engine_pid(), signal.SIGKILL)
        assert server.process.wait(60) == 1
    last = server.log.splitlines()[-1]
    assert last.startswith("llava-server: error: the engine cannot be restarted: ")
    assert "Traceback" not in server.log


def test_a_file_whose_name_is_no_utf_8_is_served(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"B\xe4r")
    folder.mkdir()
    for file in (LLM, MMPROJ):
        (folder / file.name).write_bytes(file.read_bytes())
    flags = ("--model", str(folder / LLM.name), "--mmproj", str(folder / MMPROJ.name))
    with (
        LiveServer(tmp_path, *flags) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client,
    ):
        assert "red" in answer(client, shape("circle", RED), "What colour is the circle?")
        assert httpx.get(f"{server.url}/props").status_code == 200


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    assert "--ctx-size" in one_line(run_serve(tmp_path, "--ctx-size", "many"), 2)
    assert "--image-size" in one_line(run_serve(tmp_path, "--image-size", "100"), 2)
    assert "--batch-size" in one_line(run_serve(tmp_path, "--batch-size", "4", "-np", "4"), 2)


def test_a_small_batch_serves_all_the_same(tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path, "--batch-size", "16", "--parallel", "2") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client,
    ):
        assert "red" in answer(client, shape("circle", RED), "What colour is the circle?")

"""The small parts around the app: its socket, what systemd and the terminal are told."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine_client.watch import LoadSizes, size_of
from server.errors import ConfigError
from server.logs import text_format
from server.messages import EngineConfig, EngineProgress
from server.serve.lifecycle import Life
from server.serve.listener import Listener, bind, inherited, notify, permit_files
from server.serve.main import refuse_exposure
from server.serve.progress import Downloads, show
from server.settings.settings import Settings


@pytest.mark.parametrize(
    ("host", "given", "refused"),
    [
        ("127.0.0.1", {}, False),
        ("0.0.0.0", {}, True),
        ("0.0.0.0", {"insecure": True}, False),
        ("0.0.0.0", {"api_key": "k"}, False),
        ("0.0.0.0", {"api_key_file": "keys.toml"}, False),
        ("::1", {}, False),
        ("::", {}, True),
    ],
)
def test_without_a_key_only_this_machine_is_served(
    host: str, given: dict[str, Any], refused: bool
) -> None:
    try:
        listener = bind(host, 0)
    except Exception:
        pytest.skip(f"no {host} here")
    settings = Settings(**given)
    try:
        if refused:
            with pytest.raises(ConfigError, match="--insecure"):
                refuse_exposure(settings, listener)
        else:
            refuse_exposure(settings, listener)
    finally:
        listener.close()


def test_a_socket_of_unix_is_this_machine_s(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "socket"))
        listener = Listener(line)
        assert not listener.public
        assert listener.url == str(tmp_path / "socket")


def test_sockets_for_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited() is None
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(ConfigError, match="one socket"):
        inherited()
    assert "LISTEN_FDS" not in os.environ, "the engine is not to take them for its own"
    assert inherited() is None


def test_more_connections_than_files_are_refused() -> None:
    permit_files(1)
    with pytest.raises(ConfigError, match="--max-connections"):
        permit_files(10**9)


def test_systemd_is_told_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notify("READY=1")  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert line.recv(100) == b"READY=1"
    notify("STOPPING=1")  # nobody listens any more


def config(folder: Path) -> EngineConfig:
    for part in (1, 2):
        (folder / f"m-{part:05}-of-00002.gguf").write_bytes(b"x" * 500)
    (folder / "mmproj.gguf").write_bytes(b"x" * 200)
    model = folder / "m-00001-of-00002.gguf"
    return EngineConfig(model, folder / "mmproj.gguf", folder, 0, 1, 1)


def test_the_bytes_loaded_are_those_of_all_files(tmp_path: Path) -> None:
    sizes = LoadSizes(config(tmp_path))

    def loaded(stage: str, fraction: float) -> tuple[int, int]:
        told = sizes.add_to(EngineProgress(stage, fraction))
        assert (told.stage, told.fraction) == (stage, fraction)
        return told.loaded_bytes, told.total_bytes

    assert loaded("weights", 0.5) == (500, 1200)
    assert loaded("vision tower", 0.5) == (1100, 1200)
    assert loaded("context", 0.0) == (1200, 1200)
    assert size_of(tmp_path / "none.gguf") == 0


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        return True


class Loading:
    """Something half loaded."""

    def __init__(self, stage: str = "weights") -> None:
        self.progress: EngineProgress | None = EngineProgress(
            stage, 0.5, 50 * 1024**2, 100 * 1024**2
        )

    def report(self, progress: EngineProgress) -> None:
        self.progress = progress


def shown(loading: Loading, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)

    async def look() -> None:
        task = asyncio.ensure_future(show(loading))
        await asyncio.sleep(0.8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(look())
    return stream.getvalue()


@pytest.mark.parametrize("screen", [True, False])
def test_a_terminal_shows_a_bar_and_a_log_does_not(
    screen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(Loading(), Terminal() if screen else io.StringIO(), monkeypatch)
    assert ("loading weights" in text and "50.0M/100M" in text) is screen


def test_a_stage_without_bytes_shows_its_seconds_and_no_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown(Loading("warm-up"), Terminal(), monkeypatch)
    assert "loading: warm-up, 0 s" in text
    assert "B/s" not in text.rpartition("loading: warm-up")[2]


@pytest.mark.parametrize("screen", [True, False])
def test_downloads_are_reported_and_where_there_is_no_bar_logged_each_tenth(
    screen: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if screen else io.StringIO())
    caplog.set_level("INFO", "server")
    loading = Loading()
    downloads = Downloads(loading)
    for done in range(0, 2001, 7):
        downloads("m.gguf", min(done, 2000), 2000)
    downloads("m.gguf", 2000, 2000)
    assert loading.progress == EngineProgress("download", 1.0, 2000, 2000, "m.gguf")
    first, *tenths, last = caplog.messages
    assert first.startswith("downloading m.gguf, 0.00 GB")
    assert last.startswith("downloaded m.gguf in 0 s")
    wanted = [] if screen else [f"downloading m.gguf: {tenth}0 %" for tenth in range(1, 10)]
    assert tenths == wanted


@pytest.mark.parametrize("screen", [True, False])
def test_a_log_line_on_a_terminal_takes_the_bar_s_place(screen: bool) -> None:
    stream = Terminal() if screen else io.StringIO()
    record = logging.LogRecord("server.x", logging.INFO, "", 1, "hello", (), None)
    line = text_format(stream, {}).format(record)
    assert line.startswith("\r\x1b[K") is screen
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    server.x: hello$", line)


def test_the_journal_writes_the_time_itself(tmp_path: Path) -> None:
    record = logging.LogRecord("server.x", logging.INFO, "", 1, "hello", (), None)
    with (tmp_path / "journal").open("w") as stream:
        stat = os.fstat(stream.fileno())
        ours = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
        assert text_format(stream, ours).format(record) == "INFO    server.x: hello"
        # A variable that was inherited by something whose output goes elsewhere.
        others = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"}
        assert text_format(stream, others).format(record).startswith("20")


class Ending:
    """A server on a shared socket, to which one more connection comes as it stops to accept."""

    def __init__(self) -> None:
        self.listener = SimpleNamespace(shared=True)
        self.connections: list[str] = []
        self.answered = False
        self.stopped: list[bool] = []
        self.in_work = 0

    def drain(self, *, refuse: bool) -> None:
        assert not refuse, "another one answers on this socket"

    async def stop_accepting(self) -> None:
        # asyncio makes an accepted connection some turns of the loop later.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self.connections.append, "late")
        loop.call_later(0.2, self._answer)

    def _answer(self) -> None:
        self.connections.clear()
        self.answered = True

    def stop(self, *, now: bool) -> None:
        self.stopped.append(self.answered)


def test_a_connection_that_was_just_accepted_is_waited_for() -> None:
    ending: Any = Ending()

    async def end() -> None:
        life = Life(ending, ending, 5.0)
        life._stop("SIGTERM")
        await asyncio.wait_for(life.ending.wait(), 5)

    asyncio.run(end())
    assert ending.stopped == [True]

"""The server on a terminal: what it shows, Ctrl-C at any moment, and a window that is closed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx
import pytest
from live import ROOT, LiveServer, engines, gone

CTRL_C = b"\x03"
# nohup itself would write to a file.
NOHUP = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
ENDLESS = {"messages": [{"role": "user", "content": "Go on."}], "ignore_eos": True, "stream": True}


class Window:
    """``llava-server serve`` in a terminal of its own. ``seen`` is all that was written to it."""

    def __init__(self, folder: Path, *flags: str, before: tuple[str, ...] = ()) -> None:
        line = [sys.executable, "-m", "server", "serve", "--port", "0", *flags]
        line = [*before, *line, "--cache-dir", str(folder / "cache")]
        self.pid, self._screen = pty.fork()
        if self.pid == 0:
            # As a shell in a terminal starts it: tests in the background inherit an ignored Ctrl-C.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(ROOT)
            os.execvp(line[0], line)
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.seen = ""
        self.code: int | None = None

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.close()

    def press(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def close(self) -> None:
        if self._screen >= 0:
            os.close(self._screen)
            self._screen = -1

    def read(self, words: str, seconds: float = 60) -> None:
        """Returns once the words are on the screen."""
        end = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < end, self.seen
            assert self._read(), f"it ended:\n{self.seen}"

    def _read(self) -> bool:
        if select.select([self._screen], [], [], 0.1)[0]:
            try:
                piece = os.read(self._screen, 65536)
            except OSError:
                return False
            self.seen += piece.decode(errors="replace")
        return True

    def wait(self, seconds: float = 30) -> int:
        """Its exit code, or minus the signal that ended it."""
        end = time.monotonic() + seconds
        while True:
            if self._screen >= 0:
                self._read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                return self.code
            assert time.monotonic() < end, f"it goes on:\n{self.seen}"
            time.sleep(0.02)

    @property
    def url(self) -> str:
        found = re.search(r"serving on (http://[\d.:]+)", self.seen)
        assert found, self.seen
        return found[1]

    @property
    def lines(self) -> list[str]:
        """The screen as a person sees it, without what was written over."""
        rows = [row.rpartition("\r")[2] for row in self.seen.replace("\r\n", "\n").split("\n")]
        return [re.sub(r"\x1b\[\w", "", row).rstrip() for row in rows]


def test_the_start_fits_a_few_lines_and_the_bar_is_not_among_them(tmp_path: Path) -> None:
    with Window(tmp_path) as window:
        window.read("-v shows more")
        window.press(CTRL_C)
        assert window.wait() == 0
    start = [line for line in window.lines if line and not line.startswith("^C")]
    assert start[0] == "llava-server 0.1.0: loading demo"
    facts = " ".join(start)
    for words in ("112x112 pixels, 64 tokens", "context", "memory", "/v1/chat/completions"):
        assert words in facts
    assert len([line for line in start if "WARNING" not in line]) <= 9, start
    assert not any("%|" in line or "loading: " in line for line in start), "the bar is gone"
    assert start[-1].endswith("stopped")


def test_verbosely_the_start_is_as_in_a_log(tmp_path: Path) -> None:
    with Window(tmp_path, "-v") as window:
        window.read("serving on ")
        window.press(CTRL_C)
        assert window.wait() == 0
    log = [line for line in window.lines if line and not line.startswith("^C")]
    dated = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING)")
    assert all(map(dated.match, log)), [line for line in log if not dated.match(line)]
    assert any("server.engine.loading" in line for line in log), "of both processes"


@pytest.mark.parametrize("moment", [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0])
def test_ctrl_c_at_any_moment_ends_it_without_a_traceback(moment: float, tmp_path: Path) -> None:
    with Window(tmp_path) as window:
        window._read()
        time.sleep(moment)
        window.press(CTRL_C)
        code = window.wait()
    # Before Python has read our first line it dies of the signal, as any program would.
    # While Python itself still starts, it has a traceback that we cannot prevent.
    ours = "/server/" in window.seen
    assert "Traceback" not in window.seen or not ours, window.seen
    assert code in {0, -signal.SIGINT} or not ours, window.seen


def test_a_second_ctrl_c_ends_a_running_stream_at_once(tmp_path: Path) -> None:
    with Window(tmp_path) as window:
        window.read("-v shows more")
        with streaming(window.url):
            window.press(CTRL_C)
            window.read("finishing 1 request, up to 30 s; Ctrl-C again ends it now")
            (engine,) = engines(window.pid)
            window.press(CTRL_C)
            start = time.monotonic()
            assert window.wait() == 0
            assert time.monotonic() - start < 5
    assert gone(engine)
    assert "Traceback" not in window.seen
    assert "ERROR" not in window.seen


@contextmanager
def streaming(url: str) -> Iterator[None]:
    """A stream that does not end by itself, while its first pieces have come."""
    begun = threading.Event()

    def read() -> None:
        try:
            with httpx.stream(
                "POST", f"{url}/v1/chat/completions", json=ENDLESS, timeout=60
            ) as answer:
                for _ in answer.iter_text():
                    begun.set()
        except httpx.HTTPError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(30)
    yield
    reader.join(30)


def test_closing_the_window_ends_the_server(tmp_path: Path) -> None:
    with Window(tmp_path) as window:
        window.read("-v shows more")
        (engine,) = engines(window.pid)
        window.close()
        assert window.wait() == 0
    assert gone(engine)


def test_closing_the_window_does_not_end_what_was_started_with_nohup(tmp_path: Path) -> None:
    with Window(tmp_path, before=NOHUP) as window:
        window.read(", with its API at ")
        url = window.url
        window.close()
        time.sleep(1.5)
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        os.kill(window.pid, signal.SIGTERM)
        assert window.wait() == 0


@pytest.mark.parametrize("signals", [[signal.SIGHUP], [signal.SIGHUP] * 3])
def test_a_service_reloads_at_sighup_and_stays(signals: list[int], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[alice]\nhash = "sha256:{"0" * 64}"\n')
    with LiveServer(tmp_path, "--api-key-file", str(keys)) as server:
        for number in signals:
            server.process.send_signal(number)
        until(lambda: "API keys" in server.log)
        time.sleep(0.6)
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        assert server.stop() == 0


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

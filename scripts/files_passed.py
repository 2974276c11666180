"""Counts the files of server/ that run code during one request, and during one decode step.

    python -m scripts.files_passed                 # this checkout
    python -m scripts.files_passed --root ../old   # another checkout, with this one's Python
    python -m scripts.files_passed --list          # names the files, too

The script starts a real server with the demo model. It puts a ``sitecustomize`` of its own before
both processes, which sets a profile hook in every thread. The hook notes whose code is called
while a file named "on" exists; so start-up does not count, and the server's code has no hook in it.

Two counts are printed:

* of one streamed chat request with a new picture and 13 tokens: files of each process, and of both;
* of the engine's decode steps in the middle of a lone stream: what its main thread runs from one
  token to the next. The step with the most files and the usual one are given.

At commit f16df52, before the reorganization, they were 119 files (web 72, engine 49; two in both)
and 25 of the engine; once only the files had been moved, 95 (59 and 38) and 20. With thoughts,
decoder processes and the fields' table, which came since, they were 100 (61 and 41) and 12. On 29
November 2026 they are 79 (45 and 36; two in both) and 12. ``tests/test_e2e_files_passed.py`` holds
a request to at most 80, and a step to 12.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TOKENS, STREAM_TOKENS, START_SECONDS = 13, 400, 120.0

# Runs in the server's processes. It must not import anything of the server.
HOOK = """
import atexit, json, os, sys, threading, time

folder, root = os.environ["FILES_PASSED_DIR"], os.environ["FILES_PASSED_ROOT"] + "/server/"
switch = os.path.join(folder, "on")
recording, calls = False, {}


def note(frame, event, arg):
    if recording and event == "call":
        name = frame.f_code.co_filename
        if name.startswith(root):
            calls.setdefault(threading.current_thread().name, []).append(
                (name[len(root):], frame.f_code.co_name)
            )


def watch():
    global recording, calls
    while True:
        wanted = os.path.exists(switch)
        if recording and not wanted:
            recording = False
            time.sleep(0.05)
            path = os.path.join(folder, f"{os.getpid()}.json")
            with open(path + ".part", "w") as file:
                json.dump({"argv": sys.orig_argv, "calls": calls}, file)
            os.replace(path + ".part", path)
        elif wanted and not recording:
            calls = {}
            recording = True
        time.sleep(0.002)


threading.Thread(target=watch, name="files-passed", daemon=True).start()
threading.setprofile(note)
sys.setprofile(note)
"""

Calls = dict[str, list[tuple[str, str]]]


class Recorder:
    """Switches the hooks of a server's processes, and reads what they noted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def recording(self, found: dict[str, Calls]) -> Iterator[None]:
        """Notes the calls of the block; ``found`` gets them by process, "web" and "engine"."""
        for old in self._folder.glob("*.json"):
            old.unlink()
        (self._folder / "on").touch()
        time.sleep(0.1)
        yield
        (self._folder / "on").unlink()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and found.keys() < {"web", "engine"}:
            time.sleep(0.05)
            for path in self._folder.glob("*.json"):
                noted = json.loads(path.read_text())
                engine = "server.engine" in noted["argv"]
                found["engine" if engine else "web"] = noted["calls"]


def files(calls: Calls) -> set[str]:
    """All files of which code was called, in any thread."""
    return {file for thread in calls.values() for file, _ in thread}


def steps(calls: Calls) -> list[set[str]]:
    """The files of each step of the engine's main thread, from one ``EngineCore.step`` on."""
    found: list[set[str]] = []
    for file, name in calls.get("MainThread", []):
        if name == "step" and file == "engine/core.py":
            found.append(set())
        if found:
            found[-1].add(file)
    return found[1:-1]  # a step that the recording cut is none


@contextmanager
def serving(root: Path, folder: Path) -> Iterator[str]:
    """A server of the checkout ``root`` with the demo model, hooks in both processes."""
    (folder / "sitecustomize.py").write_text(HOOK)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("LLAVA_", "LLAMA_ARG_"))}
    environ = {
        **keep,
        "PYTHONPATH": os.pathsep.join([str(root), str(folder)]),
        "FILES_PASSED_DIR": str(folder),
        "FILES_PASSED_ROOT": str(root),
    }
    line = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    line += ["--cache-dir", str(folder / "cache")]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(line, cwd=root, env=environ, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    sys.exit(f"the server did not start:\n{log.read_text(errors='replace')[-1500:]}")


def picture() -> dict[str, Any]:
    """A content part with a picture that no cache has seen."""
    data = io.BytesIO()
    colour = random.randrange(256), random.randrange(256), random.randrange(256)
    Image.new("RGB", (64, 64), colour).save(data, "PNG")
    encoded = base64.b64encode(data.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def body(tokens: int, *, with_picture: bool) -> dict[str, Any]:
    """A streamed chat request of exactly so many tokens."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is in the picture?"}]
    if with_picture:
        parts.append(picture())
    message = {"role": "user", "content": parts}
    return {
        "messages": [message],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }


def stream(client: httpx.Client, asked: dict[str, Any]) -> Iterator[str]:
    """The lines of the answer's stream."""
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        if answer.status_code != 200:
            sys.exit(f"{answer.status_code}: {answer.read().decode()}")
        yield from answer.iter_lines()


def main() -> None:
    """Starts a server, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    parser.add_argument("--list", action="store_true", help="name the files")
    options = parser.parse_args()
    root = options.root.resolve()
    with tempfile.TemporaryDirectory() as name, serving(root, Path(name)) as url:
        request, middle = measure(url, Recorder(Path(name)))
    report(request, middle, names=options.list)


def measure(url: str, recorder: Recorder) -> tuple[dict[str, Calls], dict[str, Calls]]:
    """The calls of a request, and those in the middle of a lone stream, by process."""
    request: dict[str, Calls] = {}
    middle: dict[str, Calls] = {}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        # What only the first request does, imports above all, does not count.
        for _ in stream(client, body(TOKENS, with_picture=True)):
            pass
        time.sleep(1)
        with recorder.recording(request):
            for _ in stream(client, body(TOKENS, with_picture=True)):
                pass
            time.sleep(0.1)
        lines = stream(client, body(STREAM_TOKENS, with_picture=False))
        for _ in range(40):
            next(lines)
        with recorder.recording(middle):
            for _ in range(100):
                next(lines)
        for _ in lines:
            pass
    return request, middle


def report(request: dict[str, Calls], middle: dict[str, Calls], *, names: bool) -> None:
    """Prints both counts."""
    web, engine = files(request["web"]), files(request["engine"])
    print(f"one chat request with a picture and {TOKENS} streamed tokens:")
    print(f"  web {len(web)}, engine {len(engine)}, together {len(web | engine)} files")
    if names:
        for process, found in (("web", web), ("engine", engine)):
            print(*(f"    {process:6} {file}" for file in sorted(found)), sep="\n")
    each = steps(middle["engine"])
    if not each:
        sys.exit("no whole decode step was seen")
    usual, most = Counter(map(frozenset, each)).most_common(1)[0][0], max(each, key=len)
    print(f"one decode step of a lone stream ({len(each)} steps seen):")
    for title, found in (("usual", usual), ("most", most)):
        inside = [file for file in found if file.startswith("engine/")]
        print(f"  {title}: {len(inside)} files of the engine, {len(found)} of server/")
        if names:
            print(*(f"    {file}" for file in sorted(found)), sep="\n")


if __name__ == "__main__":
    main()

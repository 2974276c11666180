"""A real Prometheus scrapes a real server under load: no query of ours comes back empty."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import shape, user
from deployed import (
    DEPLOY,
    RULES,
    alert_expressions,
    dashboard_expressions,
    metric_names,
    prometheus_config,
    rules,
    tools,
)
from live import LiveServer
from PIL import Image

CHAT = "/v1/chat/completions"
# Two rates of every series, at half a second each, with some to spare.
LOAD_SECONDS = 5.0
PATIENCE = 60.0
NVML = {"llava_device_utilization_ratio", "llava_device_temperature_celsius"}


class Pictures(ThreadingHTTPServer):
    """A web server with pictures, each of them new; others are not found."""

    def __init__(self) -> None:
        numbers = iter(range(100_000))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = next(numbers)
                data = BytesIO()
                Image.new("RGB", (300, 200), (number % 256, number // 256, 7)).save(data, "PNG")
                body = data.getvalue() if self.path == "/picture.png" else b""
                self.send_response(200 if body else 404)
                self.send_header("content-length", str(len(body)))
                self.send_header("content-type", "image/png")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


class Load:
    """Requests of every kind, over and over, until told to stop."""

    def __init__(self, url: str, pictures: str) -> None:
        self.url = url
        self.pictures = pictures
        self.rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._stop.is_set():
                for content in self._contents():
                    body = {"messages": [content], "max_tokens": 4, "temperature": 0}
                    client.post(CHAT, json=body)
                self._leave(client)
                self._be_refused()
                self.rounds += 1

    def _contents(self) -> Iterator[dict[str, Any]]:
        yield user("Hello")
        yield user(shape("circle", (self.rounds % 256, 0, 0)), "What colour?")
        yield user(shape("square", (0, 0, 255)), "What shape?")
        for url in (
            f"{self.pictures}/picture.png",
            f"{self.pictures}/no.png",
            "data:image/png;base64,AAAA",
        ):
            yield {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}

    def _be_refused(self) -> None:
        # httpx would not send a length that is not true.
        with closing(HTTPConnection(self.url.removeprefix("http://"), timeout=60)) as line:
            line.putrequest("POST", CHAT)
            line.putheader("content-type", "application/json")
            line.putheader("content-length", str(2**40))
            line.endheaders()
            assert line.getresponse().status == 413

    def _leave(self, client: httpx.Client) -> None:
        body = {"messages": [user("Tell me")], "max_tokens": 200, "stream": True}
        with client.stream("POST", CHAT, json=body) as answer:
            next(answer.iter_lines())


class Prometheus:
    """The real one, on a free port."""

    def __init__(self, target: str, folder: Path) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        config = prometheus_config(target, folder)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(tools().prometheus),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def query(self, expr: str) -> list[float]:
        """The values of an instant query that are numbers."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=30).json()
        assert answer["status"] == "success", (expr, answer)
        values = (float(each["value"][1]) for each in answer["data"]["result"])
        return [value for value in values if not math.isnan(value)]

    def get(self, path: str) -> Any:
        """What the API says."""
        return httpx.get(f"{self.url}/api/v1/{path}", timeout=30).json()["data"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    with Pictures() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pictures: str) -> Iterator[LiveServer]:
    host = pictures.removeprefix("http://")
    with LiveServer(tmp_path_factory.mktemp("scraped"), "--image-url-allow", host) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(
    server: LiveServer, pictures: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """After some load of every kind, during which the engine was lost once."""
    running = Prometheus(server.url.removeprefix("http://"), tmp_path_factory.mktemp("prometheus"))
    try:
        with Load(server.url, pictures) as load:
            _until(lambda: load.rounds >= 2, running)
            os.kill(server.engine_pid(), signal.SIGKILL)
            _until(lambda: running.query("llava_engine_restarts_total") == [1], running)
            server.wait_healthy()
            rounds, start = load.rounds, time.monotonic()
            _until(
                lambda: load.rounds >= rounds + 3 and time.monotonic() > start + LOAD_SECONDS,
                running,
            )
        yield running
    finally:
        running.stop()


def _until(condition: Any, prometheus: Prometheus) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass  # it is not listening yet
        assert prometheus.process.poll() is None, prometheus.log.read_text()
        assert time.monotonic() < end, prometheus.log.read_text()
        time.sleep(0.1)


def empty(prometheus: Prometheus, expressions: dict[str, str]) -> dict[str, str]:
    """Those that come back with nothing, or with no number; NVML's have data on a GPU alone."""
    return {
        where: expr
        for where, expr in expressions.items()
        if not (metric_names(expr) & NVML or prometheus.query(expr))
    }


def test_every_query_of_every_panel_has_data(prometheus: Prometheus) -> None:
    assert empty(prometheus, dashboard_expressions()) == {}


def test_every_alert_looks_at_something(prometheus: Prometheus) -> None:
    assert empty(prometheus, alert_expressions()) == {}


def test_every_recording_rule_records(prometheus: Prometheus) -> None:
    for rule in rules():
        if "record" in rule:
            assert prometheus.query(rule["record"]), rule["record"]
    health = {
        rule["name"]: (rule["health"], rule.get("lastError"))
        for group in prometheus.get("rules")["groups"]
        for rule in group["rules"]
    }
    assert set(health.values()) == {("ok", None)}, health


def test_the_model_can_be_chosen(prometheus: Prometheus) -> None:
    assert prometheus.get("label/model_name/values") == ["demo"]


def test_prometheus_accepts_every_family(server: LiveServer, prometheus: Prometheus) -> None:
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    text = httpx.get(f"{server.url}/metrics").text
    done = subprocess.run(
        [tools().promtool, "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("llamacpp:")]
    assert complaints == [], "llama-server's names have a colon; nothing else is amiss"


def test_the_configuration_and_the_rules_are_in_order() -> None:
    folder = DEPLOY / "prometheus"
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", *RULES],
        ["test", "rules", "alerts_test.yml"],
    ):
        done = subprocess.run(
            [tools().promtool, *command], cwd=folder, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

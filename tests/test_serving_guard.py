"""Clients that are slow, silent or many: each loses its own connection, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from fakes import FakeEngine, chat, wait_for

from server.api.app import create_app
from server.api.options import ApiOptions
from server.serve.http_protocol import ClientLimits, Connections, GuardedProtocol
from server.serve.listener import Listener
from server.serve.web_server import WebOptions, WebServer
from server.settings.settings import Settings

CHAT = "/v1/chat/completions"
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
MIB = 1024 * 1024


class Live:
    """A server in a thread, and raw connections to it."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.address = server.listener.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"

    def connect(self, data: str = "", receive_buffer: int = 0) -> socket.socket:
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect(self.address)
        client.sendall(data.encode())
        return client

    def works(self) -> bool:
        return httpx.post(self.url + CHAT, json=chat(), timeout=10).status_code == 200


@contextmanager
def guarded(
    engine: FakeEngine | None = None,
    limits: ClientLimits | None = None,
    tls: tuple[Path, Path] | None = None,
    keep_alive: float = 95.0,
    **options: Any,
) -> Iterator[Live]:
    limits, (cert, key) = limits or ClientLimits(timeout=0.5), tls or (None, None)
    app = create_app(engine or FakeEngine(), ApiOptions(**options))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = WebServer(
        app, Listener(listener), WebOptions(limits, cert, key, keep_alive=keep_alive)
    )
    thread = threading.Thread(target=asyncio.run, args=(server.run_until_stopped(),))
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Live(server)
    finally:
        server.stop()
        thread.join(15)
        assert not thread.is_alive()


def read_all(client: socket.socket) -> bytes:
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except (ConnectionError, TimeoutError):
        pass
    return data


def test_who_says_nothing_is_hung_up_on() -> None:
    with guarded() as live, live.connect() as client:
        start = time.monotonic()
        assert read_all(client) == b""
        assert time.monotonic() - start >= 0.4
        assert live.works()


@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_a_connection_may_be_idle_between_requests_as_long_as_it_is_set(seconds: float) -> None:
    with guarded(keep_alive=seconds) as live, live.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: test\r\n\r\n")
        while not client.recv(65536).endswith(b"}"):
            pass
        start = time.monotonic()
        assert client.recv(1) == b""
        assert seconds - 0.1 < time.monotonic() - start < seconds + 1


def test_connections_are_kept_longer_than_proxies_keep_them() -> None:
    """nginx keeps them for 60 s, Go's client for 90 s: one that we close first loses a request."""
    assert WebOptions().keep_alive == Settings().timeout_keep_alive > 90


def test_a_tls_handshake_that_never_ends_has_its_time(tmp_path: Path) -> None:
    authority, (cert, key) = trustme.CA(), (tmp_path / "cert.pem", tmp_path / "key.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with guarded(tls=(cert, key)) as live:
        for begun in ("", "\x16\x03\x01\x02\x00\x01"):  # nothing, or half a greeting
            with live.connect(begun) as client:
                start = time.monotonic()
                assert read_all(client) == b""
                assert time.monotonic() - start < 15, "closed by the server"
        url = live.url.replace("http", "https")
        assert httpx.get(f"{url}/health", verify=context).status_code == 200


def test_a_head_that_never_ends_is_answered_and_closed() -> None:
    with guarded() as live, live.connect(HEAD) as client:
        for letter in "x-slow: loris":
            time.sleep(0.1)
            try:
                client.sendall(letter.encode())
            except ConnectionError:
                break
        answer = read_all(client)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    with guarded() as live, live.connect(HEAD) as client:
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "request_timeout"' in answer
        assert live.works()


def test_a_head_in_a_kept_connection_has_its_time_too() -> None:
    with guarded() as live, live.connect("GET /health HTTP/1.1\r\nhost: t\r\n\r\n") as client:
        assert client.recv(100_000).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /health HT")
        assert b"HTTP/1.1 408 " in read_all(client)


def test_half_a_body_is_answered_in_the_end_and_harms_nobody() -> None:
    engine = FakeEngine()
    with (
        guarded(engine, max_queue=0) as live,
        live.connect(f'{HEAD}content-length: 1000\r\n\r\n{{"mess') as client,
    ):
        gate = live.server.config.app.state.controls.gate  # type: ignore[union-attr]
        wait_for(lambda: gate.in_work == 1)
        assert gate.taken == 0, "it takes no place from others"
        assert read_all(client).startswith(b"HTTP/1.1 408 ")
        wait_for(lambda: gate.in_work == 0)
        assert engine.ids == []
        assert live.works()


def test_a_slow_body_is_taken_as_long_as_it_comes() -> None:
    body = b'{"messages": [{"role": "user", "content": "' + b"a" * 40_000 + b'"}]}'
    with guarded() as live:
        with live.connect(f"{HEAD}content-length: {len(body)}\r\n\r\n") as client:
            for start in range(0, len(body), 5000):
                client.sendall(body[start : start + 5000])
                time.sleep(0.15)
            assert client.recv(100_000).startswith(b"HTTP/1.1 200 ")
        with live.connect(f"{HEAD}content-length: {len(body)}\r\n\r\n") as client:
            for start in range(len(body)):
                try:
                    client.sendall(body[start : start + 1])
                except ConnectionError:
                    break
                time.sleep(0.02)
            assert start < 200, "a byte at a time is no way to send"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_gigabytes_is_refused_before_it_is_read(declared: bool) -> None:
    length = f"content-length: {2 * 1024 * MIB}" if declared else "transfer-encoding: chunked"
    limits = ClientLimits(timeout=0.5, max_body_bytes=2 * MIB)
    with (
        guarded(limits=limits, max_body_bytes=MIB) as live,
        live.connect(f"{HEAD}{length}\r\n\r\n") as client,
    ):
        piece = b" " * 65536
        sent = 0
        try:
            while sent < 2 * 1024 * MIB:
                client.sendall(piece if declared else b"10000\r\n" + piece + b"\r\n")
                sent += len(piece)
        except OSError:
            pass
        assert sent < 64 * MIB, "cut off, not read to its end"
        assert live.works()


def test_the_refusal_of_a_large_body_arrives() -> None:
    with guarded(max_body_bytes=1000) as live:
        answer = httpx.post(live.url + CHAT, content=b" " * (4 * MIB), timeout=10)
        assert answer.status_code == 413


@pytest.mark.parametrize("size", [1000, MIB // 2, 3 * MIB, 8 * MIB])
def test_the_next_request_on_the_line_of_a_refused_body_is_served(size: int) -> None:
    """It was taken for a part of that body where more than a megabyte of it was left."""
    with guarded() as live, httpx.Client(base_url=live.url, timeout=10) as client:
        for _ in range(3):
            wrong = {"content-type": "text/plain"}
            answer = client.post(CHAT, content=b" " * size, headers=wrong)
            assert answer.status_code == 415
            assert client.get("/health").status_code == 200


def test_a_reader_that_stops_is_cut_off_and_frees_the_engine() -> None:
    engine = FakeEngine(texts=("word " * 100,) * 5000, token_seconds=0.0001)
    with guarded(engine) as live:
        body = '{"messages": [{"role": "user", "content": "a"}], "stream": true}'
        request = f"{HEAD}content-length: {len(body)}\r\n\r\n{body}"
        with live.connect(request, receive_buffer=4096) as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            wait_for(lambda: engine.running == 0, 15)
            assert engine.aborted, "nobody generates for it any more"
            engine.texts = ("word",)
            assert live.works()
            client.settimeout(1)  # the kernel may have dropped it without a word
            read = len(read_all(client))
        assert read < MIB, "what was kept for it is bounded"


def test_a_large_answer_may_take_long_if_it_is_read() -> None:
    engine = FakeEngine(texts=("word " * 200_000,) * 2)
    with guarded(engine) as live:
        body = '{"messages": [{"role": "user", "content": "a"}]}'
        request = f"{HEAD}content-length: {len(body)}\r\n\r\n{body}"
        with live.connect(request, receive_buffer=65536) as client:
            start, got = time.monotonic(), 0
            while got < 2_000_000:
                piece = client.recv(65536)
                assert piece, "it was cut off"
                got += len(piece)
                time.sleep(0.03)
            assert time.monotonic() - start > 0.8, "longer than the timeout"


def test_at_the_limit_idle_connections_make_room_and_busy_ones_do_not() -> None:
    engine = FakeEngine(texts=("word ",) * 1000, token_seconds=0.02)
    limits = ClientLimits(max_connections=3, timeout=30)
    with guarded(engine, limits) as live:
        idle = [live.connect() for _ in range(3)]
        wait_for(lambda: len(live.server.connections) == 3)
        body = '{"messages": [{"role": "user", "content": "a"}], "stream": true}'
        busy = []
        for _ in range(3):
            client = live.connect(f"{HEAD}content-length: {len(body)}\r\n\r\n{body}")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            busy.append(client)
        assert [read_all(client) for client in idle] == [b"", b"", b""]
        with live.connect("GET /health HTTP/1.1\r\nhost: t\r\n\r\n") as refused:
            answer = read_all(refused)
        assert answer == b"" or b'"too_many_connections"' in answer
        assert all(client.recv(10) for client in busy)
        for client in (*busy, *idle):
            client.close()
        wait_for(lambda: engine.running == 0)
        wait_for(lambda: len(live.server.connections) == 0)


def test_many_idle_connections_harm_nobody() -> None:
    limits = ClientLimits(max_connections=100, timeout=30)
    with guarded(limits=limits) as live:
        clients = []
        for _ in range(400):
            clients.append(live.connect())
        start = time.monotonic()
        assert live.works()
        assert time.monotonic() - start < 5
        assert len(live.server.connections) <= 100
        for client in clients:
            client.close()


class Spared:
    """A connection that remembers being closed."""

    def __init__(self) -> None:
        self.spared = False

    def spare(self) -> None:
        self.spared = True


def test_the_connection_idle_longest_goes_first() -> None:
    connections = Connections(2)
    first, second, third, fourth = (Spared() for _ in range(4))
    assert connections.add(first)
    assert connections.add(second)
    connections.set_busy(first, True)
    connections.set_busy(first, False)
    assert connections.add(third)
    assert (first.spared, second.spared) == (False, True)
    connections.set_busy(first, True)
    connections.set_busy(third, True)
    assert connections.busy == 2
    assert not connections.add(fourth)
    connections.set_busy(second, False)
    assert len(connections) == 2, "who is gone does not come back"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_pieces_of_a_stream_are_framed_as_the_client_reads_them(version: str) -> None:
    """HTTP/1.0 knows no chunks: the body ends with the connection."""
    body = json.dumps(chat(stream=True)).encode()
    head = HEAD.replace("HTTP/1.1", f"HTTP/{version}") + "connection: close\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n"
    with guarded(FakeEngine(texts=("A ", "ship", ""))) as live, live.connect(request) as client:
        client.sendall(body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    headers, _, sent = answer.partition(b"\r\n\r\n")
    if version == "1.1":
        assert b"transfer-encoding: chunked" in headers.lower()
        whole, rest = b"", sent
        while True:
            size, _, rest = rest.partition(b"\r\n")
            piece, rest = rest[: int(size, 16)], rest[int(size, 16) :]
            assert rest.startswith(b"\r\n")
            rest = rest[2:]
            whole += piece
            if not piece:
                break
        assert not rest
        sent = whole
    assert sent.startswith(b"data: {")
    assert b'"content":"ship"' in sent
    assert sent.endswith(b"data: [DONE]\n\n")


def test_a_piece_without_data_does_not_end_the_answer() -> None:
    protocol = GuardedProtocol.__new__(GuardedProtocol)
    # Nothing else is asked: there is nothing to write.
    assert protocol.write_piece(b"")

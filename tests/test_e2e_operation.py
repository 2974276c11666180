"""A server in an operator's hands: drained, restarted without a gap, its keys exchanged."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import trustme
from asking import user
from live import LiveServer
from test_e2e_life import one_line, run_serve

from server.settings.key_file import entry_of

CHAT = "/v1/chat/completions"


def question(**fields: Any) -> dict[str, Any]:
    return {"messages": [user("Say something.")], "temperature": 0, "max_tokens": 4, **fields}


def endless(**fields: Any) -> dict[str, Any]:
    return question(stream=True, ignore_eos=True, **{"max_tokens": 1500, **fields})


def events(lines: Any) -> list[Any]:
    """What is left of a stream, up to its end."""
    data = [line[6:] for line in lines if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def test_sigterm_finishes_what_runs_and_admits_nothing(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        with client.stream("POST", CHAT, json=endless(max_tokens=800)) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while (health := client.get("/health")).json()["status"] != "draining":
                assert time.monotonic() < deadline
            assert health.status_code == 200, "it lives"
            assert client.get("/health/ready").status_code == 503
            refused = client.post(CHAT, json=question())
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
            chunks = events(lines)
        assert chunks[-1]["choices"][0]["finish_reason"] == "length", "all of its 800 tokens"
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log


def test_what_does_not_end_in_time_is_told_and_a_second_signal_does_not_wait(
    tmp_path: Path,
) -> None:
    one, other = LiveServer(tmp_path / "a", "--drain-timeout", "0.3"), LiveServer(tmp_path / "b")
    with one, httpx.stream("POST", one.url + CHAT, json=endless(), timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        one.process.send_signal(signal.SIGSTOP)  # so that it cannot end in time by itself
        one.process.send_signal(signal.SIGTERM)
        one.process.send_signal(signal.SIGCONT)
        last = events(lines)[-1]
        assert last.get("error", {}).get("code") == "engine_unavailable" or last["choices"]
        assert one.process.wait(20) == 0
    with other, httpx.stream("POST", other.url + CHAT, json=endless(), timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        other.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        other.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert other.process.wait(20) == 0
        assert time.monotonic() - start < 10, "not the 30 seconds of --drain-timeout"


def test_a_restart_on_an_inherited_socket_fails_no_request(tmp_path: Path) -> None:
    """As systemd does it, or a deploy: two servers, one socket, and clients who ask all along."""
    with socket.create_server(("127.0.0.1", 0)) as shared:
        url = f"http://127.0.0.1:{shared.getsockname()[1]}"
        first = LiveServer(tmp_path / "first", socket=shared.fileno())
        first.wait_ready()
        assert first.url == url
        answers: list[int | str] = []
        done = threading.Event()

        def ask() -> None:
            # No retries: whatever fails is seen.
            with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
                while not done.is_set():
                    try:
                        reply = client.chat.completions.create(
                            model="demo",
                            messages=[user("Say something.")],  # type: ignore[list-item]
                            max_tokens=4,
                        )
                        answers.append(reply.choices[0].finish_reason)
                    except openai.OpenAIError as error:
                        answers.append(repr(error))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            second = LiveServer(tmp_path / "second", socket=shared.fileno())
            second.wait_ready()
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(30) == 0
            before = len(answers)
            time.sleep(1)
        finally:
            done.set()
            for thread in threads:
                thread.join(30)
        assert second.stop() == 0
        assert len(answers) > before, "the second one has taken over"
        assert set(answers) <= {"stop", "length"}, "nobody noticed"


def test_two_servers_share_a_port_if_both_say_so(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "a", "--reuse-port") as one:
        port = one.url.rpartition(":")[2]
        with LiveServer(tmp_path / "b", "--reuse-port", "--port", port) as other:
            assert other.url == one.url
            assert one.stop() == 0
            assert httpx.get(f"{other.url}/health/ready").status_code == 200
        line = one_line(run_serve(tmp_path, "--reuse-port", "--port", "0", "--host", "0.0.0.0"), 2)
        assert "--insecure" in line


def test_keys_certificates_and_metrics_of_their_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    key, chain, keys = tmp_path / "key.pem", tmp_path / "chain.pem", tmp_path / "keys.toml"

    def certify() -> bytes:
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(str(key))
        made.cert_chain_pems[0].write_to_path(str(chain))
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())

    context = ssl.create_default_context()
    authority.configure_trust(context)
    certify()
    keys.write_text(entry_of("alice", "hers"))
    flags = ["--ssl-key-file", str(key), "--ssl-cert-file", str(chain), "--metrics-port", "0"]
    # Every address, of which only this machine's is asked: with a key that is permitted.
    flags += ["--api-key-file", str(keys), "--host", "0.0.0.0", "--log-level", "debug"]
    with LiveServer(tmp_path, *flags) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https://")

        def status(key: str, path: str = "/v1/models") -> int:
            headers = {"authorization": f"Bearer {key}"}
            return httpx.get(url + path, headers=headers, verify=context).status_code

        answer = httpx.get(f"{url}/health", verify=context)
        assert answer.headers["strict-transport-security"]
        assert "server" not in answer.headers
        assert (status("hers"), status("his")) == (200, 401)
        assert status("hers", "/metrics") == 404, "they are elsewhere"
        new = certify()
        keys.write_text(entry_of("alice", "new") + entry_of("bob", "his"))
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while status("his") != 200:
            assert time.monotonic() < deadline
        assert (status("hers"), status("new")) == (401, 200)
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with (
            socket.create_connection(address) as line,
            context.wrap_socket(line, server_hostname="127.0.0.1") as secure,
        ):
            assert secure.getpeercert(binary_form=True) == new
        keys.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        while "not reloaded" not in server.log:
            assert time.monotonic() < deadline
        assert status("his") == 200
        elsewhere = server.metrics_url()
        assert "llava_build_info" in httpx.get(f"{elsewhere}/metrics").text
        assert httpx.get(f"{elsewhere}/health/ready").status_code == 200
        assert httpx.get(f"{elsewhere}/v1/models").status_code == 404
        assert server.stop() == 0


def test_a_file_or_folder_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    flags = ("--ssl-key-file", str(wrong), "--ssl-cert-file", str(wrong))
    assert "--ssl-cert-file" in one_line(run_serve(tmp_path, *flags), 2)
    assert "go together" in one_line(run_serve(tmp_path, *flags[:2]), 2)
    line = one_line(run_serve(tmp_path, "--image-cache-dir", str(wrong / "folder")), 2)
    assert line.endswith(f"--image-cache-dir: cannot use {wrong / 'folder'}: Not a directory")
    line = one_line(run_serve(tmp_path, "--max-connections", "100000000"), 2)
    assert "--max-connections" in line

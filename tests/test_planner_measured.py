"""``llava-server plan --measured`` against servers that run, and against things that are none."""

from __future__ import annotations

import json

import pytest
from fakes import FakeEngine, serving
from live import LiveServer

from server.cli.main import main
from server.engine_client.interface import EngineState


def told(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = main(["plan", "--measured", *flags])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_running_server_shows_planned_beside_measured(
    demo: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = told(capsys, "--url", demo.url)
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split() == ["part", "device", "planned", "measured", "MiB"]
    (kv,) = (line.split() for line in lines if line.startswith("kv_cache"))
    assert kv[1] == "CPU"
    assert kv[2] == kv[3], "a KV cache is planned to the byte"
    assert any(line.startswith("KV cache: ") and line.endswith(" 4 slots") for line in lines)
    assert any(line.startswith("engine process: anonymous ") for line in lines)
    assert any(line.startswith("fit: --ctx-size 8192 (") for line in lines)
    code, text, _ = told(capsys, "--url", f"{demo.url}/v1/", "--json")
    assert code == 0
    assert json.loads(text)["object"] == "memory"


def test_a_key_is_sent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeEngine(), api_keys=("secret",)) as url:
        code, _, error = told(capsys, "--url", url)
        assert (code, error.count("\n")) == (1, 1)
        assert "wants a key" in error
        assert told(capsys, "--url", url, "--api-key", "secret")[0] == 0
        monkeypatch.setenv("LLAVA_API_KEY", "secret")
        assert told(capsys, "--url", url)[0] == 0


def test_what_does_not_answer_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    loading = FakeEngine(ready=None, state=EngineState.STARTING)
    with serving(loading) as url:
        assert "is still loading" in told(capsys, "--url", url)[2]
    for wrong in ("http://127.0.0.1:1", "nothing", "http://[", url):
        code, out, error = told(capsys, "--url", wrong)
        assert (code, out) == (1, "")
        assert error.startswith("llava-server: error: no server answers at ")
        assert error.count("\n") == 1

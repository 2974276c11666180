"""The operator's endpoints, the models, keys, ids, and the router's own errors."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, chat, engine_ready, image_part, serving

from server.api.app import create_app
from server.api.options import ApiOptions
from server.engine_client.interface import EngineState
from server.messages import EngineProgress, SchedulerStats

CHAT = "/v1/chat/completions"


def get(path: str, engine: FakeEngine | None = None, **options: Any) -> httpx.Response:
    return call(create_app(engine or FakeEngine(), ApiOptions(**options)), "GET", path)


def test_health_is_ok_when_ready() -> None:
    response = get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_health_tells_how_far_loading_is() -> None:
    engine = FakeEngine(ready=None, state=EngineState.STARTING)
    assert get("/health", engine).json()["progress"] is None
    engine.progress = EngineProgress("weights", 0.25)
    response = get("/health", engine)
    assert response.status_code == 503
    assert response.json() == {
        "status": "loading",
        "progress": {
            "stage": "weights",
            "fraction": 0.25,
            "loaded_bytes": 0,
            "total_bytes": 0,
        },
        "step_age": 0.0,
        "error": {"code": 503, "message": "Loading model", "type": "unavailable_error"},
    }
    engine.progress = EngineProgress("download", 0.5, 10, 20, "model-Q4_K_M.gguf")
    progress = get("/health", engine).json()["progress"]
    assert (progress["stage"], progress["file"]) == ("download", "model-Q4_K_M.gguf")


def test_a_lost_engine_is_told_and_generating_is_refused() -> None:
    engine = FakeEngine(state=EngineState.FAILED)
    health = get("/health", engine)
    assert (health.status_code, health.json()["status"]) == (503, "failed")
    app = create_app(engine, ApiOptions())
    response = call(app, "POST", CHAT, json=chat())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] == "engine_unavailable"
    assert get("/v1/models", engine).status_code == 200, "the model's facts are still known"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (EngineState.STARTING, 200),
        (EngineState.READY, 200),
        (EngineState.RESTARTING, 200),
        (EngineState.FAILED, 503),
    ],
)
def test_a_process_that_may_become_ready_is_kept(state: EngineState, status: int) -> None:
    """A download takes longer than any probe waits: liveness asks here."""
    response = get("/health/live", FakeEngine(state=state))
    assert response.status_code == status


def test_everything_but_health_waits_for_the_model() -> None:
    engine = FakeEngine(ready=None, state=EngineState.STARTING)
    app = create_app(engine, ApiOptions())
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/memory")):
        response = call(app, method, path)
        assert response.status_code == 503, path
        assert "retry-after" in response.headers
    assert call(app, "GET", "/metrics").status_code == 200


def test_models_tell_what_is_served() -> None:
    models = get("/v1/models", model_alias="mine").json()
    assert models["object"] == "list"
    [model] = models["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("mine", "model", "llava-server")
    assert model["capabilities"] == ["completion", "multimodal"]
    meta = model["meta"]
    assert (meta["n_ctx"], meta["n_params"], meta["size"]) == (8192, 2_000_000, 2_100_000)
    assert meta["chat_template"] == {"name": "model", "reason": "from the GGUF"}
    vision = meta["vision"]
    assert (vision["image_size"], vision["tokens_per_image"]) == (112, 64)
    assert (vision["faults"], vision["undone"]) == (["positions", "dropped_patch"], ["positions"])
    assert meta["build"]["llama_cpp_python"] == "0.3.36"


def test_text_model_does_not_claim_to_see() -> None:
    [model] = get("/v1/models", FakeEngine(ready=engine_ready(vision=None))).json()["data"]
    assert model["capabilities"] == ["completion"]
    assert model["meta"]["vision"] is None


def test_one_model_by_its_name_even_with_slashes() -> None:
    model = get("/v1/models/org/name", model_alias="org/name")
    assert model.json()["id"] == "org/name"
    missing = get("/v1/models/other")
    assert missing.status_code == 404
    error = missing.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_metrics_after_some_requests() -> None:
    engine = FakeEngine(stats=SchedulerStats(2, 1, 50, 200), restarts=3)
    app = create_app(engine, ApiOptions())
    call(app, "POST", CHAT, json=chat([image_part()]))
    call(app, "POST", CHAT, json=chat(temperature=9))
    response = call(app, "GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    for line in (
        'llava_num_requests_running{model_name="fake-llava"} 2.0',
        'llava_num_requests_waiting{model_name="fake-llava"} 1.0',
        'llava_kv_cache_usage_perc{model_name="fake-llava"} 0.25',
        'llava_engine_restarts_total{model_name="fake-llava"} 3.0',
        'llava_prompt_tokens_total{model_name="fake-llava"} 74.0',
        'llava_image_tokens_total{model_name="fake-llava"} 64.0',
        'llava_generation_tokens_total{model_name="fake-llava"} 3.0',
        'llava_images_total{model_name="fake-llava"} 1.0',
        'llava_request_success_total{finished_reason="stop",model_name="fake-llava"} 1.0',
        'llava_requests_failed_total{code="invalid_value",model_name="fake-llava"'
        ',status="400"} 1.0',
        'llava_time_to_first_token_seconds_count{model_name="fake-llava"} 1.0',
        'llava_e2e_request_latency_seconds_count{model_name="fake-llava"} 1.0',
        'llava_image_encode_seconds_sum{model_name="fake-llava",result="ok"} 0.012',
        'llava_image_decode_seconds_count{model_name="fake-llava",result="ok"} 1.0',
        'llava_memory_bytes{device="CPU",kind="measured",model_name="fake-llava",part="weights"}'
        " 2000.0",
    ):
        assert line in lines


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/v1/chat", "/redoc"])
def test_unknown_path_has_openai_s_error_shape(path: str) -> None:
    response = get(path)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "not_found"
    assert path in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/health"), ("PUT", CHAT)])
def test_wrong_method_has_openai_s_error_shape(method: str, path: str) -> None:
    response = call(create_app(FakeEngine(), ApiOptions()), method, path)
    assert response.status_code == 405
    assert response.headers["allow"]
    assert response.json()["error"]["code"] == "method_not_allowed"


def test_request_id_comes_back_and_odd_ones_are_replaced() -> None:
    app = create_app(FakeEngine(), ApiOptions(api_keys=("k",)))
    mine = call(app, "GET", "/health", headers={"x-request-id": "my-id.1"})
    assert mine.headers["x-request-id"] == "my-id.1"
    for odd in ("", "a b", "x" * 200, "a\tb"):
        given = call(app, "GET", "/v1/models", headers={"x-request-id": odd})
        assert given.status_code == 401
        assert given.headers["x-request-id"].startswith("req-")


def test_one_log_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server.api.middleware.request_log")
    app = create_app(FakeEngine(), ApiOptions())
    call(app, "POST", CHAT, json=chat(), headers={"x-request-id": "one"})
    call(app, "GET", "/a%0Ab", headers={"x-request-id": "two"})
    lines = [record.getMessage() for record in caplog.records if "ms" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith(f"one POST {CHAT} 200 ")
    assert lines[1].startswith("two GET /a%0Ab 404 ")


@pytest.mark.parametrize("error", [RuntimeError("a secret"), KeyError("a secret")])
def test_unforeseen_error_tells_its_id_and_nothing_else(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(FakeEngine(error=error), ApiOptions())
    response = call(app, "POST", CHAT, json=chat(), headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "internal server error; request abc",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert response.headers["x-request-id"] == "abc"
    assert "a secret" in caplog.text, "the log knows more"


def test_body_over_the_limit_on_a_real_connection() -> None:
    with serving(FakeEngine(), max_body_bytes=10_000) as url:

        def chunks() -> Any:
            for _ in range(100):
                yield b" " * 1000

        for content in (b" " * 100_000, chunks()):
            assert httpx.post(url + CHAT, content=content).status_code == 413
        assert httpx.post(url + CHAT, json=chat()).status_code == 200

"""The Prometheus families by themselves."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from fakes import FakeEngine, engine_ready
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.engine_client.interface import EngineState
from server.errors import EngineError
from server.messages import (
    EncodedImage,
    ImageInput,
    Rejected,
    RequestTimings,
    SchedulerStats,
    StepOutputs,
)
from server.metrics import Metrics
from server.metrics.families import QuickHistogram, QuickHistograms

IMAGE = ImageInput("d", 112, 112, b"", 640, 480, detail="high")
ENCODED = EncodedImage(64, 8, 8, 112, 112, 640, 480, 0.25)
TIMINGS = RequestTimings(queued=1.0, started=1.5, first_token=3.5, finished=4.5)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by name and label values, of all labels but the model's name."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            ours = family.name.startswith("llava") and "_process_" not in family.name
            assert ("model_name" in sample.labels) == ours, sample
            labels = sorted(value for key, value in sample.labels.items() if key != "model_name")
            found[(sample.name, *labels)] = sample.value
    return found


def test_the_model_s_name_is_on_every_sample_of_ours() -> None:
    metrics = Metrics(FakeEngine(), 'a "model"')
    metrics.failed(400, None)
    names = {
        sample.labels["model_name"]
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if "model_name" in sample.labels
    }
    assert names == {'a "model"'}
    assert samples(metrics)


def test_everything_is_readable_before_the_model_is_loaded() -> None:
    values = samples(Metrics(FakeEngine(ready=None, state=EngineState.STARTING)))
    assert values["llava_num_requests_running",] == 0
    assert values["llava_kv_cache_usage_perc",] == 0
    assert values["llava_engine_up",] == 0
    assert values["llava_request_success_total", "stop"] == 0
    assert values["llava_requests_refused_total", "queue_full"] == 0
    assert not [name for name, *_ in values if name.startswith("llava_memory")]
    assert not [name for name, *_ in values if name.startswith("llava_engine_process")]


def test_gauges_follow_the_engine() -> None:
    engine = FakeEngine()
    metrics = Metrics(engine)
    engine.stats = SchedulerStats(num_running=3, num_waiting=7, kv_cells_used=1, kv_cells_total=4)
    engine.restarts = 2
    engine.pauses = 4
    values = samples(metrics)
    assert values["llava_num_requests_running",] == 3
    assert values["llava_num_requests_waiting",] == 7
    assert values["llava_kv_cache_usage_perc",] == 0.25
    assert values["llava_engine_restarts_total",] == 2
    assert values["llava_requests_paused_total",] == 4
    assert values["llava_requests_laid_aside_total",] == 4, "the old name"
    assert values["llava_engine_up",] == 1
    assert values["llava_image_encoder_info", "112", "CPU", "mlp", "positions"] == 1
    engine.stats = SchedulerStats(
        preemptions=1,
        prefix_queries=20,
        prefix_hits=10,
        prompt_cache_hits=6,
        prompt_cache_bytes=4,
        image_cache_queries=7,
        image_cache_hits=3,
        image_cache_bytes=5,
        image_cache_disk_hits=2,
    )
    values = samples(metrics)
    assert values["llava_num_preemptions_total",] == 1
    assert values["llava_prefix_cache_queries_total",] == 20
    assert values["llava_prefix_cache_hits_total",] == 10
    assert values["llava_mm_cache_queries_total",] == 7
    assert values["llava_mm_cache_hits_total",] == 3
    assert values["llava_mm_cache_bytes",] == 5
    assert values["llava_mm_cache_disk_hits_total",] == 2
    engine.ready = None
    assert not [name for name, *_ in samples(metrics) if "memory_bytes" in name[:20]]


def test_requests_are_counted() -> None:
    metrics = Metrics(FakeEngine())
    requests = metrics.requests
    requests.admitted(100, 64, 1)
    requests.admitted(10, 0)
    requests.first_token(0.5, 100, 60, TIMINGS)
    for gap in (0.01, 0.01, 0.2):
        requests.token_gap(gap)
    requests.finished("length", 5, 2.0, TIMINGS)
    requests.finished("abort", 2, 1.0)
    metrics.failed(400, "invalid_image")
    metrics.failed(400, "invalid_image")
    metrics.failed(429, "queue_full")
    values = samples(metrics)
    assert values["llava_prompt_tokens_total",] == 110
    assert values["llava_image_tokens_total",] == 64
    assert values["llava_generation_tokens_total",] == 7
    assert values["llava_time_to_first_token_seconds_sum",] == 0.5
    assert values["llava_request_queue_time_seconds_sum",] == 0.5
    assert values["llava_request_prefill_time_seconds_sum",] == 2.0
    assert values["llava_request_decode_time_seconds_sum",] == 1.0
    assert values["llava_request_decode_time_seconds_count",] == 1, "an abort has no last token"
    assert values["llava_request_time_per_output_token_seconds_sum",] == 0.25
    assert values["llava_inter_token_latency_seconds_count",] == 3
    assert values["llava_inter_token_latency_seconds_bucket", "0.01"] == 2
    assert values["llava_e2e_request_latency_seconds_sum",] == 3.0
    assert values["llava_request_images_bucket", "0.0"] == 1
    assert values["llava_request_images_bucket", "1.0"] == 2
    assert values["llava_request_success_total", "length"] == 1
    assert values["llava_request_success_total", "abort"] == 1
    assert values["llava_requests_failed_total", "400", "invalid_image"] == 2
    assert values["llava_requests_refused_total", "queue_full"] == 1
    assert ("llava_requests_refused_total", "invalid_image") not in values


def test_pictures_are_counted() -> None:
    metrics = Metrics(FakeEngine())
    metrics.pictures.encoded(IMAGE, ENCODED)
    again = EncodedImage(64, 8, 8, 112, 112, 640, 480, 0.0, cached=True)
    metrics.pictures.encoded(IMAGE, again)
    metrics.pictures.took("decode", "ok", 0.125)
    metrics.pictures.took("fetch", "failed", 10.0)
    values = samples(metrics)
    assert values["llava_images_total",] == 2
    assert values["llava_image_prompt_tokens_sum",] == 128
    assert values["llava_image_source_pixels_sum",] == 2 * 640 * 480
    assert values["llava_image_encoded_pixels_sum",] == 2 * 112 * 112
    assert values["llava_image_tiles_sum",] == 2
    assert values["llava_image_encode_seconds_sum", "ok"] == 0.25
    assert values["llava_image_encode_seconds_count", "cached"] == 1
    assert values["llava_image_decode_seconds_sum", "ok"] == 0.125
    assert values["llava_image_fetch_seconds_count", "failed"] == 1
    assert values["llava_image_resize_seconds_count", "ok"] == 0


def test_steps_are_divided_between_llama_cpp_and_ourselves() -> None:
    engine = FakeEngine()
    metrics = Metrics(engine)
    for llama, step in ((0.5, 0.75), (0.0, 0.25), (1.0, 1.125)):
        engine.on_step(StepOutputs(step_seconds=step, llama_seconds=llama))
    values = samples(metrics)
    # The second step computed nothing.
    assert values["llava_engine_step_seconds_count", "llama"] == 2
    assert values["llava_engine_step_seconds_sum", "llama"] == 0.5 + 1.0
    assert values["llava_engine_step_seconds_sum", "own"] == 0.25 + 0.125
    failures = Rejected("a", EngineError("no"), 0.5), Rejected("b", EngineError("no"))
    engine.on_step(StepOutputs(failures))
    values = samples(metrics)
    assert values["llava_image_encode_seconds_sum", "failed"] == 0.5
    assert values["llava_image_encode_seconds_count", "failed"] == 1


def test_llama_server_s_names_say_the_same() -> None:
    engine = FakeEngine(stats=SchedulerStats(2, 3, decodes=10, decode_sequences=25, tokens_max=70))
    metrics = Metrics(engine)
    metrics.requests.first_token(0.5, 100, 60, TIMINGS)
    metrics.requests.finished("stop", 5, 2.0, TIMINGS)
    values = samples(metrics)
    assert values["llamacpp:prompt_tokens_total",] == 40
    assert values["llamacpp:prompt_tokens_cached_total",] == 60
    assert values["llamacpp:prompt_seconds_total",] == 2.0
    assert values["llamacpp:prompt_tokens_seconds",] == 20.0
    assert values["llamacpp:tokens_predicted_total",] == 5
    assert values["llamacpp:predicted_tokens_seconds",] == 5.0
    assert values["llamacpp:n_decode_total",] == 10
    assert values["llamacpp:n_busy_slots_per_decode",] == 2.5
    assert values["llamacpp:n_tokens_max",] == 70
    assert values["llamacpp:requests_processing",] == 2
    assert values["llamacpp:requests_deferred",] == 3
    assert samples(metrics)["llamacpp:prompt_tokens_seconds",] == 0, "nothing since the last scrape"


def test_routes_are_counted_by_status() -> None:
    metrics = Metrics(FakeEngine())
    for status in (200, 200, 400):
        metrics.http.answered("/v1/chat/completions", status)
    values = samples(metrics)
    assert values["llava_http_requests_total", "/v1/chat/completions", "200"] == 2
    assert values["llava_http_requests_total", "/v1/chat/completions", "400"] == 1


def test_two_apps_do_not_share_their_counts() -> None:
    one, other = Metrics(FakeEngine()), Metrics(FakeEngine())
    one.requests.admitted(5, 0)
    assert samples(one)["llava_prompt_tokens_total",] == 5
    assert samples(other)["llava_prompt_tokens_total",] == 0


def test_the_engine_s_process_is_told_apart_from_ours() -> None:
    metrics = Metrics(FakeEngine(ready=replace(engine_ready(), pid=os.getppid())))
    values = samples(metrics)
    assert values["process_resident_memory_bytes",] > 0
    assert values["llava_engine_process_resident_memory_bytes",] > 0


@given(st.lists(st.floats(0, 10) | st.sampled_from([0.1, 0.5, 2.0]), max_size=30))
def test_a_quick_histogram_is_the_library_s_but_for_its_cost(values: list[float]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    slow = Histogram("x", "text", ["m"], registry=theirs, buckets=(0.1, 0.5, 2)).labels("a")
    quick = QuickHistogram("x", "text", (0.1, 0.5, 2), {"m": "a"})
    ours.register(QuickHistograms(quick))
    for value in values:
        slow.observe(value)
        quick.observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


@pytest.mark.parametrize("status", [401, 403, 413, 429, 503])
def test_what_is_turned_away_is_a_refusal(status: int) -> None:
    metrics = Metrics(FakeEngine())
    metrics.failed(status, None)
    assert samples(metrics)["llava_requests_refused_total", str(status)] == 1

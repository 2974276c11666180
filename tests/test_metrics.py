"""The Prometheus families by themselves."""

from __future__ import annotations

import pytest
from fakes import FakeEngine
from prometheus_client.parser import text_string_to_metric_families

from server.messages import EncodedImage, SchedulerStats
from server.metrics import Metrics

FAMILIES = {
    "llava_num_requests_running": "gauge",
    "llava_num_requests_waiting": "gauge",
    "llava_kv_cache_usage_perc": "gauge",
    "llava_prompt_tokens": "counter",
    "llava_generation_tokens": "counter",
    "llava_image_tokens": "counter",
    "llava_images": "counter",
    "llava_request_success": "counter",
    "llava_requests_failed": "counter",
    "llava_time_to_first_token_seconds": "histogram",
    "llava_e2e_request_latency_seconds": "histogram",
    "llava_image_encode_seconds": "histogram",
    "llava_image_decode_seconds": "histogram",
    "llava_engine_restarts": "counter",
    "llava_memory_bytes": "gauge",
    "llava_device_memory_bytes": "gauge",
    "llava_build_info": "gauge",
    "llava_num_preemptions": "counter",
    "llava_engine_busy_seconds": "counter",
    "llava_engine_llama_seconds": "counter",
    "llava_prefix_cache_queries": "counter",
    "llava_prefix_cache_hits": "counter",
    "llava_mm_cache_queries": "counter",
    "llava_mm_cache_hits": "counter",
    "llava_mm_cache_bytes": "gauge",
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_families_and_their_types() -> None:
    metrics = Metrics(FakeEngine())
    metrics.failed(400, None)
    text = metrics.render().decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    kinds = {name: f.type for name, f in families.items() if not name.endswith("_created")}
    assert kinds == FAMILIES
    assert all(family.documentation for family in families.values())


def test_everything_is_readable_before_the_model_is_loaded() -> None:
    values = samples(Metrics(FakeEngine(ready=None)))
    assert values["llava_num_requests_running", ()] == 0
    assert values["llava_kv_cache_usage_perc", ()] == 0
    assert values["llava_request_success_total", ("stop",)] == 0
    assert not [name for name, _ in values if "memory" in name]


def test_gauges_follow_the_engine() -> None:
    engine = FakeEngine()
    metrics = Metrics(engine)
    engine.stats = SchedulerStats(num_running=3, num_waiting=7, kv_cells_used=1, kv_cells_total=4)
    engine.restarts = 2
    values = samples(metrics)
    assert values["llava_num_requests_running", ()] == 3
    assert values["llava_num_requests_waiting", ()] == 7
    assert values["llava_kv_cache_usage_perc", ()] == 0.25
    assert values["llava_engine_restarts_total", ()] == 2
    engine.stats = SchedulerStats(
        preemptions=1,
        prefix_queries=20,
        prefix_hits=10,
        image_cache_queries=7,
        image_cache_hits=3,
        image_cache_bytes=5,
    )
    values = samples(metrics)
    assert values["llava_num_preemptions_total", ()] == 1
    assert values["llava_prefix_cache_queries_total", ()] == 20
    assert values["llava_prefix_cache_hits_total", ()] == 10
    assert values["llava_mm_cache_queries_total", ()] == 7
    assert values["llava_mm_cache_hits_total", ()] == 3
    assert values["llava_mm_cache_bytes", ()] == 5
    engine.ready = None
    assert not [name for name, _ in samples(metrics) if "memory" in name], "nothing goes stale"


def test_requests_are_counted() -> None:
    metrics = Metrics(FakeEngine())
    metrics.admitted(100, 64)
    metrics.admitted(10, 0)
    metrics.encoded(EncodedImage(64, 8, 8, 112, 112, 640, 480, 0.25))
    metrics.first_token(0.5)
    metrics.decoded(0.125)
    metrics.finished("length", 5, 2.0)
    metrics.finished("abort", 2, 1.0)
    metrics.failed(400, "invalid_image")
    metrics.failed(400, "invalid_image")
    values = samples(metrics)
    assert values["llava_prompt_tokens_total", ()] == 110
    assert values["llava_image_tokens_total", ()] == 64
    assert values["llava_images_total", ()] == 1
    assert values["llava_generation_tokens_total", ()] == 7
    assert values["llava_image_encode_seconds_sum", ()] == 0.25
    assert values["llava_image_decode_seconds_sum", ()] == 0.125
    assert values["llava_time_to_first_token_seconds_sum", ()] == 0.5
    assert values["llava_e2e_request_latency_seconds_sum", ()] == 3.0
    assert values["llava_request_success_total", ("length",)] == 1
    assert values["llava_request_success_total", ("abort",)] == 1
    assert values["llava_requests_failed_total", ("400", "invalid_image")] == 2


def test_two_apps_do_not_share_their_counts() -> None:
    one, other = Metrics(FakeEngine()), Metrics(FakeEngine())
    one.admitted(5, 0)
    assert samples(one)["llava_prompt_tokens_total", ()] == 5
    assert samples(other)["llava_prompt_tokens_total", ()] == 0


def test_unknown_reason_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        Metrics(FakeEngine()).finished("boredom", 1, 1.0)

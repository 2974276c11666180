"""llama-server's names beside ours, so that its users' dashboards and autoscalers go on working.

Names and meanings as in llama.cpp's tools/server/server-task.cpp (to_metrics). They bear no label.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metrics.engine import MetricsSource
from server.metrics.requests import Totals

_DRAFTS = (
    ("spec_decode_num_draft_tokens", "Draft tokens generated; 0, nothing is drafted here"),
    ("spec_decode_num_accepted_tokens", "Draft tokens accepted; 0, nothing is drafted here"),
    ("spec_decode_num_drafts", "Verified drafts; 0, nothing is drafted here"),
)


class _Speed:
    """Tokens a second since the last scrape."""

    def __init__(self) -> None:
        self._then = (0, 0.0)

    def now(self, tokens: int, seconds: float) -> float:
        """The speed, of all tokens and seconds so far; 0 if there were none since."""
        more, took = tokens - self._then[0], seconds - self._then[1]
        self._then = (tokens, seconds)
        return more / took if took > 0 else 0.0


class LlamaServerMetrics(Collector):
    """The families that begin with ``llamacpp:``."""

    def __init__(self, source: MetricsSource, totals: Totals) -> None:
        self._source = source
        self._totals = totals
        self._prompts = _Speed()
        self._answers = _Speed()

    def collect(self) -> Iterator[Metric]:
        """All of them. The two speeds are those since the last scrape, as llama-server's are."""
        stats, totals = self._source.stats, self._totals
        prompts = totals.prompt_tokens, totals.prompt_seconds
        answers = totals.answer_tokens, totals.answer_seconds
        yield _counter("prompt_tokens", "Prompt tokens processed, without cached", prompts[0])
        yield _counter("prompt_tokens_cached", "Prompt tokens from the cache", totals.cached_tokens)
        yield _counter("prompt_seconds", "Time spent on prompts", prompts[1])
        yield _counter("tokens_predicted", "Tokens generated", answers[0])
        yield _counter("tokens_predicted_seconds", "Time spent on generation", answers[1])
        yield _counter("n_decode", "Calls of llama_decode() with tokens", stats.decodes)
        for name, text in _DRAFTS:
            yield _counter(name, text, 0)
        yield _gauge("n_tokens_max", "Longest sequence so far", stats.tokens_max)
        yield _gauge("prompt_tokens_seconds", "Prompt tokens a second", self._prompts.now(*prompts))
        yield _gauge(
            "predicted_tokens_seconds", "Generated tokens a second", self._answers.now(*answers)
        )
        yield _gauge("requests_processing", "Requests in the batch", stats.num_running)
        yield _gauge("requests_deferred", "Requests in the queue", stats.num_waiting)
        busy = stats.decode_sequences / max(stats.decodes, 1)
        yield _gauge("n_busy_slots_per_decode", "Sequences in a decode, on average", busy)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"llamacpp:{name}", text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"llamacpp:{name}", text, value)

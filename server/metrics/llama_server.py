"""llama-server's names beside ours, so that its users' dashboards and autoscalers go on working.

Names and meanings as in llama.cpp's tools/server/server-task.cpp (to_metrics). They bear no label.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metrics.engine import MetricsSource

_DRAFTS = (
    ("spec_decode_num_draft_tokens", "Draft tokens generated; 0, nothing is drafted here"),
    ("spec_decode_num_accepted_tokens", "Draft tokens accepted; 0, nothing is drafted here"),
    ("spec_decode_num_drafts", "Verified drafts; 0, nothing is drafted here"),
)


class _Work:
    """Tokens and the seconds that they took: all of them, and those since the last scrape."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._then = (0, 0.0)

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds

    def speed(self) -> float:
        """Tokens a second since the last call, 0 if there were none."""
        tokens, seconds = self.tokens - self._then[0], self.seconds - self._then[1]
        self._then = (self.tokens, self.seconds)
        return tokens / seconds if seconds > 0 else 0.0


class LlamaServerMetrics(Collector):
    """The families that begin with ``llamacpp:``."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source
        self._prompts = _Work()
        self._answers = _Work()
        self._cached = 0

    def prefilled(self, tokens: int, cached: int, seconds: float) -> None:
        """A prompt was computed but for its ``cached`` tokens."""
        self._prompts.add(tokens - cached, seconds)
        self._cached += cached

    def decoded(self, tokens: int, seconds: float) -> None:
        """An answer of so many tokens has ended."""
        self._answers.add(tokens, seconds)

    def collect(self) -> Iterator[Metric]:
        """All of them. The two speeds are those since the last scrape, as llama-server's are."""
        stats, prompts, answers = self._source.stats, self._prompts, self._answers
        yield _counter("prompt_tokens", "Prompt tokens processed, without cached", prompts.tokens)
        yield _counter("prompt_tokens_cached", "Prompt tokens from the cache", self._cached)
        yield _counter("prompt_seconds", "Time spent on prompts", prompts.seconds)
        yield _counter("tokens_predicted", "Tokens generated", answers.tokens)
        yield _counter("tokens_predicted_seconds", "Time spent on generation", answers.seconds)
        yield _counter("n_decode", "Calls of llama_decode() with tokens", stats.decodes)
        for name, text in _DRAFTS:
            yield _counter(name, text, 0)
        yield _gauge("n_tokens_max", "Longest sequence so far", stats.tokens_max)
        yield _gauge("prompt_tokens_seconds", "Prompt tokens a second", prompts.speed())
        yield _gauge("predicted_tokens_seconds", "Generated tokens a second", answers.speed())
        yield _gauge("requests_processing", "Requests in the batch", stats.num_running)
        yield _gauge("requests_deferred", "Requests in the queue", stats.num_waiting)
        busy = stats.decode_sequences / max(stats.decodes, 1)
        yield _gauge("n_busy_slots_per_decode", "Sequences in a decode, on average", busy)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"llamacpp:{name}", text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"llamacpp:{name}", text, value)

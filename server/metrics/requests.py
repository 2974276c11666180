"""Metrics: what requests do, counted as it happens."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from server.messages import EncodedImage
from server.metrics.buckets import LONG, SHORT
from server.metrics.engine import EngineCollector, MetricsSource

ABORTED = "abort"
_REASONS = ("stop", "length", ABORTED)


class Metrics:
    """Counts what requests do. Cheap enough to be called for each of them, from any thread."""

    def __init__(self, source: MetricsSource) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(source))
        self._prompt_tokens = self._counter("llava_prompt_tokens", "Prompt tokens, pictures too")
        self._generation_tokens = self._counter("llava_generation_tokens", "Tokens generated")
        self._image_tokens = self._counter("llava_image_tokens", "Prompt tokens of pictures")
        self._images = self._counter("llava_images", "Pictures in prompts")
        self._success = self._counter("llava_request_success", "Ended requests", "finished_reason")
        self._failed = self._counter("llava_requests_failed", "Errors answered", "status", "code")
        self._first_token = self._histogram(
            "llava_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            LONG,
        )
        self._latency = self._histogram(
            "llava_e2e_request_latency_seconds", "From a request's arrival to its end", LONG
        )
        self._encode = self._histogram(
            "llava_image_encode_seconds", "Vision encoder, per picture; 0 from a cache", SHORT
        )
        self._decode = self._histogram(
            "llava_image_decode_seconds", "Decoding and resizing a picture", SHORT
        )
        self._by_reason = {reason: self._success.labels(reason) for reason in _REASONS}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def admitted(self, prompt_tokens: int, image_tokens: int) -> None:
        """A prompt was counted and fits."""
        self._prompt_tokens.inc(prompt_tokens)
        self._image_tokens.inc(image_tokens)

    def first_token(self, seconds: float) -> None:
        """A request's first token came."""
        self._first_token.observe(seconds)

    def decoded(self, seconds: float) -> None:
        """A picture was read, decoded and resized."""
        self._decode.observe(seconds)

    def encoded(self, image: EncodedImage) -> None:
        """A picture went through the vision tower."""
        self._images.inc()
        self._encode.observe(image.encode_seconds)

    def finished(self, reason: str, completion_tokens: int, seconds: float) -> None:
        """A request ended: ``stop``, ``length``, or ``abort`` when its client left."""
        self._by_reason[reason].inc()
        self._generation_tokens.inc(completion_tokens)
        self._latency.observe(seconds)

    def failed(self, status: int, code: str | None) -> None:
        """A request was answered with an error, before or in its stream."""
        self._failed.labels(str(status), code or "").inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

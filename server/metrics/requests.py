"""Requests, their pictures and the steps: what they do and how long it takes, as it happens."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter

from server.messages import EncodedImage, ImageInput, Rejected, RequestTimings, StepOutputs
from server.metrics.families import (
    GAPS,
    IMAGE_TOKENS,
    LONG,
    PICTURES,
    PIXELS,
    SHORT,
    STEPS,
    TILES,
    TOKENS,
    Families,
    QuickHistograms,
)

OK, CACHED, FAILED = "ok", "cached", "failed"
_STAGES = {
    "fetch": ("Getting a picture from its URL", (OK, FAILED)),
    "decode": ("Reading and decoding a picture, or finding it kept", (OK, CACHED, FAILED)),
    "resize": ("Bringing a decoded picture to the tower's size", (OK, FAILED)),
    "encode": ("Vision tower, per picture; 0 if cached", (OK, CACHED, FAILED)),
}


class PictureMetrics:
    """The families of pictures. Written on any thread."""

    def __init__(self, families: Families) -> None:
        self._count = families.counter("llava_images", "Pictures in prompts")
        self._tokens = families.histogram(
            "llava_image_prompt_tokens", "Prompt tokens of a picture", IMAGE_TOKENS
        )
        self._pixels = families.histogram(
            "llava_image_source_pixels", "Pixels of a picture as it came", PIXELS
        )
        self._encoded = families.histogram(
            "llava_image_encoded_pixels", "Pixels of a picture as the tower saw it", PIXELS
        )
        self._tiles = families.histogram(
            "llava_image_tiles", "Squares in which the tower saw a picture", TILES
        )
        self.prepared_queries = families.counter(
            "llava_image_prepared_queries", "Pictures looked up before they were decoded"
        )
        self.prepared_hits = families.counter(
            "llava_image_prepared_hits", "Pictures that were kept as the tower sees them"
        )
        self.prepared_bytes = families.gauge(
            "llava_image_prepared_bytes", "Bytes of pictures kept as the tower sees them"
        )
        self._seconds = {
            stage: families.histograms(
                f"llava_image_{stage}_seconds", text, SHORT, "result", results
            )
            for stage, (text, results) in _STAGES.items()
        }

    def took(self, stage: str, result: str, seconds: float) -> None:
        """A stage (fetch, decode, resize, encode) of one picture ended."""
        self._seconds[stage][result].observe(seconds)

    def encoded(self, image: ImageInput, encoded: EncodedImage) -> None:
        """A picture went through the vision tower, or came from its cache."""
        self._count.inc()
        self._tokens.observe(encoded.tokens)
        self._pixels.observe(image.source_width * image.source_height)
        self._encoded.observe(image.encoded_width * image.encoded_height)
        self._tiles.observe(image.n_squares)
        self.took("encode", CACHED if encoded.cached else OK, encoded.encode_seconds)


class DecoderMetrics:
    """The families of the processes that decode."""

    def __init__(self, families: Families) -> None:
        self._alive = families.gauge("llava_decoders", "Processes that decode pictures")
        self._ended = families.counters(
            "llava_decoder_restarts",
            "Decoders that were ended and replaced, by what was exceeded or happened",
            "reason",
            ("cpu", "wall", "memory", "crash", "lost", "left", "slow"),
        )

    def decoders(self, alive: int) -> None:
        """So many decoders run now."""
        self._alive.set(alive)

    def decoder_ended(self, reason: str) -> None:
        """One was ended."""
        self._ended.inc(reason)


ABORTED = "abort"
_REASONS = ("stop", "length", ABORTED)
# What is turned away though the request itself may be in order.
_REFUSALS = frozenset({401, 403, 413, 429, 503})
_KNOWN_REFUSALS = (
    "queue_full",
    "rate_limit_exceeded",
    "concurrency_limit_exceeded",
    "invalid_api_key",
    "request_too_large",
    "engine_unavailable",
    "shutting_down",
)


@dataclass(slots=True)
class Totals:
    """Of all requests so far; ``prompt_tokens`` are those that were computed, not cached."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    answer_tokens: int = 0
    answer_seconds: float = 0.0


class RequestMetrics:
    """The families of generation. Written on the event loop."""

    def __init__(self, families: Families) -> None:
        self.totals = Totals()
        self._model = families.model
        self.prompt_tokens = families.counter("llava_prompt_tokens", "Prompt tokens, pictures too")
        self.generation_tokens = families.counter("llava_generation_tokens", "Tokens generated")
        self._image_tokens = families.counter("llava_image_tokens", "Prompt tokens of pictures")
        self._ended = families.counters(
            "llava_request_success", "Ended requests", "finished_reason", _REASONS
        )
        self._refused = families.counters(
            "llava_requests_refused",
            "Requests turned away, by error code",
            "reason",
            _KNOWN_REFUSALS,
        )
        self._failed = families.many("llava_requests_failed", "Errors answered", "status", "code")
        self._make_times(families)
        self._make_sizes(families)

    def _make_times(self, families: Families) -> None:
        seconds = families.histogram
        self._first_token = seconds(
            "llava_time_to_first_token_seconds", "From a request's arrival to its first token", LONG
        )
        self._latency = seconds(
            "llava_e2e_request_latency_seconds", "From a request's arrival to its end", LONG
        )
        self._queue = seconds(
            "llava_request_queue_time_seconds", "Waiting for a sequence in the engine", LONG
        )
        self._prefill = seconds(
            "llava_request_prefill_time_seconds",
            "From the first sequence to the first token, encodes included",
            LONG,
        )
        self._decode = seconds(
            "llava_request_decode_time_seconds", "From the first token to the last", LONG
        )
        self._per_token = seconds(
            "llava_request_time_per_output_token_seconds",
            "Decode time of a request for each token after its first",
            GAPS,
        )
        gaps = families.quick(
            "llava_inter_token_latency_seconds", "Between two tokens of a request", GAPS
        )
        families.registry.register(QuickHistograms(gaps))
        # Called for every token: no method of ours in between.
        self.token_gap = gaps.observe

    def _make_sizes(self, families: Families) -> None:
        self._prompt_size = families.histogram(
            "llava_request_prompt_tokens", "Prompt tokens of a request, pictures too", TOKENS
        )
        self._answer_size = families.histogram(
            "llava_request_generation_tokens", "Tokens generated for a request", TOKENS
        )
        self._pictures = families.histogram(
            "llava_request_images", "Pictures in a request", PICTURES
        )

    def admitted(self, prompt_tokens: int, image_tokens: int, pictures: int = 0) -> None:
        """A prompt was counted and fits."""
        self.prompt_tokens.inc(prompt_tokens)
        self._image_tokens.inc(image_tokens)
        self._prompt_size.observe(prompt_tokens)
        self._pictures.observe(pictures)

    def first_token(
        self, seconds: float, prompt_tokens: int, cached: int, timings: RequestTimings | None
    ) -> None:
        """A request's first token came, so many seconds after the request.

        ``cached`` of its ``prompt_tokens`` had been computed before.
        """
        self._first_token.observe(seconds)
        if timings is not None:
            self._queue.observe(timings.queue_seconds)
            self._prefill.observe(timings.prefill_seconds)
            self.totals.prompt_tokens += prompt_tokens - cached
            self.totals.cached_tokens += cached
            self.totals.prompt_seconds += timings.prefill_seconds

    def finished(
        self,
        reason: str,
        completion_tokens: int,
        seconds: float,
        timings: RequestTimings | None = None,
    ) -> None:
        """A request ended: ``stop``, ``length``, or ``abort`` when its client left."""
        self._ended.inc(reason)
        self.generation_tokens.inc(completion_tokens)
        self._answer_size.observe(completion_tokens)
        self._latency.observe(seconds)
        if timings is not None and timings.finished:
            self._decode.observe(timings.decode_seconds)
            self.totals.answer_tokens += completion_tokens
            self.totals.answer_seconds += timings.decode_seconds
            if completion_tokens > 1:
                self._per_token.observe(timings.decode_seconds / (completion_tokens - 1))

    def failed(self, status: int, code: str | None) -> None:
        """A request was answered with an error, before or in its stream."""
        self._failed.labels(self._model, str(status), code or "").inc()
        if status in _REFUSALS:
            self._refused.inc(code or str(status))


class HttpMetrics:
    """Counts answers. Labels are bound once for each pair of route and status."""

    def __init__(self, families: Families) -> None:
        self._model = families.model
        self._family = families.many(
            "llava_http_requests", "HTTP requests answered, by route and status", "route", "status"
        )
        self._children: dict[tuple[str, int], Counter] = {}

    def answered(self, route: str, status: int) -> None:
        """One request; ``route`` is a path as it was declared, so there are few of them."""
        child = self._children.get((route, status))
        if child is None:
            child = self._family.labels(self._model, route, str(status))
            self._children[route, status] = child
        child.inc()


class StepMetrics:
    """Divides the time of each step between llama.cpp and ourselves."""

    def __init__(self, families: Families, pictures: PictureMetrics) -> None:
        name, text = "llava_engine_step_seconds", "A step's time in llama.cpp, and in our own code"
        self._llama = families.quick(name, text, STEPS, part="llama")
        self._own = families.quick(name, text, STEPS, part="own")
        families.registry.register(QuickHistograms(self._llama, self._own))
        self._pictures = pictures

    def take(self, outputs: StepOutputs) -> None:
        """Counts a step that computed something, and pictures that could not be encoded."""
        for output in outputs.outputs:
            if isinstance(output, Rejected) and output.encode_seconds is not None:
                self._pictures.took("encode", FAILED, output.encode_seconds)
        if outputs.llama_seconds > 0:
            self._llama.observe(outputs.llama_seconds)
            self._own.observe(max(outputs.step_seconds - outputs.llama_seconds, 0.0))

"""What pictures are and what they cost."""

from __future__ import annotations

from server.messages import EncodedImage, ImageInput
from server.metrics.families import IMAGE_TOKENS, PIXELS, SHORT, TILES, Families

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

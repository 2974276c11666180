"""ApiOptions: the settings that the app factory takes beside the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from server.decoders.work import DecoderLimits
from server.defaults import IMAGE_DECODERS, IMAGE_PREPARED_BYTES
from server.images.options import ImageOptions
from server.images.url_policy import FetchOptions
from server.tools.reasoning import ReasoningFormat


@dataclass(slots=True, frozen=True)
class CallerLimits:
    """Requests that one caller may make in a time, such as ``60/minute``, and at the same time."""

    rate: str | None = None
    concurrency: int | None = None


@dataclass(slots=True, frozen=True)
class ApiOptions:
    """Settings of the HTTP surface.

    ``max_queue`` requests may wait beside those that run, ``caller`` are the limits of each of
    those who ask. Without ``serve_metrics`` they are served elsewhere (server.api.app).

    ``model_alias`` is the name in the API; without one the GGUF's name serves.
    ``chat_template`` is the name of a built-in template or a Jinja source. ``reasoning_format``
    says whether thoughts are separated from answers: auto where the template has them.
    No ``api_keys``: open to all. Without ``image_root`` no file: URL is opened.
    ``files_max_bytes`` bounds all uploads together, which stay for ``files_expire`` seconds, or for
    good if that is 0. At most ``responses_max_count`` responses of ``responses_max_bytes`` together
    are stored.
    Streams that are silent for ``sse_ping_interval`` seconds get a comment; 0 or less: never.
    ``image_decoders`` processes decode pictures, within the limits ``decoding``, and
    ``image_prepared_bytes`` of prepared pictures are kept.
    ``docs``: the OpenAPI document and the page that shows it are served; ``page``: the page at /.
    /props returns ``model_path``.
    """

    images: ImageOptions = field(default_factory=ImageOptions)
    model_alias: str | None = None
    chat_template: str | None = None
    reasoning_format: ReasoningFormat = "auto"
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None
    max_queue: int | None = None
    caller: CallerLimits = field(default_factory=CallerLimits)
    cors_origins: tuple[str, ...] = ()
    serve_metrics: bool = True
    max_body_bytes: int = 64 * 1024 * 1024
    image_decoders: int = IMAGE_DECODERS
    decoding: DecoderLimits = field(default_factory=DecoderLimits)
    image_prepared_bytes: int = IMAGE_PREPARED_BYTES
    fetch: FetchOptions = field(default_factory=FetchOptions)
    image_root: Path | None = None
    request_timeout: float = 0.0
    files_max_bytes: int = 256 * 1024 * 1024
    files_expire: int = 24 * 3600
    responses_max_count: int = 1000
    responses_max_bytes: int = 64 * 1024 * 1024
    log_content: bool = False
    sse_ping_interval: float = 15.0
    docs: bool = True
    page: bool = True

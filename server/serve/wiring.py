"""From the settings to the options of each part of the server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from server.api.options import ApiOptions, CallerLimits
from server.decoders.work import DecoderLimits
from server.engine_client.supervisor import EngineLimits
from server.errors import ConfigError
from server.hub.resolve import ModelName
from server.images.options import ImageLimits, ImageOptions
from server.images.url_policy import FetchOptions
from server.prompt import check_template
from server.serve.http_protocol import ClientLimits
from server.serve.web_server import WebOptions
from server.settings.settings import Settings
from server.sizes import MIB

if TYPE_CHECKING:
    from server.api.middleware.opentelemetry import OpenTelemetry

_OTLP_VARIABLES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def engine_limits(settings: Settings) -> EngineLimits:
    """How long the engine is waited for, and what happens after that."""
    return EngineLimits(
        stall=settings.stall_timeout,
        restart=settings.restart_timeout,
        retry=settings.engine_restart == "retry",
    )


def web_options(settings: Settings) -> WebOptions:
    """How the app is put on the net.

    Raises:
        ConfigError: one of the two TLS files is missing.
    """
    if (settings.ssl_cert_file is None) != (settings.ssl_key_file is None):
        raise ConfigError("--ssl-cert-file and --ssl-key-file go together")
    return WebOptions(
        clients=ClientLimits(
            settings.max_connections, settings.client_timeout, settings.max_body_bytes
        ),
        cert_file=settings.ssl_cert_file,
        key_file=settings.ssl_key_file,
        trusted_proxies=settings.trusted_proxy,
        keep_alive=settings.timeout_keep_alive,
    )


def api_options(settings: Settings, model: ModelName) -> ApiOptions:
    """The API's settings.

    Raises:
        ConfigError: a setting names something that is not there.
    """
    return ApiOptions(
        images=_image_options(settings),
        model_alias=settings.alias or model.name,
        chat_template=_chat_template(settings) or model.chat_template,
        reasoning_format=settings.reasoning_format,
        api_keys=tuple(key.get_secret_value() for key in settings.api_key),
        api_key_file=settings.api_key_file,
        max_queue=settings.max_queue,
        caller=CallerLimits(settings.rate_limit, settings.key_concurrency),
        cors_origins=settings.cors_origin,
        serve_metrics=settings.metrics_port is None,
        max_body_bytes=settings.max_body_bytes,
        docs=settings.docs,
        page=settings.page,
        fetch=FetchOptions(
            enabled=settings.image_urls,
            allow=settings.image_url_allow,
            timeout=settings.image_fetch_timeout,
        ),
        image_root=_image_root(settings),
        image_decoders=settings.image_decoders,
        decoding=_decoder_limits(settings),
        image_prepared_bytes=settings.image_prepared_bytes,
        request_timeout=settings.request_timeout,
        files_max_bytes=settings.files_max_bytes,
        files_expire=settings.files_expire,
        responses_max_count=settings.responses_max_count,
        responses_max_bytes=settings.responses_max_bytes,
        log_content=settings.log_content,
        sse_ping_interval=float(settings.sse_ping_interval),
    )


def _image_options(settings: Settings) -> ImageOptions:
    limits = ImageLimits(
        # Plain numbers alone: a decoder, which gets these, has no pydantic.
        max_bytes=int(settings.image_max_bytes),
        max_pixels=settings.image_max_pixels,
        max_side=settings.image_max_side,
        max_frames=settings.image_max_frames,
        max_images=settings.image_max_count,
    )
    return ImageOptions(
        limits=limits,
        max_edge=settings.image_max_edge,
        background=settings.image_background,
        detail=settings.image_detail,
    )


def _decoder_limits(settings: Settings) -> DecoderLimits:
    """What a decoder may take. Of the formats, JPEG 2000 takes most: 20 bytes a pixel."""
    seconds, pixels = settings.image_decode_seconds, settings.image_max_pixels
    return DecoderLimits(
        memory_bytes=int(settings.image_decode_bytes or 256 * MIB + 32 * pixels),
        cpu_seconds=seconds,
        # Beside a busy engine a slow decoder may get a sixth of a core.
        wall_seconds=max(60.0, 6 * seconds),
        # The file goes in and at most all of its pixels come out,
        # with a few bytes of a head before each piece.
        shared_bytes=max(int(settings.image_max_bytes), 3 * pixels + MIB, 64 * MIB),
    )


def _chat_template(settings: Settings) -> str | None:
    """--chat-template's source or name, tried out before anything is loaded."""
    wanted, file = settings.chat_template, settings.chat_template_file
    if wanted is not None and file is not None:
        raise ConfigError("--chat-template and --chat-template-file exclude each other")
    if wanted is not None and "{" not in wanted and Path(wanted).expanduser().is_file():
        file = Path(wanted).expanduser()
    if file is not None:
        wanted = _read_template(file)
    if wanted is not None:
        check_template(wanted)
    return wanted


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template-file: cannot read {file}: {error}") from error


def _image_root(settings: Settings) -> Path | None:
    root = settings.image_root
    if root is not None and not root.is_dir():
        raise ConfigError(f"--image-root: no such folder: {root}")
    return root


def tracing(settings: Settings) -> OpenTelemetry | None:
    """What exports traces, if the settings or OpenTelemetry's own variables name a collector.

    Raises:
        ConfigError: they do, but the packages are not installed.
    """
    named = settings.otlp_endpoint or any(map(os.environ.get, _OTLP_VARIABLES))
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        # Imported late: optional, and a third of a second.
        from server.api.middleware.opentelemetry import otlp  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"--otlp-endpoint: pip install llava-server[otel] for what traces need ({error})"
        ) from None
    return otlp(settings.otlp_endpoint)

"""Where to listen, and for whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.settings.types import (
    EngineRestart,
    Flag,
    LogFormat,
    LogLevel,
    Networks,
    Origins,
    Positive,
    Rate,
    Secrets,
    Text,
    UserPath,
)


class ServerSettings(BaseModel):
    """Where to listen, and for whom."""

    host: Annotated[Text, Flag("Server", (), "ADDRESS")] = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 is every interface"
    )
    port: Annotated[int, Flag("Server", (), "PORT")] = Field(
        8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    sse_ping_interval: Annotated[int, Flag("Server", (), "SECONDS")] = Field(
        15, ge=-1, le=3600, description="silence in a stream before a comment; -1 sends none"
    )


class LimitSettings(BaseModel):
    """How much is taken on, and how long anybody is waited for."""

    max_queue: Annotated[int, Flag("Limits", (), "N")] = Field(
        64, ge=0, description="requests that may wait while --parallel run; others get 429"
    )
    max_tokens: Annotated[Positive | None, Flag("Limits", (), "N", "the context's rest")] = Field(
        None, description="most tokens that one request may generate"
    )
    max_body_bytes: Annotated[ByteSize, Flag("Limits", (), "SIZE", "64MiB")] = Field(
        ByteSize(64 * 1024**2), gt=0, description="largest body of a request, such as 64MiB"
    )
    max_connections: Annotated[Positive, Flag("Limits", (), "N")] = Field(
        1024, description="connections at the same time; beyond, the one idle longest is closed"
    )
    rate_limit: Annotated[Rate | None, Flag("Limits", (), "N/PERIOD", "none")] = Field(
        None, description="requests of one key (or address) in a time, such as 60/minute"
    )
    key_concurrency: Annotated[Positive | None, Flag("Limits", (), "N", "none")] = Field(
        None, description="requests of one key (or address) at the same time"
    )
    client_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        30.0, ge=0, description="longest time for a client to send or read anything; 0 is any"
    )
    timeout_keep_alive: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        120.0,
        gt=0,
        le=86_400,
        description="close connections that are idle between two requests for this long; keep it"
        " above your proxy's",
    )
    request_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        3600.0, ge=0, description="longest time from a request's arrival to its end; 0 is any"
    )
    drain_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        30.0, ge=0, description="time for running requests to end after SIGTERM"
    )
    stall_timeout: Annotated[int, Flag("Limits", (), "SECONDS")] = Field(
        8, ge=0, le=3600, description="an engine that does not move so long is replaced; 0 is never"
    )
    engine_restart: Annotated[EngineRestart, Flag("Limits", (), "exit|retry")] = Field(
        "exit",
        description="what to do when the engine cannot be restarted: end with exit code 1, so that"
        " systemd or the like starts the server again, or retry every minute",
    )
    restart_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        120.0, ge=0, description="longest time that requests wait for an engine that is restarted"
    )


class AccessSettings(BaseModel):
    """Who may enter, from where, and how well it is hidden."""

    api_key: Annotated[Secrets, Flag("Access", (), "KEY,...", "none, open to all", repeat=True)] = (
        Field((), description="keys, one of which clients must send as a bearer token or x-api-key")
    )
    api_key_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none")] = Field(
        None, description="keys with names, hashed, as `llava-server key` writes them"
    )
    insecure: Annotated[bool, Flag("Access")] = Field(
        False, description="listen on a public address without any key"
    )
    ssl_key_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none, no TLS")] = Field(
        None, description="private key of the TLS certificate (PEM)"
    )
    ssl_cert_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none, no TLS")] = Field(
        None, description="TLS certificate with its chain (PEM)"
    )
    cors_origin: Annotated[Origins, Flag("Access", (), "ORIGIN,...", "none", repeat=True)] = Field(
        (),
        description="web pages and apps that may ask from a browser, such as https://example.org"
        " or app://obsidian.md; * is any",
    )
    trusted_proxy: Annotated[Networks, Flag("Access", (), "ADDRESS,...", "none", repeat=True)] = (
        Field((), description="proxies or networks whose X-Forwarded-For and -Proto are believed")
    )
    docs: Annotated[bool, Flag("Access")] = Field(True, description="serve /docs and /openapi.json")
    page: Annotated[bool, Flag("Access")] = Field(
        True, description="serve a page at / to drop pictures on and chat"
    )
    metrics_port: Annotated[int | None, Flag("Access", (), "PORT", "the same port")] = Field(
        None,
        ge=0,
        le=65535,
        description="port of its own for /metrics and /health; 0 is a free one",
    )
    reuse_port: Annotated[bool, Flag("Access")] = Field(
        False, description="share the port with another server, for a restart without a gap"
    )


def default_cache_dir() -> Path:
    """The folder for what the server and its setup make and want to keep."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "llava-server"


class GeneralSettings(BaseModel):
    """What concerns every command."""

    config: Annotated[UserPath | None, Flag("General", metavar="FILE")] = Field(
        None, description="TOML file with any of these settings, flag names as keys"
    )
    log_level: Annotated[LogLevel, Flag("General", metavar="LEVEL")] = Field(
        "info", description="debug, info, warning or error"
    )
    verbose: Annotated[bool, Flag("General", ("-v",))] = Field(
        False, description="show every line of the start on a terminal, as logs have it"
    )
    cache_dir: Annotated[UserPath, Flag("General", (), "DIR", "~/.cache/llava-server")] = Field(
        default_factory=default_cache_dir,
        description="where prepared vision towers and built wheels are kept",
    )
    offline: Annotated[bool, Flag("General")] = Field(
        False, description="use only what is already on this machine; ask no hub"
    )


class LogSettings(BaseModel):
    """Logs and traces; the level is a general setting."""

    log_format: Annotated[LogFormat, Flag("Logs and traces", (), "text|json")] = Field(
        "text", description="lines for people, or a JSON object a line"
    )
    log_content: Annotated[bool, Flag("Logs and traces")] = Field(
        False, description="log prompts and answers too, without their pictures"
    )
    otlp_endpoint: Annotated[Text | None, Flag("Logs and traces", (), "URL", "none, no traces")] = (
        Field(
            None,
            description="OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318",
        )
    )

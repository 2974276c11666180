"""The web process: address, keys, limits, timeouts, logs and traces."""

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
    """Where to listen."""

    host: Annotated[Text, Flag("Server", (), "ADDRESS")] = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 is every interface"
    )
    port: Annotated[int, Flag("Server", (), "PORT")] = Field(
        8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    sse_ping_interval: Annotated[int, Flag("Server", (), "SECONDS")] = Field(
        15,
        ge=-1,
        le=3600,
        description="send a comment in a stream that was silent this long; -1 disables",
    )


class LimitSettings(BaseModel):
    """Limits and timeouts."""

    max_queue: Annotated[int, Flag("Limits", (), "N")] = Field(
        64, ge=0, description="queue this many requests while --parallel run; more get 429"
    )
    max_tokens: Annotated[Positive | None, Flag("Limits", (), "N", "the context's rest")] = Field(
        None, description="limit the tokens that one request may generate"
    )
    max_body_bytes: Annotated[ByteSize, Flag("Limits", (), "SIZE", "64MiB")] = Field(
        ByteSize(64 * 1024**2), gt=0, description="limit a request's body, such as 64MiB"
    )
    max_connections: Annotated[Positive, Flag("Limits", (), "N")] = Field(
        1024, description="limit open connections; when full, the one idle longest is closed"
    )
    rate_limit: Annotated[Rate | None, Flag("Limits", (), "N/PERIOD", "none")] = Field(
        None, description="limit requests per key (or address) in a period, such as 60/minute"
    )
    key_concurrency: Annotated[Positive | None, Flag("Limits", (), "N", "none")] = Field(
        None, description="limit simultaneous requests per key (or address)"
    )
    client_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        30.0,
        ge=0,
        description="close connections that send or read nothing for this long; 0 disables",
    )
    timeout_keep_alive: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        95.0,
        gt=0,
        le=86_400,
        description="close connections that are idle between two requests for this long; keep "
        "it above your proxy's timeout",
    )
    request_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        3600.0, ge=0, description="end requests that take longer; 0 disables"
    )
    drain_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        30.0, ge=0, description="after SIGTERM or Ctrl-C, wait this long for running requests"
    )
    stall_timeout: Annotated[int, Flag("Limits", (), "SECONDS")] = Field(
        8,
        ge=0,
        le=3600,
        description="restart the engine after this many seconds without progress; 0 disables",
    )
    engine_restart: Annotated[EngineRestart, Flag("Limits", (), "exit|retry")] = Field(
        "exit",
        description="when the engine cannot be restarted: exit with code 1, so that systemd "
        "or Compose act, or retry every minute",
    )
    restart_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        120.0, ge=0, description="fail requests that wait longer than this for an engine restart"
    )


class AccessSettings(BaseModel):
    """Keys, TLS, and other sites' pages."""

    api_key: Annotated[Secrets, Flag("Access", (), "KEY,...", "none, open to all", repeat=True)] = (
        Field((), description="require one of these keys, as a bearer token or in x-api-key")
    )
    api_key_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none")] = Field(
        None, description="file of named, hashed keys, written by `llava-server key`"
    )
    insecure: Annotated[bool, Flag("Access")] = Field(
        False, description="allow a public address without any key"
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
        Field(
            (),
            description="proxies or networks whose X-Forwarded-For and X-Forwarded-Proto are used",
        )
    )
    docs: Annotated[bool, Flag("Access")] = Field(True, description="serve /docs and /openapi.json")
    page: Annotated[bool, Flag("Access")] = Field(
        True, description="serve a page at / to drop pictures on and chat"
    )
    metrics_port: Annotated[int | None, Flag("Access", (), "PORT", "the same port")] = Field(
        None,
        ge=0,
        le=65535,
        description="serve /metrics on this port instead, and /health there too; 0 takes a "
        "free one",
    )
    reuse_port: Annotated[bool, Flag("Access")] = Field(
        False, description="share the port with another server, to restart without a gap"
    )


def default_cache_dir() -> Path:
    """The folder for what the server and its setup make and want to keep."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "llava-server"


class GeneralSettings(BaseModel):
    """Settings of every command."""

    config: Annotated[UserPath | None, Flag("General", metavar="FILE")] = Field(
        None, description="read settings from this TOML file; keys are flag names without dashes"
    )
    log_level: Annotated[LogLevel, Flag("General", metavar="LEVEL")] = Field(
        "info", description="log lines from this level on: debug, info, warning or error"
    )
    verbose: Annotated[bool, Flag("General", ("-v",))] = Field(
        False, description="on a terminal, show all log lines of the start"
    )
    cache_dir: Annotated[UserPath, Flag("General", (), "DIR", "~/.cache/llava-server")] = Field(
        default_factory=default_cache_dir,
        description="folder for prepared vision towers and built wheels",
    )
    offline: Annotated[bool, Flag("General")] = Field(
        False, description="use only files that are on this machine; download nothing"
    )


class LogSettings(BaseModel):
    """Logs and traces; the level is a general setting."""

    log_format: Annotated[LogFormat, Flag("Logs and traces", (), "text|json")] = Field(
        "text", description="text for people, json for one JSON object a line"
    )
    log_content: Annotated[bool, Flag("Logs and traces")] = Field(
        False, description="log prompts and answers too, without pictures"
    )
    otlp_endpoint: Annotated[Text | None, Flag("Logs and traces", (), "URL", "none, no traces")] = (
        Field(
            None,
            description="OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318",
        )
    )

"""How much is taken on, and how long anybody is waited for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.settings.flag import Flag
from server.settings.types import Positive, Rate


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
    request_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        3600.0, ge=0, description="longest time from a request's arrival to its end; 0 is any"
    )
    drain_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        30.0, ge=0, description="time for running requests to end after SIGTERM"
    )
    stall_timeout: Annotated[int, Flag("Limits", (), "SECONDS")] = Field(
        8, ge=0, le=3600, description="an engine that does not move so long is replaced; 0 is never"
    )
    restart_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        120.0, ge=0, description="longest time that requests wait for an engine that is restarted"
    )

"""How much is taken on, and how long anybody is waited for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import Positive


class LimitSettings(BaseModel):
    """How much is taken on, and how long anybody is waited for."""

    max_tokens: Annotated[Positive | None, Flag("Limits", (), "N", "the context's rest")] = Field(
        None, description="most tokens that one request may generate"
    )
    request_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        3600.0, ge=0, description="longest time from a request's arrival to its end; 0 is any"
    )
    stall_timeout: Annotated[int, Flag("Limits", (), "SECONDS")] = Field(
        8, ge=0, le=3600, description="an engine that does not move so long is replaced; 0 is never"
    )
    restart_timeout: Annotated[float, Flag("Limits", (), "SECONDS")] = Field(
        120.0, ge=0, description="longest time that requests wait for an engine that is restarted"
    )

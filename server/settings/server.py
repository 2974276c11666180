"""Where to listen, and for whom."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import Text


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

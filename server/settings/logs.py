"""What is told of the server's work, and to whom."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import LogFormat, Text


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

"""What the Responses API keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.settings.flag import Flag


class ResponsesSettings(BaseModel):
    """What the Responses API keeps, in memory, for ``previous_response_id``."""

    responses_max_count: Annotated[int, Flag("Responses", (), "N")] = Field(
        1000, ge=0, description="most stored responses; the one used longest ago makes room"
    )
    responses_max_bytes: Annotated[ByteSize, Flag("Responses", (), "SIZE", "64MiB")] = Field(
        ByteSize(64 * 1024**2), ge=0, description="most bytes of all stored responses"
    )

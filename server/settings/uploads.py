"""What POST /v1/files keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.settings.flag import Flag


class UploadsSettings(BaseModel):
    """What POST /v1/files keeps."""

    files_max_bytes: Annotated[ByteSize, Flag("Uploads", (), "SIZE", "256MiB")] = Field(
        ByteSize(256 * 1024**2), ge=0, description="most bytes of all uploads, held in memory"
    )
    files_expire: Annotated[int, Flag("Uploads", (), "SECONDS", "86400, a day")] = Field(
        86_400, ge=0, description="how long uploads stay; 0 is until they are deleted"
    )

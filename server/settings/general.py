"""What concerns every command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import LogLevel, UserPath


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
    cache_dir: Annotated[UserPath, Flag("General", (), "DIR", "~/.cache/llava-server")] = Field(
        default_factory=default_cache_dir,
        description="where prepared vision towers and built wheels are kept",
    )
    offline: Annotated[bool, Flag("General")] = Field(
        False, description="use only what is already on this machine; ask no hub"
    )

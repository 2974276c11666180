"""All settings: one class read from flags, ``LLAVA_*`` variables and a TOML file, in that order.

A field's ``Flag`` carries what the command line needs beside its type and description, so that
flags, variables, file keys, ``--help`` and ``docs/settings.md`` cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from server.errors import ConfigError
from server.settings.model import EngineSettings, MemorySettings, ModelSettings
from server.settings.pictures import PicturesSettings, ResponsesSettings, UploadsSettings
from server.settings.server import (
    AccessSettings,
    GeneralSettings,
    LimitSettings,
    LogSettings,
    ServerSettings,
)

ENV_PREFIX = "LLAVA_"


# pydantic lists the fields of the last base first, and the help follows that order.
class Settings(
    LogSettings,
    ResponsesSettings,
    UploadsSettings,
    PicturesSettings,
    MemorySettings,
    EngineSettings,
    LimitSettings,
    AccessSettings,
    ServerSettings,
    ModelSettings,
    GeneralSettings,
    BaseSettings,
):
    """The server's settings. A flag beats a variable, a variable the file, the file the default."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables, then the file that either of them names."""
        file = init_settings().get("config") or env_settings().get("config")
        values = read_toml(Path(file).expanduser()) if file else {}
        return init_settings, env_settings, InitSettingsSource(settings_cls, values)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's settings by field name; keys may be spelled as the flags are."""
    try:
        table: Mapping[str, Any] = tomli.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} is not valid TOML: {error}") from None
    return {key.replace("-", "_"): value for key, value in table.items()}

"""All settings: one class read from flags, ``LLAVA_*`` variables and a TOML file, in that order.

A field's ``Flag`` carries what the command line needs beside its type and description, so that
flags, variables, file keys, ``--help`` and ``docs/settings.md`` cannot drift apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tomli
from pydantic import ByteSize, Field
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from server.errors import ConfigError
from server.setting_types import (
    AutoOff,
    Colour,
    Detail,
    GpuLayers,
    Hosts,
    LogLevel,
    Positive,
    Secret,
    Text,
    UserPath,
)

ENV_PREFIX = "LLAVA_"


@dataclass(frozen=True)
class Flag:
    """How a setting looks on the command line: its group, short spellings and placeholder.

    ``default`` replaces the default's own text in the help where that says more.
    """

    group: str
    short: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None


def default_cache_dir() -> Path:
    """The folder for what the server and its setup make and want to keep."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "llava-server"


class Settings(BaseSettings):
    """The server's settings. A flag beats a variable, a variable the file, the file the default."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

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

    model: Annotated[Text, Flag("Model", ("-m",), "MODEL")] = Field(
        "demo", description="GGUF file, name from `llava-server list`, or hf:OWNER/REPO[:QUANT]"
    )
    mmproj: Annotated[UserPath | None, Flag("Model", ("-mm",), "FILE")] = Field(
        None, description="vision tower and projector (GGUF) that belong to the model"
    )
    alias: Annotated[Text | None, Flag("Model", (), "NAME", "the model's name")] = Field(
        None, description="name of the model in the API"
    )
    llava_fix: Annotated[AutoOff, Flag("Model")] = Field(
        "auto", description="compute LLaVA's vision features as they were trained"
    )

    host: Annotated[Text, Flag("Server", (), "ADDRESS")] = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 is every interface"
    )
    port: Annotated[int, Flag("Server", (), "PORT")] = Field(
        8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    api_key: Annotated[Secret | None, Flag("Server", (), "KEY", "none, open to all")] = Field(
        None, description="key that clients must send as a bearer token"
    )

    ctx_size: Annotated[int, Flag("Engine", ("-c",), "TOKENS", "0, from the model")] = Field(
        0, ge=0, description="context in tokens, shared by all slots"
    )
    parallel: Annotated[int, Flag("Engine", ("-np",), "N")] = Field(
        4, ge=1, le=256, description="requests that run at the same time"
    )
    threads: Annotated[int, Flag("Engine", ("-t",), "N", "one per usable core")] = Field(
        0, ge=-1, le=1024, description="processor threads; 0 or -1 choose"
    )
    batch_size: Annotated[Positive, Flag("Engine", ("-b",), "TOKENS")] = Field(
        512, description="most tokens in one batch"
    )
    ubatch_size: Annotated[Positive, Flag("Engine", ("-ub",), "TOKENS")] = Field(
        512, description="most tokens computed at once, at most the batch"
    )
    itl_target: Annotated[float, Flag("Engine", (), "MS")] = Field(
        50.0, gt=0, le=10_000, description="longest step while anyone waits for a next token"
    )
    n_gpu_layers: Annotated[GpuLayers, Flag("Engine", ("-ngl",), "N|auto|all")] = Field(
        "auto", description="layers of the language model on the GPU"
    )
    mmproj_offload: Annotated[bool, Flag("Engine")] = Field(
        True, description="run the vision tower on the GPU where there is one"
    )

    image_size: Annotated[int | None, Flag("Pictures", (), "PIXELS", "the tower's own")] = Field(
        None, ge=14, le=4096, description="edge of the square that a fixed-size tower sees"
    )
    image_max_edge: Annotated[int | None, Flag("Pictures", (), "PIXELS", "no limit")] = Field(
        None, ge=14, description="shrink pictures whose longer edge exceeds this"
    )
    image_detail: Annotated[Detail, Flag("Pictures", (), "auto|low|high")] = Field(
        "auto", description="for pictures whose request does not say; low takes fewer tokens"
    )
    image_min_tokens: Annotated[Positive | None, Flag("Pictures", (), "N", "the tower's own")] = (
        Field(None, description="least tokens of a picture, for towers that take any size")
    )
    image_max_tokens: Annotated[Positive | None, Flag("Pictures", (), "N", "the tower's own")] = (
        Field(None, description="most tokens of a picture, for towers that take any size")
    )
    image_max_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "20MiB")] = Field(
        ByteSize(20 * 1024**2), gt=0, description="largest encoded picture, such as 20MiB"
    )
    image_max_pixels: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        50_000_000, description="most pixels of one picture"
    )
    image_max_side: Annotated[Positive, Flag("Pictures", (), "PIXELS")] = Field(
        32_768, description="longest edge of one picture as it arrives"
    )
    image_max_frames: Annotated[Positive | None, Flag("Pictures", (), "N", "any number")] = Field(
        None, description="most frames of an animation, of which the first is seen"
    )
    image_max_count: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        16, description="most pictures in one request"
    )
    image_background: Annotated[Colour, Flag("Pictures", (), "COLOUR", "white")] = Field(
        (255, 255, 255), description="what shows through transparent pictures"
    )
    image_cache_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "256MiB")] = Field(
        ByteSize(256 * 1024**2), ge=0, description="most bytes of encoded pictures kept; 0 is none"
    )
    image_urls: Annotated[bool, Flag("Pictures")] = Field(
        True, description="fetch pictures from http and https URLs"
    )
    image_url_allow: Annotated[Hosts, Flag("Pictures", (), "HOST,...", "all public hosts")] = Field(
        (), description="fetch from these hosts only; they may be private, and name a port"
    )
    image_fetch_timeout: Annotated[float, Flag("Pictures", (), "SECONDS")] = Field(
        10.0, gt=0, le=600, description="longest time for fetching one picture, redirects included"
    )
    image_root: Annotated[UserPath | None, Flag("Pictures", (), "DIR", "none, no files")] = Field(
        None, description="folder below which file: URLs may name pictures"
    )

    files_max_bytes: Annotated[ByteSize, Flag("Uploads", (), "SIZE", "256MiB")] = Field(
        ByteSize(256 * 1024**2), ge=0, description="most bytes of all uploads, held in memory"
    )
    files_expire: Annotated[int, Flag("Uploads", (), "SECONDS", "86400, a day")] = Field(
        86_400, ge=0, description="how long uploads stay; 0 is until they are deleted"
    )

    @property
    def n_threads(self) -> int:
        """The thread count to use: ``threads``, or one per core this process may run on."""
        if self.threads > 0:
            return self.threads
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1

    @property
    def gpu_layers(self) -> int:
        """``n_gpu_layers`` in llama.cpp's own terms, where -1 is all of them."""
        return self.n_gpu_layers if isinstance(self.n_gpu_layers, int) else -1

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

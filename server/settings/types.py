"""The types of settings: how a flag's, a variable's or a file's raw value is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from PIL import ImageColor
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode


def _gpu_layers(value: object) -> object:
    """Accept auto, all or a count; -1 is llama.cpp's older word for all."""
    text = str(value).strip().lower()
    if text in {"auto", "all"}:
        return text
    if text == "-1":
        return "all"
    if text.isdecimal():
        return int(text)
    raise ValueError("must be auto, all or a number of layers")


def _colour(value: object) -> object:
    """Read a colour name or #rrggbb; transparency makes no sense behind a picture."""
    if not isinstance(value, str):
        return value
    try:
        return ImageColor.getrgb(value.strip())[:3]
    except ValueError:
        raise ValueError("must be a colour such as white, #7f7f7f or rgb(127,127,127)") from None


def _not_empty(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    return value


def _user_path(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) and value.strip() else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _hosts(value: object) -> object:
    """Read HOST,HOST:PORT,...; what a host is, the fetcher knows."""
    if not isinstance(value, str):
        return value
    return tuple(host for host in (part.strip() for part in value.split(",")) if host)


Text = Annotated[str, BeforeValidator(_not_empty)]
UserPath = Annotated[Path, BeforeValidator(_user_path), BeforeValidator(_not_empty)]
GpuLayers = Annotated[int | Literal["auto", "all"], BeforeValidator(_gpu_layers)]
Colour = Annotated[tuple[int, int, int], NoDecode, BeforeValidator(_colour)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)]
Secret = Annotated[SecretStr, BeforeValidator(_not_empty)]
Detail = Annotated[Literal["auto", "low", "high"], BeforeValidator(_lower)]
AutoOff = Annotated[Literal["auto", "off"], BeforeValidator(_lower)]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower)]

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Positive = Annotated[int, Field(ge=1)]

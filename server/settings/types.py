"""The types of settings: how a flag's, a variable's or a file's raw value is read."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from server.cache_types import CACHE_TYPES

_RATE = re.compile(r"[1-9][0-9]*\s*(/|per)\s*([1-9][0-9]*\s*)?(second|minute|hour|day)s?")


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
    from PIL import ImageColor  # noqa: PLC0415 (only where a colour was given)

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


def _listed(value: object) -> object:
    """Read A,B,... given once, or several times."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        return value
    parts = (part.strip() for one in value for part in one.split(","))
    return tuple(part for part in parts if part)


def _secrets(value: object) -> object:
    """Read one or more; only by default there are none."""
    parts = _listed(value)
    if parts == () and value != ():
        raise ValueError("must not be empty")
    return parts


def _origin(value: str) -> str:
    """Check what browsers send as Origin; a page's own path is none of it.

    Apps in a browser's shape have schemes of their own: app://, tauri://, chrome-extension://.
    """
    if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", value):
        raise ValueError("must be origins such as https://example.org, without a path, or *")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8") from None
    return value


def _rate(value: str) -> str:
    """Check N/PERIOD; the words are those of the library ``limits``."""
    if not _RATE.fullmatch(value.strip()):
        raise ValueError("must be a number in a time, such as 10/second or 60/minute")
    return value.strip()


Text = Annotated[str, BeforeValidator(_not_empty)]
UserPath = Annotated[Path, BeforeValidator(_user_path), BeforeValidator(_not_empty)]
GpuLayers = Annotated[int | Literal["auto", "all"], BeforeValidator(_gpu_layers)]
Colour = Annotated[tuple[int, int, int], NoDecode, BeforeValidator(_colour)]
# What a host is, the fetcher knows.
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_listed)
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_listed)
]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_secrets)]
Rate = Annotated[str, AfterValidator(_rate)]
Detail = Annotated[Literal["auto", "low", "high"], BeforeValidator(_lower)]
AutoOff = Annotated[Literal["auto", "off"], BeforeValidator(_lower)]
ReasoningFormat = Annotated[Literal["auto", "none", "deepseek"], BeforeValidator(_lower)]
EngineRestart = Annotated[Literal["exit", "retry"], BeforeValidator(_lower)]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower)]

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Flag:
    """How a setting looks on the command line: its group, short spellings and placeholder.

    ``default`` replaces the default's own text in the help where that says more. With ``bare``
    and ``negative`` it is a switch as well: those are the values of ``--flag`` and ``--no-flag``.
    With ``repeat`` it may be given several times, and each time with several values.
    """

    group: str
    short: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None
    bare: str | None = None
    negative: str | None = None
    repeat: bool = False


_TRUE = {"true", "1", "on", "yes", "enabled"}
_FALSE = {"false", "0", "off", "no", "disabled"}


def _auto(value: object) -> object:
    """Read the word auto as None; -1 is llama-server's number for it."""
    return None if str(value).strip().lower() in {"auto", "-1"} else value


def _lower_or_auto(value: object) -> object:
    text = str(value).strip().lower()
    return None if value is None or text == "auto" else text


def _on_off(value: object) -> object:
    """Read what llama-server takes for on and off."""
    text = _lower_or_auto(value)
    return "on" if text in _TRUE else "off" if text in _FALSE else text


def _cache_type(value: str | None) -> str | None:
    if value is not None and value not in CACHE_TYPES:
        raise ValueError(f"must be auto or one of {', '.join(CACHE_TYPES)}")
    return value


def _place(value: object) -> object:
    """Read gpu, cpu or auto; a switch's true and false are llama-server's spelling."""
    text = _lower_or_auto(value)
    return "gpu" if text in _TRUE else "cpu" if text in _FALSE else text


def _shares(value: object) -> object:
    """Read N0,N1,...: how much of the model goes to each GPU."""
    if not isinstance(value, str):
        return value
    try:
        shares = tuple(float(part) for part in value.replace("/", ",").split(","))
    except ValueError:
        raise ValueError("must be numbers such as 3,1") from None
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares):
        raise ValueError("must be numbers from 0 on, and one of them more than 0")
    return shares


def _different(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not name one twice")
    return values


def _rpc_server(value: str) -> str:
    """Check HOST:PORT. llama.cpp, which connects, knows names and IPv4 addresses."""
    host, colon, port = value.strip().rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError("must be addresses such as 10.0.0.2:50052")
    if ":" in host:
        raise ValueError("must be names or IPv4 addresses: llama.cpp's RPC knows no IPv6")
    return value.strip()


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_different)]
RpcServers = Annotated[
    tuple[Annotated[str, AfterValidator(_rpc_server)], ...],
    NoDecode,
    BeforeValidator(_listed),
    AfterValidator(_different),
]
AutoCount = Annotated[int | None, BeforeValidator(_auto)]
CacheTypeName = Annotated[str | None, AfterValidator(_cache_type), BeforeValidator(_lower_or_auto)]
FlashAttention = Annotated[Literal["on", "off"] | None, BeforeValidator(_on_off)]
Fit = Annotated[Literal["on", "off"], BeforeValidator(_on_off)]
Place = Annotated[Literal["gpu", "cpu"] | None, BeforeValidator(_place)]
SplitMode = Annotated[Literal["layer", "none"], BeforeValidator(_lower_or_auto)]
Shares = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_shares)]

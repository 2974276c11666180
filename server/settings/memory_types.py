"""How the settings of memory are read; None stands for auto, which the fit decides."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

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


AutoCount = Annotated[int | None, BeforeValidator(_auto)]
CacheType = Annotated[
    Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] | None,
    BeforeValidator(_lower_or_auto),
]
FlashAttention = Annotated[Literal["on", "off"] | None, BeforeValidator(_on_off)]
Fit = Annotated[Literal["on", "off"], BeforeValidator(_on_off)]
Place = Annotated[Literal["gpu", "cpu"] | None, BeforeValidator(_place)]
SplitMode = Annotated[Literal["layer", "none"], BeforeValidator(_lower_or_auto)]
Shares = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_shares)]

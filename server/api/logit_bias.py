"""``logit_bias`` on the wire: OpenAI's object, or llama-server's list of pairs."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.api.schema import writable

_MAX_ENTRIES = 4096
_MAX_TOKEN = 2**31 - 1
_MAX_TEXT = 1000


def _pairs(value: object) -> object:
    """``{"15": -100}``, or ``[[15, -100], ["a text", false]]``, as a list of pairs."""
    if isinstance(value, dict):
        items: list[Any] = [(_key(key), bias) for key, bias in value.items()]
    elif isinstance(value, list):
        if not all(isinstance(item, list) and len(item) == 2 for item in value):
            raise _error("Input should hold pairs of a token and its bias")
        items = value
    else:
        return value
    return [(_token(token), _bias(bias)) for token, bias in items]


def _key(key: str) -> int | str:
    # As llama-server has it: what is no number is a text, whose every token is meant.
    digits = key.isascii() and key.isdigit() and len(key) <= 10
    return int(key) if digits else key


def _token(token: object) -> int | str:
    if isinstance(token, str) and 0 < len(token) <= _MAX_TEXT:
        return writable(token)
    if isinstance(token, int) and not isinstance(token, bool) and 0 <= token <= _MAX_TOKEN:
        return token
    raise _error("A token should be an id of the model's vocabulary, or a text")


def _bias(bias: object) -> float:
    if bias is False:
        return -math.inf
    if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
        raise _error("A bias should be a number from -100 to 100, or false")
    return float(bias)


def _error(message: str) -> PydanticCustomError:
    return PydanticCustomError("logit_bias", "{reason}", {"reason": message})


LogitBias = Annotated[
    list[tuple[int | str, float]], Field(max_length=_MAX_ENTRIES), BeforeValidator(_pairs)
]

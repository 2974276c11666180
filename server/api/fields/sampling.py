"""The sampling parameters of a body, under OpenAI's and llama-server's names.

Shared by every endpoint that generates; what each of them adds stands in its own file.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import Strict, Text, writable
from server.errors import RequestError
from server.messages.sampling import SAMPLERS, SEEDS, SamplingParams

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


_MAX_STOPS = 16
_MAX_BREAKERS = 40
MAX_CHOICES = 16
_MAX_INT = 2**31 - 1
# llama-server's letters for the samplers (common/sampling.cpp).
_LETTERS = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "a": "adaptive_p",
}
_OTHER_NAMES = {"typical_p": "typ_p", "temp": "temperature"}

Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Hundred = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=_MAX_INT)]
Natural = Annotated[int, Field(ge=0, le=_MAX_INT)]
Window = Annotated[int, Field(ge=-1, le=_MAX_INT)]
StopText = Annotated[Text, Field(min_length=1, max_length=500)]
# llama.cpp looks for each in the whole vocabulary, and tokenizes what is left of it at each find.
Breaker = Annotated[Text, Field(min_length=1, max_length=20)]


def _not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("zero", "Input should be -1 (no limit) or at least 1")
    return value


NPredict = Annotated[int, Field(ge=-1, le=_MAX_INT), AfterValidator(_not_zero)]


def _names(value: object) -> object:
    if isinstance(value, str):
        value = [_LETTERS.get(letter, letter) for letter in value]
    if isinstance(value, list):
        return [_OTHER_NAMES.get(name, name) if isinstance(name, str) else name for name in value]
    return value


SamplerName = Annotated[
    str, Field(pattern="^(" + "|".join((*SAMPLERS, "adaptive_p")) + ")$", max_length=20)
]
SamplerNames = Annotated[
    list[SamplerName], Field(min_length=1, max_length=16), BeforeValidator(_names)
]


class SamplingFields(Strict):
    """What every generating endpoint takes. Null is the same as leaving a field away."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Count | None = None
    n_predict: NPredict | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Ratio | None = None
    top_k: Window | None = None
    min_p: Ratio | None = None
    typical_p: Ratio | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=100, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    repeat_last_n: Window | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Hundred | None = None
    mirostat_eta: Ratio | None = None
    dry_multiplier: Hundred | None = None
    dry_base: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] | None = None
    dry_allowed_length: Natural | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Field(min_length=1, max_length=8)] | None = None
    xtc_probability: Ratio | None = None
    xtc_threshold: Ratio | None = None
    dynatemp_range: Hundred | None = None
    dynatemp_exponent: Hundred | None = None
    adaptive_target: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None
    adaptive_decay: Annotated[float, Field(ge=0, le=0.99, allow_inf_nan=False)] | None = None
    min_keep: Natural | None = None
    samplers: SamplerNames | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[list[StopText], Field(max_length=_MAX_STOPS)] | None = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None
    sse_ping_interval: Annotated[int, Field(ge=-1, le=3600)] | None = None
    cache_prompt: bool | None = None
    grammar: Text | None = None
    json_schema: Any | None = None

    @field_validator("dry_sequence_breakers")
    @classmethod
    def _few_characters(cls, value: list[str] | None) -> list[str] | None:
        if sum(map(len, value or ())) > _MAX_BREAKERS:
            raise PydanticCustomError("long", "Input should hold at most 40 characters in all")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def ping_interval(self, default: float) -> float:
        """Seconds of silence before a comment in a stream; 0 or less: none."""
        return default if self.sse_ping_interval is None else float(self.sse_ping_interval)

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be generated; None: until the context is full."""
        if self.n_predict is not None and self.n_predict > 0:
            return self.n_predict
        return self.max_tokens

    def sampling(self) -> SamplingParams:
        """The sampling parameters, defaults filled in; the grammar is output_format's."""
        given = {name: _plain(getattr(self, name)) for name in _SAME_NAME}
        chosen: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.top_k == -1:  # vLLM's word for off
            chosen["top_k"] = 0
        if self.seed is not None:
            chosen["seed"] = self.seed % SEEDS
        return SamplingParams(max_tokens=self.most_tokens, **chosen)


_SAME_NAME = sorted(
    (SamplingFields.model_fields.keys() & SamplingParams.__dataclass_fields__.keys())
    - {"max_tokens", "grammar"}
)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def check_limits(fields: SamplingFields, *others: int | None) -> None:
    """Raise RequestError where the names for the most tokens do not agree."""
    limits = {fields.max_tokens, *others} - {None}
    if len(limits) > 1:
        raise RequestError(
            "max_tokens and max_completion_tokens differ", param="max_tokens", code="invalid_value"
        )
    if limits and fields.n_predict not in (None, *limits):
        raise RequestError(
            "n_predict and max_tokens differ", param="n_predict", code="invalid_value"
        )


class StreamOptions(Strict):
    """What a stream carries beside the text."""

    include_usage: bool | None = None

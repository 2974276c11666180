"""The sampling parameters of a body, under OpenAI's and llama-server's names.

Shared by every endpoint that generates; what each of them adds stands in its own file.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import Strict, Text, writable
from server.api.fields.output_format import ConstraintFields
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


_MAX_STOPS, _MAX_STOP_CHARS = 256, 8000
_MAX_WORDS, _MAX_WORD = 256, 100
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


def _whole(value: object) -> object:
    # JSON has one kind of number, and some languages write 8 as 8.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Hundred = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=_MAX_INT), WHOLE]
Natural = Annotated[int, Field(ge=0, le=_MAX_INT), WHOLE]
Window = Annotated[int, Field(ge=-1, le=_MAX_INT), WHOLE]
TokenId = Annotated[int, Field(ge=0, le=_MAX_TOKEN), WHOLE]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=_MAX_ENTRIES)]
StopText = Annotated[Text, Field(min_length=1, max_length=500)]
# llama.cpp looks for each in the whole vocabulary, and tokenizes what is left of it at each find.
Breaker = Annotated[Text, Field(min_length=1, max_length=20)]


def _not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("zero", "Input should be -1 (no limit) or at least 1")
    return value


# The most tokens of an answer; -1 is llama-server's and LM Studio's word for no limit.
TokenLimit = Annotated[int, Field(ge=-1, le=_MAX_INT), AfterValidator(_not_zero), WHOLE]


# vLLM's: how many of the most likely tokens each token of the prompt comes with.
PromptLogprobs = Annotated[int, Field(ge=0, le=20), WHOLE]


def _stops(value: object) -> object:
    """Stop texts as a list. An empty one asks for nothing."""
    if isinstance(value, str):
        value = [value]
    return [stop for stop in value if stop != ""] if isinstance(value, list) else value


def _few(value: list[str]) -> list[str]:
    if sum(map(len, value)) > _MAX_STOP_CHARS:
        raise PydanticCustomError("long", "Input should hold at most 8000 characters in all")
    return value


StopTexts = Annotated[
    list[StopText], Field(max_length=_MAX_STOPS), AfterValidator(_few), BeforeValidator(_stops)
]
BadWords = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=_MAX_WORD)]], Field(max_length=_MAX_WORDS)
]


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


class SamplingFields(ConstraintFields):
    """What every generating endpoint takes. Null is the same as leaving a field away."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] | None = None
    n_cmpl: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] | None = None
    max_tokens: TokenLimit | None = None
    n_predict: TokenLimit | None = None
    min_tokens: Natural | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Ratio | None = None
    top_k: Window | None = None
    min_p: Ratio | None = None
    typical_p: Ratio | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=100, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    repeat_last_n: Window | None = None
    mirostat: Annotated[int, Field(ge=0, le=2), WHOLE] | None = None
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
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None
    stop: StopTexts | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=_MAX_ENTRIES)] | None = None
    include_stop_str_in_output: bool | None = None
    no_stop_trim: bool | None = None
    bad_words: BadWords | None = None
    allowed_token_ids: TokenIds | None = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None
    sse_ping_interval: Annotated[int, Field(ge=-1, le=3600), WHOLE] | None = None
    cache_prompt: bool | None = None

    @field_validator("dry_sequence_breakers")
    @classmethod
    def _few_characters(cls, value: list[str] | None) -> list[str] | None:
        if sum(map(len, value or ())) > _MAX_BREAKERS:
            raise PydanticCustomError("long", "Input should hold at most 40 characters in all")
        return value

    def ping_interval(self, default: float) -> float:
        """Seconds of silence before a comment in a stream; 0 or less: none."""
        return default if self.sse_ping_interval is None else float(self.sse_ping_interval)

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer by any of the names for it; -1: no limit, None: not said."""
        return self.max_tokens if self.n_predict is None else self.n_predict

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be generated; None: until the context is full."""
        limit = self.token_limit
        return None if limit == -1 else limit

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n or self.n_cmpl or 1

    def sampling(self) -> SamplingParams:
        """The sampling parameters, defaults filled in; the grammar is output_format's."""
        given = {name: _plain(getattr(self, name)) for name in _SAME_NAME}
        chosen: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.top_k == -1:  # vLLM's word for off
            chosen["top_k"] = 0
        if self.seed is not None:
            chosen["seed"] = self.seed % SEEDS
        if self.no_stop_trim:  # SGLang's name
            chosen["include_stop_str_in_output"] = True
        if self.repetition_penalty is not None:
            # vLLM's, which looks back on everything.
            chosen["repeat_penalty"] = self.repetition_penalty
            chosen.setdefault("repeat_last_n", -1)
        return SamplingParams(max_tokens=self.most_tokens, **chosen)


_SAME_NAME = sorted(
    (SamplingFields.model_fields.keys() & SamplingParams.__dataclass_fields__.keys())
    - {"max_tokens", "grammar"}
)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def check_same(fields: SamplingFields, *names: str) -> None:
    """Raise RequestError where two names for one thing have different values."""
    given = [(name, value) for name in names if (value := getattr(fields, name)) is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise RequestError(
                f"{name} and {given[0][0]} differ; give one of them",
                param=name,
                code="invalid_value",
            )


def check_names(fields: SamplingFields, *more_limits: str) -> None:
    """Raise RequestError where the names for the most tokens, or for others, do not agree."""
    check_same(fields, *more_limits, "max_tokens", "n_predict")
    check_same(fields, "n", "n_cmpl")
    check_same(fields, "repeat_penalty", "repetition_penalty")


class StreamOptions(Strict):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class ChunkOptions(StreamOptions):
    """What a stream of chunks carries beside the text."""

    continuous_usage_stats: bool | None = None


class StreamFields(BaseModel):
    """Whether an answer is streamed, and what its chunks carry beside the text."""

    stream: bool | None = None
    stream_options: ChunkOptions | None = None
    timings_per_token: bool | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk holds its answer's usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

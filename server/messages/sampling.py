"""How the next token is chosen: the sampling parameters of one request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

# llama.cpp's seeds have 32 bits, and the highest one means "choose one".
SEEDS = 2**32 - 1
# llama-server's order and its names (common/common.h); every request may name another one.
SAMPLERS = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)


class GrammarKind(str, Enum):
    """The language that a grammar is written in: JSON schema, or llguidance's Lark."""

    JSON_SCHEMA = "json_schema"
    LARK = "lark"


@dataclass(slots=True, frozen=True)
class SchemaRule:
    """A client's JSON schema, which is the rule ``name`` of a grammar; ``param`` is its field.

    What of it cannot be enforced is refused where it is ``strict``, else dropped. Where even that
    does not help, a ``droppable`` one lets any object pass; others are refused.
    """

    name: str
    text: str
    param: str
    strict: bool = True
    droppable: bool = False


@dataclass(slots=True, frozen=True)
class Grammar:
    """What a request's text must look like; made by server.grammar, which bounds it.

    ``param`` is the request's field that it came in. With ``triggers`` it begins to hold once
    one of these texts has been generated, and covers the text from there on. ``schemas`` are the
    rules that ``text`` refers to; a JSON schema is one of these alone.
    """

    kind: GrammarKind
    text: str
    param: str
    triggers: tuple[str, ...] = ()
    schemas: tuple[SchemaRule, ...] = ()


@dataclass(slots=True, frozen=True)
class ThoughtRule:
    """An answer may begin with a thought between ``start`` and ``end``, which no grammar binds.

    ``begun``: it begins within one. After ``budget`` tokens the thought is closed; None: never.
    """

    start: str
    end: str
    begun: bool = False
    budget: int | None = None


@dataclass(slots=True, frozen=True)
class SamplingParams:
    """Sampling parameters, checked where they enter, in the API.

    Names are OpenAI's, and llama-server's where OpenAI has none. What is off by OpenAI's
    defaults is off here: ``top_k`` 0, ``top_p`` 1, ``min_p`` 0, ``typical_p`` 1,
    ``top_n_sigma`` -1, ``repeat_penalty`` 1, ``mirostat`` 0, ``dry_multiplier`` 0,
    ``xtc_probability`` 0, ``dynatemp_range`` 0, ``adaptive_target`` -1.

    ``max_tokens`` None means: until the context is full. ``seed`` None means: a random one.
    ``temperature`` 0 is greedy. ``repeat_last_n`` and ``dry_penalty_last_n`` -1 look at the
    whole context. ``logit_bias`` pairs a token's id, or a text whose every token is meant, with
    what is added to its logit. ``logprobs`` None asks for none, 0 for the chosen token's, n also
    for those of the n most likely ones; ``prompt_logprobs`` does so for the prompt's tokens, all
    of which are computed then. ``continues``: the text goes on where the prompt stops, so
    a space at its beginning is a part of it. Without ``cache_prompt`` the whole prompt is computed,
    even if another request computed it before.

    vLLM's: before ``min_tokens`` no token ends the answer. ``stop_token_ids`` end it as the
    model's own ends do. ``bad_words`` are never completed, in the tokens that spell them. Only
    ``allowed_token_ids`` are chosen, where there are any.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    min_keep: int = 0
    samplers: tuple[str, ...] = SAMPLERS
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None
    thought: ThoughtRule | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    continues: bool = False
    cache_prompt: bool = True
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()

    def of_choice(self, index: int) -> SamplingParams:
        """The parameters of choice ``index``: where there is a seed, each has another one."""
        if self.seed is None or not index:
            return self
        return replace(self, seed=(self.seed + index) % SEEDS)

    @property
    def slow_to_begin(self) -> bool:
        """Whether making what chooses the tokens may take longer than a step."""
        return self.grammar is not None or self.dry_multiplier > 0

    @property
    def limits_tokens(self) -> bool:
        """Whether some tokens may not be chosen at some places, beside what the biases say."""
        return bool(self.min_tokens or self.bad_words or self.allowed_token_ids)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken, whatever the cuts say."""
        return self.temperature == 0.0 and self.dynatemp_range == 0.0 and not self.mirostat

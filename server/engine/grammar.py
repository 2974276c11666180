"""Grammars at work: which tokens may come next.

llguidance compiles them and says so, within bounds of time and memory. llama.cpp's own grammars
have none: some take minutes a token, and one that no token fits ends the process.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

import llguidance
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from server.engine.schemas import refusal, settled
from server.errors import RequestError
from server.messages.sampling import Grammar, GrammarKind, SchemaRule

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# A longer constant of a schema is not looked at as a whole, again and again: bytes.
_MOST_FORCED = 1024
# Texts whose tokens are kept.
_SPELLED = 256
# Compiled grammars that are kept; large ones take some 10 MB.
_KEPT = 8
_SIZING = threading.Lock()
# The compiler recurses along a schema: 21 kB a node were measured, and server.grammar lets 5000 in.
_STACK_BYTES = 256 * 1024 * 1024
# As llama.cpp's schema converter has it: enough to be read well, too little to get lost in.
_WHITESPACE = r"( |\n{1,2}[ \t]{0,20})?"
# An ambiguous grammar takes time that grows with the items of a row: up to 66 ms a token at this
# bound, 670 ms at llguidance's own. A JSON object needs 4 items for each optional property.
_LIMITS = LLParserLimits(
    max_items_in_row=1000, step_max_items=20_000, max_grammar_size=50_000, verbose_errors=False
)


T = TypeVar("T")


class TokenTable:
    """The model's tokens, as ``llguidance.LLTokenizer`` reads them.

    ``pieces`` are the bytes of each token, none for one that stands for no text; ``ends`` the
    tokens that end a turn.
    """

    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(
        self,
        pieces: Sequence[bytes],
        ends: frozenset[int],
        spell: Callable[[bytes], Sequence[int]] | None = None,
    ) -> None:
        """``spell`` gives a text's tokens as the model's tokenizer does, or others, or none."""
        # The mark 0xFF, which no UTF-8 has, keeps a token out of every text.
        self.tokens = [
            piece if piece and token not in ends else b"\xff[%d]" % token
            for token, piece in enumerate(pieces)
        ]
        self.eos_token_id = min(ends, default=0)
        self.ends = ends
        self._bytes = {piece[0]: token for token, piece in enumerate(pieces) if len(piece) == 1}
        # The keys of a schema come again with each answer, and llguidance asks for what we asked.
        self._spell = lru_cache(_SPELLED)(spell) if spell is not None else None

    def bytes_of(self, tokens: Sequence[int]) -> bytes:
        """The text that tokens spell."""
        return b"".join(self.tokens[token] for token in tokens)

    def spelled(self, data: bytes) -> list[int] | None:
        """The tokens that the model's tokenizer gives for a text; None where it adds to it."""
        tokens = list(self._spell(data)) if self._spell is not None else []
        return tokens if self.bytes_of(tokens) == data else None

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens that spell a text; matchers look at bytes, so any that do will do."""
        data = text if isinstance(text, bytes) else text.encode()
        if (tokens := self.spelled(data)) is not None:
            return tokens
        return [self._bytes[byte] for byte in data if byte in self._bytes]


@dataclass(slots=True, frozen=True)
class _Compiled:
    """``relaxed`` are the places of what had to be dropped of schemas that are not strict."""

    matcher: LLMatcher
    relaxed: tuple[str, ...] = ()


class GrammarMatcher:
    """One request's way through a grammar; ``relaxed`` as in _Compiled. ``active``: it holds now,
    as one with triggers does not before the first of them.
    """

    def __init__(self, compiled: _Compiled, table: TokenTable, grammar: Grammar) -> None:
        self._matcher = compiled.matcher.deep_copy()
        self._table = table
        self._grammar = grammar
        self.relaxed = compiled.relaxed
        self.active = not grammar.triggers
        self._text = b""
        self.must_end = False

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits, float32 [n_vocab], of all tokens that may not come next to -inf.

        ``must_end`` says afterwards whether nothing but the end may come.

        Raises:
            RequestError: none may, or the grammar is too ambiguous.
        """
        if not self.active:
            return
        mask = self._matcher.compute_bitmask()
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=len(logits))
        if self._matcher.is_error() or not bits.any():
            raise refusal(self._grammar.param, self._matcher.get_error() or "no token can follow")
        np.putmask(logits, bits == 0, -np.inf)
        allowed = np.flatnonzero(bits) if bits.sum() <= len(self._table.ends) else ()
        self.must_end = len(allowed) > 0 and self._table.ends.issuperset(allowed)

    def accept(self, token: int, piece: bytes) -> None:
        """``token`` was chosen."""
        if self.active:
            self._matcher.try_consume_tokens([token])
            return
        self._text += piece
        found = [at for at in map(self._find, self._grammar.triggers) if at >= 0]
        if found:
            self.active = True
            self._matcher.try_consume_tokens(self._table(self._text[min(found) :]))
            return
        longest = max(map(len, self._grammar.triggers))
        self._text = self._text[-4 * longest :]

    def forced(self, most: int, avoid: frozenset[int] = frozenset()) -> list[int]:
        """The text that alone can follow, as tokens of the model's tokenizer; ``most`` at most.

        They are accepted. A token that could be a longer one, which reaches beyond that text, is
        left to be sampled, and so are those to ``avoid`` and all after them.
        """
        if not self.active or self._matcher.is_stopped() or self._matcher.is_error():
            return []
        text = self._matcher.compute_ff_bytes()
        if not 1 < len(text) <= _MOST_FORCED or self._table.spelled(text) is None:
            return []
        tokens = self._matcher.compute_ff_tokens()[:most]
        tokens = list(takewhile(lambda token: token not in avoid, tokens))
        if not text.startswith(self._table.bytes_of(tokens)):
            return []
        return tokens[: self._matcher.try_consume_tokens(tokens)]

    def _find(self, trigger: str) -> int:
        return self._text.find(trigger.encode())

    @property
    def ended(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        return self.active and self._matcher.is_stopped() and not self._matcher.is_error()


class GrammarCompiler:
    """Compiles grammars, in a thread whose stack is deep enough, and keeps the last ones.

    May be used by several threads.
    """

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._tokenizer = LLTokenizer(
            llguidance.TokenizerWrapper(table),
            n_vocab=len(table.tokens),
            eos_token=sorted(table.ends) or None,
        )
        self._kept: OrderedDict[Grammar, _Compiled | RequestError] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A new matcher at the grammar's start; takes up to a fifth of a second the first time.

        Raises:
            RequestError: the grammar is wrong, unsupported or too large.
        """
        with self._lock:
            result = self._kept.get(grammar)
        if result is None:
            result = _in_deep_thread(lambda: self._compile(grammar))
        with self._lock:
            self._kept[grammar] = result
            self._kept.move_to_end(grammar)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if isinstance(result, RequestError):
            raise result
        return GrammarMatcher(result, self._table, grammar)

    def _compile(self, grammar: Grammar) -> _Compiled | RequestError:
        matcher, reason = self._tried(grammar)
        if matcher is not None:
            return _Compiled(matcher)
        relaxed: tuple[str, ...] = ()
        if grammar.schemas:
            try:
                rules = [settled(rule, self._reason) for rule in grammar.schemas]
            except RequestError as error:
                return error
            relaxed = tuple(place for _, places in rules for place in places)
            matcher, reason = self._tried(replace(grammar, schemas=tuple(r for r, _ in rules)))
        return refusal(grammar.param, reason) if matcher is None else _Compiled(matcher, relaxed)

    def _reason(self, schema: Any) -> str:
        """Why a schema alone does not compile, "" where it does."""
        rule = SchemaRule("", json.dumps(schema), "", strict=True)
        return self._tried(Grammar(GrammarKind.JSON_SCHEMA, "", "", schemas=(rule,)))[1]

    def _tried(self, grammar: Grammar) -> tuple[LLMatcher | None, str]:
        try:
            text = _in_their_words(grammar)
        except ValueError as error:
            return None, str(error) or "it cannot be read"
        matcher = LLMatcher(self._tokenizer, text, limits=_LIMITS, log_level=0)
        if not matcher.is_error():
            # The first mask finds what is too ambiguous to begin with.
            tried = matcher.deep_copy()
            tried.compute_bitmask()
            if not tried.is_error():
                return matcher, ""
            matcher = tried
        return None, matcher.get_error() or "it cannot be compiled"


# Whatever a client's schema says of these, which it may ("x-guidance").
_OPTIONS: JsonCompileOptions = {
    "whitespace_pattern": _WHITESPACE,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}


def _in_their_words(grammar: Grammar) -> str:
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        (rule,) = grammar.schemas
        return LLMatcher.grammar_from_json_schema(rule.text, overrides=_OPTIONS)
    rules = [f"{rule.name}: %json {_with_options(rule.text)}" for rule in grammar.schemas]
    return LLMatcher.grammar_from_lark("\n".join([grammar.text, *rules]))


def _with_options(schema: str) -> str:
    return json.dumps({**json.loads(schema), "x-guidance": _OPTIONS})


def _in_deep_thread(work: Callable[[], T]) -> T:
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # handed to the caller
            done.set_exception(error)

    with _SIZING:  # the size is the process's, for all threads that are begun meanwhile
        before = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=run, name="grammar", daemon=True).start()
        finally:
            threading.stack_size(before)
    return done.result()

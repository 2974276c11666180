"""What chooses one request's tokens: its sampler and its grammar; with log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.engine.grammar import GrammarCompiler, GrammarMatcher
from server.engine.llama.context import Context
from server.engine.llama.model import Model
from server.engine.llama.sampler import DrySamplers, Sampler
from server.engine.request import MOST_DECODED, Request, Sample, TokenSegment
from server.engine.thought import ThoughtGate
from server.errors import EngineError, LlavaError, RequestError
from server.messages import TokenLogprob
from server.messages.sampling import SamplingParams

# What stands for "never", which JSON cannot write; OpenAI's API gives this number, too.
LOWEST = -9999.0


def top_logprobs(logits: NDArray[np.float32], count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log of the softmax's denominator, and the ``count`` most likely tokens.

    ``logits`` are float32 [n_vocab]; a token's log-probability is its logit less the first result.
    Tokens come with their log-probabilities, the most likely first.
    """
    highest = float(logits.max())
    denominator = highest + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    count = min(count, len(logits))
    if not count:
        return denominator, []
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    # Equal ones by their id, so that the order never changes.
    best = np.flatnonzero(logits >= least)
    best = best[np.lexsort((best, -logits[best]))][:count]
    return denominator, [(int(t), bounded(float(logits[t]) - denominator)) for t in best]


def bounded(logprob: float) -> float:
    """The log-probability, or the lowest number that stands for none."""
    return logprob if logprob > LOWEST else LOWEST


class TokenLimits:
    """Which tokens may not be chosen next: vLLM's min_tokens, bad_words and allowed_token_ids.

    A bad word is known by the tokens that spell it, with a space before it and without.
    """

    def __init__(self, params: SamplingParams, model: Model, chosen: Sequence[int]) -> None:
        """``chosen`` are the answer's tokens so far. Raises RequestError where an id is unknown."""
        for name in ("allowed_token_ids", "stop_token_ids"):
            if any(token >= model.n_vocab for token in getattr(params, name)):
                raise RequestError(
                    f"{name}: token ids go from 0 to {model.n_vocab - 1} in this model",
                    param=name,
                    code="invalid_value",
                )
        self._allowed = np.array(sorted(set(params.allowed_token_ids)), np.int64)
        self._ends = np.array(sorted(model.end_tokens.union(params.stop_token_ids)), np.int64)
        self._min_tokens = params.min_tokens
        spelled = (
            tuple(model.tokenize(text, add_special=False, parse_special=False))
            for word in params.bad_words
            for text in (word, f" {word.lstrip()}")
        )
        self._bad = frozenset(tokens for tokens in spelled if tokens)
        self._longest = max(map(len, self._bad), default=1)
        self._n_chosen = len(chosen)
        self._last = list(chosen[-self._longest :])

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits, float32 [n_vocab], of tokens that may not come next to -inf."""
        if len(self._allowed):
            kept = logits[self._allowed]
            logits.fill(-np.inf)
            logits[self._allowed] = kept
        if self._n_chosen < self._min_tokens:
            logits[self._ends] = -np.inf
        for *before, last in self._bad:
            if not before or self._last[-len(before) :] == before:
                logits[last] = -np.inf

    def accept(self, token: int) -> None:
        """``token`` was chosen."""
        self._n_chosen += 1
        self._last = [*self._last, token][-self._longest :]


def token_logprob(
    logits: NDArray[np.float32], token: int, count: int, name: Callable[[int], bytes]
) -> TokenLogprob:
    """A prompt's token with the ``count`` most likely ones in its place; ``name`` gives bytes."""
    denominator, top = top_logprobs(logits, count)
    own, rank = bounded(float(logits[token]) - denominator), int((logits > logits[token]).sum()) + 1
    return TokenLogprob(token, name(token), own, tuple((t, name(t), p) for t, p in top), rank)


class Chooser:
    """Lives as long as its request, whatever the scheduler does with that meanwhile."""

    def __init__(
        self, request: Request, model: Model, grammars: GrammarCompiler, dry: DrySamplers
    ) -> None:
        """Builds what the request asks for, and brings it to where a resumed one was.

        Raises:
            RequestError: the grammar, or a bias, cannot be had.
        """
        params = request.sampling
        texts = [
            segment.tokens for segment in request.segments if isinstance(segment, TokenSegment)
        ]
        prompt = np.concatenate(texts) if texts else np.empty(0, np.int32)
        self._model = model
        self._n_logprobs = params.logprobs
        self._grammar: GrammarMatcher | None = None
        if params.grammar is not None:
            self._grammar = grammars.matcher(params.grammar)
            request.relaxed = self._grammar.relaxed
        self._limits: TokenLimits | None = None
        if params.limits_tokens or params.stop_token_ids:
            self._limits = TokenLimits(params, model, request.output_tokens)
        self._thought = ThoughtGate(params.thought, model) if params.thought is not None else None
        restricts = self._grammar, self._limits, self._thought
        self._restricted = any(each is not None for each in restricts)
        biased = [token for token, _ in params.logit_bias]
        self._biased = frozenset(token for token in biased if isinstance(token, int))
        plain = self._limits is None and self._n_logprobs is None
        self._forces = plain and len(self._biased) == len(biased)
        # Whether the grammar may have forced tokens of which the last sample did not say.
        self._ahead = True
        self._sampler = Sampler(params, model, dry, prompt)
        for token in request.output_tokens:
            self._sampler.replay(token)
            self._follow(token)

    def choose(self, context: Context, row: int) -> Sample:
        """The next token from the logits of batch row ``row``, and those forced after it."""
        if not self._restricted and self._n_logprobs is None:
            return Sample(self._sampler.sample(context, row))
        if self._ahead and (forced := self._forced(MOST_DECODED)):
            return Sample(forced[0], forced=tuple(forced[1:]), ended=self._grammar_ended)
        sample = self._sample(context, row)
        if sample.error is None and not sample.ended:
            sample.forced = tuple(self._forced(MOST_DECODED - 1))
            sample.ended = bool(sample.forced) and self._grammar_ended
        return sample

    def _forced(self, most: int) -> list[int]:
        """Tokens that the grammar leaves no choice of. They need no logits."""
        grammar, thought = self._grammar, self._thought
        if grammar is None or not self._forces:
            return []
        if thought is not None and (thought.thinking or thought.undecided):
            return []
        tokens = grammar.forced(most, self._biased)
        for token in tokens:
            self._sampler.replay(token)
        self._ahead = len(tokens) == most
        return tokens

    @property
    def _grammar_ended(self) -> bool:
        return self._grammar is not None and self._grammar.ended

    def _sample(self, context: Context, row: int) -> Sample:
        logits = context.logits(row, self._model.n_vocab)
        if self._n_logprobs is not None:
            denominator, top = top_logprobs(logits, self._n_logprobs)
        forced = self._thought.forced if self._thought is not None else None
        if forced is not None:
            sample = self._force(forced)
        else:
            if self._limits is not None:
                self._limits.restrict(logits)
            sample = self._choose_within(logits, context, row)
        if self._n_logprobs is not None and sample.error is None:
            own = bounded(float(logits[sample.token]) - denominator)
            name = self._model.whole_piece
            sample.logprob = TokenLogprob(
                sample.token, name(sample.token), own, tuple((t, name(t), p) for t, p in top)
            )
        return sample

    def _force(self, token: int) -> Sample:
        self._sampler.replay(token)
        self._follow(token)
        if self._limits is not None:
            self._limits.accept(token)
        return Sample(token)

    def _choose_within(self, logits: NDArray[np.float32], context: Context, row: int) -> Sample:
        grammar, thought = self._grammar, self._thought
        if thought is not None and thought.thinking:
            grammar = None  # it holds for the answer alone
        if grammar is not None:
            opening = thought.opening if thought is not None and thought.undecided else None
            wanted = -np.inf if opening is None else logits[opening]
            try:
                grammar.restrict(logits)
            except RequestError as error:
                return Sample(-1, error=error)
            if opening is not None:
                logits[opening] = wanted
            elif grammar.must_end:
                return Sample(min(self._model.end_tokens, default=0), ended=True)
        token = self._sampler.sample(context, row)
        if thought is not None and thought.thinking and token in self._model.end_tokens:
            token = self._instead_of_end(thought, token)
        if logits[token] == -np.inf and (grammar is not None or self._limits is not None):
            return Sample(-1, error=self._nothing_left())
        if self._limits is not None:
            self._limits.accept(token)
        self._follow(token)
        return Sample(token, ended=grammar is not None and grammar.ended)

    def _instead_of_end(self, thought: ThoughtGate, token: int) -> int:
        """A model that ends within its thought still owes the answer that a grammar demands."""
        if self._grammar is None or not self._grammar.active:
            return token
        closing = thought.close()
        return token if closing is None else closing

    def _follow(self, token: int) -> None:
        """``token`` was chosen: a thought's are not the grammar's."""
        if self._thought is None and self._grammar is None:
            return
        piece = self._model.piece(token)
        if self._thought is not None:
            before = self._thought.thinking
            self._thought.accept(piece)
            if before or self._thought.thinking:
                return
        if self._grammar is not None:
            self._grammar.accept(token, piece)

    def _nothing_left(self) -> LlavaError:
        if self._limits is None:
            return EngineError("no token is left that the grammar allows")
        return RequestError(
            "no token is left that allowed_token_ids, bad_words, min_tokens and the grammar allow",
            code="invalid_value",
        )

    def close(self) -> None:
        """Frees the sampler."""
        self._sampler.close()

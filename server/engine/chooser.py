"""What chooses one request's tokens: its sampler and its grammar; with log-probabilities."""

from __future__ import annotations

import numpy as np

from server.engine.bindings.context import Context
from server.engine.bindings.dry import DrySamplers
from server.engine.bindings.model import Model
from server.engine.bindings.sampler import Sampler
from server.engine.grammar import GrammarCompiler, GrammarMatcher
from server.engine.logprobs import bounded, top_logprobs
from server.engine.request import Request, TokenRun
from server.engine.sample import Sample
from server.errors import EngineError, RequestError
from server.messages import TokenLogprob


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
        texts = [run.tokens for run in request.runs if isinstance(run, TokenRun)]
        prompt = np.concatenate(texts) if texts else np.empty(0, np.int32)
        self._model = model
        self._n_logprobs = params.logprobs
        self._grammar: GrammarMatcher | None = None
        if params.grammar is not None:
            self._grammar = grammars.matcher(params.grammar)
        self._sampler = Sampler(params, model, dry, prompt)
        for token in request.output_tokens:
            self._sampler.replay(token)
            if self._grammar is not None:
                self._grammar.accept(token, model.piece(token))

    def choose(self, context: Context, row: int) -> Sample:
        """The next token from the logits of batch row ``row``."""
        if self._grammar is None and self._n_logprobs is None:
            return Sample(self._sampler.sample(context, row))
        logits = context.logits(row, self._model.n_vocab)
        if self._n_logprobs is not None:
            denominator, top = top_logprobs(logits, self._n_logprobs)
        sample = self._choose_within(self._grammar, context, row)
        if self._n_logprobs is not None and sample.error is None:
            own = bounded(float(logits[sample.token]) - denominator)
            name = self._model.whole_piece
            sample.logprob = TokenLogprob(
                sample.token, name(sample.token), own, tuple((t, name(t), p) for t, p in top)
            )
        return sample

    def _choose_within(self, grammar: GrammarMatcher | None, context: Context, row: int) -> Sample:
        if grammar is None:
            return Sample(self._sampler.sample(context, row))
        logits = context.logits(row, self._model.n_vocab)
        try:
            grammar.restrict(logits)
        except RequestError as error:
            return Sample(-1, error=error)
        if grammar.must_end:
            return Sample(min(self._model.end_tokens, default=0), ended=True)
        token = self._sampler.sample(context, row)
        if logits[token] == -np.inf:
            return Sample(-1, error=EngineError("no token is left that the grammar allows"))
        grammar.accept(token, self._model.piece(token))
        return Sample(token, ended=grammar.ended)

    def close(self) -> None:
        """Frees the sampler."""
        self._sampler.close()

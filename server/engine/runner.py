"""Runs the scheduler's plans on llama.cpp."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engine.grammar import GrammarCompiler, TokenTable
from server.engine.llama.context import Batch, Context
from server.engine.llama.model import Model
from server.engine.llama.sampler import DrySamplers
from server.engine.prompt_tokens import Vocabulary, tokenize_prompt
from server.engine.request import Request, Sample, Segment
from server.engine.scheduling.ram_store import PromptStore
from server.engine.scheduling.step import (
    CacheChange,
    Chunk,
    CopyRuns,
    Forget,
    JoinRun,
    PlaceRuns,
    RestoreWindow,
    SaveWindow,
    Share,
    SwapIn,
    SwapOut,
)
from server.engine.token_chooser import Chooser, token_logprob
from server.engine.token_embeddings import TokenRows
from server.engine.vision.tower import Tower
from server.errors import RequestError
from server.messages import PromptPart, TokenLogprob
from server.messages.sampling import SamplingParams

logger = logging.getLogger(__name__)


class Swapper:
    """Copies prompts to and from the RAM, and reports to the store how long that takes."""

    def __init__(self, context: Context, store: PromptStore) -> None:
        self._context = context
        self._store = store

    def swap(self, change: SwapOut | SwapIn) -> None:
        """Copies one prompt. Raises RuntimeError where llama.cpp has not the cells for it."""
        start = time.perf_counter()
        if isinstance(change, SwapIn):
            assert change.prompt.state is not None, "only what was copied is found"
            self._context.restore(change.seq_id, change.prompt.state, change.end)
            self._store.copied_back(change.prompt, time.perf_counter() - start)
            return
        if change.prompt not in self._store.prompts:
            return  # others have taken its place within the same step
        try:
            state = self._context.save(change.seq_id)
        except MemoryError:
            logger.warning("no memory to keep a prompt of %d tokens", len(change.prompt.keys))
            self._store.drop(change.prompt)
            return
        self._store.fill(change.prompt, state, time.perf_counter() - start)

    def save_window(self, change: SaveWindow) -> None:
        """Copies a sliding window, unless some of its cells were overwritten meanwhile."""
        start, checkpoint = time.perf_counter(), change.checkpoint
        if checkpoint not in self._store.prompts:
            return  # others have taken its place within the same step
        try:
            if not 0 <= self._context.first_position(change.seq_id) <= change.first:
                raise MemoryError
            state = self._context.save(change.seq_id, window_only=True)
        except MemoryError:
            self._store.drop(checkpoint)
            return
        self._store.fill(checkpoint, state, time.perf_counter() - start)

    def restore_window(self, change: RestoreWindow) -> None:
        """Copies a sliding window back. Raises RuntimeError where there are no cells for it."""
        start, checkpoint = time.perf_counter(), change.checkpoint
        assert checkpoint.state is not None, "only what was copied is found"
        self._context.restore(change.seq_id, checkpoint.state, change.end, window_only=True)
        self._store.copied_back(checkpoint, time.perf_counter() - start)

    def shift(self, change: CopyRuns | PlaceRuns | JoinRun) -> None:
        """One part of giving a request what another prompt has at other positions."""
        if isinstance(change, JoinRun):
            run = change.run
            self._context.share(change.source, change.target, run.end, run.start)
        elif isinstance(change, CopyRuns):
            ranges = [(run.source, run.source_end) for run in change.runs]
            state = self._context.copy_ranges(change.source, change.seq_id, ranges)
            change.copy.state = state
        else:
            assert change.copy.state is not None, "only what was copied is placed"
            shifts = [(run.source, run.source_end, run.shift) for run in change.runs]
            self._context.place_shifted(change.seq_id, change.copy.state, shifts)


class Runner(Protocol):
    """What computes the steps, as the core sees it; tests use one without llama.cpp."""

    n_ctx_seq: int
    llama_seconds: float
    vocabulary: Vocabulary

    def tokenize(self, parts: Sequence[PromptPart]) -> tuple[Segment, ...]:
        """Tokenizes a prompt. Raises RequestError where it cannot be served."""
        ...

    def begin(self, request: Request) -> None:
        """Makes what is kept for a request until its release. Raises RequestError."""
        ...

    def compile_ahead(self, sampling: SamplingParams) -> None:
        """Compiles what takes long for a request that begins soon; called in another thread."""
        ...

    def change_cache(self, changes: Sequence[CacheChange]) -> None:
        """Frees, shares and copies cells, in order."""
        ...

    def decode(self, chunks: Sequence[Chunk]) -> dict[Request, Sample]:
        """Computes chunks in one batch; returns the tokens sampled after those that ask."""
        ...

    def states(self, chunk: Chunk) -> NDArray[np.float32]:
        """Computes a chunk; returns its last hidden states, [count, width]."""
        ...

    def score(self, chunk: Chunk, count: int) -> tuple[list[TokenLogprob], Sample | None]:
        """Computes a chunk; returns the prompt's log-probabilities, and the sample if it asks."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends the model's turn."""
        ...

    def release(self, request: Request) -> None:
        """The request is over; frees what was kept for it."""
        ...

    @property
    def strips_first_space(self) -> bool:
        """Whether the vocabulary writes a space before the first word of a text."""
        ...


class LlamaRunner:
    """The runner on llama.cpp. Owns the batches and what chooses each request's tokens.

    With ``token_rows`` text goes among pictures as embeddings; without them every call of
    ``decode`` has chunks of one kind.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        tower: Tower | None,
        *,
        n_batch: int,
        n_ubatch: int,
        token_rows: TokenRows | None = None,
        store: PromptStore | None = None,
    ) -> None:
        self.n_ctx_seq = min(context.n_ctx, model.n_ctx_train)
        self._model = model
        self._context = context
        self._tower = tower
        self._n_ubatch = n_ubatch
        self._tokens = Batch(n_batch)
        self._pictures = Batch(n_batch, model.n_embd, tower.n_sections) if tower else None
        self._token_rows = token_rows
        self._swapper = Swapper(context, store or PromptStore())
        self._choosers: dict[Request, Chooser] = {}
        self._dry = DrySamplers(model, self.n_ctx_seq)
        self._grammars = GrammarCompiler(TokenTable(model.pieces(), model.end_tokens, model.spell))
        self.llama_seconds = 0.0
        self.strips_first_space = model.writes_first_space
        self.vocabulary: Vocabulary = model

    def tokenize(self, parts: Sequence[PromptPart]) -> tuple[Segment, ...]:
        """Tokenizes text and counts pictures; nothing is encoded yet."""
        return tokenize_prompt(parts, self._model, self._tower, self._n_ubatch)

    def compile_ahead(self, sampling: SamplingParams) -> None:
        """Compiles the request's DRY sampler and grammar; called in a thread beside the loop's."""
        self._dry.compile_ahead(sampling)
        if sampling.grammar is not None:
            with suppress(RequestError):  # raised again where the request begins
                self._grammars.matcher(sampling.grammar)

    def begin(self, request: Request) -> None:
        """Makes what chooses the request's tokens."""
        self._choosers[request] = Chooser(request, self._model, self._grammars, self._dry)

    def change_cache(self, changes: Sequence[CacheChange]) -> None:
        """Frees, shares and copies cells of llama.cpp's cache."""
        for change in changes:
            match change:
                case Share():
                    self._context.share(change.source, change.target, change.end)
                case Forget():
                    self._context.forget(change.seq_id)
                case SwapOut() | SwapIn():
                    self._swapper.swap(change)
                case SaveWindow():
                    self._swapper.save_window(change)
                case RestoreWindow():
                    self._swapper.restore_window(change)
                case CopyRuns() | PlaceRuns() | JoinRun():
                    self._swapper.shift(change)

    def decode(self, chunks: Sequence[Chunk]) -> dict[Request, Sample]:
        """One ``llama_decode``, then a sample for every chunk that asks for one."""
        if not chunks:
            return {}
        rows = [chunk.request.rows(chunk.start, chunk.count) for chunk in chunks]
        batch = self._batch_for(rows)
        asked: dict[Request, int] = {}
        for chunk, given in zip(chunks, rows, strict=True):
            row = self._add(batch, chunk, given)
            if chunk.sample:
                asked[chunk.request] = row
        start = time.perf_counter()
        if not self._compute(batch):
            raise RuntimeError("llama.cpp found no free cells where the scheduler counted some")
        sampled = {
            request: self._choosers[request].choose(self._context, row)
            for request, row in asked.items()
        }
        self.llama_seconds += time.perf_counter() - start
        return sampled

    def _add(self, batch: Batch, chunk: Chunk, rows: NDArray[Any]) -> int:
        request = chunk.request
        if rows.ndim == 1 and batch is not self._tokens:
            assert self._token_rows is not None
            rows = self._token_rows.read(rows)
        position = request.position_at(chunk.start)
        row = batch.add(rows, position, request.seq_id, want_last=chunk.sample)
        sections = None if batch is self._tokens else request.sections(chunk.start, chunk.count)
        if sections is not None:
            batch.place(row + 1 - chunk.count, sections)
        return row

    def states(self, chunk: Chunk) -> NDArray[np.float32]:
        """One ``llama_decode`` that outputs hidden states, [count, n_embd_out]."""
        rows = chunk.request.rows(chunk.start, chunk.count)
        batch = self._batch_for([rows])
        self._add(batch, chunk, rows)
        batch.want_all()
        start = time.perf_counter()
        with self._context.hidden_states():
            if not self._compute(batch):
                raise RuntimeError("llama.cpp found no free cells where the scheduler counted some")
            states = self._context.states(chunk.count, self._model.n_embd_out)
        self.llama_seconds += time.perf_counter() - start
        return states

    def score(self, chunk: Chunk, count: int) -> tuple[list[TokenLogprob], Sample | None]:
        """One ``llama_decode`` that outputs the logits of every row.

        A row's logits are of the token after it; before the prompt's first token there is none.
        """
        rows = chunk.request.rows(chunk.start, chunk.count)
        batch = self._batch_for([rows])
        last = self._add(batch, chunk, rows)
        batch.want_all()
        start, name = time.perf_counter(), self._model.whole_piece
        if not self._compute(batch):
            raise RuntimeError("llama.cpp found no free cells where the scheduler counted some")
        following = chunk.request.keys[chunk.start + 1 : chunk.start + chunk.count + 1, 0]
        first = int(chunk.request.keys[0, 0])
        scores = [] if chunk.start else [TokenLogprob(first, name(first), math.nan)]
        for row, token in enumerate(following.tolist()):
            logits = self._context.logits(row, self._model.n_vocab)
            scores.append(token_logprob(logits, token, count, name))
        sample = None
        if chunk.sample:
            sample = self._choosers[chunk.request].choose(self._context, last)
        self.llama_seconds += time.perf_counter() - start
        return scores, sample

    def _compute(self, batch: Batch) -> bool:
        if batch is self._tokens or self._tower is None or not self._tower.whole:
            return self._context.decode(batch)
        self._context.attend_causally(False)
        try:
            return self._context.decode(batch)
        finally:
            self._context.attend_causally(True)

    def _batch_for(self, rows: Sequence[NDArray[Any]]) -> Batch:
        """An empty batch of the kind that takes them: one embedding makes it one of embeddings."""
        batch = self._tokens
        if any(each.ndim > 1 for each in rows):
            assert self._pictures is not None
            batch = self._pictures
        batch.clear()
        return batch

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._model.piece(token)

    def is_end(self, token: int) -> bool:
        """Whether the token ends the model's turn."""
        return self._model.is_end(token)

    def release(self, request: Request) -> None:
        """Frees what chose the request's tokens."""
        chooser = self._choosers.pop(request, None)
        if chooser is not None:
            chooser.close()
